"""Waiting for what nobody tells."""

from __future__ import annotations

from collections.abc import Callable

import trio

DEADLINE_S = 20


async def eventually(is_true: Callable[[], bool]) -> None:
    """Return once the condition holds. Raises: trio.TooSlowError when it never comes to that."""
    with trio.fail_after(DEADLINE_S):
        while not is_true():  # noqa: ASYNC110 threads, kernels and brokers set no event
            await trio.sleep(0.001)
