"""A stream that is not live yet, or not any more: it reads the history until it is level.

Laws:
- While a stream catches up, what is published to it is not queued: the history has it.
  So a replay of any length needs no room, and is no race.
- It goes live in the same step in which it finds that nothing lies between: no message
  is lost and none comes twice.
- What the history lost in the meantime is a gap, exact to the message.
- It holds at most one pass of messages beside the history, however slow the client is.

Theory of operation: first the preface (the snapshot and the track), then pass after pass
over what the history has behind the cursor: what a client that resumes missed, and what
came since. What is due is counted for each subscription (`owed` and `deferred`), so what
a pass does not find has been evicted. A stream whose messages carry no ids follows only
to the end of what it is owed: what is published meanwhile is queued, behind all this.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from typing import Protocol

from tracker.domain.event import UPSTREAM_BACK, UPSTREAM_LOST, Event, Gap, position_mark
from tracker.domain.history import History, by_sequence
from tracker.domain.message import Message
from tracker.domain.position import Position
from tracker.domain.queue import Encoding, Queue, Subscription
from tracker.domain.reasons import Drop

#: What one pass takes out of the history: a few writes' worth. A pass looks at all that is
#: due, so more would be cheaper, and would hold more beside the history for a slow client.
_PASS_BYTES = 256 * 1024
#: Beyond so many, those that tell of losses grow instead.
_NOTICES_LIMIT = 64

#: What is due, and for which subscription: it is left out when that has ended.
Due = tuple[Event, Subscription | None]


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

    `preface`: what is due first; `reached_sequence`: where the stream stands; `owed`: how
    many messages between there and its start each subscription is owed.
    """

    __slots__ = (
        "_clock",
        "_cursor",
        "_history",
        "_next",
        "_notices",
        "_owed",
        "_sources",
        "_stream",
        "deferred",
        "evicted",
        "follows",
        "is_level",
        "reached_sequence",
        "replayed",
    )

    def __init__(
        self,
        history: History,
        stream: CatchingUp,
        clock: Clock,
        preface: Iterable[Due],
        *,
        reached_sequence: int,
        owed: Mapping[Subscription, int],
    ) -> None:
        self._history = history
        self._stream = stream
        self._clock = clock
        #: All behind it is due, as far as it is owed or was deferred.
        self._cursor = reached_sequence
        self._owed = dict(owed)
        self._sources = deque([iter(preface), self._passes()])
        self._next: Due | None = None
        #: What tells of a loss, each behind which sequence.
        self._notices: deque[tuple[int, Event]] = deque()
        #: Of the last message that was sent, or of where the client said that it stood.
        self.reached_sequence = reached_sequence
        #: Whether what is published waits in the history, and not in the queue.
        self.follows = stream.has_ids
        #: Nothing is due any more: the stream is live from this very moment.
        self.is_level = False
        self.deferred = 0
        self.evicted = 0
        self.replayed = 0

    def prepend(self, preface: Iterable[Due]) -> None:
        """Send `preface`, events without ids, before all else."""
        if self._next is not None:
            self._sources.appendleft(iter([self._next]))
            self._next = None
        self._sources.appendleft(iter(preface))

    def note(self, event: Event) -> None:
        """Say `event`, which tells of a loss, behind all that has been published by now."""
        notices = self._notices
        if len(notices) >= _NOTICES_LIMIT and self._merge(event):
            return
        notices.append((self._clock.position.sequence, event))

    def _merge(self, event: Event) -> bool:
        """Let an earlier notice tell what `event` tells; False when there is none."""
        for at in reversed(range(len(self._notices))):
            earlier = self._notices[at][1]
            if isinstance(event, Gap) and isinstance(earlier, Gap):
                earlier.dropped += event.dropped
                return True
            if event is UPSTREAM_LOST and earlier is UPSTREAM_BACK:
                del self._notices[at]  # one long outage, for two with a pause between
                return True
        return False

    def defer(self, subscription: Subscription) -> None:
        """Leave a message that was just published to the history."""
        subscription.deferred += 1
        self.deferred += 1

    def take(self, encode: Encoding, limit_bytes: int) -> bytes:
        """The next bytes, at most `limit_bytes` unless one event has more.

        When they are the last, `is_level` is set, and the catch-up is over.
        """
        parts: list[bytes] = []
        taken_bytes = 0
        while (due := self._next or self._following()) is not None:
            event, subscription = due
            self._next = None
            if not self._is_wanted(event, subscription):
                continue
            part = encode(event if self.follows else event.without_id())
            taken_bytes += len(part)
            if taken_bytes > limit_bytes and parts:
                self._next = due
                break
            self._count(event, subscription)
            parts.append(part)
        else:
            self.is_level = True
        return b"".join(parts)

    def give_up(self, subscription: Subscription) -> int:
        """Drop what the history holds for `subscription`; return how many messages."""
        self._owed.pop(subscription, None)
        return self._drop(subscription, subscription.deferred, Drop.CLOSED)

    def stop_following(self) -> tuple[list[tuple[Message, Subscription]], list[Gap]]:
        """Conflate what was published meanwhile; go on with nothing but what is owed.

        Returns the newest message of each device, in order, and what the history has lost.
        """
        self.follows = False
        newest: list[tuple[Message, Subscription]] = []
        gaps = []
        for subscription in self._stream.subscriptions.values():
            deferred = subscription.deferred
            if not deferred:
                continue
            message = self._history.newest(subscription.device_id)
            if message is None:
                gaps.append(self._lose(subscription, deferred))
                continue
            subscription.deferred = 0
            subscription.dropped += deferred - 1
            self.deferred -= deferred
            self._stream.queue.conflated += deferred - 1
            self._stream.queue.totals.dropped[Drop.CONFLATED] += deferred - 1
            newest.append((message, subscription))
        newest.sort(key=lambda offer: offer[0].sequence)
        return newest, gaps

    def _following(self) -> Due | None:
        while self._sources:
            due = next(self._sources[0], None)
            if due is not None:
                return due
            self._sources.popleft()
        return None

    def _passes(self) -> Iterator[Due]:
        marked_sequence = -1
        while True:
            gaps, messages = self._pass()
            yield from gaps
            for message, subscription in messages:
                yield from self._notices_before(message.sequence)
                self._cursor = message.sequence
                yield message, subscription
            if messages:
                continue
            yield from self._notices_before(self._clock.position.sequence + 1)
            position = self._clock.position
            if not self.follows or position.sequence == marked_sequence:
                return
            # Every replay ends with the position reached. PROTOCOL B1.
            marked_sequence = position.sequence
            yield position_mark(position), None

    def _notices_before(self, sequence: int) -> Iterator[Due]:
        while self._notices and self._notices[0][0] < sequence:
            event = self._notices.popleft()[1]
            if isinstance(event, Gap):
                event.seal()
            yield event, None

    def _pass(self) -> tuple[list[Due], list[tuple[Message, Subscription]]]:
        """(What was lost since the last one, the next messages), all due."""
        gaps: list[Due] = []
        tails = []
        for subscription in self._stream.subscriptions.values():
            expected = self._owed.get(subscription, 0)
            if self.follows:
                expected += subscription.deferred
            if not expected:
                continue
            tail = self._tail(subscription)
            if len(tail) < expected:
                gaps.append((self._lose(subscription, expected - len(tail)), subscription))
            if tail:
                tails.append(tail)
        messages = []
        size_bytes = 0
        for message in merge(*tails, key=by_sequence):
            messages.append((message, self._stream.subscriptions[message.device_id]))
            size_bytes += message.size_bytes
            if size_bytes >= _PASS_BYTES:
                break
        return gaps, messages

    def _tail(self, subscription: Subscription) -> list[Message]:
        """What the history has of what is due to `subscription`."""
        start = subscription.start_sequence
        is_owed = subscription in self._owed
        tail = self._history.after(
            subscription.device_id, self._cursor if is_owed else max(self._cursor, start)
        )
        if self.follows:
            return tail
        return [message for message in tail if message.sequence <= start]

    def _lose(self, subscription: Subscription, messages: int) -> Gap:
        """Give up `messages`, the oldest of what is due; the gap says so."""
        owed = min(messages, self._owed.get(subscription, 0))
        if owed:
            self._owed[subscription] -= owed
        self.evicted += self._drop(subscription, messages - owed, Drop.EVICTED)
        gap = Gap(subscription.device_id, Drop.EVICTED.value, messages)
        gap.seal()
        return gap

    def _drop(self, subscription: Subscription, messages: int, reason: Drop) -> int:
        subscription.deferred -= messages
        subscription.dropped += messages
        self.deferred -= messages
        self._stream.queue.dropped += messages
        self._stream.queue.totals.dropped[reason] += messages
        return messages

    def _is_wanted(self, event: Event, subscription: Subscription | None) -> bool:
        if subscription is None:
            return True
        if self._stream.subscriptions.get(subscription.device_id) is not subscription:
            return False
        # Since it was taken out of the history it may have been conflated.
        return self.follows or not _is_live(event, subscription)

    def _count(self, event: Event, subscription: Subscription | None) -> None:
        if subscription is None or not isinstance(event, Message):
            return
        self.reached_sequence = event.sequence
        if event.sequence <= subscription.start_sequence:
            self._owed[subscription] -= 1
            self.replayed += 1
            self._stream.queue.totals.replayed += 1
        else:
            subscription.deferred -= 1
            subscription.delivered += 1
            self.deferred -= 1
            self._stream.queue.count_delivered(1)


def _is_live(event: Event, subscription: Subscription) -> bool:
    return isinstance(event, Message) and event.sequence > subscription.start_sequence
