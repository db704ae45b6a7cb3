"""Keep-alive: the `ping` event, and beneath it a heartbeat for proxies. PROTOCOL A2.

Theory of operation: a period is cut into shares, one for each tick; a stream is in one
share for life, so each hears from us exactly once a period, and no two ticks of 10,000
clients come in one burst. Ticks are absolute times: a late one does not shift the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from tracker.domain.event import PING
from tracker.domain.hub import Hub
from tracker.domain.stream import Stream

_TICK_S = 0.1


async def run_ticker(hub: Hub, *, ping_s: float, heartbeat_s: float) -> None:
    """Send every stream a `ping` event every `ping_s` seconds and a heartbeat every
    `heartbeat_s`, until cancelled.

    Cancellation: between two streams' turns; nothing is left half sent.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_period, hub, ping_s, _ping)
        nursery.start_soon(_run_period, hub, heartbeat_s, Stream.heartbeat)


def _ping(stream: Stream) -> None:
    stream.post(PING)


async def _run_period(hub: Hub, period_s: float, act: Callable[[Stream], object]) -> None:
    shares = max(1, math.floor(period_s / _TICK_S))
    started_s = trio.current_time()
    tick = 0
    while True:
        tick += 1
        await trio.sleep_until(started_s + tick * period_s / shares)
        for stream in hub.streams(tick % shares, shares):
            act(stream)
