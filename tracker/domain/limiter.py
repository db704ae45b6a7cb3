"""At most so many messages a second of each device: the newest of a burst always arrives.

Theory of operation: a token bucket for each subscription, of one token, so its whole state
is the time of the next one. A message that finds no token is held, in the place of an
older one that was; it leaves when its token comes. What is held stands in a heap by that
time, so that looking for what is due costs nothing while nothing is. The clock is the
messages' own: nanoseconds, monotonic, so a limiter needs none.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from math import ceil

from tracker.domain.message import Message
from tracker.domain.queue import Subscription

#: Below so many that were forgotten, taking them out is not worth a pass.
_FORGOTTEN_LIMIT = 16


class RateLimiter:
    """Holds back what comes too fast. `max_rate_per_s`: messages of one device."""

    __slots__ = ("_due", "_held", "_interval_ns", "_numbers", "_token_ns")

    def __init__(self, max_rate_per_s: float) -> None:
        self._interval_ns = ceil(1e9 / max_rate_per_s)
        #: When each subscription has its next token.
        self._token_ns: dict[Subscription, int] = {}
        self._held: dict[Subscription, Message] = {}
        #: (When, a number for the order among equals, whose); some may have been forgotten.
        self._due: list[tuple[int, int, Subscription]] = []
        self._numbers = count()

    def __len__(self) -> int:
        """How many messages are held."""
        return len(self._held)

    def admit(self, message: Message, subscription: Subscription) -> bool:
        """Whether `message` may pass now; if not, it is held, and an older one is dropped."""
        if subscription.held:
            subscription.dropped += 1
            self._held[subscription] = message
            return False
        token_ns = self._token_ns.get(subscription)
        if token_ns is None or message.received_ns >= token_ns:
            self._token_ns[subscription] = message.received_ns + self._interval_ns
            return True
        subscription.held = 1
        self._held[subscription] = message
        heappush(self._due, (token_ns, next(self._numbers), subscription))
        return False

    def due(self, now_ns: int) -> list[tuple[Message, Subscription]]:
        """Let go of what has its token now."""
        due = []
        while self._due and self._due[0][0] <= now_ns:
            subscription = heappop(self._due)[2]
            if subscription in self._held:
                self._token_ns[subscription] = now_ns + self._interval_ns
                due.append(self._let_go(subscription))
        return due

    def release(self) -> list[tuple[Message, Subscription]]:
        """Let go of everything, whatever the rate: the limit is over."""
        self._due.clear()
        return [self._let_go(subscription) for subscription in list(self._held)]

    def forget(self, subscription: Subscription) -> int:
        """Drop what is held of a subscription that ends; return how many messages."""
        self._token_ns.pop(subscription, None)
        if self._held.pop(subscription, None) is None:
            return 0
        subscription.held = 0
        subscription.dropped += 1
        if len(self._due) > 2 * len(self._held) + _FORGOTTEN_LIMIT:
            self._due = [each for each in self._due if each[2] in self._held]
            heapify(self._due)
        return 1

    def _let_go(self, subscription: Subscription) -> tuple[Message, Subscription]:
        subscription.held = 0
        return self._held.pop(subscription), subscription
