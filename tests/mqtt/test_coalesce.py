"""`tracker.mqtt.ingest` with `coalesce_ms`, on virtual time: held back, never too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.domain.test_wire import texts
from tests.fakes import FakeOutbox
from tests.mqtt.test_ingest import DEVICE, FakeClock, incoming, make_hub, nth, timestamps
from tracker.domain.hub import Hub
from tracker.domain.stream import Stream
from tracker.domain.transport import WEBSOCKET
from tracker.mqtt import ingest as ingest_module
from tracker.mqtt.client import Client
from tracker.mqtt.errors import MqttError
from tracker.mqtt.ingest import Ingest
from tracker.mqtt.message import Message as MqttMessage
from tracker.mqtt.pace import Pace

MS = 1_000_000
#: From so many streams at once on, a write may be held back.
FAN_OUT = 16
COALESCE_MS = 5.0


class VirtualClock(FakeClock):
    """The `time` module's clocks, which go as Trio's does; the machine has run for a while."""

    def monotonic_ns(self) -> int:
        return self.now_ns + round(trio.current_time() * 1e9)

    def monotonic(self) -> float:
        return self.monotonic_ns() / 1e9


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "time", VirtualClock())


class TimedOutbox(FakeOutbox):
    """An outbox that notes when it was written to, in ms since the start."""

    def __init__(self, appetite: float = float("inf")) -> None:
        super().__init__(appetite)
        self._begun_s = trio.current_time()
        self.times_ms: list[float] = []

    def write_nowait(self, data: bytes) -> None:
        super().write_nowait(data)
        self.times_ms.append(round((trio.current_time() - self._begun_s) * 1e3, 3))


@dataclass
class Arrivals:
    """A client that receives each batch at its time, in ms; then it loses its connection."""

    batches: list[tuple[float, list[MqttMessage]]]
    discarded_messages: int = 0
    pace: Pace = field(default_factory=Pace)
    _begun_s: float = field(default_factory=trio.current_time)

    async def receive_batch(self) -> list[MqttMessage]:
        if not self.batches:
            raise MqttError("gone")
        # Atomic: what is cancelled takes nothing.
        await trio.sleep_until(self._begun_s + self.batches[0][0] / 1e3)
        _, batch = self.batches.pop(0)
        if not batch:
            raise MqttError("gone")
        return batch


async def consume(hub: Hub, coalesce_ms: float, batches: list[tuple[float, list[int]]]) -> None:
    """Consume what arrives when, until the connection is lost."""
    client = Arrivals([(at_ms, [nth(number) for number in batch]) for at_ms, batch in batches])
    with pytest.raises(MqttError, match="gone"):
        await Ingest(hub, coalesce_ms=coalesce_ms).consume(cast(Client, client))


def open_streams(hub: Hub, count: int, stack: ExitStack) -> list[TimedOutbox]:
    """So many streams of the one device, whose first position has left."""
    outboxes = [TimedOutbox() for _ in range(count)]
    for outbox in outboxes:
        stack.enter_context(hub.open_stream([DEVICE], outbox, WEBSOCKET)).flush()
    return outboxes


async def writes_of(
    count: int, coalesce_ms: float, batches: list[tuple[float, list[int]]]
) -> list[tuple[float, list[int]]]:
    """(When in ms, which messages) of each write; all of `count` clients get the same."""
    hub = make_hub()
    with ExitStack() as stack:
        outboxes = open_streams(hub, count, stack)
        await consume(hub, coalesce_ms, batches)
    found = [_writes(outbox) for outbox in outboxes]
    assert all(writes == found[0] for writes in found)
    return found[0]


def _writes(outbox: TimedOutbox) -> list[tuple[float, list[int]]]:
    return [
        (
            time_ms,
            [int(text.partition('"timestamp":')[2].partition(",")[0]) for text in texts(data)],
        )
        for time_ms, data in zip(outbox.times_ms, outbox.writes, strict=True)
    ]


# When it holds, and when it does not


@pytest.mark.parametrize("count", [1, FAN_OUT - 1, FAN_OUT, 100])
async def test_off_by_default_every_write_leaves_at_once(
    count: int, autojump_clock: MockClock
) -> None:
    batches = [(float(at_ms), [at_ms]) for at_ms in range(1, 20)]
    hub = make_hub()
    with ExitStack() as stack:
        outboxes = open_streams(hub, count, stack)
        client = Arrivals([(at_ms, [nth(number) for number in each]) for at_ms, each in batches])
        with pytest.raises(MqttError):
            await Ingest(hub).consume(cast(Client, client))
    assert [_writes(outbox) for outbox in outboxes] == [batches] * count


async def test_without_a_fan_out_nothing_is_held_back(autojump_clock: MockClock) -> None:
    batches = [(float(at_ms), [at_ms]) for at_ms in range(1, 20)]
    assert await writes_of(FAN_OUT - 1, COALESCE_MS, batches) == batches


async def test_under_fan_out_load_several_messages_leave_in_one_write(
    autojump_clock: MockClock,
) -> None:
    """The first leaves at once: it is the rate of the writes that is bounded."""
    batches = [(1.0, [1]), *((n + 0.5, [n]) for n in range(2, 14))]
    assert await writes_of(FAN_OUT, COALESCE_MS, [*batches, (100.0, [])]) == [
        (1.0, [1]),
        (6.0, [2, 3, 4, 5]),
        (11.0, [6, 7, 8, 9, 10]),
        (16.0, [11, 12, 13]),
    ]


async def test_what_is_held_leaves_in_time_though_nothing_more_comes(
    autojump_clock: MockClock,
) -> None:
    batches: list[tuple[float, list[int]]] = [(1.0, [1]), (2.0, [2]), (1000.0, [3]), (2000.0, [])]
    assert await writes_of(FAN_OUT, COALESCE_MS, batches) == [
        (1.0, [1]),
        (6.0, [2]),
        (1000.0, [3]),
    ]


async def test_what_is_rare_is_never_held(autojump_clock: MockClock) -> None:
    batches = [(6.0 * n, [n]) for n in range(1, 20)]
    assert await writes_of(100, COALESCE_MS, batches) == batches


async def test_what_joins_those_held_waits_with_them_and_no_longer(
    autojump_clock: MockClock,
) -> None:
    """Else a device of few clients would overtake on a stream that is held."""
    hub = make_hub()
    with ExitStack() as stack:
        held = open_streams(hub, FAN_OUT, stack)
        both, other = TimedOutbox(), TimedOutbox()
        stack.enter_context(hub.open_stream([DEVICE, "9"], both, WEBSOCKET)).flush()
        stack.enter_context(hub.open_stream(["9"], other, WEBSOCKET)).flush()
        client = Arrivals([(1.0, [nth(1)]), (2.0, [nth(2)]), (3.0, [nth(3, "9")]), (99.0, [])])
        with pytest.raises(MqttError):
            await Ingest(hub, coalesce_ms=COALESCE_MS).consume(cast(Client, client))
    assert _writes(held[0]) == [(1.0, [1]), (6.0, [2])]
    assert _writes(both) == [(1.0, [1]), (6.0, [2, 3])]
    assert _writes(other) == [(6.0, [3])]


# Its ends


async def test_a_lost_connection_holds_nothing_back(autojump_clock: MockClock) -> None:
    batches: list[tuple[float, list[int]]] = [(1.0, [1]), (2.0, [2]), (3.0, [])]
    assert await writes_of(FAN_OUT, COALESCE_MS, batches) == [(1.0, [1]), (3.0, [2])]


async def test_a_cancelled_consumer_holds_nothing_back(autojump_clock: MockClock) -> None:
    hub = make_hub()
    with ExitStack() as stack:
        outboxes = open_streams(hub, FAN_OUT, stack)
        client = Arrivals([(1.0, [nth(1)]), (2.0, [nth(2)]), (100.0, [nth(3)])])
        with trio.move_on_after(0.004):
            await Ingest(hub, coalesce_ms=COALESCE_MS).consume(cast(Client, client))
    assert [_writes(outbox) for outbox in outboxes] == [[(1.0, [1]), (4.0, [2])]] * FAN_OUT


async def test_a_drain_holds_nothing_back(autojump_clock: MockClock) -> None:
    class Rest(Arrivals):
        """What a client still holds when its connection is gone."""

        @property
        def messages(self) -> list[tuple[float, list[MqttMessage]]]:
            return self.batches

    hub = make_hub()
    with ExitStack() as stack:
        outboxes = open_streams(hub, FAN_OUT, stack)
        client = Rest([(0.0, [nth(1)]), (0.0, [nth(2)]), (0.0, [nth(3)])])
        await Ingest(hub, coalesce_ms=COALESCE_MS).drain(cast(Client, client))
        assert [timestamps(outbox) for outbox in outboxes] == [[1, 2, 3]] * FAN_OUT
    assert {time_ms for outbox in outboxes for time_ms in outbox.times_ms} == {0.0}


async def test_who_leaves_while_it_is_held_is_sent_nothing(autojump_clock: MockClock) -> None:
    hub = make_hub()
    gone: list[Stream] = []

    async def leave() -> None:
        await trio.sleep(0.003)
        for stream in gone:
            stream.leave()

    with ExitStack() as stack:
        outboxes = open_streams(hub, FAN_OUT, stack)
        leaving = TimedOutbox()
        gone.append(hub.open_stream([DEVICE], leaving, WEBSOCKET))
        gone[0].flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            await consume(hub, COALESCE_MS, [(1.0, [1]), (2.0, [2]), (100.0, [])])
    assert _writes(outboxes[0]) == [(1.0, [1]), (6.0, [2])]
    assert _writes(leaving) == [(1.0, [1])]
    assert (gone[0].closed_messages, hub.statistics().waiting) == (1, 0)


async def test_what_was_held_counts_in_the_latency(autojump_clock: MockClock) -> None:
    """From the arrival of the oldest message that was held: an operator sees what it costs."""
    hub = make_hub()
    begun_ns = VirtualClock().monotonic_ns()
    with ExitStack() as stack:
        open_streams(hub, FAN_OUT, stack)
        payload = b'{"DEVICE_ID":848}'
        client = Arrivals(
            [
                (float(at_ms), [incoming(payload, received_ns=begun_ns + at_ms * MS)])
                for at_ms in (1, 2, 4)
            ]
            + [(100.0, [])]
        )
        ingest = Ingest(hub, coalesce_ms=COALESCE_MS)
        with pytest.raises(MqttError):
            await ingest.consume(cast(Client, client))
    # The first left at once; two to each of them left 4 ms after the older one had come.
    assert ingest.latency_s.buckets()[-1] == ("+Inf", 3.0 * FAN_OUT)
    assert ingest.latency_s.total == pytest.approx(2 * FAN_OUT * 0.004, abs=1e-6)


# Any load


@dataclass
class Load:
    """What comes when, to how many clients, whose kernels take how much."""

    coalesce_ms: float
    clients: int
    #: (ms since the one before, device ids)
    batches: list[tuple[float, list[str]]]
    appetite: float


loads = st.builds(
    Load,
    coalesce_ms=st.sampled_from([0.0, 1.0, 5.0, 20.0]),
    clients=st.sampled_from([1, FAN_OUT - 1, FAN_OUT, 40]),
    batches=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0, 30.0]),
            st.lists(st.sampled_from([DEVICE, "9", "nobody's"]), min_size=1, max_size=5),
        ),
        max_size=20,
    ),
    appetite=st.sampled_from([float("inf"), float("inf"), 0, 500]),
)


async def serve(load: Load) -> tuple[Hub, list[TimedOutbox], dict[int, tuple[float, str]]]:
    """Serve a load; returns when each message came, and of which device it is."""
    hub = make_hub()
    at_ms, number = 0.0, 0
    came: dict[int, tuple[float, str]] = {}
    batches = []
    for pause_ms, device_ids in load.batches:
        at_ms += pause_ms
        batch = []
        for device_id in device_ids:
            number += 1
            came[number] = (at_ms, device_id)
            batch.append(nth(number, device_id))
        batches.append((at_ms, batch))
    client = Arrivals([*batches, (at_ms + 1000, [])])
    outboxes = [TimedOutbox(load.appetite) for _ in range(load.clients)]
    with ExitStack() as stack:
        for index, outbox in enumerate(outboxes):
            device_ids = [DEVICE, "9"] if index % 3 else [DEVICE]
            stack.enter_context(hub.open_stream(device_ids, outbox, WEBSOCKET)).flush()
        with pytest.raises(MqttError):
            await Ingest(hub, coalesce_ms=load.coalesce_ms).consume(cast(Client, client))
        for outbox in outboxes:
            outbox.feed()
    return hub, outboxes, came


def run_virtual(run: Callable[[Load], Awaitable[None]], load: Load) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_module, "time", VirtualClock())
        trio.run(run, load, clock=MockClock(autojump_threshold=0))


@settings(max_examples=80, deadline=None)
@given(loads)
def test_everything_comes_in_order_and_nothing_is_held_too_long(load: Load) -> None:
    async def prove(load: Load) -> None:
        hub, outboxes, came = await serve(load)
        for index, outbox in enumerate(outboxes):
            watched = [DEVICE, "9"] if index % 3 else [DEVICE]
            wanted = [number for number, (_, device_id) in came.items() if device_id in watched]
            assert timestamps(outbox) == wanted
            if load.appetite != float("inf"):
                continue
            for time_ms, numbers in _writes(outbox):
                for number in numbers:
                    assert 0 <= time_ms - came[number][0] <= load.coalesce_ms + 0.001
        statistics = hub.statistics()
        assert (statistics.offered, statistics.waiting) == (statistics.delivered, 0)

    run_virtual(prove, load)
