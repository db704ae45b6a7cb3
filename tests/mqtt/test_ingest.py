"""`tracker.mqtt.ingest`: decode once, publish in order, and let nobody wait for long."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.domain.test_wire import texts
from tests.fakes import FakeOutbox, ServedOutbox
from tests.mqtt.checkpoints import cancelled_everywhere
from tracker.domain.errors import Malformed
from tracker.domain.history import Losses
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.message import Message
from tracker.domain.options import StreamOptions
from tracker.domain.position import Position
from tracker.domain.queue import QueueLimits
from tracker.domain.reasons import Drop
from tracker.domain.stream import Stream
from tracker.domain.transport import WEBSOCKET
from tracker.mqtt import ingest as ingest_module
from tracker.mqtt.client import Client
from tracker.mqtt.errors import MqttError
from tracker.mqtt.ingest import Ingest
from tracker.mqtt.message import Message as MqttMessage
from tracker.mqtt.pace import Pace

TURN_NS = 2_000_000  # DESIGN, law 2
DEVICE = "848"


@dataclass
class FakeClock:
    """The clocks of the `time` module; time passes when somebody says so."""

    now_ns: int = 1_000_000_000_000
    utc_minus_monotonic_s: float = 1733912000.0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9

    def time(self) -> float:
        return self.monotonic() + self.utc_minus_monotonic_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(ingest_module, "time", clock)
    return clock


def make_hub(limits: QueueLimits | None = None) -> Hub:
    return Hub(HubSettings(queue=limits or QueueLimits(), devices_limit=1000), epoch="e")


def incoming(
    payload: bytes,
    *,
    topic: str = "trackers/848",
    retain: bool = False,
    received_ns: int = 1_000_000_000_000,
) -> MqttMessage:
    return MqttMessage(topic, payload, 0, retain, 0, None, received_ns=received_ns)


def nth(number: int, device_id: str = DEVICE) -> MqttMessage:
    return incoming(b'{"timestamp":%d,"data":{"DEVICE_ID":"%b"}}' % (number, device_id.encode()))


MESSAGE = re.compile(r'\{"event":"message","id":"e-([0-9]+)","data":\{"timestamp":([0-9]+),.*\}\}')


def received(outbox: FakeOutbox) -> list[tuple[int, int]]:
    """(Sequence, number that `nth` gave) of each message that the client of `outbox` got.

    It got nothing else, and no id that is not above the one before.
    """
    found = [MESSAGE.fullmatch(text) for text in texts(outbox.kernel)]
    messages = [(int(each[1]), int(each[2])) for each in found if each is not None]
    assert len(messages) == len(found)
    assert all(sooner[0] < later[0] for sooner, later in pairwise(messages))
    return messages


def timestamps(outbox: FakeOutbox) -> list[int]:
    """What the client of `outbox` got, by the numbers that `nth` gave."""
    return [number for _, number in received(outbox)]


# What becomes of a message


async def test_a_message_goes_from_the_broker_to_the_socket(clock: FakeClock) -> None:
    hub, outbox = make_hub(), FakeOutbox()
    ingest = Ingest(hub)
    with hub.open_stream([DEVICE], outbox, WEBSOCKET):
        await ingest.publish([nth(1), nth(2, "other"), nth(3)])
    assert texts(outbox.kernel) == [
        '{"event":"message","id":"e-1","data":{"timestamp":1,"data":{"DEVICE_ID":"848"}}}',
        '{"event":"message","id":"e-3","data":{"timestamp":3,"data":{"DEVICE_ID":"848"}}}',
    ]
    assert [(m.sequence, m.device_id, m.received_ns) for m in hub.last_messages()] == [
        *((2, "other", 1_000_000_000_000), (3, DEVICE, 1_000_000_000_000)),
    ]
    assert (ingest.received, ingest.retained, hub.statistics().published) == (3, 0, 3)
    assert ingest.malformed == dict.fromkeys(Malformed, 0)


async def test_a_retained_message_is_old_news(clock: FakeClock) -> None:
    """PROTOCOL A2: it seeds the last known value, is never sent, and is not counted."""
    hub, outbox = make_hub(), FakeOutbox()
    ingest = Ingest(hub)
    old = b'{"timestamp":%d,"data":{"DEVICE_ID":"%b"}}'
    with hub.open_stream([DEVICE, "9"], outbox, WEBSOCKET):
        await ingest.publish(
            [
                incoming(old % (1, b"9"), retain=True),
                nth(2),
                incoming(old % (3, b"848"), retain=True),  # a live one is known
                incoming(b"not json", retain=True),
            ]
        )
    assert timestamps(outbox) == [2]
    assert [(m.data, m.is_retained) for m in hub.last_messages()] == [
        *((old % (1, b"9"), True), (old % (2, b"848"), False)),
    ]
    statistics = hub.statistics()
    assert (statistics.published, statistics.offered) == (1, 1)
    assert (ingest.received, ingest.retained, sum(ingest.malformed.values())) == (4, 2, 1)


async def test_a_payload_without_a_timestamp_gets_the_time_it_was_received(
    clock: FakeClock,
) -> None:
    """Not the time at which its turn came."""
    hub, outbox = make_hub(), FakeOutbox()
    received_ns = clock.now_ns
    clock.now_ns += 5_000_000_000
    with hub.open_stream([DEVICE], outbox, WEBSOCKET):
        await Ingest(hub).publish(
            [
                incoming(b'{"DEVICE_ID":848}', received_ns=received_ns),
                incoming(b'{"DEVICE_ID":848}', received_ns=received_ns + 1_250_000_000),
            ]
        )
    assert texts(outbox.kernel) == [
        '{"event":"message","id":"e-1","data":{"timestamp":"2024-12-11T10:30:00.000Z",'
        '"data":{"DEVICE_ID":848}}}',
        '{"event":"message","id":"e-2","data":{"timestamp":"2024-12-11T10:30:01.250Z",'
        '"data":{"DEVICE_ID":848}}}',
    ]


async def test_five_thousand_messages_in_one_batch_to_one_idle_client() -> None:
    hub, outbox = make_hub(), FakeOutbox()
    with hub.open_stream([DEVICE], outbox, WEBSOCKET):
        await Ingest(hub).publish([nth(number) for number in range(5000)])
    assert timestamps(outbox) == list(range(5000))
    assert hub.statistics().dropped == dict.fromkeys(Drop, 0)


# What is malformed


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Malformed.EMPTY),
        (b" " * 70_000, Malformed.TOO_LARGE),
        (b"\xff", Malformed.BAD_UTF8),
        (b"{", Malformed.BAD_JSON),
        (b'{"DEVICE_ID":1,"x":%b1%b}' % (b"[" * 10_000, b"]" * 10_000), Malformed.TOO_DEEP),
        (b"[]", Malformed.NOT_AN_OBJECT),
        (b"{}", Malformed.NO_DEVICE_ID),
        (b'{"DEVICE_ID":true}', Malformed.BAD_DEVICE_ID),
    ],
)
async def test_what_is_malformed_is_counted_by_reason_and_costs_nothing_else(
    payload: bytes, reason: Malformed, clock: FakeClock
) -> None:
    hub, outbox = make_hub(), FakeOutbox()
    ingest = Ingest(hub)
    with hub.open_stream([DEVICE], outbox, WEBSOCKET):
        await ingest.publish([nth(1), incoming(payload), nth(2), incoming(payload)])
    assert timestamps(outbox) == [1, 2]
    assert ingest.malformed == {**dict.fromkeys(Malformed, 0), reason: 2}
    assert (ingest.received, hub.statistics().published) == (4, 2)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str]]:
    return [(r.name, r.levelno, r.getMessage()) for r in caplog.records]


async def test_a_complaint_has_topic_reason_and_the_first_80_bytes_escaped(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    payload = b"\x1b[31m\n" + b"x" * 100
    await Ingest(make_hub()).publish([incoming(payload, topic="trackers/\x1b[2J")])
    assert lines(caplog) == [
        (
            "tracker.ingest",
            logging.WARNING,
            "malformed message on 'trackers/\\x1b[2J' (bad_json): JSON is malformed: invalid"
            f" character (byte 0): b'\\x1b[31m\\n{'x' * 74}'",
        )
    ]


async def test_complaints_come_once_a_second(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    ingest = Ingest(make_hub())
    await ingest.publish([incoming(b"")] * 3)
    for passed_ns in (500_000_000, 499_999_999, 1, 999_999_999, 5_000_000_000):
        clock.now_ns += passed_ns
        await ingest.publish([incoming(b""), nth(1)])
    complaint = "malformed message on 'trackers/848' (empty{}): empty payload: b''"
    assert [message for _, _, message in lines(caplog)] == [
        complaint.format(""),
        complaint.format(", 5 since the last such line"),
        complaint.format(", 2 since the last such line"),
    ]
    assert ingest.malformed[Malformed.EMPTY] == 8


async def test_a_topic_that_is_none_does_not_hurt(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker may send what a topic must not hold."""
    await Ingest(make_hub()).publish([incoming(b"{}", topic="a/#"), incoming(b"", topic="")])
    assert [message for _, _, message in lines(caplog)] == [
        "malformed message on 'Invalid topic: a/#' (no_device_id): expected DEVICE_ID in `data` or"
        " at the top: b'{}'"
    ]


# Drops


async def test_a_drop_is_told_as_the_contract_has_it(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """PROTOCOL A4 and A6."""
    hub = make_hub(QueueLimits(messages=2))
    ingest = Ingest(hub)
    with hub.open_stream([DEVICE], FakeOutbox(appetite=0), WEBSOCKET):
        await ingest.publish([nth(0)])  # what the kernel refuses of it is the outbox's
        await ingest.publish([nth(number) for number in range(3)])
        await ingest.publish([nth(number) for number in range(3)])
        clock.now_ns += 1_000_000_000
        await ingest.publish([nth(1, "%s of another device")])
        ingest.log_drops()
    told = "Cola llena para device_id 848. Aplicando backpressure (mensaje descartado)"
    assert lines(caplog) == [
        ("tracker.ingest", logging.WARNING, told),
        ("tracker.ingest", logging.WARNING, f"{told} (3 desde el último aviso)"),
    ]


async def test_a_device_id_is_no_format(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    hub = make_hub(QueueLimits(messages=1))
    with hub.open_stream(["%s%d"], FakeOutbox(appetite=0), WEBSOCKET):
        ingest = Ingest(hub)
        await ingest.publish([nth(0, "%s%d")])
        await ingest.publish([nth(number, "%s%d") for number in range(2)])
    assert [message for _, _, message in lines(caplog)] == [
        "Cola llena para device_id %s%d. Aplicando backpressure (mensaje descartado)"
    ]


# Measures


async def test_what_is_measured(clock: FakeClock) -> None:
    hub = make_hub()
    ingest = Ingest(hub)
    with (
        hub.open_stream([DEVICE], FakeOutbox(), WEBSOCKET),
        hub.open_stream([DEVICE, "9"], FakeOutbox(), WEBSOCKET),
    ):
        arrived_ns = clock.now_ns
        clock.now_ns += 4_000_000
        await ingest.publish(
            [
                incoming(b'{"DEVICE_ID":848}', received_ns=arrived_ns),
                incoming(b'{"DEVICE_ID":9}', received_ns=arrived_ns + 1_000_000),
            ]
        )
        await ingest.publish([nth(1, "nobody's")])
    # The two of one device and the one of the other, since the older one's arrival.
    assert [bucket for bucket in ingest.latency_s.buckets() if bucket[0] in ("0.003", "0.005")] == [
        *(("0.003", 0.0), ("0.005", 3.0)),
    ]
    assert ingest.latency_s.buckets()[-1] == ("+Inf", 3.0)
    assert ingest.latency_s.total == pytest.approx(0.012)
    assert ingest.batch_messages.buckets()[:2] == [("1", 1.0), ("2", 2.0)]
    assert ingest.batch_messages.total == 3


# Turns


class CostlyHub(Hub):
    """A hub in which publishing a message takes the time that `cost_ns` tells."""

    def __init__(self, clock: FakeClock, cost_ns: Callable[[Message], int]) -> None:
        super().__init__(epoch="e")
        self._clock = clock
        self._cost_ns = cost_ns

    def publish_batch(self, messages: Iterable[Message]) -> list[Stream]:
        return super().publish_batch(self._costly(messages))

    def _costly(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            yield message
            self._clock.now_ns += self._cost_ns(message)


class CostlyOutbox(FakeOutbox):
    """An outbox in which a write takes time."""

    def __init__(self, clock: FakeClock, cost_ns: int) -> None:
        super().__init__()
        self._clock = clock
        self._cost_ns = cost_ns

    def write_nowait(self, data: bytes) -> None:
        self._clock.now_ns += self._cost_ns
        super().write_nowait(data)


@dataclass(eq=False)
class Turns(trio.abc.Instrument):
    """How long each of a task's turns took, on the fake clock."""

    clock: FakeClock
    task: trio.lowlevel.Task
    took_ns: list[int] = field(default_factory=list)
    _begun_ns: int = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self._begun_ns = self.clock.now_ns

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.took_ns.append(self.clock.now_ns - self._begun_ns)


async def measure_turns(
    clock: FakeClock, costs_ns: Sequence[int], clients: int, write_ns: int
) -> tuple[list[int], list[FakeOutbox]]:
    """Publish one batch of messages that take so long, to clients that take so long."""
    hub = CostlyHub(clock, lambda message: costs_ns[message.sequence - 1])
    outboxes = [CostlyOutbox(clock, write_ns) for _ in range(clients)]
    with ExitStack() as streams:
        for outbox in outboxes:
            streams.enter_context(hub.open_stream([DEVICE], outbox, WEBSOCKET))
        turns = Turns(clock, trio.lowlevel.current_task(), _begun_ns=clock.now_ns)
        trio.lowlevel.add_instrument(turns)
        try:
            await Ingest(hub).publish([nth(number) for number in range(len(costs_ns))])
            await trio.lowlevel.checkpoint()
        finally:
            trio.lowlevel.remove_instrument(turns)
    return turns.took_ns, list(outboxes)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1_000, 100_000, 900_000, 3_000_000]), max_size=60),
    st.sampled_from([1, 7, 8, 9, 40]),
    st.sampled_from([0, 1_000, 100_000, 500_000]),
)
def test_nobody_waits_longer_than_a_turn(costs_ns: list[int], clients: int, write_ns: int) -> None:
    """Law 2: a checkpoint every 2 ms; what exceeds it is one message, or a look at the clock."""
    clock = FakeClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_module, "time", clock)
        took_ns, outboxes = trio.run(measure_turns, clock, costs_ns, clients, write_ns)
    longest_ns = max(costs_ns, default=0)
    if longest_ns <= TURN_NS // 2:
        assert max(took_ns) < TURN_NS + 8 * write_ns
    else:
        assert max(took_ns) < TURN_NS + longest_ns + 8 * write_ns
    for outbox in outboxes:
        assert timestamps(outbox) == list(range(len(costs_ns)))


async def test_a_burst_of_cheap_messages_does_not_make_a_dear_one_dearer(
    clock: FakeClock,
) -> None:
    """A step is ended by the clock: no number of messages that was right a moment ago."""
    cheap, dear = [1_000] * 5000, [500_000] * 20
    took_ns, _ = await measure_turns(clock, cheap + dear, clients=1, write_ns=0)
    assert max(took_ns) <= TURN_NS
    assert sum(took_ns) == sum(cheap + dear)
    # And no step is shorter than it must be: that would cost the joining of frames.
    assert len(took_ns) <= sum(took_ns) // 1_000_000 + 2


async def test_a_turn_of_flushing_is_as_long_as_it_may_be(clock: FakeClock) -> None:
    """A checkpoint costs more than a flush: no more of them than the law asks for."""
    took_ns, _ = await measure_turns(clock, [0], clients=400, write_ns=50_000)
    assert sum(took_ns) == 400 * 50_000
    assert max(took_ns) <= TURN_NS + 8 * 50_000
    assert len(took_ns) <= sum(took_ns) // TURN_NS + 1


async def test_others_have_their_turn_while_a_batch_is_published(clock: FakeClock) -> None:
    hub = CostlyHub(clock, lambda message: 1_000_000)
    outbox = FakeOutbox()
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(len(timestamps(outbox)))
            await trio.lowlevel.checkpoint()

    with hub.open_stream([DEVICE], outbox, WEBSOCKET):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await Ingest(hub).publish([nth(number) for number in range(5)])
            nursery.cancel_scope.cancel()
    # Trio shuffles who is first; nobody is passed over twice.
    assert seen[0] in (1, 2)
    assert {later - sooner for sooner, later in pairwise(seen)} <= {0, 1, 2}
    assert seen[-1] >= 3


# The loop


@dataclass
class FakeClient:
    """Hands out batches, and tells how many messages it had to discard by then; then it
    loses its connection."""

    batches: list[list[MqttMessage]]
    discarded: list[int] = field(default_factory=list)
    discarded_messages: int = 0
    taken: int = 0
    pace: Pace = field(default_factory=Pace)

    @property
    def messages(self) -> list[MqttMessage]:
        """What waits."""
        return [message for batch in self.batches for message in batch]

    async def receive_batch(self) -> list[MqttMessage]:
        await trio.lowlevel.checkpoint()
        if not self.batches:
            raise MqttError("gone")
        if self.discarded:
            self.discarded_messages += self.discarded.pop(0)
        batch = self.batches.pop(0)
        self.taken += len(batch)
        return batch


async def test_batches_are_published_until_the_connection_is_lost(clock: FakeClock) -> None:
    hub, outbox = make_hub(), FakeOutbox()
    ingest = Ingest(hub)
    with hub.open_stream([DEVICE], outbox, WEBSOCKET):
        for first in (1, 4):  # the connection comes back
            client = FakeClient([[nth(first), nth(first + 1)], [nth(first + 2)]])
            with pytest.raises(MqttError, match="gone"):
                await ingest.consume(cast(Client, client))
    assert received(outbox) == [(number, number) for number in range(1, 7)]
    assert [message.sequence for message in hub.last_messages()] == [6]
    assert ingest.batch_messages.buckets()[:2] == [("1", 2.0), ("2", 4.0)]


class TellingPace(Pace):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def count_deliveries(self, deliveries: int) -> None:
        self.told.append(deliveries)


async def test_the_clients_pace_is_told_of_each_delivery_once(clock: FakeClock) -> None:
    hub, pace = make_hub(), TellingPace()
    ingest = Ingest(hub)
    with (
        hub.open_stream([DEVICE], FakeOutbox(), WEBSOCKET),
        hub.open_stream([DEVICE], FakeOutbox(), WEBSOCKET),
    ):
        for batches in ([[nth(1), nth(2)], [nth(3)]], [[nth(4)]]):  # the connection comes back
            with pytest.raises(MqttError):
                await ingest.consume(cast(Client, FakeClient(batches, pace=pace)))
    assert pace.told == [4, 2, 2]


async def test_what_a_client_still_holds_is_published_when_it_is_drained(clock: FakeClock) -> None:
    hub, outbox = make_hub(), FakeOutbox()
    client = FakeClient([[nth(1), nth(2)], [nth(3)]])
    with hub.open_stream([DEVICE], outbox, WEBSOCKET):
        await Ingest(hub).drain(cast(Client, client))
        assert timestamps(outbox) == [1, 2, 3]
        await Ingest(hub).drain(cast(Client, client))  # nothing is waited for
    assert timestamps(outbox) == [1, 2, 3]


async def test_sequences_go_on_from_a_life_that_was_restored(clock: FakeClock) -> None:
    hub, outbox = make_hub(), FakeOutbox()
    hub.restore(Position("e", 41), [], Losses({}, 0, -1), is_whole=True)
    with hub.open_stream([DEVICE], outbox, WEBSOCKET):
        await Ingest(hub).publish([nth(1), incoming(b""), nth(2)])
    assert received(outbox) == [(42, 1), (43, 2)]


# What the hand-over from MQTT lost


async def test_a_loss_is_told_to_everybody_before_what_came_with_it(clock: FakeClock) -> None:
    """PROTOCOL B4: a gap whose device nobody knows."""
    hub, outboxes = make_hub(), [FakeOutbox(), FakeOutbox()]
    client = FakeClient([[nth(1)], [nth(2), nth(3)], [nth(4)]], discarded=[0, 7, 0])
    with (
        hub.open_stream([DEVICE], outboxes[0], WEBSOCKET),
        hub.open_stream(["another"], outboxes[1], WEBSOCKET),
        pytest.raises(MqttError),
    ):
        await Ingest(hub).consume(cast(Client, client))
    gap = '{"event":"gap","data":{"device_id":null,"dropped":7,"reason":"ingest"}}'
    message = '{"event":"message","id":"e-%d","data":{"timestamp":%d,"data":{"DEVICE_ID":"848"}}}'
    assert texts(outboxes[0].kernel) == [
        message % (1, 1),
        gap,
        *(message % (number, number) for number in (2, 3, 4)),
    ]
    assert texts(outboxes[1].kernel) == [gap]


async def test_a_resume_over_a_loss_is_partial_and_from_behind_it_is_whole(
    clock: FakeClock,
) -> None:
    """Where among the messages of that batch they were lost nobody knows, so from behind it."""
    hub = make_hub()
    client = FakeClient([[nth(1)], [nth(2), nth(3)], [nth(4)]], discarded=[0, 7, 0])
    with pytest.raises(MqttError):
        await Ingest(hub).consume(cast(Client, client))
    statuses = []
    for sequence in range(1, 5):
        outbox = FakeOutbox()
        options = StreamOptions(last_event_id=f"e-{sequence}")
        with hub.open_stream([DEVICE], outbox, WEBSOCKET, options) as stream:
            stream.flush()
        statuses.append(json.loads(texts(outbox.kernel)[0])["data"]["status"])
    assert statuses == ["partial", "partial", "partial", "continued"]


async def test_a_loss_in_a_later_connection_is_told_once(clock: FakeClock) -> None:
    """The client counts over all of its connections."""
    hub, outbox = make_hub(), FakeOutbox()
    ingest = Ingest(hub)
    client = FakeClient([[nth(1)]], discarded=[2])
    with hub.open_stream(["another"], outbox, WEBSOCKET):
        for _ in range(3):
            with pytest.raises(MqttError):
                await ingest.consume(cast(Client, client))
            client.batches = [[nth(2)]]
    assert texts(outbox.kernel) == [
        '{"event":"gap","data":{"device_id":null,"dropped":2,"reason":"ingest"}}'
    ]


# Clients that another task serves


async def publish_served(
    clock: FakeClock, outbox: FakeOutbox, batches: Sequence[int], serve: Callable[[], object]
) -> int:
    """Publish batches of so many messages, 1 KB and 10 µs each, beside a task that serves.

    Returns how many turns the ingest task took.
    """
    hub = CostlyHub(clock, lambda message: 10_000)
    ingest = Ingest(hub)
    payload = b'{"timestamp":%d,"data":{"DEVICE_ID":848,"x":"' + b"x" * 1000 + b'"}}'
    messages = (incoming(payload % number) for number in itertools.count())

    async def run() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            serve()

    with hub.open_stream([DEVICE], outbox, WEBSOCKET):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            turns = Turns(clock, trio.lowlevel.current_task())
            trio.lowlevel.add_instrument(turns)
            for batch in batches:
                await ingest.publish(list(itertools.islice(messages, batch)))
            trio.lowlevel.remove_instrument(turns)
            nursery.cancel_scope.cancel()
        while isinstance(outbox, ServedOutbox) and outbox.tail:
            outbox.serve()
    return len(turns.took_ns)


@pytest.mark.parametrize("batches", [[5000], [100] * 50], ids=["one", "many"])
async def test_a_burst_is_no_loss_where_another_task_sends(
    batches: list[int], clock: FakeClock
) -> None:
    """PROTOCOL A4, over TLS and HTTP/2: its task gets its turns, and nobody has refused."""
    outbox = ServedOutbox()
    calls = 0

    def serve() -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            outbox.serve()

    await publish_served(clock, outbox, batches, serve)
    assert timestamps(outbox) == list(range(5000))


async def test_who_is_never_served_holds_up_nobody_for_long(clock: FakeClock) -> None:
    outbox = ServedOutbox()
    assert await publish_served(clock, outbox, [5000], lambda: None) <= 50 * 16
    *messages, gap = map(json.loads, texts(outbox.kernel))
    numbers = [message["data"]["timestamp"] for message in messages]
    assert numbers == list(range(len(numbers)))
    dropped = 5000 - len(numbers)
    assert gap == {
        "event": "gap",
        "data": {"device_id": DEVICE, "dropped": dropped, "reason": "buffer_full"},
    }


@pytest.mark.parametrize("served", [False, True])
async def test_who_refuses_holds_up_nobody(served: bool, clock: FakeClock) -> None:
    outbox = ServedOutbox() if served else FakeOutbox(appetite=0)
    if isinstance(outbox, ServedOutbox):
        outbox.is_behind = True
    assert await publish_served(clock, outbox, [5000], lambda: None) == 50


# Cancellation


@pytest.mark.parametrize("appetite", [inf, 50, 0], ids=["idle", "behind", "refusing"])
async def test_cancelled_anywhere_a_batch_is_published_whole(
    clock: FakeClock, appetite: float
) -> None:
    """Nothing of it may be left out: the broker will not hand it over again."""
    batch = [nth(number, DEVICE if number % 2 else "9") for number in range(6)]
    hub: CostlyHub
    outboxes: list[CostlyOutbox]
    streams: list[Stream] = []

    async def publish() -> None:
        nonlocal hub, outboxes, streams
        hub = CostlyHub(clock, lambda message: 600_000)
        outboxes = [CostlyOutbox(clock, 300_000) for _ in range(20)]
        for outbox in outboxes:
            outbox.appetite = appetite
        streams = [hub.open_stream([DEVICE, "9"], outbox, WEBSOCKET) for outbox in outboxes]
        await Ingest(hub).publish(batch)
        await trio.lowlevel.checkpoint()

    steps = []
    async for step in cancelled_everywhere(publish):
        steps.append(step)
        statistics = hub.statistics()
        assert (statistics.published, statistics.offered) == (6, 20 * 6)
        assert statistics.offered == (
            statistics.delivered + sum(statistics.dropped.values()) + statistics.waiting
        )
        for outbox, stream in zip(outboxes, streams, strict=True):
            if appetite == inf:
                assert timestamps(outbox) == list(range(6))
            outbox.feed()
            assert received(outbox) == [(number + 1, number) for number in range(6)]
            assert (outbox.writable, stream.waiting) == (True, 0)
            stream.leave()
        assert (hub.statistics().delivered, hub.statistics().waiting) == (20 * 6, 0)
    assert len(steps) >= 5


@pytest.mark.parametrize("coalesce_ms", [0.0, 20.0])
async def test_cancelled_anywhere_what_was_taken_is_published(
    clock: FakeClock, coalesce_ms: float
) -> None:
    hub: Hub
    client: FakeClient
    outboxes: list[FakeOutbox]

    async def consume() -> None:
        nonlocal hub, client, outboxes
        hub = CostlyHub(clock, lambda message: 600_000)
        outboxes = [FakeOutbox() for _ in range(20)]
        for outbox in outboxes:
            hub.open_stream([DEVICE], outbox, WEBSOCKET)
        client = FakeClient([[nth(3 * first + n) for n in range(3)] for first in range(4)])
        with pytest.raises(MqttError):
            await Ingest(hub, coalesce_ms=coalesce_ms).consume(cast(Client, client))

    taken = []
    async for _ in cancelled_everywhere(consume):
        taken.append(client.taken)
        assert hub.statistics().published == client.taken
        for outbox in outboxes:
            assert timestamps(outbox) == list(range(client.taken))
    assert set(taken) == {0, 3, 6, 9, 12}


async def test_cancelled_anywhere_a_drain_leaves_nothing_half_done(clock: FakeClock) -> None:
    client: FakeClient
    outboxes: list[FakeOutbox]

    async def drain() -> None:
        nonlocal client, outboxes
        hub = make_hub()
        outboxes = [FakeOutbox() for _ in range(20)]
        for outbox in outboxes:
            hub.open_stream([DEVICE], outbox, WEBSOCKET)
        client = FakeClient([[nth(0), nth(1)], [nth(2)], [nth(3)]])
        await Ingest(hub, coalesce_ms=20.0).drain(cast(Client, client))

    taken = []
    async for _ in cancelled_everywhere(drain):
        taken.append(client.taken)
        for outbox in outboxes:
            assert timestamps(outbox) == list(range(client.taken))
    assert set(taken) == {0, 2, 3}
    assert [timestamps(outbox) for outbox in outboxes] == [[0, 1, 2, 3]] * 20
