"""One stream over HTTP/2 with TLS, read and written like a `Wire`."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RemoteSettingsChanged, ResponseReceived, StreamEnded

from tests.raw import STREAM, Wire

_STREAM_ID = 1


class Http2Wire(Wire):
    """The stream's bytes, without HTTP/2's frames.

    `trust`: a TLS context of its own that trusts the gateway; `websocket`: with a handshake
    as of RFC 8441. `headers` are those of the answer.
    """

    def __init__(self, port: int, query: str, trust: ssl.SSLContext, *, websocket: bool) -> None:
        trust.set_alpn_protocols(["h2"])
        super().__init__(port, trust=trust)
        self._h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._has_settings = False
        self.headers: dict[str, str] = {}
        try:
            self._h2.initiate_connection()
            self._flush()
            self._advance_until(lambda: self._has_settings)
            self._h2.send_headers(
                _STREAM_ID, _request(query, websocket=websocket), end_stream=not websocket
            )
            self._flush()
            self._advance_until(lambda: bool(self.headers))
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes) -> None:
        """Send all of it, in one DATA frame."""
        self._h2.send_data(_STREAM_ID, data)
        self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _advance_until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            assert self._take(), "the connection ended"

    def _unwrap(self, data: bytes) -> bytes:
        payload = b""
        for event in self._h2.receive_data(data):
            if isinstance(event, RemoteSettingsChanged):
                self._has_settings = True
            elif isinstance(event, ResponseReceived):
                self.headers = {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, DataReceived):
                payload += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, _STREAM_ID)
            elif isinstance(event, StreamEnded):
                self._is_over = True
        self._flush()
        return payload


def _request(query: str, *, websocket: bool) -> list[tuple[str, str]]:
    target = [(":scheme", "https"), (":authority", "localhost"), (":path", STREAM + query)]
    if websocket:  # RFC 8441 §5
        return [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            *target,
            ("sec-websocket-version", "13"),
        ]
    return [(":method", "GET"), *target]
