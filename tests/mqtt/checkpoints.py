"""Cancelling a call at each of its checkpoints."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import trio


class _CancelAtStep(trio.abc.Instrument):
    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task = task
        self._scope = scope
        self._steps_left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._steps_left -= 1
            if self._steps_left == 0:
                self._scope.cancel()


async def cancelled_everywhere(
    call: Callable[[], Awaitable[object]], *, limit: int = 200
) -> AsyncIterator[int]:
    """Run `call` again and again, cancelled at its first checkpoint, its second, and so on.

    Yields the number after each run that was cancelled, for the laws to be checked, and
    ends when a run was not.
    """
    for step in range(limit):
        with trio.CancelScope() as scope:
            if step == 0:
                scope.cancel()
            instrument = _CancelAtStep(trio.lowlevel.current_task(), scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await call()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        if not scope.cancelled_caught:
            return
        yield step
    raise AssertionError(f"not done after {limit} checkpoints")


def mqtt_threads() -> int:
    """Return how many threads of ours live."""
    return sum(thread.name == "mqtt" for thread in threading.enumerate())


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
