"""A stream that is not live yet, or not any more: it reads the history until it is level.

Laws:
- While a stream catches up, what is published to it is not queued: the history has it.
  So a replay of any length needs no room, and is no race.
- It goes live in the same step in which it finds that nothing lies between: no message
  is lost and none comes twice.
- What the history lost in the meantime is a gap, exact to the message.

Theory of operation: first the preface (what was missed; or the snapshot and the track),
then pass after pass over what came since, each shorter than the one before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from tracker.domain.event import Event, Gap
from tracker.domain.history import History
from tracker.domain.message import Message
from tracker.domain.queue import Drop, Encoding, Queue, Subscription


class CatchUp:
    """What one stream is sent before it is live.

    `counters`: the stream's queue, which counts what is delivered and dropped; `preface`:
    events that are due first; `sequence`: of the last message that was published before the
    stream began to catch up.
    """

    __slots__ = (
        "_events",
        "_history",
        "_next",
        "_counters",
        "_sequence",
        "_subscriptions",
        "deferred",
        "replayed",
    )

    def __init__(
        self,
        history: History,
        subscriptions: Mapping[str, Subscription],
        counters: Queue,
        preface: Iterable[Event],
        sequence: int,
    ) -> None:
        self._history = history
        self._subscriptions = subscriptions
        self._counters = counters
        self._sequence = sequence
        self._events = chain(preface, self._passes())
        self._next: Event | None = None
        self.deferred = 0
        self.replayed = 0

    def prepend(self, preface: Iterable[Event]) -> None:
        """Send `preface`, events without ids, before all else."""
        self._events = chain(preface, self._events)

    def defer(self, subscription: Subscription) -> None:
        """Leave a message that was just published to the history."""
        subscription.deferred += 1
        self.deferred += 1

    def take(self, encode: Encoding, limit_bytes: int) -> bytes | None:
        """The next bytes, at most `limit_bytes` unless one event has more; None: it is level."""
        parts: list[bytes] = []
        taken_bytes = 0
        while (event := self._next or next(self._events, None)) is not None:
            part = encode(event)
            taken_bytes += len(part)
            if taken_bytes > limit_bytes and parts:
                self._next = event
                break
            self._next = None
            if self._count(event):
                parts.append(part)
        return b"".join(parts) if parts else None

    def give_up(self, subscription: Subscription) -> int:
        """Drop what the history holds for `subscription`; return how many messages."""
        return self._drop(subscription, subscription.deferred)

    def _passes(self) -> Iterator[Event]:
        while True:
            missed = [
                message
                for message in self._history.since(self._sequence, self._subscriptions).messages
                if message.sequence > self._subscriptions[message.device_id].start_sequence
            ]
            yield from self._gaps(missed)
            if not missed:
                return
            self._sequence = missed[-1].sequence
            yield from missed

    def _gaps(self, missed: Iterable[Message]) -> Iterator[Event]:
        found = Counter(message.device_id for message in missed)
        for device_id, subscription in list(self._subscriptions.items()):
            lost = subscription.deferred - found[device_id]
            if lost > 0:
                self._drop(subscription, lost)
                gap = Gap(device_id, Drop.EVICTED.value, lost)
                gap.seal()
                yield gap

    def _drop(self, subscription: Subscription, messages: int) -> int:
        subscription.deferred -= messages
        subscription.dropped += messages
        self.deferred -= messages
        self._counters.dropped += messages
        return messages

    def _count(self, event: Event) -> bool:
        """Count an event that is taken; False when nobody wants it any more."""
        if not isinstance(event, Message):
            return True
        subscription = self._subscriptions.get(event.device_id)
        if subscription is None:
            return False
        if event.sequence <= subscription.start_sequence:
            self.replayed += 1
            return True
        subscription.deferred -= 1
        subscription.delivered += 1
        self.deferred -= 1
        self._counters.delivered += 1
        return True
