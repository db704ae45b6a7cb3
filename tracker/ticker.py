"""What happens by the clock: pings, heartbeats, messages whose token has come, old history.

Theory of operation: a period is cut into shares, one for each tick; a stream is in one
share for life, so each hears from us exactly once a period, and no two ticks of 10,000
clients come in one burst. Ticks are absolute times: a late one does not shift the next. They
are counted from one start, so that ticks of several kinds wake the process once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import trio

from tracker.domain.event import PING
from tracker.domain.hub import Hub
from tracker.domain.stream import Stream

_TICK_S = 0.1
#: How late a message may be that waited for its token.
_RELEASE_S = 0.02
_EXPIRE_S = 1.0


async def run_ticker(hub: Hub, *, ping_s: float, heartbeat_s: float) -> None:
    """Send every stream a `ping` event every `ping_s` seconds, or as often as it asked for,
    and a heartbeat every `heartbeat_s`, until cancelled.

    Cancellation: between two streams' turns; nothing is left half sent.
    """
    start_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_period, start_s, ping_s, _ping, hub)
        nursery.start_soon(_run_period, start_s, heartbeat_s, Stream.heartbeat, hub)
        nursery.start_soon(_run, start_s, _TICK_S, _ping_apart, hub)
        nursery.start_soon(_run, start_s, _EXPIRE_S, _expire, hub)
        nursery.start_soon(_run_releases, hub)


def _ping(stream: Stream) -> None:
    if stream.ping_s is None:
        stream.post(PING)


def _ping_apart(hub: Hub) -> None:
    now_s = time.monotonic()
    for stream in list(hub.pinged_apart):
        if stream.ping_s is not None and now_s >= stream.ping_due_s:
            stream.ping_due_s += stream.ping_s
            stream.post(PING)


def _expire(hub: Hub) -> None:
    hub.history.expire(time.monotonic_ns())


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


async def _run(start_s: float, interval_s: float, act: Callable[[Hub], object], hub: Hub) -> None:
    due_s = start_s
    while True:
        due_s = max(due_s + interval_s, trio.current_time())
        await trio.sleep_until(due_s)
        act(hub)


async def _run_period(
    start_s: float, period_s: float, act: Callable[[Stream], object], hub: Hub
) -> None:
    shares = max(1, math.floor(period_s / _TICK_S))
    tick = 0
    while True:
        tick += 1
        await trio.sleep_until(start_s + tick * period_s / shares)
        for stream in hub.streams(tick % shares, shares):
            act(stream)
