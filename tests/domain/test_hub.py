"""`tracker.domain.hub`: who gets what, exact counters at every moment, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from tests.domain.test_wire import texts
from tests.fakes import FakeOutbox, ServedOutbox, gap_event, make_message
from tracker.domain.event import HEARTBEAT, PING, Event
from tracker.domain.hub import Hub, HubSettings, HubStatistics, Resume
from tracker.domain.message import Message
from tracker.domain.queue import QueueLimits
from tracker.domain.reasons import CloseReason, Drop
from tracker.domain.stream import Stream
from tracker.domain.transport import SSE_BARE, SSE_CHUNKED, WEBSOCKET, WEBSOCKET_LINES, Transport

TRANSPORTS = [WEBSOCKET, SSE_BARE, SSE_CHUNKED, WEBSOCKET_LINES]


def make_hub(limits: QueueLimits | None = None, *, devices_limit: int = 1000) -> Hub:
    return Hub(HubSettings(queue=limits or QueueLimits(), devices_limit=devices_limit))


def publish(hub: Hub, *messages: Message) -> list[Stream]:
    """Publish and flush, as the ingest task does."""
    touched = hub.publish_batch(messages)
    for stream in touched:
        stream.flush()
    return touched


def frames(*messages: Message) -> bytes:
    return b"".join(message.frame() for message in messages)


def test_a_message_goes_to_the_streams_of_its_device() -> None:
    hub = make_hub()
    outboxes = [FakeOutbox() for _ in range(3)]
    one, two, three = make_message(1, "1"), make_message(2, "2"), make_message(3, "3")
    with (
        hub.open_stream(["1"], outboxes[0], WEBSOCKET) as a,
        hub.open_stream(["2", "1"], outboxes[1], SSE_BARE) as b,
        hub.open_stream(["4"], outboxes[2], WEBSOCKET),
    ):
        # Each stream once, in the order in which it was first offered something.
        assert hub.publish_batch([two, one, three, one]) == [b, a]
        assert [outbox.writes for outbox in outboxes] == [[], [], []]
        a.flush()
        b.flush()
    assert [outbox.kernel for outbox in outboxes] == [
        *(frames(one, one), two.sse() + one.sse() + one.sse(), b""),
    ]


def test_a_device_that_is_asked_for_twice_is_one_subscription() -> None:
    hub, outbox = make_hub(), FakeOutbox()
    with hub.open_stream(["1", "1", "2", "1"], outbox, WEBSOCKET) as stream:
        assert list(stream.subscriptions) == ["1", "2"]
        assert hub.statistics().subscriptions == 2
        publish(hub, make_message(1, "1"))
    assert outbox.kernel == frames(make_message(1, "1"))


def test_five_thousand_messages_of_one_device_in_one_batch_to_one_idle_client() -> None:
    hub, outbox = make_hub(), FakeOutbox()
    messages = [make_message(n, data=b'{"n":%d,"x":"%b"}' % (n, b"x" * 250)) for n in range(5000)]
    with hub.open_stream(["1"], outbox, WEBSOCKET):
        publish(hub, *messages)
        assert texts(outbox.kernel) == [message.text().decode() for message in messages]
        statistics = hub.statistics()
    assert (statistics.offered, statistics.delivered, statistics.waiting) == (5000, 5000, 0)
    assert sum(statistics.dropped.values()) == 0


def test_five_thousand_messages_to_a_client_that_another_task_serves() -> None:
    """Over HTTP/2 and TLS nothing leaves within the publish: 1 MiB bounds it, not the 100."""
    hub, outbox = make_hub(), ServedOutbox()
    messages = [make_message(n, data=b'{"n":%d,"x":"%b"}' % (n, b"x" * 150)) for n in range(5000)]
    with hub.open_stream(["1"], outbox, WEBSOCKET):
        publish(hub, *messages)
        assert hub.statistics().waiting > 4000
        while outbox.tail:
            outbox.serve()
        assert outbox.kernel == frames(*messages)
        assert sum(hub.statistics().dropped.values()) == 0


def test_every_client_of_a_device_shares_the_same_bytes() -> None:
    """DESIGN, law 1."""
    hub, outboxes = make_hub(), [FakeOutbox() for _ in range(20)]
    message = make_message(1)
    with ExitStack() as streams:
        for number, outbox in enumerate(outboxes):
            transport = TRANSPORTS[number % 4]
            streams.enter_context(hub.open_stream(["1"], outbox, transport))
        publish(hub, message)
    for number, outbox in enumerate(outboxes):
        [write] = outbox.writes
        assert write is TRANSPORTS[number % 4].encode(message)


# The counters

#: What a hub counts before anything has happened.
NOTHING_YET = HubStatistics(
    published=0,
    subscriptions=0,
    devices_watched=0,
    devices_known=0,
    devices_forgotten=0,
    streams={"websocket": 0, "sse": 0},
    opened={"websocket": 0, "sse": 0},
    closed=dict.fromkeys(CloseReason, 0),
    offered=0,
    delivered=0,
    dropped=dict.fromkeys(Drop, 0),
    waiting=0,
    events_left_out=0,
    replayed=0,
    gaps=0,
    resumes=dict.fromkeys(Resume, 0),
    history_messages=0,
    history_bytes=0,
    history_devices=0,
    history_evicted=0,
)


def drops(**messages: int) -> dict[Drop, int]:
    """What was dropped, by the names of the reasons; nothing for all others."""
    return {reason: messages.get(reason.name.lower(), 0) for reason in Drop}


def kept(*messages: Message) -> dict[str, Any]:
    """What a history counts that holds `messages`, and has never held anything else."""
    return {
        "history_messages": len(messages),
        "history_bytes": sum(message.size_bytes + 300 for message in messages),
        "history_devices": len({message.device_id for message in messages}),
    }


def test_statistics_of_a_life() -> None:
    hub = make_hub(QueueLimits(messages=2, total_bytes=10_000, events=1))
    assert hub.statistics() == NOTHING_YET
    fast, slow = FakeOutbox(), FakeOutbox(appetite=0)
    with (
        hub.open_stream(["1", "2"], fast, WEBSOCKET),
        hub.open_stream(["1", "3"], slow, SSE_CHUNKED) as slow_stream,
        hub.open_stream(["1"], FakeOutbox(), SSE_BARE),
    ):
        hub.seed(make_message(1, "9"))
        messages = [*(make_message(n, "1") for n in range(2, 8)), make_message(8, "8")]
        publish(hub, messages[0])
        publish(hub, *messages[1:])
        for _ in range(3):
            slow_stream.post(PING)
        slow_stream.close(CloseReason.STALLED)
        while_open = replace(
            NOTHING_YET,
            published=7,
            subscriptions=5,
            devices_watched=3,
            devices_known=3,
            devices_forgotten=0,
            streams={"websocket": 1, "sse": 2},
            opened={"websocket": 1, "sse": 2},
            offered=18,
            delivered=13,  # all of two streams, and one to the slow one's outbox
            dropped=drops(buffer_full=3),
            waiting=2,
            events_left_out=2,
            gaps=1,
            **kept(*messages),
        )
        assert hub.statistics() == while_open
    assert hub.statistics() == replace(
        while_open,
        subscriptions=0,
        devices_watched=0,
        streams={"websocket": 0, "sse": 0},
        closed={**NOTHING_YET.closed, CloseReason.CLIENT: 2, CloseReason.STALLED: 1},
        dropped=drops(buffer_full=3, closed=2),
        waiting=0,
    )


def test_statistics_are_of_one_moment() -> None:
    hub = make_hub()
    before = hub.statistics()
    with hub.open_stream(["1"], FakeOutbox(), WEBSOCKET) as stream:
        stream.close(CloseReason.FLOOD)
        publish(hub, make_message(1))
    assert before == make_hub().statistics()


def test_a_drop_is_noted_for_the_log() -> None:
    hub = make_hub(QueueLimits(messages=1))
    outbox = FakeOutbox(appetite=0)
    with hub.open_stream(["848"], outbox, WEBSOCKET):
        publish(hub, make_message(0, "848"))  # the kernel refuses it
        publish(hub, *(make_message(n, "848") for n in range(1, 4)))
    assert hub.notices.due(0.0) == [
        "Cola llena para device_id 848. Aplicando backpressure (mensaje descartado)"
        " (2 desde el último aviso)"
    ]


# The end of a stream


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, GeneratorExit])
def test_however_a_block_is_left_its_subscriptions_are_gone(
    error: type[BaseException] | None,
) -> None:
    """DESIGN, law 6."""
    hub, outbox = make_hub(), FakeOutbox(appetite=0)
    stream = None

    def leave() -> None:
        nonlocal stream
        with hub.open_stream(["1", "2"], outbox, WEBSOCKET) as stream:
            publish(hub, make_message(1, "1"), make_message(2, "2"))
            publish(hub, make_message(3, "1"))
            if error is not None:
                raise error

    if error is None:
        leave()
    else:
        with pytest.raises(error):
            leave()
    statistics = hub.statistics()
    assert (statistics.subscriptions, statistics.devices_watched, statistics.waiting) == (0, 0, 0)
    assert (statistics.offered, statistics.delivered) == (3, 2)
    assert statistics.dropped == drops(closed=1)
    assert (outbox.on_writable, outbox.on_stalled, hub.streams()) == (None, None, [])
    assert stream is not None
    assert stream.has_ended
    assert hub.publish_batch([make_message(4, "1")]) == []


def test_a_stream_that_ended_since_the_publish_is_flushed_in_vain() -> None:
    hub, outbox = make_hub(), FakeOutbox()
    with hub.open_stream(["1"], outbox, WEBSOCKET):
        [stream] = hub.publish_batch([make_message(1)])
    assert (stream.flush(), outbox.writes) == (0, [])
    assert hub.statistics().dropped == drops(closed=1)


def test_a_flush_that_never_came_is_made_up_for() -> None:
    """It comes with whatever else is sent; until then the stream is known to be touched."""
    hub, outbox = make_hub(), FakeOutbox()
    with hub.open_stream(["1"], outbox, WEBSOCKET) as stream:
        assert hub.publish_batch([make_message(1)]) == [stream]
        assert hub.publish_batch([make_message(2)]) == []
        stream.post(PING)
        assert hub.publish_batch([make_message(3)]) == [stream]
    assert outbox.writes == [frames(make_message(1), make_message(2)), PING.frame()]


# The last known message


def test_the_last_message_of_each_device_the_longest_silent_first() -> None:
    hub = make_hub()
    publish(hub, make_message(1, "1"), make_message(2, "2"), make_message(3, "1"))
    assert [message.sequence for message in hub.last_messages()] == [2, 3]


def test_the_longest_silent_is_forgotten_first() -> None:
    hub = make_hub(devices_limit=2)
    publish(hub, make_message(1, "1"), make_message(2, "2"), make_message(3, "1"))
    publish(hub, make_message(4, "3"))
    assert [message.sequence for message in hub.last_messages()] == [3, 4]
    statistics = hub.statistics()
    assert (statistics.devices_known, statistics.devices_forgotten) == (2, 1)


def test_the_last_messages_are_bounded_in_bytes_too() -> None:
    hub = Hub(HubSettings(devices_limit=1000, last_limit_bytes=100))

    def sized(sequence: int, device_id: str, size_bytes: int) -> Message:
        return make_message(sequence, device_id, b"x" * size_bytes)

    publish(hub, *(sized(number, str(number), 25) for number in range(4)))
    known = [[message.sequence for message in hub.last_messages()]]
    for message in (
        sized(4, "0", 25),  # of the same size: nobody has to go
        sized(5, "1", 26),  # the longest silent goes: 2
        sized(6, "9", 70),  # 3 and 0
        sized(7, "9", 10),
        sized(8, "8", 64),
        sized(10, "7", 100),
    ):
        publish(hub, message)
        known.append([each.sequence for each in hub.last_messages()])
    assert known == [
        [0, 1, 2, 3],
        [1, 2, 3, 4],
        [3, 4, 5],
        [5, 6],
        [5, 7],
        [5, 7, 8],
        [10],
    ]
    hub.seed(sized(11, "6", 1))  # old news makes no room
    assert [message.sequence for message in hub.last_messages()] == [10]
    assert hub.statistics().devices_forgotten == 6


def test_a_retained_message_is_old_news() -> None:
    """PROTOCOL A2: it seeds the last known value, is never sent, and is not counted."""
    hub, outbox = make_hub(devices_limit=3), FakeOutbox()
    with hub.open_stream(["1", "2"], outbox, WEBSOCKET):
        publish(hub, make_message(1, "1"))
        hub.seed(make_message(2, "1"))  # something newer is known
        hub.seed(make_message(3, "2"))
        hub.seed(make_message(4, "2"))
        statistics = hub.statistics()
    assert outbox.kernel == frames(make_message(1, "1"))
    assert (statistics.published, statistics.offered, statistics.devices_known) == (1, 1, 2)
    assert [message.sequence for message in hub.last_messages()] == [1, 3]
    publish(hub, make_message(5, "2"))
    assert [message.sequence for message in hub.last_messages()] == [1, 5]


def test_a_retained_message_makes_no_live_device_forgotten() -> None:
    hub = make_hub(devices_limit=2)
    publish(hub, make_message(1, "1"), make_message(2, "2"))
    for number in range(10):
        hub.seed(make_message(3 + number, f"old {number}"))
    assert [message.sequence for message in hub.last_messages()] == [1, 2]


# Shares


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.just(None), st.integers(0, 30)), max_size=60),
    st.integers(1, 12),
)
def test_every_stream_is_in_one_share_for_life(steps: list[int | None], shares: int) -> None:
    """Whoever comes and goes; and no share is larger than it must be for the most there were."""
    hub = make_hub()
    living: list[Stream] = []
    share_of: dict[Stream, int] = {}
    most = 0
    for step in steps:
        if step is None:
            living.append(hub.open_stream(["1"], FakeOutbox(), WEBSOCKET))
        elif living:
            living.pop(step % len(living)).leave()
        most = max(most, len(living))
        in_shares = [hub.streams(share, shares) for share in range(shares)]
        assert sorted(map(id, chain(*in_shares))) == sorted(map(id, living))
        for share, streams in enumerate(in_shares):
            assert len(streams) <= -(-most // shares)
            for stream in streams:
                assert share_of.setdefault(stream, share) == share
    assert sorted(map(id, hub.streams())) == sorted(map(id, living))


# A stalled neighbour


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("123"), max_size=12), max_size=12),
    st.integers(0, 400),
    st.sampled_from(TRANSPORTS),
)
def test_a_stalled_neighbour_changes_nothing(
    batches: list[list[str]], appetite: int, transport: Transport
) -> None:
    """What a healthy client gets is the same, write by write, with and without one beside it."""

    def run(neighbours: int) -> list[bytes]:
        hub, healthy = make_hub(QueueLimits(messages=2, total_bytes=300)), FakeOutbox()
        sequence = 0
        with ExitStack() as streams:
            for number in range(neighbours + 1):
                if number == neighbours // 2:
                    streams.enter_context(hub.open_stream("12", healthy, transport))
                    continue
                stalled = FakeOutbox(appetite)
                neighbour = streams.enter_context(hub.open_stream("213", stalled, WEBSOCKET))
                if number == 0:
                    neighbour.on_close = stalled.close
            for count, batch in enumerate(batches):
                messages = []
                for device_id in batch:
                    sequence += 1
                    messages.append(make_message(sequence, device_id))
                publish(hub, *messages)
                if count == 6 and neighbours:
                    hub.streams()[0].close(CloseReason.STALLED)
        return healthy.writes

    assert run(neighbours=3) == run(neighbours=0)


# All laws at once

LIMITS = QueueLimits(messages=3, total_bytes=150, events=2)

#: What a gap counts for in a queue's bytes.
GAP_BYTES = 100


@dataclass(eq=False)
class Lost:
    """A gap, which says how many messages a client lacks."""

    device_id: str
    dropped: int

    def as_event(self) -> Event:
        return gap_event(self.device_id, self.dropped)


@dataclass(eq=False)
class Client:
    """A stream, and what a model of it says that it must have done."""

    stream: Stream
    outbox: FakeOutbox
    transport: Transport
    accepted: list[Event | Lost] = field(default_factory=list)
    offered: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    events_left_out: int = 0
    gaps: int = 0
    #: Offered something in a publish whose flush has not come yet.
    is_owed_a_flush: bool = False
    #: What that was, while it is not queued: the stream was clear.
    burst: list[Message] = field(default_factory=list)
    is_broken: bool = False

    def encode(self, accepted: Event | Lost) -> bytes:
        return self.transport.encode(
            accepted.as_event() if isinstance(accepted, Lost) else accepted
        )

    def left(self) -> int:
        """How many of the accepted events have left the queue; the boundary is exact."""
        written = len(self.outbox.written)
        encoded = map(self.encode, self.accepted)
        return [0, *accumulate(map(len, encoded))].index(written)

    def waiting(self) -> list[Event | Lost]:
        return self.accepted[self.left() :]

    def lose(self, device_id: str) -> bool:
        """The gap stands where the first message would have; it grows while it is the last.

        Returns whether it is a new one.
        """
        self.dropped[device_id] += 1
        last = next((each for each in reversed(self.waiting()) if is_of(device_id, each)), None)
        if isinstance(last, Lost):
            last.dropped += 1
            return False
        self.accepted.append(Lost(device_id, 1))
        self.gaps += 1
        return True

    def flushed(self) -> None:
        """The burst has left, or, where the connection broke meanwhile, was queued."""
        burst, self.burst = self.burst, []
        for message in burst:
            self.offered[message.device_id] += 1
            if self.is_broken and not self._has_room(message):
                self.lose(message.device_id)
            else:
                self.accepted.append(message)

    def _has_room(self, message: Message) -> bool:
        waiting = self.waiting()
        if waiting and message.size_bytes + sum(map(size_of, waiting)) > LIMITS.total_bytes:
            return False
        return len(of(message.device_id, waiting)) < LIMITS.messages or not self.outbox.refusing

    def check(self) -> None:
        """The laws of one stream, at this moment."""
        stream, queue, outbox = self.stream, self.stream.queue, self.outbox
        left = self.left()
        gone, waiting = self.accepted[:left], self.accepted[left:]
        # Order: what was accepted, and nothing else, in that order; the kernel has a prefix.
        assert outbox.written == b"".join(map(self.encode, gone))
        assert outbox.written.startswith(outbox.kernel)
        # Conservation, for each subscription.
        for device_id, subscription in stream.subscriptions.items():
            assert (subscription.dropped, subscription.waiting) == (
                self.dropped[device_id],
                len(of(device_id, waiting)),
            )
            assert self.offered[device_id] == (
                len(of(device_id, gone)) + subscription.dropped + subscription.waiting
            )
            # Bounds.
            if not self.is_served and not self.is_broken:
                assert subscription.waiting <= LIMITS.messages
        assert stream.delivered == len([each for each in gone if isinstance(each, Message)])
        assert not (stream.burst and queue.entries)
        messages = [event for event in waiting if isinstance(event, Message)]
        message_bytes = sum(message.size_bytes for message in messages)
        assert message_bytes <= LIMITS.total_bytes or len(messages) == 1
        gaps = [event.device_id for event in waiting if isinstance(event, Lost)]
        assert len(waiting) - len(messages) - len(gaps) <= LIMITS.events
        assert max(map(gaps.count, gaps), default=0) <= LIMITS.messages + 1
        assert (len(queue), queue.waiting) == (len(waiting), len(messages))
        assert queue.waiting_bytes == sum(map(size_of, waiting))
        assert stream.waiting == len(messages) + len(self.burst)
        assert queue.events_left_out == self.events_left_out
        # Nothing waits for a client that would take it.
        assert not (outbox.writable and (waiting or self.burst)) or self.is_owed_a_flush

    @property
    def is_served(self) -> bool:
        return isinstance(self.outbox, ServedOutbox)


def size_of(accepted: Event | Lost) -> int:
    return GAP_BYTES if isinstance(accepted, Lost) else accepted.size_bytes


def is_of(device_id: str, accepted: Event | Lost) -> bool:
    """Whether it is a message, or a gap, of the device."""
    return isinstance(accepted, Message | Lost) and accepted.device_id == device_id


def of(device_id: str, events: Iterable[Event | Lost]) -> list[Message]:
    """The messages of one device among `events`."""
    return [e for e in events if isinstance(e, Message) and e.device_id == device_id]


class HubMachine(RuleBasedStateMachine):
    """Clients of every kind come, take, refuse, stall and go, at any time."""

    clients = Bundle("clients")

    @initialize()
    def start(self) -> None:
        self.hub = make_hub(LIMITS)
        self.open: list[Client] = []
        self.gone: list[Client] = []
        self.closed_with = dict.fromkeys(CloseReason, 0)
        self.opened = {"websocket": 0, "sse": 0}
        self.sequence = 0
        self.dropped_at_the_end = 0
        self.known: set[str] = set()
        self.published: list[Message] = []

    @rule(
        target=clients,
        device_ids=st.sets(st.sampled_from("ABC"), min_size=1),
        transport=st.sampled_from(TRANSPORTS),
        outbox=st.one_of(
            st.sampled_from([0, 10, 60, inf, inf]).map(lambda size: lambda: FakeOutbox(size)),
            st.just(ServedOutbox),
        ),
    )
    def come(
        self, device_ids: set[str], transport: Transport, outbox: Callable[[], FakeOutbox]
    ) -> Client:
        made = outbox()
        stream = self.hub.open_stream(sorted(device_ids), made, transport)
        client = Client(stream, made, transport)
        client.offered = dict.fromkeys(device_ids, 0)
        client.dropped = dict.fromkeys(device_ids, 0)
        client.stream.on_close = lambda: None
        self.open.append(client)
        self.opened[transport.name] += 1
        return client

    @rule(
        batch=st.lists(
            st.tuples(st.sampled_from("ABCD"), st.sampled_from([0, 0, 20, 60, 160])), max_size=8
        ),
        flushed=st.sampled_from([0, 1, 99, 99, 99]),
    )
    def publish(self, batch: list[tuple[str, int]], flushed: int) -> None:
        messages = []
        for device_id, padding in batch:
            self.sequence += 1
            data = b"%d%b" % (self.sequence, b"x" * padding)
            messages.append(make_message(self.sequence, device_id, data))
        # Who is known to be touched is not told again.
        expected = list(
            dict.fromkeys(
                client.stream
                for message in messages
                for client in self.open
                if message.device_id in client.offered and not client.burst
            )
        )
        touched = self.hub.publish_batch(self._watched(messages))
        assert sorted(map(id, touched)) == sorted(map(id, expected))
        for stream in touched[:flushed]:
            stream.flush()
        for client in self.open:
            if client.stream in touched:
                client.is_owed_a_flush = client.stream in touched[flushed:]
                if not client.is_owed_a_flush:
                    client.flushed()

    def _watched(self, messages: list[Message]) -> Iterator[Message]:
        """Hand out the messages, and see after each what became of it."""
        for message in messages:
            watching = [c for c in self.open if message.device_id in c.offered]
            for client in watching:
                if client.stream.is_clear:
                    client.burst.append(message)
            offered_to = [c for c in watching if not c.stream.is_clear]
            dropped = [c.stream.queue.dropped for c in offered_to]
            yield message
            self.published.append(message)
            self.known.add(message.device_id)
            for client, dropped_before in zip(offered_to, dropped, strict=True):
                client.offered[message.device_id] += 1
                if client.stream.queue.dropped == dropped_before:
                    client.accepted.append(message)
                else:
                    self._check_drop(client, message, gaps=client.lose(message.device_id))

    def _check_drop(self, client: Client, message: Message, *, gaps: int) -> None:
        """A4: only after bytes were refused, and at one of the limits.

        `gaps`: how many the drop has left behind.
        """
        queue, outbox = client.stream.queue, client.outbox
        waiting = client.stream.subscriptions[message.device_id].waiting
        waiting_bytes = queue.waiting_bytes - gaps * GAP_BYTES
        is_full_of_bytes = waiting_bytes + message.size_bytes > LIMITS.total_bytes
        assert not outbox.writable
        assert len(queue) > gaps
        if outbox.refusing:
            assert waiting >= LIMITS.messages or is_full_of_bytes
        else:
            assert client.is_served or client.is_broken
            assert is_full_of_bytes

    @rule(client=clients, size_bytes=st.integers(1, 60) | st.just(inf))
    def take(self, client: Client, size_bytes: float) -> None:
        if client.is_broken:
            return
        if isinstance(client.outbox, ServedOutbox):
            client.outbox.serve()
        else:
            client.outbox.feed(size_bytes)
        # A flush that is owed comes with the next one, if the outbox had a tail.
        client.is_owed_a_flush &= client.outbox.writable

    @rule(client=clients)
    def refuse(self, client: Client) -> None:
        client.outbox.starve()

    @rule(client=clients, is_behind=st.booleans())
    def fall_behind(self, client: Client, is_behind: bool) -> None:
        if isinstance(client.outbox, ServedOutbox):
            client.outbox.is_behind = is_behind

    @rule(client=clients)
    def ping(self, client: Client) -> None:
        client.flushed()
        events = [each for each in client.waiting() if not isinstance(each, Message | Lost)]
        if len(events) < LIMITS.events:
            client.accepted.append(PING)
        else:
            client.events_left_out += 1
        client.stream.post(PING)
        client.is_owed_a_flush = False

    @rule(client=clients)
    def heartbeat(self, client: Client) -> None:
        writes = len(client.outbox.writes)
        would_flow = client.outbox.writable and not (client.waiting() or client.burst)
        client.stream.heartbeat()
        beats = client.outbox.writes[writes:]
        if would_flow and client.transport is not WEBSOCKET_LINES:
            client.accepted.append(HEARTBEAT)
            assert beats == [client.transport.encode(HEARTBEAT)]
        else:
            assert beats == []

    @rule(client=clients)
    def stall(self, client: Client) -> None:
        if not client.is_broken:
            client.is_broken = True
            client.outbox.stall()
            assert client.stream.close_reason is CloseReason.STALLED

    @rule(client=consumes(clients))
    def leave(self, client: Client) -> None:
        waiting = [event for event in client.waiting() if isinstance(event, Message)]
        for message in client.burst:
            client.offered[message.device_id] += 1
        waiting += client.burst
        client.burst = []
        client.stream.leave()
        self.dropped_at_the_end += len(waiting)
        self.closed_with[client.stream.close_reason or CloseReason.CLIENT] += 1
        for message in waiting:
            client.dropped[message.device_id] += 1
        del client.accepted[client.left() :]
        self.open.remove(client)
        self.gone.append(client)

    @invariant()
    def laws_of_each_stream(self) -> None:
        for client in self.open:
            client.check()

    @invariant()
    def the_gone_stay_as_they_were(self) -> None:
        for client in self.gone:
            client.outbox.feed()
            client.stream.post(PING)
            client.stream.leave()
            assert client.left() == len(client.accepted)

    @invariant()
    def statistics(self) -> None:
        everyone = [*self.open, *self.gone]
        names = [client.transport.name for client in self.open]
        lost = sum(sum(client.dropped.values()) for client in everyone)
        assert self.hub.statistics() == replace(
            NOTHING_YET,
            published=self.sequence,
            subscriptions=sum(len(client.offered) for client in self.open),
            devices_watched=len({d for client in self.open for d in client.offered}),
            devices_known=len(self.known),
            devices_forgotten=0,
            streams={name: names.count(name) for name in self.opened},
            opened=dict(self.opened),
            closed=self.closed_with,
            offered=sum(sum(client.offered.values()) + len(client.burst) for client in everyone),
            delivered=sum(
                isinstance(event, Message)
                for client in everyone
                for event in client.accepted[: client.left()]
            ),
            dropped=drops(
                buffer_full=lost - self.dropped_at_the_end, closed=self.dropped_at_the_end
            ),
            waiting=sum(client.stream.waiting for client in self.open),
            events_left_out=sum(client.events_left_out for client in everyone),
            gaps=sum(client.gaps for client in everyone),
            **kept(*self.published),
        )
        statistics = self.hub.statistics()
        assert statistics.offered == (
            statistics.delivered + sum(statistics.dropped.values()) + statistics.waiting
        )

    def teardown(self) -> None:
        for client in list(self.open):
            self.leave(client)
        self.statistics()
        assert (self.hub.streams(), self.hub.statistics().waiting) == ([], 0)


TestHubMachine = HubMachine.TestCase
TestHubMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
