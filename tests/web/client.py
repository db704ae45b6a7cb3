"""A client of the stream that tells event by event what it hears, on either transport."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.gateway import Gateway
from tests.peer import CLOSE, PING, TEXT, Peer, client_frame, close_frame


@dataclass(frozen=True, slots=True)
class Heard:
    """One event: `data` is its JSON value, `id` empty for none.

    A block of SSE that is only an id has no name. The end of a stream is called `end`, with the
    code of the close frame.
    """

    name: str
    data: Any = None
    id: str = ""

    @property
    def number(self) -> int:
        """The `N` of a payload that the tests publish."""
        number: int = self.data["data"]["N"]
        return number


class StreamClient(ABC):
    """What a client hears, in order. Heartbeats are passed over."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    @abstractmethod
    async def open(self, query: str, *headers: str) -> None:
        """Open the stream; `query` begins with the value of `device_ids`."""

    @abstractmethod
    async def hear_raw(self) -> Heard:
        """The next event, or the end."""

    async def hear(self) -> Heard:
        """The next event that reaches the user of a client: a position alone does not."""
        while not (heard := await self.hear_raw()).name:
            pass
        return heard

    async def hear_many(self, count: int) -> list[Heard]:
        """The next events."""
        return [await self.hear() for _ in range(count)]

    async def hear_until(self, is_last: Callable[[Heard], bool]) -> list[Heard]:
        """The next events, up to the one that is the last."""
        heard = [await self.hear()]
        while not is_last(heard[-1]):
            assert heard[-1].name != "end", heard[-5:]
            heard.append(await self.hear())
        return heard

    async def hear_to_end(self) -> list[Heard]:
        """All that comes until the end, which is included."""
        return await self.hear_until(lambda heard: heard.name == "end")

    @abstractmethod
    async def leave(self) -> None:
        """End the connection."""


class SocketClient(StreamClient):
    """On a WebSocket."""

    async def open(self, query: str, *headers: str) -> None:
        head = await self.peer.open_websocket(query, *headers)
        assert head.status == 101, head

    async def hear_raw(self) -> Heard:
        while (frame := await self.peer.read_frame()).opcode == PING:
            pass
        if frame.opcode == CLOSE:
            return Heard("end", frame.code)
        assert frame.opcode == TEXT, frame
        told = json.loads(frame.payload)
        assert set(told) <= {"event", "id", "data"}
        return Heard(told["event"], told["data"], told.get("id", ""))

    async def say(self, *operations: object) -> None:
        """Send operations: objects as JSON, texts as they are."""
        texts = [each if isinstance(each, str) else json.dumps(each) for each in operations]
        await self.peer.send(b"".join(client_frame(TEXT, text.encode()) for text in texts))

    async def ask(self, operation: object) -> Heard:
        """Send one operation and hear what comes next: its answer, where nothing is published."""
        await self.say(operation)
        return await self.hear()

    async def leave(self) -> None:
        await self.peer.send(close_frame(1000))
        await self.peer.read_frames_to_end()
        self.peer.forget()


class EventsClient(StreamClient):
    """On Server-Sent Events. `retry_ms`: what the last `retry:` line said."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        self._blocks: list[str] = []
        self._partial = ""
        self.retry_ms: int | None = None

    async def open(self, query: str, *headers: str) -> None:
        head = await self.peer.open_sse(query, *headers)
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream"), head

    async def hear_raw(self) -> Heard:
        while True:
            while not self._blocks:
                data = (await self.peer.read_chunk()).decode()
                if not data:
                    return Heard("end")
                *self._blocks, self._partial = (self._partial + data).split("\n\n")
            if (block := self._blocks.pop(0)) != ":":
                return self._parse(block)

    def _parse(self, block: str) -> Heard:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        assert set(fields) <= {"event", "id", "data", "retry"}, block
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
        data = json.loads(fields["data"]) if "data" in fields else None
        return Heard(fields.get("event", ""), data, fields.get("id", ""))

    async def leave(self) -> None:
        self.peer.forget()


CLIENTS: dict[str, type[StreamClient]] = {"websocket": SocketClient, "sse": EventsClient}


async def open_client(
    gateway: Gateway,
    transport: str,
    query: str,
    *headers: str,
    receive_buffer_bytes: int | None = None,
) -> StreamClient:
    """A client of `gateway`; the stream is open when it returns."""
    count = len(gateway.parts.hub.streams())
    client = CLIENTS[transport](await gateway.connect(receive_buffer_bytes=receive_buffer_bytes))
    await client.open(query, *headers)
    await gateway.wait_streams(count + 1)
    return client


async def open_socket(
    gateway: Gateway, query: str, *headers: str, receive_buffer_bytes: int | None = None
) -> SocketClient:
    """A client on a WebSocket, which can say something."""
    client = await open_client(
        gateway, "websocket", query, *headers, receive_buffer_bytes=receive_buffer_bytes
    )
    assert isinstance(client, SocketClient)
    return client
