"""`tracker.ticker`, on virtual time: everybody in time, nobody in a burst."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from tests.fakes import FakeOutbox, make_message
from tracker import ticker
from tracker.domain import wire
from tracker.domain.event import PING
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.options import StreamOptions
from tracker.domain.queue import QueueLimits
from tracker.domain.transport import SSE_BARE, SSE_CHUNKED, WEBSOCKET, WEBSOCKET_LINES, Transport
from tracker.ticker import run_ticker

PING_S, HEARTBEAT_S = 60.0, 20.0
CLIENTS = 10_000


class TimedOutbox(FakeOutbox):
    """An outbox that notes when it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.times_s: list[float] = []

    def write_nowait(self, data: bytes) -> None:
        super().write_nowait(data)
        self.times_s.append(round(trio.current_time(), 6))

    def times_of(self, data: bytes) -> list[float]:
        """When `data` was written."""
        return [
            time_s for time_s, write in zip(self.times_s, self.writes, strict=True) if write == data
        ]


class VirtualTime:
    """The module `time`, as far as the ticker needs it, on Trio's clock."""

    @staticmethod
    def monotonic() -> float:
        return trio.current_time()

    @staticmethod
    def monotonic_ns() -> int:
        return round(trio.current_time() * 1e9)


def make_hub() -> Hub:
    return Hub(HubSettings(queue=QueueLimits(), devices_limit=10))


@asynccontextmanager
async def ticking(
    hub: Hub, *, ping_s: float = PING_S, heartbeat_s: float = HEARTBEAT_S
) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run_ticker, hub, ping_s=ping_s, heartbeat_s=heartbeat_s))
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_ten_thousand_clients_for_three_minutes(autojump_clock: MockClock) -> None:
    hub = make_hub()
    outboxes = [TimedOutbox() for _ in range(CLIENTS)]
    streams = [hub.open_stream(["1"], outbox, WEBSOCKET) for outbox in outboxes]
    begun_s = trio.current_time()
    async with ticking(hub):
        await trio.sleep(3 * PING_S + 0.05)

    pings, heartbeats = PING.frame(), wire.PING_FRAME
    for outbox in outboxes:
        ping_times_s = outbox.times_of(pings)
        assert len(ping_times_s) == 3
        assert 0 < ping_times_s[0] - begun_s <= PING_S
        assert [b - a for a, b in pairwise(ping_times_s)] == pytest.approx([PING_S, PING_S])
        heartbeat_times_s = outbox.times_of(heartbeats)
        assert len(heartbeat_times_s) == 9
        assert [b - a for a, b in pairwise(heartbeat_times_s)] == pytest.approx([HEARTBEAT_S] * 8)
        assert len(outbox.writes) == 12

    # No burst: a tick is a tenth of a second, and has its share and no more.
    for data, period_s in ((pings, PING_S), (heartbeats, HEARTBEAT_S)):
        ticks = Counter(time_s for outbox in outboxes for time_s in outbox.times_of(data))
        ticks_a_period = round(period_s / 0.1)
        assert len(ticks) == ticks_a_period * 3 * PING_S / period_s
        assert max(ticks.values()) <= -(-CLIENTS // ticks_a_period)
    for stream in streams:
        stream.leave()


@pytest.mark.parametrize(
    ("transport", "heartbeat"),
    [
        (WEBSOCKET, wire.PING_FRAME),
        (SSE_BARE, wire.SSE_COMMENT),
        (SSE_CHUNKED, wire.chunk(wire.SSE_COMMENT)),
        (WEBSOCKET_LINES, None),
    ],
    ids=["frame", "sse", "chunk", "line"],
)
async def test_what_a_client_gets_in_a_minute(
    transport: Transport, heartbeat: bytes | None, autojump_clock: MockClock
) -> None:
    """PROTOCOL A2: the `ping` event every 60 s; beneath it, DESIGN §4, traffic every 20 s."""
    hub, outbox = make_hub(), TimedOutbox()
    async with ticking(hub):
        with hub.open_stream(["1"], outbox, transport):
            await trio.sleep(PING_S + 0.05)
    ping = transport.encode(PING)
    assert Counter(outbox.writes) == Counter(
        {ping: 1} if heartbeat is None else {ping: 1, heartbeat: 3}
    )


async def test_a_late_tick_does_not_shift_the_next(autojump_clock: MockClock) -> None:
    """Ticks are absolute times; what was missed is made up for, in order."""
    hub = make_hub()
    outboxes = [TimedOutbox() for _ in range(1000)]
    streams = [hub.open_stream(["1"], outbox, WEBSOCKET) for outbox in outboxes]
    async with ticking(hub):
        await trio.sleep(10)
        autojump_clock.jump(7.77)  # as if the process had stood still
        await trio.sleep(4 * PING_S - 17.7)
    for outbox in outboxes:
        gaps_s = [b - a for a, b in pairwise(outbox.times_of(PING.frame()))]
        assert len(gaps_s) == 3
        assert gaps_s[1:] == pytest.approx([PING_S] * 2)
        assert PING_S - 7.78 <= gaps_s[0] <= PING_S + 0.001
    for stream in streams:
        stream.leave()


async def test_after_a_standstill_a_ping_of_ones_own_comes_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticker, "time", VirtualTime)
    hub, outbox = make_hub(), TimedOutbox()
    expired_s: list[float] = []
    monkeypatch.setattr(hub.history, "expire", lambda now_ns: expired_s.append(now_ns / 1e9))
    stream = hub.open_stream(["1"], outbox, WEBSOCKET, StreamOptions(ping_s=5.0))
    stream.ping_due_s = trio.current_time() + 5.0
    async with ticking(hub, heartbeat_s=10_000):
        await trio.sleep(12)
        autojump_clock.jump(600)
        after_s = trio.current_time()
        expired_s.clear()
        await trio.sleep(12.05)
    pings_s = [time_s - after_s for time_s in outbox.times_of(PING.frame())]
    assert pings_s[2:] == pytest.approx([0.0, 5.0, 10.0], abs=0.11)
    assert len(expired_s) == 13


async def test_who_comes_later_has_to_wait_no_longer(autojump_clock: MockClock) -> None:
    hub = make_hub()
    async with ticking(hub):
        for _ in range(5):
            await trio.sleep(7.3)
            outbox = TimedOutbox()
            opened_s = trio.current_time()
            with (
                hub.open_stream(["1"], TimedOutbox(), WEBSOCKET),
                hub.open_stream(["1"], outbox, WEBSOCKET),
            ):
                await trio.sleep(2 * PING_S)
            first_s, second_s = outbox.times_of(PING.frame())
            assert 0 <= first_s - opened_s <= PING_S
            assert second_s - first_s == pytest.approx(PING_S)


async def test_a_client_that_is_behind_gets_no_heartbeat_on_top(autojump_clock: MockClock) -> None:
    hub, outbox = make_hub(), TimedOutbox()
    outbox.starve()
    with hub.open_stream(["1"], outbox, WEBSOCKET) as stream:
        publish = hub.publish_batch([make_message(1)])
        assert publish == [stream]
        stream.flush()
        async with ticking(hub, ping_s=1000):
            await trio.sleep(10 * HEARTBEAT_S)
        assert (outbox.writes, len(stream.queue)) == ([make_message(1).frame()], 0)


async def test_a_client_that_is_behind_holds_a_bounded_number_of_pings(
    autojump_clock: MockClock,
) -> None:
    hub, outbox = make_hub(), TimedOutbox()
    outbox.starve()
    with hub.open_stream(["1"], outbox, WEBSOCKET) as stream:
        async with ticking(hub, ping_s=1, heartbeat_s=1000):
            await trio.sleep(100.05)
        # One is the outbox's tail.
        assert (len(stream.queue), hub.statistics().events_left_out) == (16, 83)


async def test_a_period_shorter_than_a_tick_is_a_tick(autojump_clock: MockClock) -> None:
    hub, outbox = make_hub(), TimedOutbox()
    with hub.open_stream(["1"], outbox, WEBSOCKET), trio.move_on_after(1.02):
        await run_ticker(hub, ping_s=0.05, heartbeat_s=1000)
    assert outbox.times_of(PING.frame()) == pytest.approx(
        [trio.current_time() - 1.02 + 0.05 * number for number in range(1, 21)], abs=1e-5
    )


@pytest.mark.parametrize("idle_s", [0.0, 30.0])
async def test_what_is_held_leaves_when_its_token_comes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, idle_s: float
) -> None:
    """And nothing wakes for it while nothing is held."""
    monkeypatch.setattr(ticker, "time", VirtualTime)
    hub, outbox = make_hub(), TimedOutbox()
    stream = hub.open_stream(["1"], outbox, WEBSOCKET, StreamOptions(max_rate_per_s=1.0))
    released_s = []
    release = Hub.release

    def note_release(self: Hub, now_ns: int) -> None:
        released_s.append(now_ns / 1e9)
        release(self, now_ns)

    monkeypatch.setattr(Hub, "release", note_release)
    async with ticking(hub):
        for round_number in range(2):
            outbox.times_s.clear()
            released_s.clear()
            begun_s = trio.current_time()
            for sequence in range(3):
                hub.publish_batch(
                    [
                        make_message(
                            3 * round_number + sequence, received_ns=VirtualTime.monotonic_ns()
                        )
                    ]
                )
                stream.flush()
            await trio.sleep(1.5)
            assert [time_s - begun_s for time_s in outbox.times_s] == pytest.approx(
                [0.0, 1.0], abs=0.021
            )
            assert not hub.is_holding
            await trio.sleep(1.0 + idle_s)
            assert max(released_s) - begun_s < 1.05
