"""The garbage collector, kept away from the hot path.

The hot path makes no cycles: what it drops is freed at once, and so is a connection that
ends, but for HTTP/2, whose library has cycles of its own. So what lives is frozen: first
what start-up made, then, after each collection, what survived it. A collection looks only
at what came since, and takes a quiet moment for it. Without this, p99.9 of the latency is
the length of a full collection.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import trio

#: Objects that are made before the youngest generation is collected; then how many such
#: collections make one of the next. The oldest is ours to collect.
_THRESHOLDS = (50_000, 20, 1_000_000)

_LOOK_S = 0.25
#: So many connections that came or went are worth a collection in a busy moment too.
_BUSY_CONNECTIONS = 2000
#: After so long what was frozen is looked at again, in a quiet moment: a cycle may have
#: become garbage since. A gateway that has none gets twice as long: with 10,000 clients
#: the look takes 0.4 s.
_THAW_S = 3600.0


async def run_collector(messages: Callable[[], int], connections: Callable[[], int]) -> None:
    """Collect in quiet moments until cancelled; then leave the collector as it was.

    `messages`, `connections`: counters that only grow, of the messages that came and of the
    connections that came or went. A moment is quiet when no message came since the last look.
    Cancellation: between two collections.
    """
    thresholds = gc.get_threshold()
    _collect_and_freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        await _collect_when_quiet(messages, connections)
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def _collect_when_quiet(messages: Callable[[], int], connections: Callable[[], int]) -> None:
    seen_messages, seen_connections = messages(), connections()
    thawed_s = trio.current_time()
    while True:
        await trio.sleep(_LOOK_S)
        is_quiet = messages() == seen_messages
        seen_messages = messages()
        changes = connections() - seen_connections
        if trio.current_time() - thawed_s > (_THAW_S if is_quiet else 2 * _THAW_S):
            gc.unfreeze()
            thawed_s = trio.current_time()
        elif not (changes >= _BUSY_CONNECTIONS or (is_quiet and changes)):
            continue
        _collect_and_freeze()
        seen_connections = connections()


def _collect_and_freeze() -> None:
    gc.collect()
    gc.freeze()
