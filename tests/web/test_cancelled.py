"""The handlers, cancelled at every step of any of their tasks: nothing stays behind.

The app is called as a server calls it, with fakes for what stands around it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.fakes import FakeOutbox, make_message
from tests.gateway import STREAM, make_settings
from tracker.app import Parts
from tracker.domain.event import reconnect
from tracker.domain.outbox import DOOR_EXTENSION, Session
from tracker.domain.reasons import CloseReason

_STEPS_LIMIT = 2000


class _CancelAtStep(trio.abc.Instrument):
    """Cancels `scope` before the n-th step that any task takes."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._steps_left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps_left -= 1
        if self._steps_left == 0:
            self._scope.cancel()


class _Outbox(FakeOutbox):
    async def wait_writable(self) -> bool:
        await trio.lowlevel.checkpoint()
        return True


class FakeDoor:
    """A connection's door; `session` is what was left to it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.outbox = _Outbox()
        self.session: Session | None = None
        self.ended = trio.Event()
        self.last = b""
        self._nursery = nursery

    def hand_over(self, session: Session) -> None:
        self.session = session

    def start_soon(self, run: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(run)

    def end(self, last: bytes) -> None:
        self.last = last
        self.ended.set()


class Call:
    """One call of the app, from the request to the end that the gateway wants."""

    def __init__(self, *, websocket: bool, with_door: bool) -> None:
        self.parts = Parts(make_settings())
        self.sent: list[dict[str, Any]] = []
        self.door: FakeDoor | None = None
        self._is_websocket = websocket
        self._with_door = with_door

    def _scope(self) -> dict[str, Any]:
        return {
            "type": "websocket" if self._is_websocket else "http",
            "asgi": {"spec_version": "2.3", "version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws" if self._is_websocket else "http",
            "method": "GET",
            "path": STREAM,
            "raw_path": STREAM.encode(),
            "query_string": b"device_ids=a",
            "root_path": "",
            "headers": [(b"host", b"x")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "subprotocols": [],
            "extensions": {DOOR_EXTENSION: {"door": self.door}} if self._with_door else {},
        }

    async def run(self) -> None:
        """Call the app, publish two messages, and close its stream."""
        async with trio.open_nursery() as nursery:
            if self._with_door:
                self.door = FakeDoor(nursery)
            events = (
                [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "x"}]
                if self._is_websocket
                else [{"type": "http.request", "body": b"", "more_body": False}]
            )

            async def receive() -> Any:
                await trio.lowlevel.checkpoint()
                if not events:
                    await trio.sleep_forever()
                return events.pop(0)

            async def send(event: Any) -> None:
                await trio.lowlevel.checkpoint()
                self.sent.append(event)

            nursery.start_soon(self._drive)
            await self.parts.web(self._scope(), receive, send)  # type: ignore[arg-type]  # a dict
            if self.door is not None:
                await self.door.ended.wait()
                assert self.door.session is not None
                self.door.session.leave()

    async def _drive(self) -> None:
        hub = self.parts.hub
        while not hub.streams():  # noqa: ASYNC110 the hub sets no event
            await trio.lowlevel.checkpoint()
        (stream,) = hub.streams()
        for sequence in (1, 2):
            hub.publish_batch([make_message(sequence, "a")])
            stream.flush()
            await trio.lowlevel.checkpoint()
        stream.post(reconnect(1, "shutdown"))
        stream.close(CloseReason.SHUTDOWN)

    def check(self) -> None:
        """Nothing has stayed behind, and everything is accounted for."""
        if self.door is not None and self.door.session is not None:
            self.door.session.leave()  # as the connection does when it ends
        statistics = self.parts.hub.statistics()
        assert self.parts.hub.streams() == []
        assert (statistics.subscriptions, statistics.devices_watched) == (0, 0)
        assert statistics.waiting == 0
        assert statistics.offered == statistics.delivered + sum(statistics.dropped.values())
        assert sum(statistics.closed.values()) == sum(statistics.opened.values())


@pytest.mark.parametrize("with_door", [True, False], ids=["handed over", "through ASGI"])
@pytest.mark.parametrize("websocket", [True, False], ids=["websocket", "sse"])
async def test_a_handler_cancelled_at_any_step_leaves_nothing(
    websocket: bool, with_door: bool
) -> None:
    for step in range(1, _STEPS_LIMIT):
        call = Call(websocket=websocket, with_door=with_door)
        with trio.CancelScope() as scope:
            instrument = _CancelAtStep(scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await call.run()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        call.check()
        if not scope.cancelled_caught:
            break
    else:
        pytest.fail(f"not done after {_STEPS_LIMIT} steps")
    assert step > 10
    assert call.parts.hub.statistics().delivered == 2
    assert call.parts.hub.statistics().closed[CloseReason.SHUTDOWN] == 1
    if call.door is None:
        closing = [event for event in call.sent if event["type"] == "websocket.close"]
        assert [event["code"] for event in closing] == ([1012] if websocket else [])
    elif websocket:
        assert call.door.last == b"\x88\x02" + (1012).to_bytes(2, "big")
    else:
        assert call.door.last == b"0\r\n\r\n"
