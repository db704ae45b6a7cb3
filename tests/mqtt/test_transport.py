"""The socket under paho, and the parts of paho that it leans on."""

from __future__ import annotations

import inspect
import logging
import socket

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.mosquitto import free_port
from tests.mqtt.fakes import publish_packet
from tracker.mqtt.transport import BufferedSocket, PahoClient, SocketReader, open_socket


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


def test_paho_is_given_its_packets_the_error_and_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        reader = SocketReader(ours, ours)
        buffered = BufferedSocket(reader)
        with pytest.raises(BlockingIOError):
            buffered.recv(1)
        assert not reader.fill()
        with pytest.raises(BlockingIOError):
            buffered.recv(1)
        theirs.sendall(b"\xd0\x00" + publish_packet(b"t", b"p"))
        assert reader.fill()
        assert reader.packets.is_for_paho()
        assert (buffered.recv(1), buffered.recv(9)) == (b"\xd0", b"\x00")
        with pytest.raises(BlockingIOError):
            buffered.recv(1)
        assert reader.packets.take_publishes() == [(b"t", b"p", False)]
        theirs.close()
        assert not reader.fill()
        assert buffered.recv(1) == b""
    closed = SocketReader(ours, ours)
    assert not closed.fill()
    with pytest.raises(OSError, match="Bad file descriptor"):
        BufferedSocket(closed).recv(1)


def test_who_watches_paho_gets_every_message_through_it() -> None:
    def own(*_: object) -> None:
        pass

    client = PahoClient(CallbackAPIVersion.VERSION2)
    client.on_message = own
    assert not client.is_watched(own)
    client.on_message = lambda *_: None
    assert client.is_watched(own)
    client.on_message = own
    client.on_log = own
    assert client.is_watched(own)
    client.on_log = None
    logger = logging.getLogger("watching")
    client.enable_logger(logger)
    logger.setLevel(logging.WARNING)
    assert not client.is_watched(own)
    logger.setLevel(logging.DEBUG)
    assert client.is_watched(own)
    client.disable_logger()
    client.message_callback_add("t", own)
    assert client.is_watched(own)


def test_a_socket_that_sent_a_part_of_a_frame_wants_it_again() -> None:
    class Partial:
        def send(self, data: bytes) -> int:
            return 0

    ours, theirs = socket.socketpair()
    with ours, theirs:
        buffered = BufferedSocket(SocketReader(Partial(), ours))
        with pytest.raises(BlockingIOError):
            buffered.send(b"frame")
        assert buffered.send(b"") == 0


def test_the_buffered_socket_is_the_socket_for_all_else() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        buffered = BufferedSocket(SocketReader(ours, ours))
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
