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
a pass does not find has been evicted. Of what came since, a stream whose messages carry no
ids gets only the newest of each device: it is held here, and stands in its place between
what the others get from the history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from math import inf
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
        "_bare_until",
        "_clock",
        "_cursor",
        "_held",
        "_history",
        "_next",
        "_notices",
        "_owed",
        "_sources",
        "_stream",
        "deferred",
        "evicted",
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
        #: Up to here no message carries an id, and of what came since only what is held is due.
        self._bare_until: float = -1 if stream.has_ids else inf
        self._held: dict[Subscription, Message] = {}
        self._sources = deque([iter(preface), self._passes()])
        self._next: Due | None = None
        #: What tells of a loss, each behind which sequence.
        self._notices: deque[tuple[int, Event]] = deque()
        #: Of the last message that was sent, or of where the client said that it stood.
        self.reached_sequence = reached_sequence
        #: Nothing is due any more: the stream is live from this very moment.
        self.is_level = False
        #: Messages that were published since, and are due.
        self.deferred = 0
        self.evicted = 0
        self.replayed = 0

    def prepend(self, preface: Iterable[Due]) -> None:
        """Send `preface`, events without ids, before all else."""
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

    def defer(self, message: Message, subscription: Subscription) -> None:
        """Take a message that was just published: the history has it."""
        if self._bare_until == inf:
            if subscription in self._held:
                self._conflate(subscription, 1)
            self._held[subscription] = message
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
            is_bare = isinstance(event, Message) and event.sequence <= self._bare_until
            part = encode(event.without_id() if is_bare else event)
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
        """Drop what is due to `subscription`; return how many messages it had been offered."""
        self._owed.pop(subscription, None)
        self._held.pop(subscription, None)
        return self._drop(subscription, subscription.deferred, Drop.CLOSED)

    def leave_ids(self) -> None:
        """No message carries an id any more: conflate what was published meanwhile."""
        self._bare_until = inf
        for subscription in self._stream.subscriptions.values():
            newest = self._history.newest(subscription.device_id)
            if subscription.deferred and newest is not None:
                self._held[subscription] = newest
                self._conflate(subscription, subscription.deferred - 1)

    def regain_ids(self) -> None:
        """What is published from now on carries ids again, and is due without exception."""
        self._bare_until = self._clock.position.sequence

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
            due = self._pass()
            for event, subscription in due:
                if isinstance(event, Message):
                    yield from self._notices_before(event.sequence)
                    self._cursor = event.sequence
                yield event, subscription
            if due:
                continue
            yield from self._notices_before(self._clock.position.sequence + 1)
            position = self._clock.position
            if self._bare_until == inf or position.sequence == marked_sequence:
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

    def _pass(self) -> list[Due]:
        """The next messages that are due, and what was lost of these since the last pass."""
        subscriptions = self._stream.subscriptions
        tails = []
        lost: dict[Subscription, int] = {}
        for subscription in subscriptions.values():
            expected = self._owed.get(subscription, 0) + subscription.deferred
            if expected:
                tail = self._tail(subscription)
                tails.append(tail)
                if len(tail) < expected:
                    lost[subscription] = expected - len(tail)
        due: list[Due] = [
            (self._lose(subscription, messages), subscription)
            for subscription, messages in lost.items()
            if subscription not in self._held
        ]
        size_bytes = 0
        for message in merge(*tails, key=by_sequence):
            subscription = subscriptions[message.device_id]
            due.append((message, subscription))
            if subscription in lost and self._held.get(subscription) is message:
                due.append((self._lose(subscription, lost[subscription]), subscription))
            size_bytes += message.size_bytes
            if size_bytes >= _PASS_BYTES:
                break
        return due

    def _tail(self, subscription: Subscription) -> list[Message]:
        """What is there of what is due to `subscription`, the oldest first."""
        start = subscription.start_sequence
        bare_until = max(self._bare_until, start)
        found = self._history.after(subscription.device_id, self._cursor)
        tail = []
        if self._owed.get(subscription):
            tail = [message for message in found if message.sequence <= start]
        if (held := self._held.get(subscription)) is not None:
            tail.append(held)
        tail.extend(message for message in found if message.sequence > bare_until)
        return tail

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

    def _conflate(self, subscription: Subscription, messages: int) -> None:
        subscription.deferred -= messages
        subscription.dropped += messages
        self.deferred -= messages
        self._stream.queue.conflated += messages
        self._stream.queue.totals.dropped[Drop.CONFLATED] += messages

    def _is_wanted(self, event: Event, subscription: Subscription | None) -> bool:
        if subscription is None:
            return True
        if self._stream.subscriptions.get(subscription.device_id) is not subscription:
            return False
        if not isinstance(event, Message) or event.sequence <= subscription.start_sequence:
            return True
        # Since it was taken out of the history it may have been conflated.
        return event.sequence > self._bare_until or self._held.get(subscription) is event

    def _count(self, event: Event, subscription: Subscription | None) -> None:
        if subscription is None or not isinstance(event, Message):
            return
        self.reached_sequence = event.sequence
        if event.sequence <= subscription.start_sequence:
            self._owed[subscription] -= 1
            self.replayed += 1
            self._stream.queue.totals.replayed += 1
            return
        if self._held.get(subscription) is event:
            del self._held[subscription]
        subscription.deferred -= 1
        self.deferred -= 1
        self._stream.queue.count_delivered(1)
