"""At most so many messages a second of each device: the newest of a burst always arrives.

Theory of operation: a message that finds no token is held, in the place of an older one
that was; it leaves when its token comes. The clock is the messages' own: nanoseconds,
monotonic, so a limiter needs none.
"""

from __future__ import annotations

from tracker.domain.message import Message
from tracker.domain.queue import Subscription
from tracker.domain.rate import TokenBucket


class RateLimiter:
    """Holds back what comes too fast. `max_rate_per_s`: messages of one device."""

    __slots__ = ("_buckets", "_held", "max_rate_per_s")

    def __init__(self, max_rate_per_s: float) -> None:
        self.max_rate_per_s = max_rate_per_s
        self._buckets: dict[Subscription, TokenBucket] = {}
        self._held: dict[Subscription, Message] = {}

    def __len__(self) -> int:
        """How many messages are held."""
        return len(self._held)

    def admit(self, message: Message, subscription: Subscription) -> bool:
        """Whether `message` may pass now; if not, it is held, and an older one is dropped."""
        now_s = message.received_ns / 1e9
        bucket = self._buckets.get(subscription)
        if bucket is None:
            bucket = TokenBucket(rate_per_s=self.max_rate_per_s, burst=1, now_s=now_s)
            self._buckets[subscription] = bucket
        if not subscription.held and bucket.take(now_s):
            return True
        subscription.dropped += subscription.held
        subscription.held = 1
        self._held[subscription] = message
        return False

    def due(self, now_ns: int) -> list[tuple[Message, Subscription]]:
        """Let go of what has its token now."""
        return [
            self._let_go(subscription)
            for subscription in list(self._held)
            if self._buckets[subscription].take(now_ns / 1e9)
        ]

    def release(self) -> list[tuple[Message, Subscription]]:
        """Let go of everything, whatever the rate: the limit is over."""
        return [self._let_go(subscription) for subscription in list(self._held)]

    def forget(self, subscription: Subscription) -> int:
        """Drop what is held of a subscription that ends; return how many messages."""
        self._buckets.pop(subscription, None)
        if self._held.pop(subscription, None) is None:
            return 0
        subscription.held = 0
        subscription.dropped += 1
        return 1

    def _let_go(self, subscription: Subscription) -> tuple[Message, Subscription]:
        subscription.held = 0
        return self._held.pop(subscription), subscription
