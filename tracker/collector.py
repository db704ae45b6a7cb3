"""The garbage collector, kept away from the hot path.

The hot path makes no cycles: what it drops is freed at once. Cycles come from connections
that end, and from little else. So what start-up made is frozen, the young generations
are collected seldom, and the whole heap only in a quiet moment, or when many connections
have ended since the last time. Without this, p99.9 of the latency is the length of a full
collection.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import trio

#: Objects that are made before the youngest generation is collected; then how many such
#: collections make one of the next. The oldest is ours to collect.
_THRESHOLDS = (50_000, 20, 1_000_000)

_LOOK_S = 0.25
#: Looked at once so often, and then also in a busy moment.
_OVERDUE_S = 300.0
#: So many ended connections leave enough behind to be worth a collection.
_ENDED_CONNECTIONS = 2000


async def run_collector(messages: Callable[[], int], ended_connections: Callable[[], int]) -> None:
    """Collect in quiet moments until cancelled; then leave the collector as it was.

    `messages`, `ended_connections`: counters that only grow; a moment is quiet when no
    message has come since the last look.
    Cancellation: between two collections.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        await _collect_when_quiet(messages, ended_connections)
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def _collect_when_quiet(
    messages: Callable[[], int], ended_connections: Callable[[], int]
) -> None:
    seen_messages, seen_ended = messages(), ended_connections()
    collected_s = trio.current_time()
    while True:
        await trio.sleep(_LOOK_S)
        is_quiet = messages() == seen_messages
        seen_messages = messages()
        is_overdue = trio.current_time() - collected_s > _OVERDUE_S
        ended = ended_connections() - seen_ended
        if ended >= _ENDED_CONNECTIONS or (ended and is_quiet) or is_overdue:
            gc.collect()
            seen_ended = ended_connections()
            collected_s = trio.current_time()
