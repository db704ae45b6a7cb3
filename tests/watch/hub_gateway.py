"""A gateway in memory that is true to the wire: the real hub, over a wire that a test cuts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from tests.fakes import make_message
from tracker.domain.event import PING, UPSTREAM_BACK, UPSTREAM_LOST
from tracker.domain.history import HistoryLimits
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.queue import QueueLimits
from tracker.domain.stream import Stream
from tracker.domain.transport import WEBSOCKET_LINES
from tracker.watch.address import GatewayAddress
from tracker.watch.errors import UnreachableError
from tracker.web.operations import perform
from tracker.web.parameters import parse_device_ids, parse_options

DEVICES_LIMIT = 5
PING_S = 20.0


class Wire(trio.abc.HalfCloseableStream):
    """The client's end of a connection, until it is cut."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._budget_bytes: int | None = None
        self._is_cut = False

    def cut_after(self, size: int | None) -> None:
        """End behind the next `size` bytes of the gateway, wherever that is."""
        self._budget_bytes = size

    async def cut(self) -> None:
        """End it now."""
        self._is_cut = True
        await trio.aclose_forcefully(self._stream)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        budget = self._budget_bytes
        if budget == 0:
            await self.cut()
        if self._is_cut:
            raise trio.BrokenResourceError
        limit = budget if max_bytes is None or budget is None else min(budget, max_bytes)
        try:
            data = await self._stream.receive_some(limit or max_bytes)
        except trio.ClosedResourceError:
            if self._is_cut:
                raise trio.BrokenResourceError from None
            raise
        if self._budget_bytes is not None:
            self._budget_bytes = max(0, self._budget_bytes - len(data))
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_cut:
            raise trio.BrokenResourceError
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Outbox:
    """Hands lines to the task that sends them."""

    def __init__(self) -> None:
        self.writable = True
        self.on_writable: Callable[[], object] | None = None
        self.on_stalled: Callable[[], object] | None = None
        self.lines: deque[bytes] = deque()
        self.has_lines = trio.Event()

    @property
    def refusing(self) -> bool:
        return bool(self.lines)

    def write_nowait(self, data: bytes) -> None:
        self.lines.extend(data.splitlines())
        self.writable = False
        self.has_lines.set()

    def push_nowait(self) -> None:
        pass

    async def wait_writable(self) -> bool:
        raise NotImplementedError


class HubGateway:
    """Serves what `dial` connects to it; `published`: device and sequence of all messages."""

    def __init__(self, nursery: trio.Nursery, *, history: int = 1000, buffer: int = 1000) -> None:
        self._nursery = nursery
        self._settings = HubSettings(
            queue=QueueLimits(messages=buffer),
            history=HistoryLimits(messages=history),
            ping_s=PING_S,
        )
        self._lives = 0
        self.hub = self._new_hub()
        self.wires: list[Wire] = []
        self.targets: list[str] = []
        self.published: list[tuple[str, int]] = []
        self._is_flowing = trio.Event()
        self._is_flowing.set()
        self._is_away = False
        nursery.start_soon(self._ping)

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_S)
            for stream in self.hub.streams():
                stream.post(PING)

    def _new_hub(self) -> Hub:
        self._lives += 1
        return Hub(self._settings, epoch=f"life{self._lives}")

    # What a test does to it

    def publish(self, device_id: str, messages: int = 1) -> None:
        """Messages of a device, numbered over all lives of the gateway."""
        for _ in range(messages):
            number = len(self.published) + 1
            self.published.append((device_id, number))
            data = b'{"timestamp":"t","data":{"DEVICE_ID":"%b","N":%d}}' % (
                device_id.encode(),
                number,
            )
            sequence = self.hub.sequence + 1
            message = make_message(sequence, device_id, data, epoch=self.hub.epoch)
            for stream in self.hub.publish_batch([message]):
                stream.flush()

    def lose(self, messages: int) -> None:
        """The hand-over overflows."""
        self.hub.note_lost(messages)

    def set_upstream(self, *, is_lost: bool) -> None:
        """The broker goes or comes."""
        self.hub.note_upstream(is_lost=is_lost)
        for stream in self.hub.streams():
            stream.post(UPSTREAM_LOST if is_lost else UPSTREAM_BACK)

    def hold(self) -> None:
        """Send nothing, as if the client took nothing."""
        if self._is_flowing.is_set():
            self._is_flowing = trio.Event()

    def flow(self) -> None:
        """Send again."""
        self._is_flowing.set()

    def calm(self) -> None:
        """Send, and cut nothing any more."""
        self.flow()
        for wire in self.wires:
            wire.cut_after(None)

    def cut_after(self, size: int) -> None:
        """Cut the newest connection behind so many more bytes."""
        if self.wires:
            self.wires[-1].cut_after(size)

    async def restart(self) -> None:
        """Another life, without a history."""
        self._is_away = True
        for wire in self.wires:
            await wire.cut()
        await trio.testing.wait_all_tasks_blocked()
        self.hub = self._new_hub()
        self._is_away = False

    # The wire

    async def dial(self, address: GatewayAddress) -> trio.abc.Stream:
        """What `open_stream` takes as `dial`."""
        await trio.lowlevel.checkpoint()
        if self._is_away:
            raise UnreachableError("away")
        client, server = trio.testing.memory_stream_pair()
        wire = Wire(client)
        self.wires.append(wire)
        self._nursery.start_soon(self._serve, server)
        return wire

    async def _serve(self, server: trio.abc.Stream) -> None:
        try:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(nursery, server)
                self.targets.append(request.path)
                query = parse_qs(urlsplit(request.path).query)

                def get(name: str) -> str | None:
                    return query[name][0] if name in query else None

                websocket = await request.accept()
                outbox = _Outbox()
                device_ids = parse_device_ids(query["device_ids"], DEVICES_LIMIT)
                options = parse_options(get, None)
                with self.hub.open_stream(device_ids, outbox, WEBSOCKET_LINES, options) as stream:
                    stream.flush()
                    nursery.start_soon(self._send, websocket, outbox)
                    await self._hear(websocket, stream, self.hub)
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(server)

    async def _send(self, websocket: WebSocketConnection, outbox: _Outbox) -> None:
        while True:
            await outbox.has_lines.wait()
            while outbox.lines:
                await self._is_flowing.wait()
                await websocket.send_message(outbox.lines[0].decode())
                outbox.lines.popleft()
            outbox.has_lines = trio.Event()
            outbox.writable = True
            if outbox.on_writable is not None:
                outbox.on_writable()

    async def _hear(self, websocket: WebSocketConnection, stream: Stream, hub: Hub) -> None:
        while True:
            text = await websocket.get_message()
            answer = perform(str(text), stream, hub, limit=DEVICES_LIMIT, now_ns=0)
            if answer is not None:
                stream.answer(answer)
