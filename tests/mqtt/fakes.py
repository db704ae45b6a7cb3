"""Brokers that do what mosquitto does not: stay silent, talk nonsense, or talk all at once."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

CONNACK = b"\x20\x02\x00\x00"


@asynccontextmanager
async def scripted_broker(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Listen on a port, which is yielded, and send `answers[n]` after the n-th thing received.

    Without answers it accepts and stays silent, TLS included. After the last one it reads on.
    """

    async def serve(stream: trio.abc.Stream) -> None:
        try:
            if answers and tls is not None:
                stream = trio.SSLStream(stream, tls, server_side=True)
            for answer in answers:
                await stream.receive_some()
                await stream.send_all(answer)
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass  # the client went
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port: int = listeners[0].socket.getsockname()[1]
        yield port
        nursery.cancel_scope.cancel()


def publish_packet(topic: bytes, payload: bytes) -> bytes:
    """Return an MQTT 3.1.1 PUBLISH at QoS 0 (§3.3), of less than 128 bytes."""
    body = len(topic).to_bytes(2, "big") + topic + payload
    assert len(body) < 128
    return bytes([0x30, len(body)]) + body
