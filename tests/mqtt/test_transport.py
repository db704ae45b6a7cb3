"""The socket under paho, and the parts of paho that it leans on."""

from __future__ import annotations

import inspect
import socket

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from tests.mosquitto import free_port
from tracker.mqtt.transport import BufferedSocket, PahoClient, open_socket


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_create_socket", []),
        ("_create_socket_connection", []),
        ("_create_unix_socket_connection", []),
        ("_ssl_wrap_socket", ["tcp_sock"]),
        ("_sock_close", []),
    ],
)
def test_paho_still_has_what_we_override(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(paho.Client, name)).parameters)[1:] == parameters
    source = inspect.getsource(paho.Client._create_socket)
    assert name in source or name in ("_create_socket", "_sock_close")


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=50), max_size=20),
    sizes=st.lists(st.integers(1, 40), min_size=1),
)
def test_what_is_read_is_what_was_sent(chunks: list[bytes], sizes: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        buffered = BufferedSocket(ours, ours)
        received = b""
        index = 0
        for chunk in chunks:
            theirs.sendall(chunk)
            while True:
                size = sizes[index % len(sizes)]
                index += 1
                try:
                    part = buffered.recv(size)
                except BlockingIOError:
                    assert buffered.pending() == 0
                    break
                assert 0 < len(part) <= size
                received += part
        assert received == b"".join(chunks)
        theirs.close()
        assert buffered.recv(1) == b""


def test_a_socket_that_sent_a_part_of_a_frame_wants_it_again() -> None:
    class Partial:
        def send(self, data: bytes) -> int:
            return 0

    ours, theirs = socket.socketpair()
    with ours, theirs:
        buffered = BufferedSocket(Partial(), ours)
        with pytest.raises(BlockingIOError):
            buffered.send(b"frame")
        assert buffered.send(b"") == 0


def test_the_buffered_socket_is_the_socket_for_all_else() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        buffered = BufferedSocket(ours, ours)
        assert buffered.fileno() == ours.fileno()
        assert buffered.getsockname() == ours.getsockname()
        buffered.setblocking(False)
        assert ours.getblocking() is False
        buffered.close()
        assert buffered.fileno() == -1


def test_a_client_closes_the_socket_that_it_was_given() -> None:
    client = PahoClient(CallbackAPIVersion.VERSION2)
    ours, theirs = socket.socketpair()
    with theirs:
        client.connected_socket = ours
        client.close_socket()
        assert ours.fileno() == -1
        client.close_socket()


@pytest.mark.parametrize("bind_port", [0, free_port()])
async def test_no_way_to_a_broker_is_the_first_error_met(bind_port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        await open_socket(
            hostname="127.0.0.1",
            port=free_port(),
            unix=False,
            bind_address="",
            bind_port=bind_port,
            options=(),
        )
