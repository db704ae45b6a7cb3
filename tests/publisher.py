"""A device that publishes: MQTT 3.1.1 in its own bytes, over one blocking socket.

Not a client library: a test must know when the broker has a message, and see it die at once.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

DEADLINE_S = 20.0

_CONNECT, _CONNACK, _PUBLISH, _PINGREQ, _PINGRESP = 0x10, 0x20, 0x30, 0xC0, 0xD0
_PUBACK = 0x40
_RETAIN = 0x01
_QOS_1 = 0x02
_CLEAN_SESSION = 0x02
# Nobody lives that long without a word; iotcore refuses 0, which would mean "for ever".
_KEEPALIVE_S = 255

_numbers = itertools.count(1)


class Publisher:
    """Connected to the broker at `port` of 127.0.0.1.

    Raises: OSError, here and in all its methods, when the broker is away.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            client_id = _text(f"publisher-{os.getpid()}-{next(_numbers)}")
            self._send(
                _CONNECT, _text("MQTT"), bytes((4, _CLEAN_SESSION, 0, _KEEPALIVE_S)), client_id
            )
            self._expect(bytes((_CONNACK, 2, 0, 0)))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send one message with QoS 0."""
        self._send(_PUBLISH | (_RETAIN if retain else 0), _text(topic), payload)

    def deliver(self, topic: str, payload: bytes) -> None:
        """Send one message with QoS 1; return when the broker has acknowledged it."""
        packet_id = b"\0\1"
        self._send(_PUBLISH | _QOS_1, _text(topic), packet_id, payload)
        self._expect(bytes((_PUBACK, 2)) + packet_id)

    def flush(self) -> None:
        """Return when the broker has taken in all that was published before."""
        self._send(_PINGREQ)
        self._expect(bytes((_PINGRESP, 0)))

    def close(self) -> None:
        """Leave. Idempotent."""
        self._socket.close()

    def _send(self, first: int, *parts: bytes) -> None:
        body = b"".join(parts)
        self._socket.sendall(bytes((first,)) + _length(len(body)) + body)

    def _expect(self, packet: bytes) -> None:
        received = b""
        while len(received) < len(packet):
            data = self._socket.recv(len(packet) - len(received))
            if not data:
                raise ConnectionError("the broker closed the connection")
            received += data
        if received != packet:
            raise ConnectionError(f"the broker answered {received!r}, expected {packet!r}")


class Publishing:
    """A thread that publishes at a steady rate, to a broker that may come and go.

    `payload`: the message for a number. `sent`: the numbers of the messages that a broker's
    socket took; `next_number`: that of the next one.
    """

    def __init__(self, port: int, payload: Callable[[int], bytes], *, rate_hz: float) -> None:
        self.sent: list[int] = []
        self.next_number = 0
        self._port = port
        self._payload = payload
        self._rate_hz = rate_hz
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publishing")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        begun_s = time.monotonic()
        publisher: Publisher | None = None
        while not self._stop.wait(
            max(0, begun_s + self.next_number / self._rate_hz - time.monotonic())
        ):
            number, self.next_number = self.next_number, self.next_number + 1
            try:
                publisher = publisher or Publisher(self._port)
                publisher.publish(f"trackers/{number}", self._payload(number))
                self.sent.append(number)
            except OSError:
                if publisher is not None:
                    publisher.close()
                publisher = None
        if publisher is not None:
            publisher.close()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _length(size: int) -> bytes:
    """The remaining length. MQTT 3.1.1 §2.2.3."""
    encoded = bytearray()
    while True:
        size, digit = divmod(size, 128)
        encoded.append(digit | 0x80 if size else digit)
        if not size:
            return bytes(encoded)
