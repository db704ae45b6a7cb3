"""A gateway that answers each connection as a test says, to see what the client makes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request, websocket
from quart_trio import QuartTrio
from trio_util import AsyncBool

STREAM = "/api/v1/stream"


@dataclass(frozen=True)
class Answer:
    """What one connection gets.

    On WebSocket the `messages`, then the close `code`; on SSE `status`, `headers` and `body`.
    Without a code, or with `stays`, the connection stays.
    """

    messages: tuple[str, ...] = ()
    code: int | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    stays: bool = False


class ScriptedGateway:
    """Answers with `answers`, one for each connection; `asked` are the queries, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: deque[Answer] = deque()
        self.asked: list[dict[str, str]] = []
        self._is_over = AsyncBool(False)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen until the block ends."""
        config = Config()
        config.bind = ["127.0.0.1:0"]
        config.errorlog = None
        config.graceful_timeout = 0.1
        async with trio.open_nursery() as nursery:
            urls: list[str] = await nursery.start(serve, self._app(), config)
            self.url = urls[0]
            yield
            self._is_over.value = True
            nursery.cancel_scope.cancel()

    def _app(self) -> QuartTrio:
        app = QuartTrio("scripted", static_folder=None)
        app.get("/tracker.js")(self._file)
        app.get(STREAM)(self._events)
        app.websocket(STREAM)(self._websocket)
        return app

    async def _file(self) -> Response:
        content = (files("tracker.web") / "static" / "tracker.js").read_bytes()
        return Response(content, content_type="text/javascript")

    async def _websocket(self) -> None:
        self.asked.append(dict(websocket.args))
        answer = self.answers.popleft()
        await websocket.accept()
        for message in answer.messages:
            await websocket.send(message)
        if answer.code is None:
            await self._is_over.wait_value(True)
        else:
            await websocket.close(answer.code)

    async def _events(self) -> Response:
        self.asked.append(dict(request.args))
        answer = self.answers.popleft()

        async def body() -> AsyncIterator[bytes]:
            yield answer.body.encode()
            if answer.stays:
                await self._is_over.wait_value(True)

        headers = {"Content-Type": "text/event-stream"} | answer.headers
        response = Response(body(), answer.status, headers)
        response.timeout = None
        return response
