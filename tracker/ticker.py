"""What happens by the clock: pings, heartbeats, messages whose token has come, old history.

Theory of operation: a period is cut into shares, one for each tick; a stream is in one
share for life, so each hears from us exactly once a period, and no two ticks of 10,000
clients come in one burst. Ticks are absolute times: a late one does not shift the next.
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
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_period, hub, ping_s, _ping)
        nursery.start_soon(_run_period, hub, heartbeat_s, Stream.heartbeat)
        nursery.start_soon(_run, _TICK_S, _ping_apart, hub)
        nursery.start_soon(_run, _RELEASE_S, _release, hub)
        nursery.start_soon(_run, _EXPIRE_S, _expire, hub)


def _ping(stream: Stream) -> None:
    if stream.ping_s is None:
        stream.post(PING)


def _ping_apart(hub: Hub) -> None:
    now_s = time.monotonic()
    for stream in list(hub.pinged_apart):
        if stream.ping_s is not None and now_s >= stream.ping_due_s:
            stream.ping_due_s += stream.ping_s
            stream.post(PING)


def _release(hub: Hub) -> None:
    hub.release(time.monotonic_ns())


def _expire(hub: Hub) -> None:
    hub.history.expire(time.monotonic_ns())


async def _run(interval_s: float, act: Callable[[Hub], object], hub: Hub) -> None:
    due_s = trio.current_time()
    while True:
        due_s = max(due_s + interval_s, trio.current_time())
        await trio.sleep_until(due_s)
        act(hub)


async def _run_period(hub: Hub, period_s: float, act: Callable[[Stream], object]) -> None:
    shares = max(1, math.floor(period_s / _TICK_S))
    started_s = trio.current_time()
    tick = 0
    while True:
        tick += 1
        await trio.sleep_until(started_s + tick * period_s / shares)
        for stream in hub.streams(tick % shares, shares):
            act(stream)
