"""A subscription by either transport, in one shape: what a client of the gateway sees."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import trio

from tracker.doctor.event_stream import EventStreamParser, ServerEvent
from tracker.doctor.remedies import (
    BUFFERING,
    PATH,
    UPGRADE,
    remedy_for_status,
    remedy_for_unreachable,
)
from tracker.terminal.text import printable
from tracker.watch.address import GatewayAddress
from tracker.watch.connection import Connection, open_connection
from tracker.watch.dial import make_dial
from tracker.watch.errors import ClosedError, HandshakeError, UnreachableError
from tracker.watch.http import HttpError, Response, open_response
from tracker.watch.message import UndecodableError, decode

#: Whom the doctor plays: one device, always the same, so that lists of devices stay clean.
DEVICE_ID = "tracker-doctor"

WEBSOCKET = "WebSocket"
SSE = "SSE"

#: The gateway answers at once, by either transport.
_HEAD_S = 5.0
_NO_UPGRADE = (200, 400, 426, None)

_SSE_HEADERS = {
    "Accept": "text/event-stream",
    # As a browser: without it no proxy compresses, and none that compresses holds back.
    "Accept-Encoding": "gzip",
    "Cache-Control": "no-store",
}


class OpenError(Exception):
    """A subscription cannot be had. The text says why, `remedy` what to do."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.remedy = remedy


class CutError(Exception):
    """A subscription ended by itself. The text says how."""


class Subscription(Protocol):
    """An open subscription to `DEVICE_ID`."""

    transport: str

    async def next_event(self) -> ServerEvent:
        """Receive the next event. Raises: CutError. Cancellation: atomic."""


class _WebSocketSubscription:
    transport = WEBSOCKET

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def next_event(self) -> ServerEvent:
        while True:
            try:
                text = await self._connection.receive()
            except ClosedError as error:
                raise CutError(str(error)) from None
            try:
                item = decode(text if isinstance(text, str) else "")
            except UndecodableError:
                continue  # somebody else's WebSocket: what we wait for will not come
            return ServerEvent(getattr(item, "name", "message"), item.text)


class _SseSubscription:
    transport = SSE

    def __init__(self, response: Response) -> None:
        self._response = response
        self._parser = EventStreamParser()
        self._events: deque[ServerEvent] = deque()

    async def next_event(self) -> ServerEvent:
        while not self._events:
            try:
                data = await self._response.receive()
            except HttpError as error:
                raise CutError(str(error)) from None
            if not data:
                raise CutError("the answer ended")
            self._events.extend(self._parser.feed(data))
        return self._events.popleft()


@asynccontextmanager
async def open_websocket(
    address: GatewayAddress, context: ssl.SSLContext | None
) -> AsyncIterator[Subscription]:
    """Subscribe by WebSocket. Raises: OpenError. Cancellation: the connection is cut."""
    try:
        async with open_connection(
            address, [DEVICE_ID], dial=make_dial(context), connect_s=_HEAD_S
        ) as connection:
            yield _WebSocketSubscription(connection)
    except HandshakeError as error:
        if error.status in _NO_UPGRADE:
            remedy = UPGRADE
        else:
            remedy = remedy_for_status(error.status or 0, error.location)
        raise OpenError(str(error), remedy) from None
    except UnreachableError as error:
        raise OpenError(str(error), remedy_for_unreachable(error, address)) from None


@asynccontextmanager
async def open_sse(
    address: GatewayAddress, context: ssl.SSLContext | None
) -> AsyncIterator[Subscription]:
    """Subscribe by SSE. Raises: OpenError. Cancellation: the connection is cut."""
    async with AsyncExitStack() as stack:
        opening = open_response(
            address,
            address.stream_target([DEVICE_ID]),
            user_agent=DEVICE_ID,
            ssl_context=context,
            headers=_SSE_HEADERS,
        )
        try:
            with trio.fail_after(_HEAD_S):
                response = await stack.enter_async_context(opening)
        except trio.TooSlowError:
            raise OpenError(f"nothing of the answer came within {_HEAD_S:g} s", BUFFERING) from None
        except UnreachableError as error:
            raise OpenError(str(error), remedy_for_unreachable(error, address)) from None
        except HttpError as error:
            raise OpenError(str(error), "look into the proxy's log, and the gateway's") from None
        if response.status != 200:
            remedy = remedy_for_status(response.status, response.headers.get("location"))
            raise OpenError(f"answered with HTTP status {response.status}", remedy)
        content_type = response.headers.get("content-type", "")
        if not content_type.startswith("text/event-stream"):
            raise OpenError(f"answered with {printable(content_type) or 'no type'}", PATH)
        yield _SseSubscription(response)
