"""Received bytes, cut into MQTT packets: the plain ones for us, all others for paho.

A fleet sends PUBLISH at QoS 0 and little else. paho takes some 15 µs for such a packet,
most of it spent on what these do not have; cutting them out here takes one. All else, and
whatever looks odd, goes to paho byte for byte, in the order in which it came.
"""

from __future__ import annotations

from typing import TypeAlias

# A longer PUBLISH is left to paho, which takes it in as it comes, so that it is not copied
# with each read here.
PLAIN_LIMIT_BYTES = 64 * 1024

# MQTT 3.1.1 §3.3.1: PUBLISH, QoS 0, no DUP; the lowest bit is RETAIN.
_PUBLISH = 0x30
_RETAIN = 0x01

_LONGEST_HEADER_BYTES = 5  # §2.2.3

Publish: TypeAlias = tuple[bytes, bytes, bool]
"""Topic, payload, retain."""


class PacketBuffer:
    """A stream of MQTT 3 packets, for two readers.

    Law: at any moment either `_due` is 0, and the next byte is the first of a packet, or
    it is how many bytes of the packet that paho is reading are still to come.
    """

    def __init__(self) -> None:
        self._data = b""
        self._start = 0
        self._due = 0

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        rest = self._data[self._start :]
        self._data = rest + data if rest else data
        self._start = 0

    def take_publishes(self) -> list[Publish]:
        """Take the plain PUBLISH packets that stand next, as far as they are complete.

        The hot path; `bench/` and `tests/mqtt/test_packets.py` guard it.
        """
        taken: list[Publish] = []
        if self._due:
            return taken
        data = self._data
        start = self._start
        end = len(data)
        while end - start >= 2:
            flags = data[start]
            if flags & ~_RETAIN != _PUBLISH:
                break
            body = start + 2
            length = data[start + 1]
            if length < 0x80:
                stop = body + length
            elif end - start > 2 and data[body] < 0x80:  # two bytes: most trackers' messages
                stop = body + 1 + (length & 0x7F | data[body] << 7)
                body += 1
            else:
                total = _packet_length(data, start)
                if total is None or total > PLAIN_LIMIT_BYTES:
                    break
                stop = start + total
                while data[body - 1] >= 0x80 and body - start < _LONGEST_HEADER_BYTES:
                    body += 1
            if stop > end or stop - body < 3:
                break
            payload = body + 2 + (data[body] << 8 | data[body + 1])
            if payload > stop or payload == body + 2:
                break
            taken.append((data[body + 2 : payload], data[payload:stop], flags & _RETAIN != 0))
            start = stop
        self._start = start
        return taken

    def is_for_paho(self, *, all_is: bool = False) -> bool:
        """Say whether paho is to read on: what stands next is, or with `all_is` is made, its.

        A plain PUBLISH that is not complete yet is not, nor is a packet whose length has
        not come in full.
        """
        if self._start == len(self._data):
            return False
        if not self._due:
            total = _packet_length(self._data, self._start)
            if total is None:
                return False
            is_plain = self._data[self._start] & ~_RETAIN == _PUBLISH
            is_waited_for = is_plain and len(self) < total <= PLAIN_LIMIT_BYTES
            if is_waited_for and not all_is:
                return False
            self._due = total
        return True

    def has_more_for_paho(self) -> bool:
        """Say whether bytes are here of the packet that paho is to read or reads."""
        return self._due > 0 and len(self) > 0

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes of the packet that paho is reading, at least one.

        Raises: BlockingIOError when none of it is here.
        """
        stop = min(self._start + min(count, self._due), len(self._data))
        part = self._data[self._start : stop]
        if not part:
            raise BlockingIOError
        self._start = stop
        self._due -= len(part)
        return part


def _packet_length(data: bytes, start: int) -> int | None:
    """Return the length of the packet at `start`, header included, None if it is not here yet."""
    length = 0
    for index in range(start + 1, min(len(data), start + _LONGEST_HEADER_BYTES)):
        byte = data[index]
        length |= (byte & 0x7F) << 7 * (index - start - 1)
        if byte < 0x80:
            return index + 1 - start + length
    # A length that goes on for too long is paho's to refuse: it reads a byte more than this.
    is_too_long = len(data) - start > _LONGEST_HEADER_BYTES
    return _LONGEST_HEADER_BYTES + 1 if is_too_long else None
