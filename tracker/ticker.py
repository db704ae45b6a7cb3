"""What happens by the clock: pings, heartbeats, messages whose token has come, old history.

Theory of operation: a period is cut into shares, one for each tick; a stream is in one
share for life, so each hears from us exactly once a period, and no two ticks of 10,000
clients come in one burst. Ticks are absolute times: a late one does not shift the next. They
are counted from one start, so that what several jobs have to do mostly takes one wake-up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection

import trio

from tracker.domain.event import PING
from tracker.domain.hub import Hub
from tracker.domain.stream import Stream

_TICK_S = 0.1
#: What is due so soon is done now: one wake-up less.
_TOGETHER_S = 0.001
#: How late a message may be that waited for its token.
_RELEASE_S = 0.02
_EXPIRE_S = 1.0


async def run_ticker(hub: Hub, *, ping_s: float, heartbeat_s: float) -> None:
    """Send every stream a `ping` event every `ping_s` seconds, or as often as it asked for,
    and a heartbeat every `heartbeat_s`, until cancelled.

    Cancellation: between two streams' turns; nothing is left half sent.
    """
    jobs = [
        _for_each_stream(hub, ping_s, _ping),
        _for_each_stream(hub, heartbeat_s, Stream.heartbeat),
        _Job(_TICK_S, lambda _: _ping_apart(hub), makes_up=False),
        _Job(_EXPIRE_S, lambda _: hub.history.expire(time.monotonic_ns()), makes_up=False),
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, jobs)
        nursery.start_soon(_run_releases, hub)


class _Job:
    """Something to do every `interval_s` seconds from now; `act` gets its number, from 1.

    `makes_up`: whether what was missed, because the process stood still, is done late.
    """

    def __init__(
        self, interval_s: float, act: Callable[[int], object], *, makes_up: bool = True
    ) -> None:
        self._start_s = trio.current_time()
        self._interval_s = interval_s
        self._act = act
        self._makes_up = makes_up
        self._ticks = 1

    @property
    def due_s(self) -> float:
        return self._start_s + self._ticks * self._interval_s

    def run(self) -> None:
        self._act(self._ticks)
        self._ticks += 1
        if not self._makes_up:
            passed = math.floor((trio.current_time() - self._start_s) / self._interval_s)
            self._ticks = max(self._ticks, passed + 1)


async def _run(jobs: Collection[_Job]) -> None:
    while True:
        await trio.sleep_until(min([job.due_s for job in jobs]))
        now_s = trio.current_time() + _TOGETHER_S
        for job in jobs:
            if job.due_s <= now_s:
                job.run()


def _for_each_stream(hub: Hub, period_s: float, act: Callable[[Stream], object]) -> _Job:
    shares = max(1, math.floor(period_s / _TICK_S))

    def tick(number: int) -> None:
        for stream in hub.streams(number % shares, shares):
            act(stream)

    return _Job(period_s / shares, tick)


def _ping(stream: Stream) -> None:
    if stream.ping_s is None:
        stream.post(PING)


def _ping_apart(hub: Hub) -> None:
    now_s = time.monotonic()
    for stream in list(hub.pinged_apart):
        if stream.ping_s is not None and now_s >= stream.ping_due_s:
            stream.ping_due_s += stream.ping_s
            if stream.ping_due_s <= now_s:  # the process stood still: one is enough
                stream.ping_due_s = now_s + stream.ping_s
            stream.post(PING)


async def _run_releases(hub: Hub) -> None:
    """Let go of what has its token; nothing wakes while nothing is held."""
    held = trio.Event()
    hub.on_held = lambda: held.set()
    while True:
        while hub.is_holding:
            await trio.sleep(_RELEASE_S)
            hub.release(time.monotonic_ns())
        held = trio.Event()
        await held.wait()
