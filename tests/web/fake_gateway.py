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

Event = tuple[str, str, int | None]
"""Name, JSON text and id of one event; no id for what is no live message."""

HELLO = {"version": "fake", "ping_s": 60, "buffer": 100}


class _Client:
    """One open stream."""

    def __init__(self, device_ids: tuple[str, ...]) -> None:
        self.device_ids = set(device_ids)
        self.send, self.events = trio.open_memory_channel[Event](math.inf)

    def tell(self, name: str, data: object) -> None:
        self.send.send_nowait((name, json.dumps(data), None))


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
        self.has_websockets = True
        """Whether the upgrade to one succeeds."""
        self.operations: list[dict[str, Any]] = []
        """Every operation on a live WebSocket."""
        self._open: set[_Client] = set()
        self._history: list[tuple[str, str]] = []

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
        self._history.append((device_id, payload))
        for client in self._open:
            if device_id in client.device_ids:
                client.send.send_nowait(("message", payload, len(self._history)))

    def tell(self, name: str, **data: object) -> None:
        """Send an event that belongs to no message to every stream."""
        for client in self._open:
            client.tell(name, data)

    def cut(self, after_ms: int | None = None) -> None:
        """End every open stream; with `after_ms`, say `reconnect` first, as a planned stop does."""
        for client in self._open:
            if after_ms is not None:
                client.tell("reconnect", {"after_ms": after_ms, "reason": "shutdown"})
            client.send.close()
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
            "active_subscribers": sum(len(client.device_ids) for client in self._open),
            "devices_being_monitored": len(
                frozenset().union(*(client.device_ids for client in self._open))
            ),
        }
        return json_response(200, figures)

    def _open_client(self, transport: str, args: MultiDict[str, str]) -> _Client:
        device_ids = tuple(args["device_ids"].split(","))
        client = _Client(device_ids)
        self.opened.append((transport, device_ids))
        self._open.add(client)
        reached = len(self._history)
        missed = range(int(args.get("last_event_id", reached)), reached)
        client.tell("hello", HELLO | {"position": str(missed.start)})
        if "last_event_id" in args:
            answer = {"status": "continued", "missed": len(missed), "position": str(missed.start)}
            client.tell("resume", answer)
        for event_id in missed:
            device_id, payload = self._history[event_id]
            if device_id in client.device_ids:
                client.send.send_nowait(("message", payload, event_id + 1))
        return client

    async def _hear(self, client: _Client) -> None:
        while True:
            operation = json.loads(await websocket.receive())
            self.operations.append(operation)
            change = {
                "subscribe": client.device_ids.update,
                "unsubscribe": client.device_ids.difference_update,
            }
            change[operation["op"]](operation["device_ids"])
            answer = {"op": operation["op"], "ref": operation["ref"]}
            client.tell("ack", answer | {"position": str(len(self._history))})

    async def _websocket(self) -> tuple[str, int] | None:
        if not self.has_websockets:
            return "", 403
        await websocket.accept()
        if self.refusal is not None:
            self.opened.append(("websocket", ()))
            await websocket.send(json.dumps(error_envelope(self.refusal), separators=(",", ":")))
            await websocket.close(1008)
            return None
        client = self._open_client("websocket", websocket.args)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear, client)
                async for name, text, event_id in client.events:
                    id_key = "" if event_id is None else f'"id":"{event_id}",'
                    await websocket.send(f'{{"event":"{name}",{id_key}"data":{text}}}')
                nursery.cancel_scope.cancel()
        finally:
            self._open.discard(client)
        return None

    async def _events(self) -> Response:
        if self.refusal is not None:
            self.opened.append(("sse", ()))
            return json_response(400, error_envelope(self.refusal))
        client = self._open_client("sse", request.args)

        async def blocks() -> AsyncIterator[bytes]:
            try:
                yield b": open\n\n"
                async for name, text, event_id in client.events:
                    id_line = "" if event_id is None else f"id: {event_id}\n"
                    yield f"event: {name}\n{id_line}data: {text}\n\n".encode()
            finally:
                self._open.discard(client)

        response = Response(blocks(), content_type="text/event-stream")
        response.timeout = None
        return response


def error_envelope(message: str) -> dict[str, Any]:
    return {"event": "error", "data": {"message": message}}


def json_response(status: int, body: dict[str, Any]) -> Response:
    text = json.dumps(body, separators=(",", ":"))
    return Response(text, status, content_type="application/json")
