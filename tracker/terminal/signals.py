"""Commands that end on a signal with the exit code that shells expect."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio

#: To this a shell adds the number of a signal.
SIGNALLED = 128

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_until_signal(run: Callable[[], Awaitable[int]]) -> int:
    """Run `run`; return its exit code, or 128 + n when signal n came first and cancelled it.

    SIGINT gives 130, SIGTERM 143, SIGHUP 129.

    Cancellation: reaches `run`.
    """
    code = 0

    async def end_on_signal() -> None:
        nonlocal code
        with trio.open_signal_receiver(*_ENDING) as signals:
            async for number in signals:
                code = SIGNALLED + number
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_on_signal)
        code = await run()
        nursery.cancel_scope.cancel()
    return code
