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
    start = end - _MARK_BYTES
    if start < 1 or text[start - 1] != 0x22:
        return None
    device, first_slash, rest = text[start:end].partition(b"/")
    number, second_slash, sent_ns = rest.partition(b"/")
    if not (first_slash and second_slash and number.isdigit() and sent_ns.isdigit()):
        return None
    return Mark(device, int(number), int(sent_ns))
