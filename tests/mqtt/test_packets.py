"""Cutting a stream into packets: nothing lost, nothing reordered, whatever the pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mqtt.fakes import publish_packet
from tracker.mqtt.packets import PLAIN_LIMIT_BYTES, PacketBuffer


def packet(flags: int, body: bytes) -> bytes:
    length = len(body)
    header = [flags]
    while True:
        header.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes(header) + body


def publish(topic: bytes, payload: bytes, flags: int = 0x30) -> bytes:
    return packet(flags, len(topic).to_bytes(2, "big") + topic + payload)


class Paho:
    """Reads like paho: a byte, the length byte by byte, then the rest; stops for want of any."""

    def __init__(self, buffer: PacketBuffer) -> None:
        self._buffer = buffer
        self._packet = b""

    def read_packet(self) -> bytes | None:
        try:
            while not self._has_length():
                self._packet += self._buffer.read(1)
            while (left := self._left()) > 0:
                self._packet += self._buffer.read(left)
        except BlockingIOError:
            return None
        whole, self._packet = self._packet, b""
        return whole

    def _has_length(self) -> bool:
        return any(byte < 0x80 for byte in self._packet[1:5])

    def _left(self) -> int:
        length = shift = 0
        for index, byte in enumerate(self._packet[1:5], start=2):
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return index + length - len(self._packet)
        raise AssertionError("no length yet")


PLAIN = st.builds(
    publish,
    st.binary(min_size=1, max_size=20),
    st.one_of(st.binary(max_size=300), st.integers(0, 30_000).map(bytes)),
    st.sampled_from([0x30, 0x31]),
)
OTHER = st.builds(
    packet, st.sampled_from([0x20, 0x32, 0x38, 0x40, 0x90, 0xD0]), st.binary(max_size=300)
)


@given(
    packets=st.lists(st.one_of(PLAIN, OTHER), max_size=12),
    pieces=st.lists(st.integers(1, 400), min_size=1, max_size=10),
    all_is_pahos=st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_every_packet_comes_once_in_order_and_whole(
    packets: list[bytes], pieces: list[int], all_is_pahos: list[bool]
) -> None:
    stream = b"".join(packets)
    buffer = PacketBuffer()
    paho = Paho(buffer)
    got: list[bytes] = []
    turn = 0
    while stream:
        size = pieces[turn % len(pieces)] * (1 if len(stream) < 5000 else 50)
        all_is = all_is_pahos[turn % len(all_is_pahos)]
        turn += 1
        buffer.feed(stream[:size])
        stream = stream[size:]
        while True:
            if not all_is:
                got += [
                    publish(topic, payload, 0x31 if retain else 0x30)
                    for topic, payload, retain in buffer.take_publishes()
                ]
            if not buffer.is_for_paho(all_is=all_is):
                break
            whole = paho.read_packet()
            if whole is not None:
                got.append(whole)
    if not any(all_is_pahos):
        assert len(buffer) == 0
    assert got == packets[: len(got)]
    assert len(b"".join(got)) + len(buffer) + len(paho._packet) == len(b"".join(packets))


def test_plain_packets_never_reach_paho() -> None:
    buffer = PacketBuffer()
    sent = [(b"t", b"%d" % number, number % 2 == 1) for number in range(100)]
    buffer.feed(b"".join(publish(t, p, 0x31 if r else 0x30) for t, p, r in sent))
    assert buffer.take_publishes() == sent
    assert not buffer.is_for_paho()
    assert publish(b"t", b"p") == publish_packet(b"t", b"p")


@pytest.mark.parametrize(
    "odd",
    [
        publish(b"", b"no topic"),
        packet(0x30, b""),
        packet(0x30, b"\0"),
        packet(0x30, b"\0\x09short"),
        publish(b"t", b"qos", 0x32),
        publish(b"t", b"dup", 0x38),
        publish(b"t", bytes(PLAIN_LIMIT_BYTES)),
        b"\x30\xff\xff\xff\xff\xff",
    ],
)
def test_what_looks_odd_is_for_paho(odd: bytes) -> None:
    buffer = PacketBuffer()
    buffer.feed(odd)
    assert buffer.take_publishes() == []
    assert buffer.is_for_paho()
    assert buffer.read(len(odd)) == odd


@given(st.binary(max_size=40))
def test_no_bytes_make_it_raise_or_stand_still(data: bytes) -> None:
    buffer = PacketBuffer()
    buffer.feed(data)
    for _ in range(len(data) + 1):
        buffer.take_publishes()
        if not buffer.is_for_paho():
            break
        assert buffer.read(1)
    else:
        raise AssertionError("it says that bytes are there when none are")
