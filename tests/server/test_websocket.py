"""`tracker.server.websocket`: what a client sends, in whatever pieces it comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.peer import BINARY, CLOSE, PING, PONG, TEXT, client_frame, close_frame
from tracker.server.outbox import Outbox
from tracker.server.websocket import WebSocketInbox

LIMIT_BYTES = 100
#: How much is parsed between two checkpoints.
TURN_BYTES = 1024
CONTINUATION = 0x0


@dataclass
class FakeOutbox:
    """Notes what is put, and lets the reader wait as long as somebody says so."""

    record: list[object]
    waits: int = 0

    def put(self, data: bytes) -> None:
        self.record.append(("sent", data))

    async def wait_writable(self) -> bool:
        self.waits += 1
        await trio.lowlevel.checkpoint()
        return True


@dataclass
class FakeSession:
    """Notes what it hears; it is congested for so many questions."""

    record: list[object]
    congested_for: int = 0

    def on_message(self, message: str | bytes) -> None:
        self.record.append(message)

    @property
    def is_congested(self) -> bool:
        self.congested_for -= 1
        return self.congested_for >= 0

    def leave(self) -> None:
        raise AssertionError("leaving is the connection's business")


@dataclass
class Rig:
    """An inbox; `record` is what was heard, sent, and at last ended, in this order."""

    record: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = FakeOutbox(self.record)
        self.session = FakeSession(self.record)
        self.inbox = WebSocketInbox(
            cast(Outbox, self.outbox),
            limit_bytes=LIMIT_BYTES,
            session=self.session,
            end=lambda last: self.record.append(("end", last)),
        )


def sent(opcode: int, payload: bytes) -> tuple[str, bytes]:
    """A short frame as a server sends it. RFC 6455 §5.2."""
    return "sent", bytes((0x80 | opcode, len(payload))) + payload


def end(code: int) -> tuple[str, bytes]:
    return "end", bytes((0x80 | CLOSE, 2)) + code.to_bytes(2, "big")


async def heard(*pieces: bytes) -> list[object]:
    """What came of these bytes, read in these pieces."""
    rig = Rig()
    for piece in pieces:
        await rig.inbox.handle(piece)
    return rig.record


# Messages


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([client_frame(TEXT, "ñ".encode())], ["ñ"]),
        ([client_frame(TEXT)], [""]),
        ([client_frame(BINARY, b"\xff\x00")], [b"\xff\x00"]),
        ([client_frame(BINARY)], [b""]),
        ([client_frame(TEXT, b"1"), client_frame(TEXT, b"2")], ["1", "2"]),
        (
            [
                client_frame(TEXT, "a\u00f1".encode()[:2], fin=False),  # cut inside the letter
                client_frame(CONTINUATION, "\u00f1".encode()[1:], fin=False),
                client_frame(CONTINUATION, b"z"),
            ],
            ["añz"],
        ),
        (
            [client_frame(BINARY, b"1", fin=False), client_frame(CONTINUATION, b"2")],
            [b"12"],
        ),
    ],
    ids=["text", "empty", "binary", "empty binary", "two", "fragments", "binary fragments"],
)
async def test_messages_are_heard_whole(frames: list[bytes], expected: list[object]) -> None:
    assert await heard(b"".join(frames)) == expected


async def test_a_ping_inside_a_message_is_answered_before_the_message_is_heard() -> None:
    assert await heard(
        client_frame(TEXT, b"one, ", fin=False)
        + client_frame(PING, b"there?")
        + client_frame(CONTINUATION, b"two")
        + client_frame(PONG, b"asked by nobody")
        + client_frame(PING)
    ) == [sent(PONG, b"there?"), "one, two", sent(PONG, b"")]


_frames = st.lists(
    st.one_of(
        st.tuples(st.just(TEXT), st.text(max_size=20).map(str.encode)),
        st.tuples(st.just(BINARY), st.binary(max_size=60)),
        st.tuples(st.just(PING), st.binary(max_size=20)),
        st.tuples(st.just(PONG), st.binary(max_size=20)),
    ),
    max_size=20,
)


@settings(max_examples=100)
@given(frames=_frames, cuts=st.lists(st.integers(0, 3000), max_size=20))
async def test_the_pieces_do_not_matter(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(client_frame(opcode, payload) for opcode, payload in frames)
    expected: list[object] = []
    for opcode, payload in frames:
        if opcode == PING:
            expected.append(sent(PONG, payload))
        elif opcode != PONG:
            expected.append(payload.decode() if opcode == TEXT else payload)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(edges)]
    assert await heard(*pieces) == expected


# The limit


async def test_a_message_as_large_as_may_be_is_heard_and_a_larger_one_is_the_end() -> None:
    fits = client_frame(TEXT, b"x" * LIMIT_BYTES)
    assert await heard(fits) == ["x" * LIMIT_BYTES]
    assert await heard(fits, fits) == ["x" * LIMIT_BYTES] * 2
    assert await heard(client_frame(TEXT, b"x" * (LIMIT_BYTES + 1))) == [end(1009)]


async def test_the_limit_is_in_bytes() -> None:
    assert await heard(client_frame(TEXT, "ñ".encode() * (LIMIT_BYTES // 2))) == [
        "ñ" * (LIMIT_BYTES // 2)
    ]
    assert await heard(client_frame(TEXT, "ñ".encode() * (LIMIT_BYTES // 2 + 1))) == [end(1009)]


async def test_a_message_without_end_is_not_kept() -> None:
    """It is the end as soon as it is too large, not when it is whole."""
    rig = Rig()
    await rig.inbox.handle(client_frame(BINARY, b"x" * 60, fin=False))
    assert rig.record == []
    await rig.inbox.handle(client_frame(CONTINUATION, b"x" * 60, fin=False))
    assert rig.record == [end(1009)]


async def test_a_frame_that_announces_too_much_is_the_end_before_it_is_here() -> None:
    announced = b"\x81\xfe\xff\xff\0\0\0\0" + b"x" * (LIMIT_BYTES + 1)
    assert await heard(announced) == [end(1009)]


# The end


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (close_frame(1000), end(1000)),
        (close_frame(4321), end(4321)),
        (client_frame(CLOSE, b"\x03\xe9going away"), ("end", b"\x88\x0c\x03\xe9going away")),
        (client_frame(CLOSE), ("end", b"\x88\x00")),
    ],
    ids=["1000", "4321", "with a reason", "without a code"],
)
async def test_a_close_is_answered_as_it_came(frame: bytes, answer: tuple[str, bytes]) -> None:
    assert await heard(client_frame(TEXT, b"bye") + frame) == ["bye", answer]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x02hi", 1002),  # unmasked: RFC 6455 §5.1
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit, which deflate would use
        (b"\x83\x80\0\0\0\0", 1002),  # a reserved opcode
        (client_frame(CONTINUATION, b"of nothing"), 1002),
        (client_frame(PING, b"x" * 126), 1002),
        (client_frame(PING, b"x", fin=False), 1002),
        (client_frame(TEXT, b"\xff"), 1007),
        (client_frame(TEXT, b"\xc3"), 1007),
        (client_frame(CLOSE, b"\x03"), 1002),
        (client_frame(CLOSE, b"\x03\xec"), 1002),  # 1004 is nobody's
        (client_frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ],
    ids=[
        *("unmasked", "reserved bit", "reserved opcode", "continuation", "long ping"),
        *("cut ping", "not utf-8", "half a letter", "half a code", "bad code", "bad reason"),
    ],
)
async def test_what_is_no_websocket_is_told_by_its_code(data: bytes, code: int) -> None:
    assert await heard(data) == [end(code)]


async def test_behind_the_end_nothing_is_heard() -> None:
    last = close_frame(1000)
    record = await heard(last + client_frame(TEXT, b"late") + client_frame(PING))
    assert record == [end(1000)]


async def test_who_was_let_go_is_not_told() -> None:
    rig = Rig()
    rig.inbox.let_go()
    rig.inbox.let_go()
    await rig.inbox.handle(close_frame(1000))
    assert rig.record == []


@settings(max_examples=200)
@given(data=st.binary(max_size=300))
async def test_no_bytes_raise(data: bytes) -> None:
    record = await heard(data)
    ends = [each for each in record if isinstance(each, tuple) and each[0] == "end"]
    assert ends == record[len(record) - len(ends) :]
    assert len(ends) <= 1


# Turns


async def test_it_waits_after_each_turn_for_its_answers_to_leave() -> None:
    rig = Rig()
    data = client_frame(PING, b"x" * 100) * 100
    await rig.inbox.handle(data)
    assert rig.outbox.waits == -(-len(data) // TURN_BYTES)
    assert rig.record == [sent(PONG, b"x" * 100)] * 100


async def test_while_the_session_is_congested_nothing_more_is_heard() -> None:
    rig = Rig()
    rig.session.congested_for = 5
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(len(rig.record))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await rig.inbox.handle(client_frame(TEXT, b"1") + client_frame(TEXT, b"2"))
        nursery.cancel_scope.cancel()
    assert rig.record == ["1", "2"]
    assert seen.count(1) >= 4


async def test_a_congested_session_whose_connection_is_gone_is_not_waited_for() -> None:
    rig = Rig()

    async def gone() -> bool:
        await trio.lowlevel.checkpoint()
        return False

    rig.session.congested_for = 1_000_000
    rig.outbox.wait_writable = gone  # type: ignore[method-assign]  # it has been closed
    await rig.inbox.handle(client_frame(TEXT, b"1"))
    assert rig.record == ["1"]


async def test_cancelled_between_two_turns_the_rest_is_lost() -> None:
    """The connection is at its end then."""
    rig = Rig()
    frame = client_frame(TEXT, b"x" * 100)
    with trio.CancelScope() as scope:
        scope.cancel()
        await rig.inbox.handle(frame * 100)
    assert scope.cancelled_caught
    assert rig.record == ["x" * 100] * (TURN_BYTES // len(frame))
