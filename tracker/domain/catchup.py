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
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Protocol

from tracker.domain.event import Event, Gap, position_mark
from tracker.domain.history import History
from tracker.domain.message import Message
from tracker.domain.position import Position
from tracker.domain.queue import Encoding, Queue, Subscription
from tracker.domain.reasons import Drop


class CatchingUp(Protocol):
    """The stream that catches up."""

    subscriptions: dict[str, Subscription]
    queue: Queue

    @property
    def has_ids(self) -> bool:
        """Whether its messages carry ids, and so must come in order."""


class Clock(Protocol):
    """Who knows how far the messages have come: the hub."""

    @property
    def position(self) -> Position:
        """Where a stream stands that has everything."""


class CatchUp:
    """What one stream is sent before it is live.

    `preface`: events that are due first; `reached_sequence`: where the stream stands. A
    stream whose messages carry no ids gets nothing but the preface from here: what is
    published meanwhile may well overtake it.
    """

    __slots__ = (
        "_clock",
        "_events",
        "_history",
        "_next",
        "_sequence",
        "_stream",
        "deferred",
        "evicted",
        "follows",
        "reached_sequence",
        "replayed",
    )

    def __init__(
        self,
        history: History,
        stream: CatchingUp,
        preface: Iterable[Event],
        clock: Clock,
        reached_sequence: int,
    ) -> None:
        self._history = history
        self._stream = stream
        self._clock = clock
        self._sequence = clock.position.sequence
        self._events = chain(preface, self._passes())
        self._next: Event | None = None
        #: Of the last message that was sent, or of where the client said that it stood.
        self.reached_sequence = reached_sequence
        #: Whether what is published waits in the history, and not in the queue.
        self.follows = stream.has_ids
        self.deferred = 0
        self.evicted = 0
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
        return self._drop(subscription, subscription.deferred, Drop.CLOSED)

    def stop_following(self) -> Iterator[tuple[Message, Subscription]]:
        """Leave the history: conflate what waits in it, and yield the newest of each device."""
        self.follows = False
        for subscription in list(self._stream.subscriptions.values()):
            deferred = subscription.deferred
            newest = self._history.newest(subscription.device_id)
            if newest is None:
                self.evicted += self._drop(subscription, deferred, Drop.EVICTED)
            if newest is None or not deferred:
                continue
            subscription.deferred = 0
            subscription.dropped += deferred - 1
            self.deferred -= deferred
            self._stream.queue.conflated += deferred - 1
            self._stream.queue.totals.dropped[Drop.CONFLATED] += deferred - 1
            yield newest, subscription

    def _passes(self) -> Iterator[Event]:
        marked_sequence = -1
        while self.follows:
            subscriptions = self._stream.subscriptions
            missed = [
                message
                for message in self._history.since(self._sequence, subscriptions).messages
                if message.sequence > subscriptions[message.device_id].start_sequence
            ]
            yield from self._gaps(missed)
            if missed:
                self._sequence = missed[-1].sequence
                yield from missed
            elif marked_sequence == self._clock.position.sequence:
                return
            else:
                # Every replay ends with the position reached. PROTOCOL B1.
                marked_sequence = self._clock.position.sequence
                yield position_mark(self._clock.position)

    def _gaps(self, missed: Iterable[Message]) -> Iterator[Event]:
        found = Counter(message.device_id for message in missed)
        for device_id, subscription in list(self._stream.subscriptions.items()):
            lost = subscription.deferred - found[device_id]
            if lost > 0:
                self.evicted += self._drop(subscription, lost, Drop.EVICTED)
                gap = Gap(device_id, Drop.EVICTED.value, lost)
                gap.seal()
                yield gap

    def _drop(self, subscription: Subscription, messages: int, reason: Drop) -> int:
        subscription.deferred -= messages
        subscription.dropped += messages
        self.deferred -= messages
        self._stream.queue.dropped += messages
        self._stream.queue.totals.dropped[reason] += messages
        return messages

    def _count(self, event: Event) -> bool:
        """Count an event that is taken; False when nobody wants it any more."""
        if not isinstance(event, Message):
            return True
        subscription = self._stream.subscriptions.get(event.device_id)
        if subscription is None:
            return False
        if event.sequence <= subscription.start_sequence:
            self.reached_sequence = event.sequence
            self.replayed += 1
            self._stream.queue.totals.replayed += 1
            return True
        if not self.follows:
            return False
        self.reached_sequence = event.sequence
        subscription.deferred -= 1
        subscription.delivered += 1
        self.deferred -= 1
        self._stream.queue.count_delivered(1)
        return True
