"""What we assume of Quart and Quart-Trio, each by name, without our own app or server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from quart import Response, websocket
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio

HTTP: dict[str, Any] = {
    "type": "http",
    "asgi": {"spec_version": "2.3", "version": "3.0"},
    "http_version": "1.1",
    "scheme": "http",
    "method": "GET",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"x")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 2),
    "extensions": {"ours": "kept"},
}
WEBSOCKET = {**HTTP, "type": "websocket", "scheme": "ws", "subprotocols": []}


class Call:
    """A call of an app: `events` is what it sent; what is put into `inbox` it receives."""

    def __init__(self, app: QuartTrio, scope: dict[str, Any]) -> None:
        self._app = app
        self._scope = scope
        self.events: list[dict[str, Any]] = []
        self._put, self._inbox = trio.open_memory_channel[dict[str, Any]](100)

    def tell(self, **event: object) -> None:
        self._put.send_nowait(event)

    async def _send(self, event: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.events.append(event)

    async def run(self) -> None:
        await self._app(self._scope, self._inbox.receive, self._send)  # type: ignore[arg-type]

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]


class Body(ResponseBody):
    """A body that notes what happens to it."""

    def __init__(self, call: list[Call], record: list[object], *, waits: bool = False) -> None:
        self._call = call
        self._record = record
        self._waits = waits

    async def __aenter__(self) -> Body:
        self._record.append(list(self._call[0].kinds))
        return self

    async def __aexit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        self._record.append(exc_type)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts()

    async def _parts(self) -> AsyncIterator[bytes]:
        yield b"part"
        if self._waits:
            await trio.sleep_forever()


def streaming(record: list[object], call: list[Call], *, waits: bool) -> QuartTrio:
    app = QuartTrio("contract")

    @app.get("/")
    async def stream() -> Response:
        response = Response(Body(call, record, waits=waits))
        response.timeout = None
        return response

    return app


async def test_a_body_is_entered_behind_the_headers_and_left_before_the_end() -> None:
    """`web.sse`: the connection is handed over in `__aenter__`."""
    record: list[object] = []
    calls: list[Call] = []
    call = Call(streaming(record, calls, waits=False), HTTP)
    calls.append(call)
    call.tell(type="http.request", body=b"", more_body=False)
    await call.run()
    assert record == [["http.response.start"], None]
    assert call.kinds == ["http.response.start", *["http.response.body"] * 2]
    assert [event.get("more_body") for event in call.events[1:]] == [True, False]


async def test_a_disconnect_cancels_the_body(nursery: trio.Nursery) -> None:
    record: list[object] = []
    calls: list[Call] = []
    call = Call(streaming(record, calls, waits=True), HTTP)
    calls.append(call)
    call.tell(type="http.request", body=b"", more_body=False)
    nursery.start_soon(call.run)
    await trio.testing.wait_all_tasks_blocked()
    call.tell(type="http.disconnect")
    await trio.testing.wait_all_tasks_blocked()
    assert record == [["http.response.start"], trio.Cancelled]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_websocket_handler_that_returns_is_closed_as_if_all_were_well(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Why a connection that was handed over lets nothing of it pass: `server.tasks`; and why
    `web.app` closes it by 1011 where the handler failed."""
    app = QuartTrio("contract")
    extensions: list[object] = []

    @app.websocket("/")
    async def handler() -> None:
        await websocket.accept()
        extensions.append(dict(websocket.scope["extensions"]))
        if fails:
            raise ZeroDivisionError

    call = Call(app, WEBSOCKET)
    call.tell(type="websocket.connect")
    await call.run()
    assert call.kinds == ["websocket.accept", "websocket.close"]
    assert call.events[1]["code"] == 1000
    assert extensions == [{"ours": "kept"}]


async def test_nothing_leaves_before_accept() -> None:
    """`web.stream` accepts first, whatever the parameters are."""
    app = QuartTrio("contract")
    seen: list[list[str]] = []

    @app.websocket("/")
    async def handler() -> None:
        seen.append(call.kinds)
        await websocket.accept()
        seen.append(call.kinds)

    call = Call(app, WEBSOCKET)
    call.tell(type="websocket.connect")
    await call.run()
    assert seen == [[], ["websocket.accept"]]


async def test_a_handler_that_listens_hears_of_the_disconnect_in_one_of_two_ways(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """Quart-Trio 0.12 cancels it, 0.13 raises; neither is an error of the app, as long as a
    nursery around it is cancelled too: alone, 0.13 logs it with a traceback."""
    app = QuartTrio("contract")
    left: list[str] = []

    @app.websocket("/")
    async def handler() -> None:
        await websocket.accept()
        async with trio.open_nursery() as writing:
            writing.start_soon(trio.sleep_forever)
            try:
                while True:
                    await websocket.receive()
            except BaseException as error:
                left.append(type(error).__name__)
                raise

    call = Call(app, WEBSOCKET)
    call.tell(type="websocket.connect")
    call.tell(type="websocket.receive", text="x", bytes=None)
    nursery.start_soon(call.run)
    await trio.testing.wait_all_tasks_blocked()
    call.tell(type="websocket.disconnect", code=1006)
    await trio.testing.wait_all_tasks_blocked()
    assert left in (["Cancelled"], ["ClientDisconnectedError"])
    assert caplog.records == []


async def test_an_empty_binary_message_is_received_as_nothing() -> None:
    """`web.socket` does not look at what it receives."""
    app = QuartTrio("contract")
    received: list[object] = []

    @app.websocket("/")
    async def handler() -> None:
        await websocket.accept()
        received.append(await websocket.receive())

    call = Call(app, WEBSOCKET)
    call.tell(type="websocket.connect")
    call.tell(type="websocket.receive", text=None, bytes=b"")
    await call.run()
    assert received == [None]
