"""The last messages of each device, for those who come back.

Laws:
- It holds the messages themselves, which every client shares: nothing per client.
- Three bounds: messages of one device, age, and bytes in all; the oldest goes first.
- A device whose last message has gone leaves nothing behind but one number for all of
  them, the highest sequence that was forgotten.
- `has_all_after` says whether anything that `after` should return has gone. It never
  guesses "no": of a device that comes back, all up to that number counts as gone.

Theory of operation: a ring for each device, and a heap in which each device stands once,
by the sequence of a message that was its oldest when it was put there. Rings only lose
messages at their old end, so an entry of the heap may be out of date, but only to the low
side: it comes up early, and is put back where it belongs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace, merge
from operator import attrgetter

from tracker.domain.message import Message

by_sequence = attrgetter("sequence")

#: What a kept message costs beside its JSON value: the object, its slots, its ring's slot.
_OVERHEAD_BYTES = 300


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """`messages`: of one device; `age_s`: seconds; `total_bytes`: of all messages."""

    messages: int = 100
    age_s: float = 15 * 60.0
    total_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Losses:
    """What a history does not hold, as sequences.

    `gone`: the newest that has gone of each device of which others are kept; `forgotten`:
    the newest that has gone of all other devices; `marked`: behind it messages may have
    been lost before they came here, -1 for nowhere.
    """

    gone: dict[str, int]
    forgotten: int
    marked: int


class _Ring:
    __slots__ = ("gone_sequence", "messages")

    def __init__(self, gone_sequence: int) -> None:
        self.messages: deque[Message] = deque()
        #: The highest sequence of this device that may have gone.
        self.gone_sequence = gone_sequence


class History:
    """The last messages of each device, within `limits`."""

    def __init__(self, limits: HistoryLimits) -> None:
        self._limits = limits
        self._age_ns = int(limits.age_s * 1e9)
        self._rings: dict[str, _Ring] = {}
        self._heap: list[tuple[int, str]] = []
        self._forgotten_sequence = 0
        self._marked_sequence = -1
        self.size_bytes = 0
        self.messages = 0
        self.evicted = 0

    @property
    def devices(self) -> int:
        """How many devices have a message here."""
        return len(self._rings)

    def append(self, message: Message) -> None:
        """Keep `message`, which is newer than every other. Hot path: once a message."""
        ring = self._rings.get(message.device_id)
        if ring is None:
            ring = self._rings[message.device_id] = _Ring(self._forgotten_sequence)
            heappush(self._heap, (message.sequence, message.device_id))
        ring.messages.append(message)
        self.messages += 1
        self.size_bytes += message.size_bytes + _OVERHEAD_BYTES
        if len(ring.messages) > self._limits.messages:
            self._drop_oldest(ring)
        if self.size_bytes > self._limits.total_bytes:
            while self.size_bytes > self._limits.total_bytes:
                self._evict_oldest()

    def expire(self, now_ns: int) -> None:
        """Drop what is too old; `now_ns` is on the clock of the messages' `received_ns`."""
        oldest_ns = now_ns - self._age_ns
        while (ring := self._oldest()) is not None and ring.messages[0].received_ns < oldest_ns:
            self._evict_oldest()

    def mark(self, sequence: int) -> None:
        """Note that messages may have been lost behind `sequence`, before they came here."""
        self._marked_sequence = max(self._marked_sequence, sequence)

    @property
    def losses(self) -> Losses:
        """What is not here any more. Takes time in proportion to the devices."""
        gone = {
            device_id: ring.gone_sequence
            for device_id, ring in self._rings.items()
            if ring.gone_sequence
        }
        return Losses(gone, self._forgotten_sequence, self._marked_sequence)

    def restore(self, messages: Iterable[Message], losses: Losses) -> None:
        """Go on from where another history ended; only while this one is empty."""
        for message in messages:
            self.append(message)
        for device_id, ring in self._rings.items():
            ring.gone_sequence = max(ring.gone_sequence, losses.gone.get(device_id, 0))
        self._forgotten_sequence = max(self._forgotten_sequence, losses.forgotten)
        self.mark(losses.marked)

    def after(self, device_id: str, sequence: int) -> list[Message]:
        """The messages of one device after `sequence`, the oldest first."""
        ring = self._rings.get(device_id)
        return [] if ring is None else _after(ring.messages, sequence)

    def has_all_after(self, device_id: str, sequence: int) -> bool:
        """Whether nothing of one device has gone that came after `sequence`."""
        ring = self._rings.get(device_id)
        return sequence >= (self._forgotten_sequence if ring is None else ring.gone_sequence)

    def is_marked_after(self, sequence: int) -> bool:
        """Whether messages may have been lost after `sequence` before they came here."""
        return sequence <= self._marked_sequence

    def track(self, device_id: str, since_ns: int) -> list[Message]:
        """The messages of one device received at or after `since_ns`, the oldest first."""
        ring = self._rings.get(device_id)
        if ring is None:
            return []
        return [message for message in ring.messages if message.received_ns >= since_ns]

    def newest(self, device_id: str) -> Message | None:
        """The last message of one device, if it is still here."""
        ring = self._rings.get(device_id)
        return None if ring is None else ring.messages[-1]

    def all_messages(self) -> list[Message]:
        """Every message kept, in order."""
        return list(merge(*(ring.messages for ring in self._rings.values()), key=by_sequence))

    def _oldest(self) -> _Ring | None:
        """The ring that holds the oldest message of all; it is at the top of the heap."""
        heap = self._heap
        while heap:
            sequence, device_id = heap[0]
            ring = self._rings[device_id]
            oldest = ring.messages[0].sequence
            if oldest == sequence:
                return ring
            heapreplace(heap, (oldest, device_id))
        return None

    def _evict_oldest(self) -> None:
        ring = self._oldest()
        if ring is None:
            return
        device_id = self._heap[0][1]
        self._drop_oldest(ring)
        if ring.messages:
            heapreplace(self._heap, (ring.messages[0].sequence, device_id))
            return
        del self._rings[device_id]
        self._forgotten_sequence = max(self._forgotten_sequence, ring.gone_sequence)
        heappop(self._heap)

    def _drop_oldest(self, ring: _Ring) -> None:
        message = ring.messages.popleft()
        ring.gone_sequence = message.sequence
        self.messages -= 1
        self.evicted += 1
        self.size_bytes -= message.size_bytes + _OVERHEAD_BYTES


def _after(messages: deque[Message], sequence: int) -> list[Message]:
    """The tail of `messages` with a higher sequence, found from the new end."""
    tail: list[Message] = []
    for message in reversed(messages):
        if message.sequence <= sequence:
            break
        tail.append(message)
    tail.reverse()
    return tail
