"""Hypercorn's task group for one connection, with a way out of it for the app.

Once the app has handed its connection over, whatever it and its framework still send on
their way out goes nowhere: the connection is not theirs any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope


class ConnectionTasks(TaskGroup):
    """The tasks of one connection. `is_handed_over`: nothing of the app is to be sent now."""

    def __init__(self, is_handed_over: Callable[[], bool]) -> None:
        super().__init__()
        self._is_handed_over = is_handed_over

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        async def send_unless_handed_over(event: ASGISendEvent | None) -> None:
            # On its way out of a cancelled connection Hypercorn would answer 500, or 1011.
            await trio.lowlevel.checkpoint_if_cancelled()
            if not self._is_handed_over():
                await send(event)

        return await super().spawn_app(app, config, scope, send_unless_handed_over)


class NoTasks(TaskGroup):
    """The tasks of a connection that is not served, yet or any more: none is started."""

    def spawn(self, func: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Nothing: whoever asks is too late, and it is no fault of theirs."""
