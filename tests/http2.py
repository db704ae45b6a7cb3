"""An HTTP/2 client over TLS, on the h2 library: frames as they are, nothing hidden."""

from __future__ import annotations

import ssl
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio

from tests.peer import DEADLINE_S


def tls_context(ca: str, *protocols: str) -> ssl.SSLContext:
    """A client's context that trusts `ca` and speaks `protocols` (ALPN)."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(list(protocols))
    return context


async def connect_tls(port: int, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    """Connect to a port of 127.0.0.1 and shake hands."""
    with trio.fail_after(DEADLINE_S):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        tls = trio.SSLStream(stream, context, server_hostname="127.0.0.1")
        await tls.do_handshake()
    return tls


class Http2Client:
    """One connection. What arrived is in `status`, `headers`, `data`, `ended` and `was_reset`, by
    stream; the windows are opened again for what was read, unless `reads` is False."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream], *, window: int = 65535) -> None:
        self.stream = stream
        self.headers: dict[int, dict[str, str]] = {}
        self.data: dict[int, bytearray] = defaultdict(bytearray)
        self.ended: set[int] = set()
        self.was_reset: dict[int, int] = {}
        self.terminated: h2.events.ConnectionTerminated | None = None
        self.has_ended = False
        self.reads = True
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window},
        )

    async def start(self) -> None:
        """Send the preface and our settings."""
        self.connection.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        """Send what the library has to say."""
        data = self.connection.data_to_send()
        if data:
            with trio.fail_after(DEADLINE_S):
                await self.stream.send_all(data)

    async def request(
        self, path: str, *headers: tuple[str, str], method: str = "GET", end: bool = True
    ) -> int:
        """Send a request's head; returns its stream."""
        stream_id = self.connection.get_next_available_stream_id()
        pseudo = [
            (":method", method),
            (":path", path),
            (":scheme", "https"),
            (":authority", "127.0.0.1"),
        ]
        # RFC 9113 §8.3: these come first.
        pseudo += [header for header in headers if header[0].startswith(":")]
        fields = [header for header in headers if not header[0].startswith(":")]
        self.connection.send_headers(stream_id, pseudo + fields, end_stream=end)
        await self.flush()
        return stream_id

    async def open_websocket(self, path: str, *headers: tuple[str, str]) -> int:
        """Send an extended CONNECT. RFC 8441 §4."""
        return await self.request(
            path,
            ("sec-websocket-version", "13"),
            *headers,
            method="CONNECT",
            end=False,
        )

    async def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send `data` on a stream, as far as its window is open; the rest when it is."""
        while data:
            size = min(
                len(data),
                self.connection.local_flow_control_window(stream_id),
                self.connection.max_outbound_frame_size,
            )
            if size == 0:
                await self.receive()
                continue
            self.connection.send_data(stream_id, data[:size])
            data = data[size:]
            await self.flush()
        if end:
            self.connection.end_stream(stream_id)
            await self.flush()

    async def receive(self) -> None:
        """Take in what arrives next."""
        with trio.fail_after(DEADLINE_S):
            data = await self.stream.receive_some(65536)
        if not data:
            self.has_ended = True
        for event in self.connection.receive_data(bytes(data)) if data else []:
            self._note(event)
        await self.flush()

    def _note(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.headers[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, h2.events.DataReceived):
            self.data[event.stream_id] += event.data
            if self.reads:
                self.connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.was_reset[event.stream_id] = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.terminated = event

    async def wait(self, is_true: Callable[[], bool]) -> None:
        """Receive until the condition holds, or fail when the connection ends before."""
        while not is_true():
            assert not self.has_ended, "the connection has ended"
            await self.receive()

    async def wait_status(self, stream_id: int) -> int:
        """The status of a stream's answer."""
        await self.wait(lambda: stream_id in self.headers)
        return int(self.headers[stream_id][":status"])

    async def answer(self, stream_id: int) -> tuple[int, bytes]:
        """A whole answer: status and body."""
        status = await self.wait_status(stream_id)
        await self.wait(lambda: stream_id in self.ended)
        return status, bytes(self.data[stream_id])

    async def read_frame(self, stream_id: int) -> tuple[int, bytes]:
        """The next WebSocket frame on a stream: opcode and payload."""
        data = self.data[stream_id]
        await self.wait(lambda: len(data) >= 2)
        size, start = data[1], 2
        if size == 126:
            await self.wait(lambda: len(data) >= 4)
            size, start = int.from_bytes(data[2:4], "big"), 4
        await self.wait(lambda: len(data) >= start + size)
        assert data[0] & 0xF0 == 0x80
        frame = data[0] & 0x0F, bytes(data[start : start + size])
        del data[: start + size]
        return frame
