"""One client's stream: its subscriptions, its queue, and the outbox that the queue fills.

Theory of operation: the hub offers messages; the ingest task then flushes the streams it
touched. A flush moves what waits into the outbox, as far as the outbox takes it: in the
common case one message, one system call, no task switch. What the kernel refuses stays
the outbox's tail, and while there is one nothing leaves the queue; when the tail is gone
the outbox calls back, and the flush goes on from there.

In the common case a message is not queued at all: a stream whose queue is empty and whose
outbox is writable is clear, and what a publish has for it is its burst, which the flush
that follows joins and writes at once. Only what the kernel refuses is queued; while there
is a burst, the queue is empty.

A stream that begins with what it missed, or gets a new device with its past, catches up
from the history (see `CatchUp`); meanwhile its queue gets no messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from tracker.domain.catchup import CatchUp
from tracker.domain.conflation import DropOldQueue, LatestQueue
from tracker.domain.event import (
    FORGET,
    HEARTBEAT,
    UPSTREAM_BACK,
    UPSTREAM_LOST,
    Event,
    Gap,
    mode_changed,
    position_mark,
)
from tracker.domain.joiner import Burst, Joiner
from tracker.domain.limiter import RateLimiter
from tracker.domain.message import Message
from tracker.domain.outbox import Outbox
from tracker.domain.position import Position
from tracker.domain.queue import Overflow, Queue, QueueLimits, Subscription
from tracker.domain.reasons import CloseReason, Drop
from tracker.domain.totals import Totals
from tracker.domain.transport import Transport

#: One write carries at most this much: what a slow client's kernel refused of it is all
#: that is held beside the queue.
WRITE_LIMIT_BYTES = 64 * 1024

#: PROTOCOL B3: while so many answers wait, the client is not read.
ANSWERS_LIMIT = 64

_QUEUES: dict[Overflow, type[Queue]] = {
    Overflow.DROP_NEW: Queue,
    Overflow.DROP_OLD: DropOldQueue,
    Overflow.LATEST: LatestQueue,
    Overflow.DISCONNECT: Queue,
}


@dataclass(frozen=True, slots=True)
class Client:
    """Who a stream is for: `address` of the peer, `user_agent`, and since when (monotonic)."""

    address: str
    user_agent: str
    since_s: float


NOBODY = Client("", "", 0.0)


class StreamOwner(Protocol):
    """Who is told what a stream does: the hub."""

    #: The sums over all streams.
    totals: Totals

    @property
    def position(self) -> Position:
        """Where a stream stands that has everything."""

    def note_drop(self, device_id: str) -> None:
        """A message was dropped for want of room."""

    def forget(self, stream: Stream) -> None:
        """The stream leaves."""

    def note_held(self, stream: Stream) -> None:
        """The stream holds messages back until their token comes: call its `release`."""


class Stream:
    """One client's stream. Open it with `hub.open_stream`.

    All methods are synchronous and none raises.
    `latest_after`: after so many overflows the gateway keeps only the newest messages for
    it; 0 for never.
    """

    __slots__ = (
        "_catch_up",
        "_encode",
        "_evicted",
        "_is_finished",
        "_is_plain",
        "_latest_after",
        "_limiter",
        "_limits",
        "_overflow",
        "_owner",
        "_passed",
        "_replayed",
        "_totals",
        "burst",
        "client",
        "close_reason",
        "closed_messages",
        "has_ended",
        "is_clear",
        "on_close",
        "outbox",
        "overflows",
        "ping_due_s",
        "ping_s",
        "queue",
        "seat",
        "subscriptions",
        "touched_by",
        "transport",
    )

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        limits: QueueLimits,
        owner: StreamOwner,
        *,
        overflow: Overflow = Overflow.DROP_NEW,
        latest_after: int = 0,
        max_rate_per_s: float | None = None,
    ) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.outbox = outbox
        self.transport = transport
        #: Called once, when the gateway wants the stream to end.
        self.on_close: Callable[[], object] | None = None
        self.close_reason: CloseReason | None = None
        #: The last publish, by its number, that offered it something.
        self.touched_by = 0
        #: Its place among the hub's streams.
        self.seat = -1
        #: Whether the stream has left the hub: nothing of it may reach the outbox.
        self.has_ended = False
        #: How often it had no room, counting a run of drops as one.
        self.overflows = 0
        #: Seconds between its `ping` events, None as all have; and when the next is due.
        self.ping_s: float | None = None
        self.ping_due_s = 0.0
        #: Who it is for, for operators.
        self.client: Client = NOBODY
        #: Messages that waited when it left.
        self.closed_messages = 0
        self._owner = owner
        self._totals = owner.totals
        self._limits = limits
        self._latest_after = latest_after
        self._overflow = overflow
        self.queue = _QUEUES[overflow](limits, owner.totals)
        #: What the publish under way has for it, not counted yet.
        self.burst: Burst = ()
        self._catch_up: CatchUp | None = None
        self._limiter = None if max_rate_per_s is None else RateLimiter(max_rate_per_s)
        #: Whether a message needs no more than room in the queue.
        self._is_plain = self._limiter is None
        #: Whether it takes nothing more in.
        self._is_finished = False
        #: Messages that went past the queue.
        self._passed = 0
        self._evicted = 0
        self._replayed = 0
        #: Whether a message may go into the burst, past the queue, which is empty then.
        self.is_clear = self._is_plain and outbox.writable
        self._encode = transport.encode
        self._choose_encoding()
        outbox.on_writable = self.flush
        outbox.on_stalled = self._stall

    # What it is

    @property
    def overflow(self) -> Overflow:
        """What happens to a message for which there is no room."""
        return self._overflow

    @property
    def has_ids(self) -> bool:
        """Whether its messages carry ids: not where some are left out on purpose."""
        return self._overflow is not Overflow.LATEST and self._limiter is None

    @property
    def is_live(self) -> bool:
        """Whether it has caught up."""
        return self._catch_up is None

    @property
    def waiting(self) -> int:
        """Messages that were offered, and neither delivered nor dropped."""
        deferred = 0 if self._catch_up is None else self._catch_up.deferred
        held = 0 if self._limiter is None else len(self._limiter)
        return len(self.burst) + self.queue.waiting + deferred + held

    @property
    def delivered(self) -> int:
        """Messages that left for the socket, without those that `replayed` counts."""
        return self._passed + self.queue.delivered

    @property
    def evicted_messages(self) -> int:
        """Messages that left the history before it came to them."""
        return self._evicted + (0 if self._catch_up is None else self._catch_up.evicted)

    @property
    def replayed(self) -> int:
        """Messages that it was sent from the history, from before it was there."""
        return self._replayed + (0 if self._catch_up is None else self._catch_up.replayed)

    # What comes in

    def begin(self, events: Collection[Event]) -> None:
        """Let `events` leave before all else; they wait for the first flush."""
        for event in events:
            self.queue.put_event(event)
        if events:
            self.is_clear = False

    def offer(self, message: Message, subscription: Subscription) -> None:
        """Queue a message, or deal with it as its policy says. See `Queue`, PROTOCOL A4."""
        if self._is_plain:
            self._accept(message, subscription)
        elif self._is_finished or self._admit(message, subscription):
            self._take_in(message, subscription)

    def _take_in(self, message: Message, subscription: Subscription) -> None:
        """Queue a message, or leave it to the catch-up."""
        if self._is_finished:
            subscription.dropped += 1
            self._count_closed(1)
        elif self._catch_up is None:
            self._accept(message, subscription)
        else:
            self._catch_up.defer(message, subscription)
            # The history may lose it; not on a client that takes what it is sent.
            self.flush()

    def _accept(self, message: Message, subscription: Subscription) -> None:
        queue = self.queue
        if queue.has_room(message, subscription):
            queue.put(message, subscription)
        elif self._make_room(message, subscription):
            self.queue.put(message, subscription)
        else:
            self._accept_without_room(message, subscription)

    def _make_room(self, message: Message, subscription: Subscription) -> bool:
        # A message may be dropped only when the kernel refuses bytes: not when it has done so
        # before, has room by now, and the outbox's task has just not had its turn.
        self.outbox.push_nowait()
        self.flush()
        self.is_clear = False  # whatever comes of it, something is queued behind this
        if self.queue.has_room(message, subscription):
            return True
        # An outbox that another task serves has not been refused yet: the bytes bound it.
        return not self.outbox.refusing and self.queue.has_room_for_bytes(message)

    def _accept_without_room(self, message: Message, subscription: Subscription) -> None:
        if subscription.gap is None or subscription.gap.is_sealed:
            self.overflows += 1
            self._owner.totals.overflows += 1
            if self._is_to_conflate():
                self.set_overflow(Overflow.LATEST)
                self.post(mode_changed(Overflow.LATEST.value, "too slow"))
                if self.queue.has_room(message, subscription):
                    self.queue.put(message, subscription)
                    return
        self.queue.put_without_room(message, subscription)
        self._owner.note_drop(subscription.device_id)
        if self._overflow is Overflow.DISCONNECT:
            self.close(CloseReason.SLOW)

    def _is_to_conflate(self) -> bool:
        return 0 < self._latest_after <= self.overflows and self._overflow not in (
            Overflow.LATEST,
            Overflow.DISCONNECT,
        )

    def _admit(self, message: Message, subscription: Subscription) -> bool:
        """Whether `message` has its token, if it needs one."""
        if self._limiter is None:
            return True
        self.queue.conflated += subscription.held
        self._owner.totals.dropped[Drop.CONFLATED] += subscription.held
        if self._limiter.admit(message, subscription):
            return True
        self._owner.note_held(self)
        return False

    def release(self, now_ns: int) -> bool:
        """Send what has its token at `now_ns`; whether something is still held."""
        if self._limiter is None or self.has_ended:
            return False
        for message, subscription in self._limiter.due(now_ns):
            self._take_in(message, subscription)
        self.flush()
        return len(self._limiter) > 0

    def post(self, event: Event) -> None:
        """Queue an event that belongs to no device, and send it if the kernel takes it.

        Once the stream is finished, nothing happens: its connection may serve another answer.
        """
        if self._is_finished:
            return
        self._flush_owed()
        if self._catch_up is not None and event in (UPSTREAM_LOST, UPSTREAM_BACK):
            self._catch_up.note(event)
        else:
            self.queue.put_event(event)
        self.flush()

    def post_loss(self, messages: int, reason: str) -> None:
        """Say here that `messages` were lost of which nobody knows the device."""
        if self._is_finished:
            return
        self._flush_owed()
        if self._catch_up is not None:
            self._catch_up.note(Gap(None, reason, messages))
        else:
            self.queue.put_loss(messages, reason)
        self.flush()

    def answer(self, event: Event) -> None:
        """Queue the answer to what the client said; see `is_congested`."""
        if not self._is_finished:
            self._flush_owed()
            self.queue.put_answer(event)
            self.flush()

    def _flush_owed(self) -> None:
        # An event may tell the position: nothing from before it may come behind it.
        if self.burst:
            self.flush()

    @property
    def is_congested(self) -> bool:
        """Whether so many answers wait unread that no more questions should be read."""
        return self.queue.events_waiting >= ANSWERS_LIMIT

    def heartbeat(self) -> None:
        """Put traffic on the wire, unless something waits already: then bytes flow anyway."""
        if self.outbox.writable and not (self.queue or self.burst) and self._encode(HEARTBEAT):
            self.post(HEARTBEAT)

    # What goes out

    def flush(self, joiner: Joiner | None = None) -> int:
        """Move what waits into the outbox, as far as it takes it; return messages moved.

        `joiner`: shared by the streams that are flushed after one publish.
        Hot path: S2b and S4 guard it.
        """
        burst, outbox = self.burst, self.outbox
        if burst and outbox.writable:
            data = (joiner or Joiner()).join(burst, self._encode)
            count = len(burst)
            if len(data) <= WRITE_LIMIT_BYTES or count == 1:
                self.burst = ()
                self._passed += count
                self._totals.delivered += count
                outbox.write_nowait(data)
                self.is_clear = outbox.writable
                return count
        return self._flush_queue()

    def _flush_queue(self) -> int:
        """Move what waits through the queue: whoever is blocked, catches up, or has events."""
        outbox = self.outbox
        before = self.queue.delivered
        burst, self.burst = self.burst, ()
        for message in burst:
            # An earlier one may have finished us.
            self._take_in(message, self.subscriptions[message.device_id])
        while outbox.writable:
            if self._catch_up is not None:
                data = self._take_while_catching_up(self._catch_up)
            elif self.queue.entries:
                data = self.queue.take(self._encode, WRITE_LIMIT_BYTES)
            else:
                break
            if data:
                outbox.write_nowait(data)
        self.is_clear = outbox.writable and self._is_plain
        return self.queue.delivered - before

    def _take_while_catching_up(self, catch_up: CatchUp) -> bytes:
        if self.queue.entries:  # events, or what was before it began
            return self.queue.take(self._encode, WRITE_LIMIT_BYTES)
        data = catch_up.take(self._encode, WRITE_LIMIT_BYTES)
        if catch_up.is_level:
            self._end_catch_up()
        return data

    # What changes

    def catch_up(self, catch_up: CatchUp) -> None:
        """Send what `catch_up` has before anything that is published from now on."""
        self.flush()  # what was published before comes before
        self._catch_up = catch_up
        self._is_plain = self.is_clear = False

    @property
    def catching_up(self) -> CatchUp | None:
        """What it is sent before it is live, or None."""
        return self._catch_up

    def _end_catch_up(self) -> None:
        if self._catch_up is not None:
            self._replayed += self._catch_up.replayed
            self._evicted += self._catch_up.evicted
            self._catch_up = None
            self._is_plain = self._limiter is None and not self._is_finished

    def set_overflow(self, overflow: Overflow) -> None:
        """Deal with overflow in another way from now on; what waits is kept, or conflated."""
        if overflow is self._overflow or self.has_ended:
            return
        self.flush()
        had_ids = self.has_ids
        queue = _QUEUES[overflow](self._limits, self._owner.totals)
        queue.take_over(self.queue)
        self.queue = queue
        self._overflow = overflow
        self._change_ids(had_ids=had_ids)

    def set_max_rate(self, max_rate_per_s: float | None) -> None:
        """Send at most so many messages a second of each device; None: all of them."""
        if self.has_ended:
            return
        self.flush()
        had_ids = self.has_ids
        for message, subscription in () if self._limiter is None else self._limiter.release():
            self._take_in(message, subscription)
        self._limiter = None if max_rate_per_s is None else RateLimiter(max_rate_per_s)
        self._is_plain = self._limiter is None and self._catch_up is None
        self.is_clear = False  # until the flush finds that it is
        self._change_ids(had_ids=had_ids)
        self.flush()

    def _change_ids(self, *, had_ids: bool) -> None:
        if had_ids is self.has_ids:
            return
        self._choose_encoding()
        self.is_clear = False  # until the next flush
        catch_up = self._catch_up
        if had_ids:
            if self._has_mark(FORGET):
                self.queue.put_first(FORGET)
            if catch_up is not None:
                catch_up.leave_ids()
            return
        # Of what was left out on purpose nobody knows where it stood, so what waits now
        # leaves without ids, and the client stands behind it.
        self.queue.strip_ids()
        mark = position_mark(self._owner.position)
        if catch_up is not None:
            catch_up.regain_ids()  # and ends with a mark
        elif self._has_mark(mark):
            self.queue.put_answer(mark)

    def _has_mark(self, mark: Event) -> bool:
        """Whether the stream has positions, and the transport a form for `mark`."""
        return bool(self._owner.position.epoch and self.transport.encode(mark))

    def _choose_encoding(self) -> None:
        transport = self.transport
        self._encode = transport.encode if self.has_ids else transport.encode_without_id

    def remove(self, subscriptions: Collection[Subscription]) -> None:
        """Drop what waits of subscriptions that end, and forget them."""
        self.flush()
        for subscription in subscriptions:
            self._drop_elsewhere(subscription)
            del self.subscriptions[subscription.device_id]
        self.closed_messages += self.queue.remove(subscriptions)

    def _drop_elsewhere(self, subscription: Subscription) -> None:
        """Drop what waits of it outside the queue."""
        if self._catch_up is not None:
            self.closed_messages += self._catch_up.give_up(subscription)
        if self._limiter is not None:
            self._count_closed(self._limiter.forget(subscription))

    def _count_closed(self, messages: int) -> None:
        self.queue.dropped += messages
        self._owner.totals.dropped[Drop.CLOSED] += messages
        self.closed_messages += messages

    # How it ends

    @property
    def is_unserved(self) -> bool:
        """Whether what waits has been refused by nobody: its task has not had its turn yet."""
        outbox = self.outbox
        return bool(self.queue) and not outbox.writable and not outbox.refusing

    def _stall(self) -> None:
        self.close(CloseReason.STALLED)

    def finish(self, last: Event | None = None) -> None:
        """Take nothing more in: what waits in the queue is sent, and `last` behind it.

        All else that was offered, or will be until it leaves, is dropped. Idempotent.
        """
        if self._is_finished:
            return
        self._flush_owed()
        self._is_finished = True
        self.is_clear = self._is_plain = False
        for subscription in self.subscriptions.values():
            self._drop_elsewhere(subscription)
        self._end_catch_up()
        if last is not None:
            self.queue.put_event(last)
        self.flush()

    def leave(self) -> None:
        """Leave the hub and let go of the outbox; what waits is dropped. Idempotent."""
        if self.has_ended:
            return
        self.has_ended = self._is_finished = True
        self.is_clear = self._is_plain = False
        self.outbox.on_writable = self.outbox.on_stalled = self.on_close = None
        self._drop_waiting()
        self._owner.forget(self)

    def _drop_waiting(self) -> None:
        for message in self.burst:
            self.queue.put(message, self.subscriptions[message.device_id])
        self.burst = ()
        for subscription in self.subscriptions.values():
            self._drop_elsewhere(subscription)
        self._end_catch_up()
        self.closed_messages += self.queue.clear()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.leave()

    def close(self, reason: CloseReason) -> None:
        """Ask for the end of the stream; the first reason stands."""
        if self.close_reason is None:
            self.close_reason = reason
            if self.on_close is not None:
                self.on_close()
