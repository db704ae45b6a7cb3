"""The sockets below a connection: listeners, reading, progress."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypercorn.config import Config

from tracker.server.sockets import (
    BindError,
    SocketStream,
    accept,
    acknowledged_bytes,
    end_soon,
    open_listeners,
    receive,
    urls_of,
    wait_progress,
)

DEADLINE_S = 20.0
SHORT_S = 0.2

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected TCP sockets, ours non-blocking, with small buffers on both sides."""
    with socket.socket() as listener, socket.socket() as theirs:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.connect(listener.getsockname())
        ours, _ = listener.accept()
        with ours:
            ours.setblocking(False)
            yield ours, theirs


def make_config(*bind: str) -> Config:
    config = Config()
    config.bind = list(bind)
    return config


def fill(sock: socket.socket) -> int:
    """Send until the kernel refuses; how many bytes it took."""
    taken = 0
    try:
        while True:
            taken += sock.send(b"x" * 65536)
    except BlockingIOError:
        return taken


# Listeners


# Hypercorn leaves the socket that it could not bind to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BindError, match=rf"^cannot listen on {address}: Address already in"):
            open_listeners(make_config(address))


def test_an_address_that_is_taken_between_bind_and_listen_is_named() -> None:
    """With SO_REUSEADDR two may bind; the second finds out when it listens."""
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{rival.getsockname()[1]}"
        config = make_config(address)
        bound = config.create_sockets()
        rival.listen()
        config.create_sockets = lambda: bound  # type: ignore[method-assign]  # what bind left us
        with pytest.raises(BindError, match=f"^cannot listen on {address}: "):
            open_listeners(config)


def test_an_accepted_socket_has_the_options_of_its_listener() -> None:
    secure, (listener,) = open_listeners(make_config("127.0.0.1:0"))
    assert secure == []
    with (
        listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        tcp = socket.IPPROTO_TCP
        # It would cut a slow client in the midst of its progress.
        assert accepted.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 0
        assert accepted.getsockopt(tcp, socket.TCP_NODELAY) == 1
        assert accepted.getsockopt(tcp, socket.TCP_NOTSENT_LOWAT) == 16 * 1024
        assert accepted.getsockopt(tcp, socket.TCP_KEEPIDLE) == 30
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_urls_tell_where_one_can_really_connect(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    _, listeners = open_listeners(make_config("127.0.0.1:0", "[::1]:0", f"unix:{path}"))
    v4, v6, _ = (listener.getsockname() for listener in listeners)
    assert urls_of(listeners, "http") == [
        f"http://127.0.0.1:{v4[1]}",
        f"http://[::1]:{v6[1]}",
        f"http+unix:{path}",
    ]
    for listener in listeners:
        listener.close()


# Accepting


async def test_accept_gives_non_blocking_sockets_in_order() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with (
            socket.create_connection(listener.getsockname()) as first,
            socket.create_connection(listener.getsockname()) as second,
        ):
            for client in (first, second):
                with await accept(listener) as accepted:
                    assert accepted.getpeername() == client.getsockname()
                    assert not accepted.getblocking()


class _Listener:
    """A listener whose `accept` fails as it is told, and then finds nobody."""

    def __init__(self, *errors: int) -> None:
        self._errors = list(errors)
        self.calls = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.calls += 1
        raise OSError(self._errors.pop(0), "told to")


async def test_a_peer_that_left_before_it_was_accepted_is_passed_over() -> None:
    """accept(2): "treat them like EAGAIN by retrying"."""
    listener = _Listener(errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EMFILE)
    with pytest.raises(OSError, match="told to") as raised:
        await accept(listener)  # type: ignore[arg-type]  # only `accept` is asked for
    assert raised.value.errno == errno.EMFILE
    assert listener.calls == 4


# Receiving


async def test_receive_waits_for_data_and_tells_the_end(pair: Pair) -> None:
    ours, theirs = pair
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            assert await receive(ours) == b"now"

        await trio.testing.wait_all_tasks_blocked()
        theirs.sendall(b"now")
    theirs.shutdown(socket.SHUT_WR)
    with trio.fail_after(DEADLINE_S):
        assert await receive(ours) == b""


async def test_receive_lets_others_have_their_turn_also_when_data_is_there(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"here")
    with trio.testing.assert_checkpoints():
        assert await receive(ours) == b"here"


async def test_a_cancelled_receive_takes_nothing(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"kept")
    with trio.CancelScope() as scope:
        scope.cancel()
        await receive(ours)
    assert scope.cancelled_caught
    with trio.fail_after(DEADLINE_S):
        assert await receive(ours) == b"kept"


async def test_a_reset_is_an_end(pair: Pair) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    with trio.fail_after(DEADLINE_S):
        assert await receive(ours) == b""


async def test_a_socket_closed_meanwhile_is_an_end(pair: Pair) -> None:
    ours, _ = pair
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            assert await receive(ours) == b""

        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(ours)
        ours.close()


# Progress


async def test_progress_is_a_socket_that_takes_bytes_again(pair: Pair) -> None:
    ours, theirs = pair
    theirs.setblocking(False)
    fill(ours)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            while True:
                await receive(theirs)

        assert await wait_progress(ours, DEADLINE_S)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_reads_nothing_makes_no_progress(pair: Pair) -> None:
    ours, _ = pair
    fill(ours)
    with trio.fail_after(DEADLINE_S):
        # What is under way when we begin may still arrive: once it has, nothing does.
        while await wait_progress(ours, SHORT_S):
            pass


@pytest.mark.slow
async def test_a_dribble_is_progress_long_before_the_socket_is_writable(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    fill(ours)
    while await wait_progress(ours, SHORT_S):
        pass

    async def never(_: object) -> None:
        theirs.recv(4096)  # which the kernel acknowledges, and takes some more
        await trio.sleep_forever()

    monkeypatch.setattr(trio.lowlevel, "wait_writable", never)
    assert await wait_progress(ours, SHORT_S)


async def test_what_a_peer_has_acknowledged_is_known_while_it_is_owed_something(
    pair: Pair,
) -> None:
    ours, theirs = pair
    assert acknowledged_bytes(ours) is None
    fill(ours)
    while await wait_progress(ours, SHORT_S):
        pass
    before = acknowledged_bytes(ours)
    assert before is not None
    assert before > 0
    theirs.setblocking(False)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            while True:
                await receive(theirs)

        with trio.fail_after(DEADLINE_S):
            while (now := acknowledged_bytes(ours)) is not None:
                assert now >= before
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


def test_of_a_peer_on_this_machine_nothing_is_known() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"unread")
        assert acknowledged_bytes(ours) is None
        end_soon(ours, 1)


def test_a_closed_socket_keeps_what_is_unsent_no_longer_than_told(pair: Pair) -> None:
    end_soon(pair[0], 1.5)
    assert pair[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500


async def test_a_tls_transport_gives_a_stalled_peer_up(pair: Pair) -> None:
    ours, _ = pair
    stream = SocketStream(ours, stall_s=SHORT_S)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(trio.TooSlowError):
                await stream.send_all(b"x" * 4_000_000)
            assert not stream.refusing

        with trio.fail_after(DEADLINE_S):
            while not stream.refusing:  # noqa: ASYNC110 it is a property
                await trio.lowlevel.checkpoint()


async def test_a_tls_transport_whose_peer_the_kernel_gave_up_is_stalled() -> None:
    class GivenUp:
        def send(self, _: bytes) -> int:
            raise TimeoutError(errno.ETIMEDOUT, "told to")

    with pytest.raises(trio.TooSlowError):
        await SocketStream(GivenUp(), stall_s=1).send_all(b"x")  # type: ignore[arg-type]  # a fake
