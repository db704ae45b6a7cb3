"""What ids and the history add to publishing: 100,000 messages into 100 null sinks.

The hub alone, in this process: no broker, no socket, nothing decoded. It takes turns with a
hub that has no epoch, so no ids, and a history that keeps nothing.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Final

from bench.mark import Template, device_id
from tracker.domain.history import History, HistoryLimits
from tracker.domain.hub import Hub
from tracker.domain.joiner import Joiner
from tracker.domain.message import Message
from tracker.domain.transport import WEBSOCKET

MESSAGES: Final = 100_000
SINKS: Final = 100
PAIRS: Final = 7
_EPOCH: Final = "18c5e0a1b2c"
#: As many come in one batch where the rate makes gathering pay.
_BATCH: Final = 10


class _NullSink:
    """An outbox that takes everything, and does nothing with it."""

    writable = True
    refusing = False
    on_writable: Callable[[], object] | None = None
    on_stalled: Callable[[], object] | None = None

    def write_nowait(self, data: bytes) -> None:
        """Take it."""

    def push_nowait(self) -> None:
        """There is never a tail."""

    async def wait_writable(self) -> bool:
        raise NotImplementedError("nobody waits for a null sink")


class _NoHistory(History):
    """Keeps nothing, at no cost."""

    def append(self, message: Message) -> None:
        """Forget it."""


def extra_cost(*, devices: int, messages: int = MESSAGES, pairs: int = PAIRS) -> float:
    """What ids and history add, as a part of publishing without: 0.1 is a tenth.

    Each of `SINKS` sinks watches one of `devices` devices. The median of `pairs` pairs, of
    which every other one begins with the other side.
    """
    parts = []
    for pair in range(pairs):
        sides = (False, True) if pair % 2 else (True, False)
        spent_s = {side: _spent_s(devices, messages, has_history=side) for side in sides}
        parts.append(spent_s[True] / spent_s[False] - 1)
    return statistics.median(parts)


def _spent_s(devices: int, messages: int, *, has_history: bool) -> float:
    epoch = _EPOCH if has_history else ""
    hub = Hub(epoch=epoch)
    if not has_history:
        hub.history = _NoHistory(HistoryLimits())
    ids = [device_id(index) for index in range(devices)]
    streams = [hub.open_stream([ids[k % devices]], _NullSink(), WEBSOCKET) for k in range(SINKS)]
    for stream in streams:
        stream.flush()
    payload = Template(ids[0]).fill(0, 0)
    epoch_bytes = epoch.encode()
    gc.collect()
    gc.disable()  # as the gateway has it: away from the hot path
    try:
        begun_s = time.process_time()
        for first in range(1, messages + 1, _BATCH):
            joiner = Joiner()
            batch = [
                Message(n, ids[n % devices], payload, 0, epoch=epoch_bytes)
                for n in range(first, first + _BATCH)
            ]
            for stream in hub.publish_batch(batch):
                stream.flush(joiner)
        return time.process_time() - begun_s
    finally:
        gc.enable()
