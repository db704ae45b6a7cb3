"""Who watches what: the fan-out from one message to every stream of its device.

Laws: `publish_batch` is synchronous and only offers, so between two checkpoints nobody
sees half a publish, and that is the proof of order. A stream leaves synchronously, and
its subscriptions are gone with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain
from types import MappingProxyType

from tracker.domain import event
from tracker.domain.catchup import CatchUp, Due
from tracker.domain.event import Event
from tracker.domain.history import History, HistoryLimits, Losses
from tracker.domain.joiner import Burst
from tracker.domain.message import Message
from tracker.domain.notices import DropNotices
from tracker.domain.options import PLAIN, StreamOptions
from tracker.domain.outbox import Outbox
from tracker.domain.position import Position
from tracker.domain.queue import Overflow, QueueLimits, Subscription
from tracker.domain.reasons import CloseReason, Drop
from tracker.domain.stream import Stream
from tracker.domain.totals import Totals
from tracker.domain.transport import TRANSPORT_NAMES, Transport


class Resume(Enum):
    """How a resume turned out. The value is what the client is told."""

    CONTINUED = "continued"
    PARTIAL = "partial"
    RESET = "reset"


#: How large the last messages of all devices may be together, in bytes of JSON: 64 KiB for
#: each of 100,000 devices would be 6 GiB.
LAST_LIMIT_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HubSettings:
    """`queue`, `history`: their bounds; `devices_limit`, `last_limit_bytes`: of how many
    devices the last message is kept, and how many bytes of JSON they are, the longest silent
    go first; `overflow`, `latest_after`: see `Stream`; `ping_s`,
    `version`: what `hello` tells.
    """

    queue: QueueLimits = field(default_factory=QueueLimits)
    history: HistoryLimits = field(default_factory=HistoryLimits)
    devices_limit: int = 100_000
    last_limit_bytes: int = LAST_LIMIT_BYTES
    overflow: Overflow = Overflow.DROP_NEW
    latest_after: int = 0
    ping_s: float = 60.0
    version: str = ""


_DEFAULTS = HubSettings()


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """The hub's counters, exact at one moment.

    `published`: messages decoded and published, neither malformed nor retained; `streams`:
    open connections by transport; `offered`, `delivered`, `dropped`, `waiting`: messages,
    summed over all streams that ever were; `replayed`: messages sent from the history
    beside them; `gaps`: how often a stream had no room, a run of drops counted as one;
    `devices_forgotten`: devices whose last message made room for others'.
    """

    published: int
    subscriptions: int
    devices_watched: int
    devices_known: int
    devices_forgotten: int
    streams: dict[str, int]
    opened: dict[str, int]
    closed: dict[CloseReason, int]
    offered: int
    delivered: int
    dropped: dict[Drop, int]
    waiting: int
    events_left_out: int
    replayed: int
    gaps: int
    resumes: dict[Resume, int]
    history_messages: int
    history_bytes: int
    history_devices: int
    history_evicted: int


#: The reason of a gap whose messages nobody knows: the hand-over from MQTT overflowed.
INGEST = "ingest"


def drops_of(stream: Stream) -> dict[Drop, int]:
    """What `stream` dropped, by reason."""
    queue = stream.queue
    return {
        Drop.BUFFER_FULL: queue.dropped - stream.evicted_messages - stream.closed_messages,
        Drop.CONFLATED: queue.conflated,
        Drop.EVICTED: stream.evicted_messages,
        Drop.CLOSED: stream.closed_messages,
    }


class Hub:
    """The fan-out, the history, and the last known message of each device.

    `epoch`: names this life of the gateway, in the ids; empty for streams without ids.
    """

    def __init__(self, settings: HubSettings = _DEFAULTS, *, epoch: str = "") -> None:
        self.settings = settings
        self.notices = DropNotices()
        self.history = History(settings.history)
        self.epoch = epoch
        #: Of the last message that was published.
        self.sequence = 0
        #: Whether messages that are sent to the broker now may never come here.
        self.is_upstream_lost = False
        self._watchers: dict[str, dict[Stream, Subscription]] = {}
        #: A stream keeps its seat for life, so that periodic work can be spread over seats.
        self._seats: list[Stream | None] = []
        self._free_seats: list[int] = []
        #: Streams that hold messages back until their token comes.
        self._holding: dict[Stream, None] = {}
        #: Called when the first of them begins to: `release` is to be called from now on.
        self.on_held: Callable[[], object] | None = None
        #: Streams that have their own interval between `ping` events.
        self.pinged_apart: dict[Stream, None] = {}
        self._last: dict[str, Message] = {}
        self._last_bytes = 0
        self._devices_forgotten = 0
        self._published = 0
        self._publishes = 0
        self._offered = 0
        self._subscriptions = 0
        # With their zeros: a counter that appears with its first event has no rate.
        self._streams = dict.fromkeys(TRANSPORT_NAMES, 0)
        self._opened = dict.fromkeys(TRANSPORT_NAMES, 0)
        self._closed = dict.fromkeys(CloseReason, 0)
        self._resumes = dict.fromkeys(Resume, 0)
        self.totals = Totals()

    @property
    def position(self) -> Position:
        """Where a stream stands that has everything."""
        return Position(self.epoch, self.sequence)

    # Streams come and go

    def open_stream(
        self,
        device_ids: Iterable[str],
        outbox: Outbox,
        transport: Transport,
        options: StreamOptions = PLAIN,
        *,
        now_ns: int = 0,
    ) -> Stream:
        """A stream of the messages of `device_ids`, live from now until it leaves.

        Use it as a context manager, or call its `leave`. What it begins with (PROTOCOL B1,
        B2) waits until the first flush. `now_ns`: on the clock of the messages' `received_ns`.
        """
        stream = Stream(
            outbox,
            transport,
            self.settings.queue,
            self,
            overflow=options.overflow or self.settings.overflow,
            latest_after=self.settings.latest_after,
            max_rate_per_s=options.max_rate_per_s,
        )
        if options.ping_s is not None:
            self.set_ping(stream, options.ping_s)
        self._take_seat(stream)
        self._opened[transport.name] += 1
        self._streams[transport.name] += 1
        for device_id in dict.fromkeys(device_ids):
            self._add(stream, device_id)
        self._begin(stream, options, now_ns)
        return stream

    def subscribe(
        self,
        stream: Stream,
        device_ids: Iterable[str],
        options: StreamOptions = PLAIN,
        *,
        now_ns: int = 0,
    ) -> None:
        """Add devices to a stream, first with what `options` ask of their past.

        Once the stream has left, nothing happens.
        """
        if stream.has_ended:
            return
        added = [
            self._add(stream, device_id)
            for device_id in dict.fromkeys(device_ids)
            if device_id not in stream.subscriptions
        ]
        self._catch_up(stream, self._past_of(added, options, now_ns), self.sequence)

    def unsubscribe(self, stream: Stream, device_ids: Iterable[str]) -> None:
        """Take devices from a stream; what waits of them is dropped."""
        theirs = stream.subscriptions
        ended = [
            theirs[device_id] for device_id in dict.fromkeys(device_ids) if device_id in theirs
        ]
        for subscription in ended:
            self._remove_watcher(stream, subscription.device_id)
        stream.remove(ended)

    def _add(self, stream: Stream, device_id: str) -> Subscription:
        subscription = Subscription(device_id, self.sequence)
        stream.subscriptions[device_id] = subscription
        self._watchers.setdefault(device_id, {})[stream] = subscription
        self._subscriptions += 1
        return subscription

    def _remove_watcher(self, stream: Stream, device_id: str) -> None:
        watchers = self._watchers[device_id]
        del watchers[stream]
        if not watchers:
            del self._watchers[device_id]
        self._subscriptions -= 1

    def _take_seat(self, stream: Stream) -> None:
        if self._free_seats:
            stream.seat = self._free_seats.pop()
            self._seats[stream.seat] = stream
        else:
            stream.seat = len(self._seats)
            self._seats.append(stream)

    # What a stream begins with

    def _begin(self, stream: Stream, options: StreamOptions, now_ns: int) -> None:
        if not self.epoch:
            return
        subscriptions = list(stream.subscriptions.values())
        opening, resumed, owed = self.position, None, dict[Subscription, int]()
        if options.last_event_id is None:
            past = self._past_of(subscriptions, options, now_ns)
        elif stream.has_ids and (position := self._recognise(options.last_event_id)) is not None:
            opening, resumed, owed = self._resume(subscriptions, position)
            past = []
        else:
            resumed = self._outcome(Resume.RESET, None, opening)
            past = self._past_of(subscriptions, replace(options, has_snapshot=True), now_ns)
        events: list[Event] = []
        if stream.has_ids:
            events.append(event.position_mark(opening))
        if options.has_hello:
            events.append(self._hello(options, opening))
        if resumed is not None:
            events.append(resumed)
        if self.is_upstream_lost:
            events.append(event.UPSTREAM_LOST)
        stream.begin(events)
        self._catch_up(stream, past, opening.sequence, owed)

    def _hello(self, options: StreamOptions, position: Position) -> Event:
        return event.hello(
            self.settings.version,
            options.ping_s or self.settings.ping_s,
            self.settings.queue.messages,
            position,
        )

    def _recognise(self, last_event_id: str) -> Position | None:
        """The position that a client names, or None: it is not of this gateway's life."""
        position = Position.parse(last_event_id)
        if position is None or position.epoch != self.epoch or position.sequence > self.sequence:
            return None
        return position

    def _resume(
        self, subscriptions: Iterable[Subscription], position: Position
    ) -> tuple[Position, Event, dict[Subscription, int]]:
        """(Where the stream stands at first, the `resume` event, what is owed to whom)."""
        history, sequence = self.history, position.sequence
        is_complete = not history.is_marked_after(sequence)
        owed = {}
        for subscription in subscriptions:
            device_id = subscription.device_id
            is_complete = is_complete and history.has_all_after(device_id, sequence)
            if found := len(history.after(device_id, sequence)):
                owed[subscription] = found
        # A client that is cut in the middle of the replay resumes from where it was: the
        # position may only go on when there is nothing to replay.
        opening = position if owed else self.position
        outcome = Resume.CONTINUED if is_complete else Resume.PARTIAL
        missed = sum(owed.values()) if is_complete else None
        return opening, self._outcome(outcome, missed, opening), owed

    def _outcome(self, outcome: Resume, missed: int | None, position: Position) -> Event:
        self._resumes[outcome] += 1
        return event.resume(outcome.value, missed, position)

    def _past_of(
        self, subscriptions: Iterable[Subscription], options: StreamOptions, now_ns: int
    ) -> list[Iterable[Due]]:
        """What `options` ask of the past, as parts that follow each other; the last is lazy."""
        past: list[Iterable[Due]] = []
        if options.has_snapshot:
            past.append(
                [
                    (self._last[subscription.device_id].as_snapshot(), subscription)
                    for subscription in subscriptions
                    if subscription.device_id in self._last
                ]
            )
        if options.track_s:
            past.append(self._tracks(subscriptions, now_ns - int(options.track_s * 1e9)))
        return past

    def _tracks(self, subscriptions: Iterable[Subscription], since_ns: int) -> Iterator[Due]:
        """Made one by one as they are sent: a track may be long, and a client slow."""
        for subscription in subscriptions:
            for message in self.history.track(subscription.device_id, since_ns):
                if message.sequence <= subscription.start_sequence:
                    yield message.as_track(), subscription

    def _catch_up(
        self,
        stream: Stream,
        past: Collection[Iterable[Due]],
        reached_sequence: int,
        owed: Mapping[Subscription, int] = MappingProxyType({}),
    ) -> None:
        if not (past or owed) or not self.epoch:
            return
        if stream.catching_up is None:
            stream.catch_up(
                CatchUp(
                    self.history,
                    stream,
                    self,
                    chain.from_iterable(past),
                    reached_sequence=reached_sequence,
                    owed=owed,
                )
            )
        else:
            stream.catching_up.prepend(chain.from_iterable(past))

    def position_of(self, stream: Stream) -> Position | None:
        """Where a client stands that has got all that was sent to it; None without ids.

        Everything up to it was sent, or waits in the queue before whatever is put there now.
        """
        if not stream.has_ids or not self.epoch:
            return None
        catch_up = stream.catching_up
        if catch_up is None:
            return self.position
        return Position(self.epoch, catch_up.reached_sequence)

    def set_ping(self, stream: Stream, ping_s: float | None) -> None:
        """Let `stream` have its `ping` events every `ping_s` seconds; None: as all have."""
        stream.ping_s = ping_s
        if ping_s is None:
            self.pinged_apart.pop(stream, None)
        else:
            self.pinged_apart[stream] = None

    # Messages

    def publish_batch(self, messages: Iterable[Message]) -> list[Stream]:
        """Offer each message to every stream of its device. Never waits, never raises.

        Returns the streams that were offered something: flush them. Hot path: S2b, S6b.
        """
        self._publishes += 1
        publish = self._publishes
        touched: list[Stream] = []
        for message in messages:
            self._published += 1
            self.sequence = message.sequence
            self._remember(message)
            self.history.append(message)
            watchers = self._watchers.get(message.device_id)
            if watchers is None:
                continue
            self._offered += len(watchers)
            # Who has had the same so far has the same now: one tuple for all of them.
            had: Burst | None = None
            has: Burst = ()
            for stream in watchers:
                if stream.is_clear:
                    burst = stream.burst
                    if burst is not had:
                        had, has = burst, (*burst, message)
                    if not burst:
                        touched.append(stream)
                    stream.burst = has
                    continue
                stream.offer(message, watchers[stream])
                if stream.touched_by != publish:
                    stream.touched_by = publish
                    touched.append(stream)
        return touched

    def restore(
        self, position: Position, messages: list[Message], losses: Losses, *, is_whole: bool
    ) -> None:
        """Go on with the life of a gateway that was stopped in order, before any stream.

        `losses`: what its history did not hold any more; `is_whole`: nothing can have been
        lost between its end and our start.
        """
        self.epoch, self.sequence = position.epoch, position.sequence
        for message in messages:
            self._remember(message)
        self.history.restore(messages, losses)
        if not is_whole:
            self.history.mark(self.sequence)

    def seed(self, message: Message) -> None:
        """Take a retained message as the last known one of its device, if none is known.

        It is old news: no stream gets it, it is not counted as published, and it makes no
        other device forgotten.
        """
        if (
            message.device_id not in self._last
            and len(self._last) < self.settings.devices_limit
            and self._last_bytes + message.size_bytes <= self.settings.last_limit_bytes
        ):
            self._remember(message)

    def _remember(self, message: Message) -> None:
        last = self._last
        # Out and in again, so that the order is that of the last sign of life.
        known = last.pop(message.device_id, None)
        if known is not None:
            self._last_bytes -= known.size_bytes
        last[message.device_id] = message
        self._last_bytes += message.size_bytes
        while (
            len(last) > self.settings.devices_limit
            or self._last_bytes > self.settings.last_limit_bytes
        ):
            self._last_bytes -= last.pop(next(iter(last))).size_bytes
            self._devices_forgotten += 1

    def note_lost(self, messages: int) -> None:
        """Say to everybody that `messages` were lost before they came here, now."""
        self.history.mark(self.sequence)
        for stream in self.streams():
            stream.post_loss(messages, INGEST)

    def note_upstream(self, *, is_lost: bool) -> None:
        """The broker is gone, or back: what was sent to it meanwhile may be missing.

        While it is gone, a stream that is opened is told so.
        """
        self.is_upstream_lost = is_lost
        self.history.mark(self.sequence)

    @property
    def is_holding(self) -> bool:
        """Whether a stream holds messages back."""
        return bool(self._holding)

    def release(self, now_ns: int) -> None:
        """Send what has its token now."""
        for stream in list(self._holding):
            if not stream.release(now_ns):
                self._holding.pop(stream, None)

    def last_messages(self) -> list[Message]:
        """The last known message of each device, the longest silent first."""
        return list(self._last.values())

    # What a stream tells (see `StreamOwner`)

    def note_drop(self, device_id: str) -> None:
        """A message was dropped for want of room."""
        self.notices.count(device_id)

    def note_held(self, stream: Stream) -> None:
        """`stream` holds messages back until their token comes."""
        if not self._holding and self.on_held is not None:
            self.on_held()
        self._holding[stream] = None

    def forget(self, stream: Stream) -> None:
        """`stream` leaves."""
        self._seats[stream.seat] = None
        self._free_seats.append(stream.seat)
        self._holding.pop(stream, None)
        self.pinged_apart.pop(stream, None)
        for device_id in stream.subscriptions:
            self._remove_watcher(stream, device_id)
        self._streams[stream.transport.name] -= 1
        self._closed[stream.close_reason or CloseReason.CLIENT] += 1

    # What there is

    def streams(self, share: int = 0, shares: int = 1) -> list[Stream]:
        """One of `shares` equal shares of the open streams; by default all of them.

        A stream is in the same share for life.
        """
        return [stream for stream in self._seats[share::shares] if stream is not None]

    def statistics(self) -> HubStatistics:
        """All counters, at this moment. Takes the same time however many streams there are."""
        totals = self.totals
        dropped = dict(totals.dropped)
        return HubStatistics(
            published=self._published,
            subscriptions=self._subscriptions,
            devices_watched=len(self._watchers),
            devices_known=len(self._last),
            devices_forgotten=self._devices_forgotten,
            streams=dict(self._streams),
            opened=dict(self._opened),
            closed=dict(self._closed),
            offered=self._offered,
            delivered=totals.delivered,
            dropped=dropped,
            waiting=self._offered - totals.delivered - sum(dropped.values()),
            events_left_out=totals.events_left_out,
            replayed=totals.replayed,
            gaps=totals.overflows,
            resumes=dict(self._resumes),
            history_messages=self.history.messages,
            history_bytes=self.history.size_bytes,
            history_devices=self.history.devices,
            history_evicted=self.history.evicted,
        )
