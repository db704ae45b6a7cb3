"""A gateway just large enough for the page: its files, a list of devices, statistics, a stream.

Served under a path prefix, as behind a proxy, so that every test also shows that the page uses
relative URLs only. The visit's thread calls its methods by `trio.from_thread.run_sync`.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from quart import Response, request, websocket
from quart_trio import QuartTrio
from werkzeug.datastructures import MultiDict

PREFIX = "/behind/a/proxy"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CONTENT_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

Event = tuple[str, str]
"""Name and JSON text of one event."""


class FakeGateway:
    """What the page talks to. `devices` None: the list is switched off."""

    def __init__(self) -> None:
        self.url = ""
        self.devices: dict[str, dict[str, Any]] | None = {}
        self.max_device_ids = 1_000
        self.opened: list[tuple[str, tuple[str, ...]]] = []
        """Every stream ever opened: transport, device ids."""
        self.refusal: str | None = None
        """Refuse every stream with this message: close code 1008, status 400."""
        self._open: dict[trio.MemorySendChannel[Event], frozenset[str]] = {}

    @property
    def open_streams(self) -> int:
        return len(self._open)

    def place(self, device_id: str, lat: float, lon: float, **fields: Any) -> None:
        """Put a device on the list of devices."""
        assert self.devices is not None
        known = {"speed": None, "heading": None, "age_s": 0.5, "timestamp": "2026-01-01T00:00:00Z"}
        self.devices[device_id] = known | {"device_id": device_id, "lat": lat, "lon": lon} | fields

    def publish(self, device_id: str, payload: str) -> None:
        """Send a message's JSON text to every stream of that device."""
        for stream, ids in self._open.items():
            if device_id in ids:
                stream.send_nowait(("message", payload))

    def cut(self, after_ms: int | None = None) -> None:
        """End every open stream; with `after_ms`, say `reconnect` first, as a planned stop does."""
        for stream in tuple(self._open):
            if after_ms is not None:
                hint = {"after_ms": after_ms, "reason": "shutdown"}
                stream.send_nowait(("reconnect", json.dumps(hint)))
            stream.close()
        self._open.clear()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen on a free port of the loopback until the block ends; `url` is the page's."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}{PREFIX}/"
            config = Config()
            config.bind = [f"fd://{listener.detach()}"]
            config.errorlog = None
            config.h11_max_incomplete_size = 32 * 1024
            config.graceful_timeout = 0.1
            stopped = trio.Event()
            async with trio.open_nursery() as nursery:
                serve = partial(hypercorn.trio.serve, shutdown_trigger=stopped.wait)
                await nursery.start(serve, self._app(), config)
                try:
                    yield
                finally:
                    self.cut()
                    stopped.set()

    def _app(self) -> QuartTrio:
        app = QuartTrio("fake_gateway", static_folder=None)
        app.get(f"{PREFIX}/", defaults={"name": "index.html"})(self._file)
        app.get(f"{PREFIX}/<name>")(self._file)
        app.get(f"{PREFIX}/api/v1/devices")(self._devices)
        app.get(f"{PREFIX}/api/v1/stream/stats")(self._stats)
        app.get(f"{PREFIX}/api/v1/stream")(self._events)
        app.websocket(f"{PREFIX}/api/v1/stream")(self._websocket)
        return app

    async def _file(self, name: str) -> Response:
        content = files("tracker.web").joinpath("static", name).read_bytes()
        response = Response(content, content_type=CONTENT_TYPES[name.rpartition(".")[2]])
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response

    async def _devices(self) -> Response:
        if self.devices is None:
            return json_response(404, error_envelope("The list of devices is off"))
        devices = list(self.devices.values())
        body = {"devices": devices, "total": len(devices), "max_device_ids": self.max_device_ids}
        return json_response(200, body)

    async def _stats(self) -> Response:
        figures = {
            "total_messages_processed": 12345,
            "active_subscribers": sum(map(len, self._open.values())),
            "devices_being_monitored": len(frozenset().union(*self._open.values())),
        }
        return json_response(200, figures)

    def _subscribe(
        self, transport: str, args: MultiDict[str, str]
    ) -> tuple[trio.MemorySendChannel[Event], trio.MemoryReceiveChannel[Event]]:
        ids = tuple(args["device_ids"].split(","))
        send, receive = trio.open_memory_channel[Event](math.inf)
        self.opened.append((transport, ids))
        self._open[send] = frozenset(ids)
        return send, receive

    async def _websocket(self) -> None:
        await websocket.accept()
        if self.refusal is not None:
            self.opened.append(("websocket", ()))
            await websocket.send(json.dumps(error_envelope(self.refusal)))
            await websocket.close(1008)
            return
        send, receive = self._subscribe("websocket", websocket.args)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_until_gone)
                async for name, text in receive:
                    await websocket.send(f'{{"event":"{name}","data":{text}}}')
                nursery.cancel_scope.cancel()
        finally:
            self._open.pop(send, None)

    async def _events(self) -> Response:
        if self.refusal is not None:
            self.opened.append(("sse", ()))
            return json_response(400, error_envelope(self.refusal))
        send, receive = self._subscribe("sse", request.args)

        async def blocks() -> AsyncIterator[bytes]:
            try:
                yield b": open\n\n"
                async for name, text in receive:
                    yield f"event: {name}\ndata: {text}\n\n".encode()
            finally:
                self._open.pop(send, None)

        response = Response(blocks(), content_type="text/event-stream")
        response.timeout = None
        return response


async def read_until_gone() -> None:
    """A handler that only sends does not learn that its client left."""
    while True:
        await websocket.receive()


def error_envelope(message: str) -> dict[str, Any]:
    return {"event": "error", "data": {"message": message}}


def json_response(status: int, body: dict[str, Any]) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")
