"""The promise of the stream, against a model that knows what each client must have.

Whatever happens, a client has every message, or a frame that says which it lacks. Clients
of every kind come, take, refuse, are cut and resume, with other devices and on another
transport; they change their policies; the history loses messages by each of its bounds;
the hand-over loses some before they are known; and the gateway restarts, with its history
or without. The model reads the bytes with parsers that others wrote, and nothing of the
domain but them: a message that is missing, doubled, out of order or undeclared fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from tests.domain.ears import Ear, Heard, ear_for
from tests.fakes import BusyOutbox, FakeOutbox, ServedOutbox, make_message
from tracker.domain import event
from tracker.domain.event import PING, UPSTREAM_BACK, UPSTREAM_LOST
from tracker.domain.history import HistoryLimits
from tracker.domain.hub import Hub, HubSettings, Resume, drops_of
from tracker.domain.message import Message
from tracker.domain.options import StreamOptions
from tracker.domain.position import Position
from tracker.domain.queue import Overflow, QueueLimits
from tracker.domain.reasons import CloseReason, Drop
from tracker.domain.stream import Stream
from tracker.domain.transport import SSE_BARE, SSE_CHUNKED, WEBSOCKET, WEBSOCKET_LINES, Transport

SECOND_NS = 1_000_000_000
DEVICES = "ABCD"
TRANSPORTS = [WEBSOCKET, SSE_BARE, SSE_CHUNKED, WEBSOCKET_LINES]
#: What a gap counts for in a queue's bytes.
GAP_BYTES = 100


@dataclass(eq=False)
class World:
    """What was sent to one life of the gateway, as the devices know it."""

    epoch: str
    #: The sequences of each device's messages.
    published: dict[str, list[int]] = field(default_factory=lambda: {d: [] for d in DEVICES})
    #: The last known message of each device, by its sequence.
    known: dict[str, int] = field(default_factory=dict)
    received_ns: dict[int, int] = field(default_factory=dict)
    sequence: int = 0
    #: (Where, how many): lost before they were known.
    losses: list[tuple[int, int]] = field(default_factory=list)
    #: Behind these something may have been lost.
    marks: list[int] = field(default_factory=list)
    is_upstream_lost: bool = False

    def after(self, device_id: str, sequence: int, until: float = inf) -> list[int]:
        return [each for each in self.published[device_id] if sequence < each <= until]


@dataclass(eq=False)
class Subscribed:
    """What one subscription must get: all behind `base` but what the client knows to be gone."""

    device_id: str
    start: int
    base: int
    excused: frozenset[int] = frozenset()
    snapshot: int | None = None
    track: list[int] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)
    live: int = 0
    gaps: int = 0
    gaps_since_message: int = 0


@dataclass(eq=False)
class Person:
    """A client over all its connections: what it keeps is one id."""

    last_id: str | None = None
    device_ids: tuple[str, ...] = ()


@dataclass(eq=False)
class Connection:
    """One connection of a client, and what it has been told on it."""

    person: Person
    stream: Stream
    outbox: FakeOutbox
    transport: Transport
    world: World
    ear: Ear
    subs: dict[str, Subscribed]
    #: What it must hear first, in this order.
    opening: list[Heard]
    #: How many losses there had been when it began.
    losses_before: int
    heard: list[Heard] = field(default_factory=list)
    writes_heard: int = 0
    has_ids: bool = True
    #: Nothing up to here comes with an id any more: the stream had none for a while.
    floor: int = -1
    was_conflated: bool = False
    has_unsubscribed: bool = False
    overflow: Overflow = Overflow.DROP_NEW
    #: How often the gateway has changed that by itself, and has said so.
    switches: int = 0
    modes: int = 0
    last_sequence: int = -1
    unknown_lost: int = 0
    replayed: int = 0
    delivered: int = 0
    rate: tuple[float, int] | None = None

    # Hearing

    def listen(self) -> None:
        """Hear what the stream has let go since the last time, and judge it."""
        writes = self.outbox.writes[self.writes_heard :]
        self.writes_heard += len(writes)
        for heard in self.ear.hear(b"".join(writes)):
            self.heard.append(heard)
            if len(self.heard) <= len(self.opening):
                assert heard == self.opening[len(self.heard) - 1]
            self._judge(heard)

    def _judge(self, heard: Heard) -> None:
        judge: dict[str, Callable[[Heard], None]] = {
            "": self._judge_mark,
            "message": self._judge_message,
            "snapshot": self._judge_past,
            "track": self._judge_past,
            "gap": self._judge_gap,
            "ack": self._judge_position,
            "hello": self._judge_position,
            "resume": self._judge_position,
            "mode": self._judge_mode,
        }
        if heard.name in judge:
            judge[heard.name](heard)
        else:
            assert (heard.name, heard.id) in (("ping", None), ("upstream", None))

    def _judge_mark(self, heard: Heard) -> None:
        assert heard.id is not None
        if heard.id == "none":
            assert not self.stream.has_ids or self.was_conflated
            assert self.last_sequence <= self.floor or not self.stream.has_ids
            self.has_ids = self.stream.has_ids
            self.was_conflated = True
        else:
            assert self.has_ids
            self._reach(self._sequence_of(heard.id))

    def _judge_position(self, heard: Heard) -> None:
        assert heard.id is None
        if "position" in heard.data and self.has_ids:
            self._reach(self._sequence_of(heard.data["position"]))

    def _judge_mode(self, heard: Heard) -> None:
        assert heard == Heard("mode", {"mode": "latest", "reason": "too slow"})
        self.modes += 1

    def _judge_message(self, heard: Heard) -> None:
        sub = self.subs[heard.data["data"]["DEVICE_ID"]]
        sequence = heard.data["timestamp"]
        assert sequence in self.world.published[sub.device_id]
        assert sequence > sub.base
        assert sequence not in sub.excused
        assert not sub.heard or sequence > sub.heard[-1]
        if heard.id is None:
            if self.has_ids and sequence > self.floor:
                assert not self.stream.has_ids, "a message without an id"
                self.lose_ids()
        else:
            assert self.has_ids, "an id where none should be"
            assert sequence > self.floor
            assert self._sequence_of(heard.id) == sequence
        sub.heard.append(sequence)
        sub.gaps_since_message = 0
        if sequence > sub.start:
            self._judge_live(sub)
        else:
            self.replayed += 1
        if heard.id is not None:
            assert sequence > self.last_sequence
            self._reach(sequence)

    def _judge_live(self, sub: Subscribed) -> None:
        assert sub.snapshot is None, "live before the snapshot"
        assert not self._kept(sub.track), "live before the end of the track"
        self.delivered += 1
        sub.live += 1

    def _judge_past(self, heard: Heard) -> None:
        assert heard.id is None
        sub = self.subs[heard.data["data"]["DEVICE_ID"]]
        sequence = heard.data["timestamp"]
        if heard.name == "snapshot":
            assert sequence == sub.snapshot
            sub.snapshot = None
        else:
            assert sub.snapshot is None, "track before the snapshot"
            skipped = sub.track[: sub.track.index(sequence)]
            assert not self._kept(skipped)
            del sub.track[: len(skipped) + 1]

    def _judge_gap(self, heard: Heard) -> None:
        assert heard.id is None
        device_id, dropped = heard.data["device_id"], heard.data["dropped"]
        assert dropped > 0
        if device_id is None:
            assert heard.data["reason"] == "ingest"
            self.unknown_lost += dropped
            assert self.unknown_lost <= self._lost_before(inf)
            return
        assert heard.data["reason"] in ("buffer_full", "evicted")
        sub = self.subs[device_id]
        sub.gaps += dropped
        sub.gaps_since_message += dropped
        assert len(sub.heard) + sub.gaps <= len(self.due(sub))

    # Judging

    def due(self, sub: Subscribed, until: float = inf) -> list[int]:
        """What a subscription must get, up to and with `until`."""
        due = self.world.after(sub.device_id, sub.base, until)
        return [sequence for sequence in due if sequence not in sub.excused]

    def _reach(self, sequence: int) -> None:
        """The client may resume from here: all up to here it has, or knows to be lost."""
        assert sequence >= self.last_sequence
        self.last_sequence = sequence
        for sub in self.subs.values():
            due = [each for each in self.due(sub, sequence) if each > self.floor]
            heard = [each for each in sub.heard if each > self.floor]
            assert len(due) - len(heard) <= sub.gaps, "undeclared"
        assert self.unknown_lost >= self._lost_before(sequence), "undeclared"

    def _lost_before(self, sequence: float) -> int:
        losses = self.world.losses[self.losses_before :]
        return sum(messages for place, messages in losses if place < sequence)

    def _sequence_of(self, event_id: str) -> int:
        epoch, _, sequence = event_id.rpartition("-")
        assert epoch == self.world.epoch
        return int(sequence)

    def _kept(self, sequences: Iterable[int]) -> set[int]:
        hub = self.stream._owner
        assert isinstance(hub, Hub)
        return set(sequences) & {message.sequence for message in hub.history.all_messages()}

    def forget_position(self) -> None:
        """The stream has lost its ids: if even its first mark still waits, that tells none."""
        if not self.outbox.writes and self.has_ids:
            is_sse = self.transport.name == "sse"
            named = [each for each in self.opening if each.name]
            self.opening = [Heard("", None, "none")] * is_sse + named

    def lose_ids(self) -> None:
        self.has_ids = False
        self.was_conflated = True

    def judge_drained(self) -> None:
        """Nothing waits any more: the sums are exact."""
        assert self.stream.is_live
        assert (self.stream.waiting, len(self.stream.queue)) == (0, 0)
        assert self.heard[: len(self.opening)] == self.opening
        assert self.unknown_lost == self._lost_before(inf)
        assert self.modes == self.switches
        conflated = 0
        for sub in self.subs.values():
            assert (sub.snapshot, self._kept(sub.track)) == (None, set())
            due = self.due(sub)
            assert set(sub.heard) <= set(due)
            if not self.was_conflated:
                assert len(sub.heard) + sub.gaps == len(due), "missing"
            conflated += len(due) - len(sub.heard) - sub.gaps
            newest = due[-1:]
            assert sub.heard[-1:] == newest or sub.gaps_since_message, "the newest is missing"
        if not self.has_unsubscribed:
            assert conflated == self.stream.queue.conflated

    # Being cut

    def what_arrived(self) -> list[Heard]:
        """What the client has got, of what the stream has let go."""
        arrived = ear_for(self.transport).hear(self.outbox.kernel)
        assert arrived == self.heard[: len(arrived)]
        return arrived

    def remember(self) -> None:
        """Keep the id that a client of this transport would have by now."""
        is_sse = self.transport.name == "sse"
        for heard in self.what_arrived():
            if heard.id is not None:
                self.person.last_id = heard.id
            elif is_sse:
                continue
            elif heard.name in ("mode", "message"):
                self.person.last_id = "none"  # the stream has lost its ids
            elif isinstance(heard.data, dict) and "position" in heard.data:
                self.person.last_id = heard.data["position"]


outboxes = st.one_of(
    st.sampled_from([0, 10, 200, inf, inf]).map(lambda size: lambda: FakeOutbox(size)),
    st.sampled_from([ServedOutbox, BusyOutbox]),
)
some_devices = st.lists(st.sampled_from(DEVICES), min_size=1, max_size=4, unique=True)
overflows = st.sampled_from([None, None, None, Overflow.DROP_OLD, Overflow.LATEST])
rates = st.sampled_from([None, None, None, 0.5, 3.0])
pasts = st.fixed_dictionaries(
    {"has_snapshot": st.booleans(), "track_s": st.sampled_from([0.0, 0.0, 5.0, 900.0])}
)


class HonestyMachine(RuleBasedStateMachine):
    """Everything that can happen to a stream, in any order."""

    connected = Bundle("connected")
    cut_off = Bundle("cut_off")

    @initialize(
        history_messages=st.sampled_from([2, 5, 100]),
        history_bytes=st.sampled_from([2_500, 1 << 20]),
        total_bytes=st.sampled_from([300, 1 << 20]),
        overflow=st.sampled_from([Overflow.DROP_NEW] * 3 + list(Overflow)),
        latest_after=st.sampled_from([0, 0, 1, 3]),
    )
    def start(
        self,
        history_messages: int,
        history_bytes: int,
        total_bytes: int,
        overflow: Overflow,
        latest_after: int,
    ) -> None:
        self.settings = HubSettings(
            queue=QueueLimits(messages=3, total_bytes=total_bytes, events=2),
            history=HistoryLimits(history_messages, 10.0, history_bytes),
            overflow=overflow,
            latest_after=latest_after,
            version="7",
        )
        self.lives = 0
        self.now_ns = 5 * SECOND_NS
        self.open: list[Connection] = []
        self._begin_life()

    def _begin_life(self) -> None:
        self.lives += 1
        self.world = World(f"e{self.lives}")
        self.hub = Hub(self.settings, epoch=self.world.epoch)
        self._forget_counts()

    def _forget_counts(self) -> None:
        self.gone: list[Connection] = []
        self.resumes = dict.fromkeys(Resume, 0)
        self.published = 0

    # Clients

    @rule(
        target=connected,
        device_ids=some_devices,
        transport=st.sampled_from(TRANSPORTS),
        outbox=outboxes,
        overflow=overflows,
        max_rate=rates,
        past=pasts,
        has_hello=st.booleans(),
    )
    def come(
        self,
        device_ids: list[str],
        transport: Transport,
        outbox: Callable[[], FakeOutbox],
        overflow: Overflow | None,
        max_rate: float | None,
        past: dict[str, Any],
        has_hello: bool,
    ) -> Connection:
        options = StreamOptions(
            overflow=overflow, max_rate_per_s=max_rate, has_hello=has_hello, **past
        )
        return self._open(Person(), device_ids, transport, outbox(), options)

    @rule(
        target=connected,
        person=consumes(cut_off),
        others=st.one_of(st.none(), st.none(), some_devices),
        garbled=st.sampled_from([None] * 8 + ["", "none", "e1-", "e1-999999", "x-1", "e1-١"]),
        transport=st.sampled_from(TRANSPORTS),
        outbox=outboxes,
        overflow=overflows,
        max_rate=rates,
        past=pasts,
        has_hello=st.booleans(),
    )
    def resume(
        self,
        person: Person,
        others: list[str] | None,
        garbled: str | None,
        transport: Transport,
        outbox: Callable[[], FakeOutbox],
        overflow: Overflow | None,
        max_rate: float | None,
        past: dict[str, Any],
        has_hello: bool,
    ) -> Connection:
        options = StreamOptions(
            last_event_id=person.last_id if garbled is None else garbled,
            overflow=overflow,
            max_rate_per_s=max_rate,
            has_hello=has_hello,
            **past,
        )
        return self._open(person, others or person.device_ids, transport, outbox(), options)

    def _open(
        self,
        person: Person,
        device_ids: Iterable[str],
        transport: Transport,
        outbox: FakeOutbox,
        options: StreamOptions,
    ) -> Connection:
        person.device_ids = tuple(device_ids)
        overflow = options.overflow or self.settings.overflow
        has_ids = overflow is not Overflow.LATEST and options.max_rate_per_s is None
        opening, subs = self._expect(person.device_ids, options, has_ids=has_ids)
        is_sse = transport.name == "sse"
        connection = Connection(
            person=person,
            stream=self.hub.open_stream(device_ids, outbox, transport, options, now_ns=self.now_ns),
            outbox=outbox,
            transport=transport,
            world=self.world,
            ear=ear_for(transport),
            subs=subs,
            opening=[each for each in opening if each.name or is_sse],
            losses_before=len(self.world.losses),
            has_ids=has_ids,
            was_conflated=not has_ids,
            overflow=overflow,
        )
        connection.stream.on_close = lambda: None
        if options.max_rate_per_s is not None:
            connection.rate = (options.max_rate_per_s, self.now_ns)
        self.open.append(connection)
        return connection

    def _expect(
        self, device_ids: Iterable[str], options: StreamOptions, *, has_ids: bool
    ) -> tuple[list[Heard], dict[str, Subscribed]]:
        """(What the client must hear first, what it must get)."""
        world, epoch = self.world, self.world.epoch
        opening_at, resumed = world.sequence, None
        subs = {
            device_id: Subscribed(device_id, world.sequence, world.sequence)
            for device_id in device_ids
        }
        if options.last_event_id is None:
            self._expect_past(subs.values(), options)
        else:
            status, missed = "reset", None
            given_epoch, _, given = options.last_event_id.rpartition("-")
            # What the standard calls digits is more than these; the id is compared by bytes.
            is_ours = given_epoch == epoch and given.isascii() and given.isdecimal()
            if is_ours and int(given) <= world.sequence and has_ids:
                status, opening_at = self._expect_resumed(subs.values(), int(given))
                if status == "continued":
                    missed = sum(len(world.after(each, int(given))) for each in subs)
            else:
                self._expect_past(subs.values(), options, is_reset=True)
            self.resumes[Resume(status)] += 1
            position = f"{epoch}-{opening_at}"
            resumed = Heard("resume", {"status": status, "missed": missed, "position": position})
        opening = [Heard("", None, f"{epoch}-{opening_at}")] if has_ids else []
        if options.has_hello:
            hello = {"version": "7", "ping_s": 60.0, "buffer": 3}
            opening.append(Heard("hello", {**hello, "position": f"{epoch}-{opening_at}"}))
        if resumed is not None:
            opening.append(resumed)
        if world.is_upstream_lost:
            opening.append(Heard("upstream", {"connected": False}))
        return opening, subs

    def _expect_resumed(self, subs: Iterable[Subscribed], given: int) -> tuple[str, int]:
        """(The status, where the stream stands at first)."""
        world = self.world
        kept = {message.sequence for message in self.hub.history.all_messages()}
        is_lacking = any(mark >= given for mark in world.marks)
        is_replaying = False
        for sub in subs:
            sub.base = given
            missed = set(world.after(sub.device_id, given))
            sub.excused = frozenset(missed - kept)
            is_lacking |= bool(sub.excused)
            is_replaying |= bool(missed & kept)
        if not is_lacking and any(set(world.after(each, given)) - kept for each in DEVICES):
            # Of the devices that it has forgotten, a history knows only that they are some.
            is_lacking = not all(
                self.hub.history.has_all_after(sub.device_id, given) for sub in subs
            )
        return (
            "partial" if is_lacking else "continued",
            given if is_replaying else world.sequence,
        )

    def _expect_past(
        self, subs: Iterable[Subscribed], options: StreamOptions, *, is_reset: bool = False
    ) -> None:
        since_ns = self.now_ns - options.track_s * SECOND_NS
        kept = {message.sequence for message in self.hub.history.all_messages()}
        for sub in subs:
            if options.has_snapshot or is_reset:
                sub.snapshot = self.world.known.get(sub.device_id)
            if options.track_s:
                sub.track = [
                    sequence
                    for sequence in self.world.published[sub.device_id]
                    if sequence in kept and self.world.received_ns[sequence] >= since_ns
                ]

    @rule(target=cut_off, connection=consumes(connected))
    def cut(self, connection: Connection) -> Any:
        if connection.stream.has_ended:
            return multiple()
        connection.remember()
        self._leave(connection)
        return connection.person if connection.person.last_id is not None else multiple()

    def _leave(self, connection: Connection) -> None:
        connection.stream.leave()
        self.open.remove(connection)
        self.gone.append(connection)

    @rule(connection=connected, size_bytes=st.integers(1, 400) | st.just(inf))
    def take(self, connection: Connection, size_bytes: float) -> None:
        if isinstance(connection.outbox, ServedOutbox):
            connection.outbox.serve()
        else:
            connection.outbox.feed(size_bytes)

    @rule(connection=connected)
    def refuse(self, connection: Connection) -> None:
        connection.outbox.starve()

    @rule(connection=connected, is_behind=st.booleans())
    def fall_behind(self, connection: Connection, is_behind: bool) -> None:
        if isinstance(connection.outbox, ServedOutbox):
            connection.outbox.is_behind = is_behind

    @rule(connection=connected)
    def flush(self, connection: Connection) -> None:
        connection.stream.flush()

    @rule(connection=connected)
    def ping(self, connection: Connection) -> None:
        connection.stream.post(PING)

    @rule(connection=connected)
    def drain(self, connection: Connection) -> None:
        if not connection.stream.has_ended:
            self._drain(connection)

    def _drain(self, connection: Connection) -> None:
        connection.stream.flush()
        for _ in range(2):
            while connection.outbox.tail:
                self.take(connection, inf)
            self.take(connection, inf)
            connection.stream.flush()
            # What was held back has its token by then.
            self.tick(2.0)
        self.laws_of_each_stream()
        connection.judge_drained()

    # What clients ask for

    @rule(connection=connected, device_ids=some_devices, past=pasts)
    def subscribe(
        self, connection: Connection, device_ids: list[str], past: dict[str, Any]
    ) -> None:
        if connection.stream.has_ended:
            self.hub.subscribe(connection.stream, device_ids)
            return
        options = StreamOptions(**past)
        position = self.hub.position_of(connection.stream)
        new = {
            device_id: Subscribed(device_id, self.world.sequence, self.world.sequence)
            for device_id in device_ids
            if device_id not in connection.subs
        }
        self._expect_past(new.values(), options)
        connection.subs |= new
        self.hub.subscribe(connection.stream, device_ids, options, now_ns=self.now_ns)
        self._answer(connection, "subscribe", position)

    @rule(connection=connected, device_ids=some_devices)
    def unsubscribe(self, connection: Connection, device_ids: list[str]) -> None:
        if connection.stream.has_ended:
            return
        # What the kernel takes now leaves before the operation.
        connection.stream.flush()
        self.laws_of_each_stream()
        for device_id in device_ids:
            if connection.subs.pop(device_id, None) is not None:
                connection.has_unsubscribed = True
        self.hub.unsubscribe(connection.stream, device_ids)
        self._answer(connection, "unsubscribe", self.hub.position_of(connection.stream))

    def _answer(self, connection: Connection, name: str, position: Position | None) -> None:
        if connection.transport.name == "websocket":
            connection.stream.answer(event.ack(name, 1, position))

    @rule(
        connection=connected,
        overflow=st.sampled_from([Overflow.DROP_NEW, Overflow.DROP_OLD, Overflow.LATEST]),
    )
    def set_overflow(self, connection: Connection, overflow: Overflow) -> None:
        self._change(connection, lambda: connection.stream.set_overflow(overflow))

    @rule(connection=connected, max_rate=st.sampled_from([None, None, 0.5, 3.0]))
    def set_max_rate(self, connection: Connection, max_rate: float | None) -> None:
        connection.rate = None
        self._change(connection, lambda: connection.stream.set_max_rate(max_rate))

    def _change(self, connection: Connection, change: Callable[[], object]) -> None:
        stream = connection.stream
        if stream.has_ended:
            change()
            return
        # What the kernel takes now leaves before the change.
        stream.flush()
        self.laws_of_each_stream()
        had_ids = stream.has_ids
        change()
        connection.overflow = stream.overflow
        if had_ids and not stream.has_ids:
            connection.forget_position()
            connection.lose_ids()
        elif stream.has_ids and not had_ids:
            connection.has_ids, connection.was_conflated = True, True
            connection.floor = self.world.sequence
        self._answer(connection, "options", self.hub.position_of(stream))

    # What devices, brokers and operators do

    @rule(
        batch=st.lists(
            st.tuples(st.sampled_from(DEVICES), st.sampled_from([0, 0, 20, 150])), max_size=8
        ),
        flushed=st.sampled_from([0, 1, 99, 99, 99]),
    )
    def publish(self, batch: list[tuple[str, int]], flushed: int) -> None:
        touched = self.hub.publish_batch(self._make(batch))
        for stream in touched[:flushed]:
            stream.flush()

    @rule(device_id=st.sampled_from(DEVICES), messages=st.integers(4, 12), flushed=st.booleans())
    def burst(self, device_id: str, messages: int, flushed: bool) -> None:
        self.publish([(device_id, 0)] * messages, flushed=99 * flushed)

    def _make(self, batch: Iterable[tuple[str, int]]) -> list[Message]:
        world = self.world
        messages = []
        for device_id, padding in batch:
            world.sequence += 1
            world.published[device_id].append(world.sequence)
            world.known[device_id] = world.sequence
            world.received_ns[world.sequence] = self.now_ns
            self.published += 1
            messages.append(self._message(world.sequence, device_id, padding))
        return messages

    def _message(self, sequence: int, device_id: str, padding: int) -> Message:
        data = b'{"timestamp":%d,"data":{"DEVICE_ID":"%b","x":"%b"}}' % (
            *(sequence, device_id.encode(), b"x" * padding),
        )
        return make_message(
            sequence, device_id, data, received_ns=self.now_ns, epoch=self.world.epoch
        )

    @rule(device_id=st.sampled_from(DEVICES))
    def seed(self, device_id: str) -> None:
        """The broker hands a retained message over: old news."""
        self.world.sequence += 1
        self.world.known.setdefault(device_id, self.world.sequence)
        self.hub.seed(self._message(self.world.sequence, device_id, 0))
        # Its sequence is used up, and seen by nobody.
        self.world.sequence -= 1
        if self.world.known[device_id] > self.world.sequence:
            self.world.sequence = self.hub.sequence = self.world.known[device_id]

    @rule(messages=st.integers(1, 5))
    def lose(self, messages: int) -> None:
        """The hand-over from MQTT overflows."""
        self.world.losses.append((self.world.sequence, messages))
        self.world.marks.append(self.world.sequence)
        self.hub.note_lost(messages)

    @rule()
    def flap(self) -> None:
        """The broker goes, or is back."""
        world = self.world
        world.is_upstream_lost = not world.is_upstream_lost
        world.marks.append(world.sequence)
        self.hub.note_upstream(is_lost=world.is_upstream_lost)
        for connection in self.open:
            connection.stream.post(UPSTREAM_LOST if world.is_upstream_lost else UPSTREAM_BACK)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 11.0]))
    def tick(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND_NS)
        self.hub.history.expire(self.now_ns)
        self.hub.release(self.now_ns)

    @rule(is_kept=st.booleans(), is_whole=st.booleans())
    def restart(self, is_kept: bool, is_whole: bool) -> None:
        """The gateway stops and starts again; every connection ends with it."""
        before = self.hub
        for connection in list(self.open):
            connection.remember()
            self._leave(connection)
        self.statistics()
        self._forget_counts()
        if not is_kept:
            self._begin_life()
            return
        world = self.world
        self.hub = Hub(self.settings)
        messages = before.history.all_messages()
        self.hub.restore(before.position, messages, before.history.losses, is_whole=is_whole)
        world.known = {message.device_id: message.sequence for message in messages}
        world.is_upstream_lost = False
        if not is_whole:
            world.marks.append(world.sequence)

    @rule(target=cut_off, connection=consumes(connected))
    def come_to_know(self, connection: Connection) -> Any:
        """A client finds that its connection has ended with the gateway."""
        if not connection.stream.has_ended:
            self.cut_now = connection.person
            connection.remember()
            self._leave(connection)
        return connection.person if connection.person.last_id is not None else multiple()

    # The laws

    @invariant()
    def laws_of_each_stream(self) -> None:
        for connection in self.open:
            stream = connection.stream
            if stream.overflow is not connection.overflow:
                assert stream.overflow is Overflow.LATEST
                connection.overflow = Overflow.LATEST
                connection.switches += 1
                connection.forget_position()
            connection.listen()
            self._check_counters(connection)
            self._check_bounds(connection)

    def _check_counters(self, connection: Connection) -> None:
        stream = connection.stream
        assert set(stream.subscriptions) == set(connection.subs)
        # What a publish has for a stream that is clear is not queued.
        assert not (stream.burst and stream.queue.entries)
        burst = Counter(message.device_id for message in stream.burst)
        for device_id, sub in connection.subs.items():
            subscription = stream.subscriptions[device_id]
            assert len(self.world.after(device_id, sub.start)) == (
                sub.live + subscription.dropped + subscription.waiting + burst[device_id]
            )
            assert min(subscription.dropped, subscription.waiting) >= 0
        assert stream.waiting == burst.total() + sum(
            each.waiting for each in stream.subscriptions.values()
        )
        assert stream.replayed == connection.replayed
        assert stream.delivered == connection.delivered

    def _check_bounds(self, connection: Connection) -> None:
        stream, limits = connection.stream, self.settings.queue
        queue = stream.queue
        assert queue.waiting == sum(each.queued for each in stream.subscriptions.values())
        assert queue.waiting_bytes == sum(each.size_bytes for each, _ in queue.entries)
        for subscription in stream.subscriptions.values():
            if stream.overflow is Overflow.LATEST:
                assert subscription.queued <= 1
            elif not isinstance(connection.outbox, ServedOutbox):
                assert subscription.queued <= limits.messages
            assert subscription.held <= 1
        if not (connection.was_conflated or stream.overflow is Overflow.LATEST):
            # Conflation bounds the messages, and what is newest anyway is kept for all.
            sizes = [each.size_bytes for each, whose in queue.entries if whose is not None]
            assert sum(sizes) <= limits.total_bytes or len(sizes) == 1
        if connection.rate is not None and not connection.has_unsubscribed:
            rate, since_ns = connection.rate
            tokens = 1 + ceil((self.now_ns - since_ns) / SECOND_NS * rate)
            for device_id, subscription in stream.subscriptions.items():
                assert connection.subs[device_id].live + subscription.queued <= tokens

    @invariant()
    def bounds_of_the_history(self) -> None:
        history, limits = self.hub.history, self.settings.history
        messages = history.all_messages()
        assert history.messages == len(messages)
        assert history.size_bytes == sum(each.size_bytes + 300 for each in messages)
        assert history.size_bytes <= limits.total_bytes
        counts = Counter(message.device_id for message in messages)
        assert max(counts.values(), default=0) <= limits.messages
        assert history.devices == len(counts)

    @invariant()
    def statistics(self) -> None:
        statistics = self.hub.statistics()
        everyone = [*self.open, *self.gone]
        assert statistics.published == self.published
        assert statistics.offered == (
            statistics.delivered + sum(statistics.dropped.values()) + statistics.waiting
        )
        assert statistics.delivered == sum(each.delivered for each in everyone)
        assert statistics.replayed == sum(each.replayed for each in everyone)
        assert statistics.resumes == self.resumes
        drops = [drops_of(each.stream) for each in everyone]
        assert statistics.dropped == {each: sum(drop[each] for drop in drops) for each in Drop}
        assert min(statistics.dropped.values()) >= 0
        assert statistics.waiting == sum(each.stream.waiting for each in self.open)
        assert statistics.subscriptions == sum(len(each.subs) for each in self.open)

    @invariant()
    def the_gone_hear_no_more(self) -> None:
        for connection in self.gone:
            assert connection.writes_heard == len(connection.outbox.writes)

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        for connection in list(self.open):
            self._drain(connection)
        for connection in list(self.open):
            self._leave(connection)
        self.statistics()
        assert (self.hub.streams(), self.hub.statistics().waiting) == ([], 0)
        assert CloseReason.SHUTDOWN not in {each.stream.close_reason for each in self.gone}


TestHonestyMachine = HonestyMachine.TestCase
TestHonestyMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
