"""The bench's messages, and the mark in each that says which one it is and when it left.

A message is what a vehicle reports, 212 bytes, with one field more, `MARK`:
`<device, 6 digits>/<number, 9 digits>/<monotonic clock when it was sent, ns, 18 digits>`.
The monotonic clock is one for all processes of a machine (clock_gettime(2)), so the time
of the journey is a difference. The fields have fixed widths: every message has one length,
whatever it says, and the mark stands at one place from its end, through every server's
envelope.
"""

from __future__ import annotations

from typing import NamedTuple

TOPIC_PREFIX = "trackers/"

_HEAD = (
    '{{"timestamp":"2024-12-11T10:30:00Z","data":{{"DEVICE_ID":"{device}","LAT":-33.4567,'
    '"LON":-70.6789,"SPEED":45,"HEADING":270,"ALTITUDE":520,"SATELLITES":9,"IGNITION":true,'
    '"MARK":"{device}/'
)
_TAIL = b'%09d/%018d"}}'
_MARK_BYTES = 6 + 1 + 9 + 1 + 18
_QUOTE, _SLASHES = ord('"'), (ord("/"), ord("/"))


class Mark(NamedTuple):
    """Which message it is, and when it was sent (monotonic clock, ns)."""

    device: bytes
    number: int
    sent_ns: int


def device_id(index: int) -> str:
    """The id of the `index`-th device, six digits."""
    return f"{index:06d}"


class Template:
    """What the messages of one device have in common."""

    def __init__(self, device: str) -> None:
        self.topic = f"{TOPIC_PREFIX}{device}".encode()
        self._head = _HEAD.format(device=device).encode()

    def fill(self, number: int, sent_ns: int) -> bytes:
        """The `number`-th message of the device, sent at `sent_ns`."""
        return self._head + _TAIL % (number, sent_ns)


def find_mark(text: bytes) -> Mark | None:
    """The mark of a message in its envelope; None for any other text (pings, notices)."""
    end = text.rfind(b'"')
    mark = text[max(0, end - _MARK_BYTES - 1) : max(0, end)]
    if len(mark) != _MARK_BYTES + 1 or mark[0] != _QUOTE or (mark[7], mark[17]) != _SLASHES:
        return None
    try:
        return Mark(mark[1:7], int(mark[8:17]), int(mark[18:]))
    except ValueError:
        return None
