"""All that leaves one connection, in order: over a socket that takes as little as it likes."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import make_message
from tracker.domain import wire
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.queue import QueueLimits
from tracker.domain.reasons import CloseReason, Drop
from tracker.domain.transport import WEBSOCKET
from tracker.server import outbox as outbox_module
from tracker.server.outbox import Outbox, TlsOutbox
from tracker.server.sockets import SocketStream

DEADLINE_S = 20.0


class FakeSocket:
    """A socket that takes at most `appetite` bytes at each call; 0: none.

    `taken` is all that it took; `error`, if set, is what a send raises; `is_shut` tells
    whether our side was ended.
    """

    def __init__(self, appetite: int) -> None:
        self.appetite = appetite
        self.taken = bytearray()
        self.error: OSError | None = None
        self.is_shut = False
        self.has_refused = False

    def send(self, data: bytes | bytearray | memoryview) -> int:
        assert not self.is_shut, "sent behind the end"
        if self.error is not None:
            raise self.error
        # Every other call is refused, as by a kernel that is full until the peer reads.
        self.has_refused = not self.has_refused
        if self.appetite == 0 or not self.has_refused:
            raise BlockingIOError
        piece = bytes(data[: self.appetite])
        self.taken += piece
        return len(piece)

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        self.is_shut = True


async def _progress(sock: FakeSocket, stall_s: float) -> bool:
    """Stands for `wait_progress`: a socket that takes anything will do so at once."""
    await trio.lowlevel.checkpoint()
    return sock.appetite > 0


class Rig:
    """An outbox over a fake socket; `calls` is what it told of its peer."""

    def __init__(self, nursery: trio.Nursery, appetite: int) -> None:
        self.sock = FakeSocket(appetite)
        self.calls: list[str] = []
        self.outbox = Outbox(
            self.sock,  # type: ignore[arg-type]  # a fake
            stall_s=1,
            spawn=nursery.start_soon,
            on_broken=lambda: self.calls.append("broken"),
        )
        self.outbox.on_stalled = lambda: self.calls.append("stalled")
        self.outbox.on_writable = lambda: self.calls.append("writable")


@contextmanager
def fake_progress() -> Iterator[None]:
    with mock.patch.object(outbox_module, "wait_progress", _progress):
        yield


@pytest.fixture(autouse=True)
def _always_fake_progress() -> Iterator[None]:
    with fake_progress():
        yield


# One write


async def test_what_the_kernel_takes_leaves_where_it_is_written(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, 100)
    rig.outbox.write_nowait(b"whole")
    assert (bytes(rig.sock.taken), rig.outbox.writable, rig.outbox.refusing) == (
        b"whole",
        True,
        False,
    )
    assert rig.calls == []


async def test_what_it_refuses_is_the_tail_and_then_the_outbox_calls_back() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, 3)
        rig.outbox.write_nowait(b"12345678")
        assert (bytes(rig.sock.taken), rig.outbox.writable, rig.outbox.refusing) == (
            b"123",
            False,
            True,
        )
    assert bytes(rig.sock.taken) == b"12345678"
    assert (rig.outbox.writable, rig.outbox.refusing) == (True, False)
    assert rig.calls == ["writable"]


async def test_a_write_from_the_call_back_starts_a_new_tail() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, 3)
        more = [b"second", b"third"]

        def write_more() -> None:
            while more and rig.outbox.writable:
                rig.outbox.write_nowait(more.pop(0))

        rig.outbox.on_writable = write_more
        rig.outbox.write_nowait(b"first")
    assert bytes(rig.sock.taken) == b"firstsecondthird"


async def test_a_push_does_not_wait_for_the_task_that_drains_the_tail() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, 3)
        rig.outbox.write_nowait(b"12345678")
        for _ in range(4):  # every other one is refused
            rig.outbox.push_nowait()
        assert (bytes(rig.sock.taken), rig.outbox.writable) == (b"12345678", True)
        assert rig.calls == ["writable"]
        # A new tail, before the first one's task had its turn: one task does for both.
        rig.outbox.write_nowait(b"more")
        assert not rig.outbox.writable
        assert len(nursery.child_tasks) == 1
    assert bytes(rig.sock.taken) == b"12345678more"
    assert rig.calls == ["writable", "writable"]


async def test_what_a_push_gets_rid_of_is_progress() -> None:
    waits = 0

    async def wait_in_vain(sock: FakeSocket, stall_s: float) -> bool:
        nonlocal waits
        waits += 1
        if waits == 1:
            rig.outbox.push_nowait()
            rig.outbox.push_nowait()
        await trio.lowlevel.checkpoint()
        return False

    with mock.patch.object(outbox_module, "wait_progress", wait_in_vain):
        async with trio.open_nursery() as nursery:
            rig = Rig(nursery, 3)
            rig.outbox.write_nowait(b"12345678")
    assert rig.calls == ["stalled", "broken"]
    assert (waits, bytes(rig.sock.taken)) == (2, b"123456")


async def test_a_push_has_no_effect_without_a_tail_and_at_the_end(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, 3)
    rig.outbox.push_nowait()
    rig.outbox.write_nowait(b"12345678")
    rig.outbox.finish()
    for _ in range(10):
        rig.outbox.push_nowait()
    assert bytes(rig.sock.taken) == b"123"
    rig.outbox.close()
    rig.outbox.push_nowait()
    assert (bytes(rig.sock.taken), rig.calls) == (b"123", [])


# The end


async def test_finish_shuts_our_side_behind_the_tail() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, 2)
        rig.outbox.write_nowait(b"last words")
        rig.outbox.finish()
        assert not rig.sock.is_shut
        assert not rig.outbox.writable
        rig.outbox.put(b"too late")
        rig.outbox.finish()
    assert (bytes(rig.sock.taken), rig.sock.is_shut) == (b"last words", True)
    assert rig.calls == []
    assert not rig.outbox.writable


async def test_finish_without_a_tail_shuts_at_once(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, 2)
    rig.outbox.finish()
    rig.outbox.put(b"too late")
    assert (bytes(rig.sock.taken), rig.sock.is_shut) == (b"", True)


async def test_a_closed_outbox_touches_nothing(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, 2)
    rig.outbox.write_nowait(b"1234")
    rig.outbox.close()
    rig.sock.error = AssertionError("the descriptor may be another client's")  # type: ignore[assignment]
    rig.outbox.put(b"x")
    rig.outbox.finish()
    rig.outbox.close()
    rig.outbox.stalled()
    assert await rig.outbox.wait_writable() is False
    await trio.testing.wait_all_tasks_blocked()
    assert (bytes(rig.sock.taken), rig.sock.is_shut) == (b"12", False)
    assert rig.calls == []


@pytest.mark.parametrize(
    ("number", "calls"),
    [
        (errno.EPIPE, ["broken"]),
        (errno.ECONNRESET, ["broken"]),
        (errno.ETIMEDOUT, ["stalled", "broken"]),  # keepalive, tcp(7)
    ],
)
@pytest.mark.parametrize("has_tail", [False, True])
async def test_a_peer_that_is_gone_breaks_the_connection_once(
    nursery: trio.Nursery, number: int, calls: list[str], has_tail: bool
) -> None:
    rig = Rig(nursery, 1)
    if has_tail:
        rig.outbox.write_nowait(b"12")
    rig.sock.error = OSError(number, "told to")
    rig.outbox.put(b"more")
    await trio.testing.wait_all_tasks_blocked()
    assert rig.calls == calls
    assert not rig.outbox.writable
    assert await rig.outbox.wait_writable() is False


async def test_a_peer_that_takes_nothing_is_stalled(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, 0)
    rig.outbox.write_nowait(b"unread")
    assert await rig.outbox.wait_writable() is False
    assert rig.calls == ["stalled", "broken"]


# Waiting


async def test_whoever_waits_does_not_wait_for_what_comes_behind() -> None:
    """The reader answers a ping of a client that never catches up, and must go on reading."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, 1)

        def refill() -> None:
            rig.outbox.write_nowait(b"more and more")

        rig.outbox.on_writable = refill
        refill()
        rig.outbox.put(b"PONG")
        with trio.fail_after(DEADLINE_S):
            assert await rig.outbox.wait_writable() is True
        assert bytes(rig.sock.taken).startswith(b"more and morePONG")
        nursery.cancel_scope.cancel()


async def test_a_cancelled_wait_changes_nothing() -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, 1)
        rig.outbox.write_nowait(b"123")
        with trio.CancelScope() as scope:
            scope.cancel()
            await rig.outbox.wait_writable()
        assert scope.cancelled_caught
    assert bytes(rig.sock.taken) == b"123"


async def test_wait_writable_is_always_a_checkpoint(nursery: trio.Nursery) -> None:
    rig = Rig(nursery, 10)
    with trio.testing.assert_checkpoints():
        assert await rig.outbox.wait_writable() is True
    rig.outbox.close()
    with trio.testing.assert_checkpoints():
        assert await rig.outbox.wait_writable() is False


# The law of order, for every appetite

_SIZES = st.integers(min_value=1, max_value=60)
_STEPS = st.lists(st.tuples(st.sampled_from(["stream", "hypercorn", "turn"]), _SIZES), max_size=30)


@given(appetite=st.integers(min_value=1, max_value=64), steps=_STEPS)
async def test_bytes_leave_in_the_order_in_which_they_were_given(
    appetite: int, steps: list[tuple[str, int]]
) -> None:
    given_bytes = bytearray()
    with fake_progress():
        async with trio.open_nursery() as nursery:
            rig = Rig(nursery, appetite)
            for number, (who, size) in enumerate(steps):
                data = bytes([number]) * size
                if who == "hypercorn":
                    rig.outbox.put(data)
                    given_bytes += data
                elif who == "turn":
                    await trio.lowlevel.checkpoint()
                elif rig.outbox.writable:
                    rig.outbox.write_nowait(data)
                    given_bytes += data
                assert given_bytes.startswith(rig.sock.taken)
            rig.outbox.finish()
    assert rig.sock.taken == given_bytes
    assert rig.sock.is_shut


def _frames(data: bytes) -> list[tuple[int, bytes]]:
    """Every frame of `data`, which must end with a whole one."""
    frames = []
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        assert data[0] & 0xF0 == 0x80
        assert len(data) >= start + size, "a torn frame"
        frames.append((data[0] & 0x0F, data[start : start + size]))
        data = data[start + size :]
    return frames


@given(
    appetite=st.integers(min_value=1, max_value=400),
    steps=st.lists(
        st.tuples(st.sampled_from(["publish", "publish", "pong", "turn"]), _SIZES), max_size=60
    ),
)
@settings(max_examples=150)
async def test_a_stream_and_pongs_share_an_outbox_without_a_torn_frame(
    appetite: int, steps: list[tuple[str, int]]
) -> None:
    """Order, conservation and gap-free delivery, whatever a write takes."""
    hub = Hub(HubSettings(queue=QueueLimits(messages=5)))
    pongs = []
    with fake_progress():
        async with trio.open_nursery() as nursery:
            rig = Rig(nursery, appetite)
            with hub.open_stream(["1"], rig.outbox, WEBSOCKET) as stream:
                sequence = 0
                for what, size in steps:
                    if what == "publish":
                        sequence += 1
                        data = b'{"n":%d,"x":"%b"}' % (sequence, b"x" * size)
                        hub.publish_batch([make_message(sequence, "1", data)])
                        stream.flush()
                    elif what == "pong":
                        pongs.append(bytes([size]) * (size % 10))
                        rig.outbox.put(bytes((0x8A, len(pongs[-1]))) + pongs[-1])
                    else:
                        await trio.lowlevel.checkpoint()
                    statistics = hub.statistics()
                    assert statistics.offered == sequence
                    assert sequence == (
                        statistics.delivered + sum(statistics.dropped.values()) + statistics.waiting
                    )
                await trio.testing.wait_all_tasks_blocked()
                assert stream.close_reason is None
            rig.outbox.put(b"\x88\x02\x03\xe8")
            rig.outbox.finish()
    frames = _frames(bytes(rig.sock.taken))
    assert frames.pop() == (0x8, b"\x03\xe8")
    assert [payload for opcode, payload in frames if opcode == 0xA] == pongs
    told, received, lacking = [json.loads(text) for op, text in frames if op == 1], 0, 0
    for at, each in enumerate(told, 1):
        if each["event"] == "gap":
            assert (each["data"]["device_id"], each["data"]["reason"]) == ("1", "buffer_full")
            lacking += each["data"]["dropped"]
        else:  # what lacks before it was told before it
            assert each["data"]["n"] == received + lacking + 1, told[:at]
            received += 1
    statistics = hub.statistics()
    assert received == statistics.delivered == sequence - sum(statistics.dropped.values())
    assert lacking == statistics.dropped[Drop.BUFFER_FULL] == sequence - received


async def test_a_stalled_peer_ends_its_stream_with_that_reason() -> None:
    hub = Hub()
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, 0)
        with hub.open_stream(["1"], rig.outbox, WEBSOCKET) as stream:
            closed = trio.Event()
            stream.on_close = closed.set
            hub.publish_batch([make_message(1, "1")])
            stream.flush()
            with trio.fail_after(DEADLINE_S):
                await closed.wait()
    assert hub.statistics().closed[CloseReason.STALLED] == 1
    assert rig.calls == ["broken"]


async def test_the_outbox_of_every_appetite_passes_a_close_frame_last() -> None:
    for appetite in range(1, 40):
        async with trio.open_nursery() as nursery:
            rig = Rig(nursery, appetite)
            rig.outbox.put(wire.text_frame(b"x" * 20))
            rig.outbox.put(b"\x88\x00")
            rig.outbox.finish()
            rig.outbox.put(wire.PING_FRAME)
        assert _frames(bytes(rig.sock.taken)) == [(1, b"x" * 20), (8, b"")]


# TLS: a stream that another task serves


class FakeTls:
    """Stands for `trio.SSLStream`: `sent` is every call of `send_all`."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.error: Exception | None = None
        self.may_send = trio.Event()
        self.may_send.set()
        self.is_closed = False

    async def send_all(self, data: bytes) -> None:
        await self.may_send.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(data)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.is_closed = True


class TlsRig:
    """A TLS outbox over fakes."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.sock = FakeSocket(1)
        self.tls = FakeTls()
        self.transport = SocketStream(self.sock, stall_s=1)  # type: ignore[arg-type]  # a fake
        self.calls: list[str] = []
        self.outbox = TlsOutbox(
            self.tls,  # type: ignore[arg-type]  # a fake
            self.transport,
            self.sock,  # type: ignore[arg-type]  # a fake
            stall_s=1,
            spawn=nursery.start_soon,
            on_broken=lambda: self.calls.append("broken"),
        )
        self.outbox.on_stalled = lambda: self.calls.append("stalled")
        self.outbox.on_writable = lambda: self.calls.append("writable")


async def test_over_tls_a_task_sends_and_only_the_kernel_refuses() -> None:
    async with trio.open_nursery() as nursery:
        rig = TlsRig(nursery)
        rig.outbox.write_nowait(b"one")
        assert (rig.outbox.writable, rig.outbox.refusing) == (False, False)
        rig.transport.refusing = True
        assert rig.outbox.refusing
        rig.transport.refusing = False
        assert await rig.outbox.wait_writable() is True
        rig.tls.may_send = trio.Event()
        rig.outbox.put(b"two")
        rig.outbox.put(b"three")
        rig.tls.may_send.set()
    assert rig.tls.sent == [b"one", b"twothree"]
    assert rig.calls == ["writable", "writable"]


async def test_over_tls_the_end_is_told_before_it_comes() -> None:
    """RFC 8446 §6.1."""
    async with trio.open_nursery() as nursery:
        rig = TlsRig(nursery)
        rig.outbox.write_nowait(b"last")
        rig.outbox.finish()
        rig.outbox.put(b"too late")
    assert (rig.tls.sent, rig.tls.is_closed, rig.sock.is_shut) == ([b"last"], True, True)


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (trio.TooSlowError, ["stalled", "broken"]),
        (trio.BrokenResourceError, ["broken"]),
        (trio.ClosedResourceError, ["broken"]),
    ],
)
async def test_over_tls_a_peer_that_is_gone_breaks_the_connection(
    error: type[Exception], calls: list[str]
) -> None:
    async with trio.open_nursery() as nursery:
        rig = TlsRig(nursery)
        rig.tls.error = error()
        rig.outbox.write_nowait(b"lost")
        assert await rig.outbox.wait_writable() is False
    assert rig.calls == calls


@pytest.mark.parametrize("error", [trio.TooSlowError, trio.BrokenResourceError])
async def test_over_tls_a_peer_that_does_not_hear_the_end_changes_nothing(
    error: type[Exception],
) -> None:
    async with trio.open_nursery() as nursery:
        rig = TlsRig(nursery)
        rig.tls.error = error()
        rig.outbox.finish()
    assert rig.sock.is_shut
    assert rig.calls == []
