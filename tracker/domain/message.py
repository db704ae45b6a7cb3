"""A tracker message: what one device said once."""

from __future__ import annotations

from tracker.domain.event import Event


class Message(Event):
    """A message as the hub publishes it.

    `sequence`: its place in the one order of this gateway, rising by one.
    `device_id`: 1 to 128 characters.
    `data`: the value of the outer `data`: `{"timestamp":…,"data":{…}}`, the device's own
    bytes.
    `received_ns`: when it arrived, nanoseconds of the monotonic clock.
    `is_retained`: the broker had kept it: old news.
    `epoch`: of this gateway's life, for the id; empty for none.
    """

    __slots__ = ("_bare", "_snapshot", "device_id", "is_retained", "received_ns", "sequence")

    def __init__(
        self,
        sequence: int,
        device_id: str,
        data: bytes,
        received_ns: int,
        *,
        is_retained: bool = False,
        epoch: bytes = b"",
    ) -> None:
        super().__init__(b"message", data, b"%b-%d" % (epoch, sequence) if epoch else b"")
        self.sequence = sequence
        self.device_id = device_id
        self.received_ns = received_ns
        self.is_retained = is_retained
        self._bare: Event | None = None
        self._snapshot: Event | None = None

    def without_id(self) -> Event:
        """The same message for a stream that carries no ids."""
        if not self.id:
            return self
        if self._bare is None:
            self._bare = Event(b"message", self.data)
        return self._bare

    def as_snapshot(self) -> Event:
        """The message as the last known one of its device: old news, so without an id."""
        if self._snapshot is None:
            self._snapshot = Event(b"snapshot", self.data)
        return self._snapshot

    def as_track(self) -> Event:
        """The message as a part of its device's track: without an id."""
        return Event(b"track", self.data)

    def __repr__(self) -> str:
        return f"<Message {self.sequence} of {self.device_id!r}: {self.data!r}>"
