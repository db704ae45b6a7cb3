"""What one client received: every byte checked, every message counted, at little cost.

Theory of operation. All clients of the same devices should receive the same bytes, for a server
that keeps the order. So the first to receive a unit (see `framing`) has it parsed and appended
to what is *known* of that stream, and for all others it is enough that their bytes equal the
known ones: one comparison of memory, however many messages a reading holds. Where they do not,
the client's units are parsed one by one: what carries no message (a ping) is counted by name and
stands aside; a message other than the known one makes the client go on alone, parsed in full.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping

from bench.framing import Framing, Unit
from bench.mark import Mark, find_mark

SINGLY = 16
"""A reading of more messages than this counts all of them as late as its oldest."""

Window = dict[int, int]
"""How often each latency in µs occurred; see `latency`."""


class Tally:
    """What came of each device. Numbers that do not rise are *misplaced*: doubled, or late."""

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self.received: dict[bytes, int] = {}
        self.misplaced = 0
        self._last: dict[bytes, int] = {}
        for mark in marks:
            self.add(mark)

    def add(self, mark: Mark) -> None:
        """Count a message."""
        if mark.number <= self._last.get(mark.device, -1):
            self.misplaced += 1
            return
        self._last[mark.device] = mark.number
        self.received[mark.device] = self.received.get(mark.device, 0) + 1

    def lost(self, published: Mapping[bytes, int]) -> int:
        """How many of the messages published never came, given their count for each device."""
        return sum(published.values()) - sum(self.received.get(device, 0) for device in published)


class KnownStream:
    """The messages of one set of devices as the first of its clients received them."""

    def __init__(self, framing: Framing) -> None:
        self.framing = framing
        self.data = bytearray()
        #: For each message: where its unit ends in `data`, what it is, and when it was sent.
        self.ends: list[int] = []
        self.marks: list[Mark] = []
        self.sent_ns: list[int] = []
        self._tallies: dict[int, Tally] = {}

    def append(self, raw: bytes, marks: Iterable[Mark]) -> None:
        """Add a unit that holds messages."""
        self.data += raw
        for mark in marks:
            self.ends.append(len(self.data))
            self.marks.append(mark)
            self.sent_ns.append(mark.sent_ns)

    def tally(self, count: int) -> Tally:
        """The tally of the first `count` messages, made once for all who ask."""
        if count not in self._tallies:
            self._tallies[count] = Tally(self.marks[:count])
        return self._tallies[count]


class Reader:
    """One client's bytes behind the handshake.

    `events` counts what carried no message, by its event's name; `closed` says that the server
    ended the stream.
    """

    def __init__(self, known: KnownStream) -> None:
        self.received = 0
        self.closed = False
        self.events: Counter[str] = Counter()
        self._known = known
        self._at = 0  # in the known bytes
        self._index = 0  # in the known messages
        self._rest = b""  # of a unit that is incomplete
        self._own: Tally | None = None

    @property
    def is_alone(self) -> bool:
        """Whether it received something else than the first client of its devices."""
        return self._own is not None

    def tally(self) -> Tally:
        """What came of each device."""
        return self._known.tally(self._index) if self._own is None else self._own

    def feed(self, data: bytes, now_ns: int, window: Window | None) -> None:
        """Take what was read at `now_ns`; the latencies go to `window`.

        Raises: FramingError.
        """
        known = self._known
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self._own is not None or not known.data.startswith(data, self._at):
            self._feed_units(data, now_ns, window)
            return
        self._at += len(data)
        first = self._index
        if window is not None and known.ends[first] == self._at:
            # One message, whole: what most readings are at a rate that a server keeps up with.
            window[(now_ns - known.sent_ns[first]) // 1000] += 1
            self._index = first + 1
            self.received += 1
        else:
            self._arrived(now_ns, window)

    def _arrived(self, now_ns: int, window: Window | None) -> None:
        """Count the known messages that are complete."""
        known, first = self._known, self._index
        self._index = bisect_right(known.ends, self._at, first)
        count = self._index - first
        self.received += count
        if window is None or not count:
            return
        if count > SINGLY:
            window[(now_ns - known.sent_ns[first]) // 1000] += count
        else:
            for sent_ns in known.sent_ns[first : self._index]:
                window[(now_ns - sent_ns) // 1000] += 1

    def _feed_units(self, data: bytes, now_ns: int, window: Window | None) -> None:
        known = self._known
        if self._own is None:
            # Back to where the unit began in which the bytes part from the known ones.
            begin = known.ends[self._index - 1] if self._index else 0
            data = bytes(known.data[begin : self._at]) + data
            self._at = begin
        at = 0
        while at < len(data):
            unit = known.framing(data, at)
            if unit is None:
                self._rest = data[at:]
                break
            self._take(data[at : unit.end], unit, now_ns, window)
            at = unit.end
        if self._own is None:
            self._arrived(now_ns, window)

    def _take(self, raw: bytes, unit: Unit, now_ns: int, window: Window | None) -> None:
        known = self._known
        if self._own is None and known.data.startswith(raw, self._at):
            self._at += len(raw)
            return
        marks = [mark for text in unit.texts if (mark := find_mark(text)) is not None]
        if len(marks) < len(unit.texts):
            self.events.update(event_name(text) for text in unit.texts if find_mark(text) is None)
        self.closed = self.closed or unit.closes
        if not marks:
            return
        if self._own is None:
            if self._at == len(known.data):
                known.append(raw, marks)
                self._at += len(raw)
                return
            self._arrived(now_ns, window)
            self._own = Tally(known.marks[: self._index])
        for mark in marks:
            self._own.add(mark)
            self.received += 1
            if window is not None:
                window[(now_ns - mark.sent_ns) // 1000] += 1


def event_name(text: bytes) -> str:
    """The name of an event without a mark, in either transport; `comment` for an SSE comment."""
    if text.startswith(b":"):
        return "comment"
    for line in text.splitlines():
        if line.startswith(b"event:"):
            return line[6:].strip().decode(errors="replace")
    try:
        name = json.loads(text)["event"]
    except (ValueError, LookupError, TypeError):
        return "unnamed"
    return str(name)
