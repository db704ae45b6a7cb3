"""Whether traffic should come here: what `/readyz` answers."""

from __future__ import annotations

import trio
from trio_util import AsyncValue

from tracker.mqtt.link import LinkState


class Readiness:
    """Ready from the first subscription on, until `grace_s` seconds without one."""

    def __init__(self, state: AsyncValue[LinkState], *, grace_s: float) -> None:
        self._state = state
        self._grace_s = grace_s
        #: From when on the gateway is not ready: never while subscribed.
        self._unready_from_s = float("-inf")
        self._is_stopping = False

    async def watch(self) -> None:
        """Follow the state until cancelled. Cancellation: atomic."""
        while True:
            await self._state.wait_value(lambda state: state.is_subscribed)
            self._unready_from_s = float("inf")
            await self._state.wait_value(lambda state: not state.is_subscribed)
            self._unready_from_s = trio.current_time() + self._grace_s

    def stop(self) -> None:
        """Not ready from now on: a planned stop."""
        self._is_stopping = True

    @property
    def is_stopping(self) -> bool:
        """Whether a planned stop is under way."""
        return self._is_stopping

    def reason(self) -> str | None:
        """Why no traffic should come here, or None."""
        if self._is_stopping:
            return "the gateway is stopping"
        if trio.current_time() < self._unready_from_s:
            return None
        return f"MQTT: {self._state.value.reason}"
