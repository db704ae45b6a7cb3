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
    """

    __slots__ = ("device_id", "is_retained", "received_ns", "sequence")

    def __init__(
        self,
        sequence: int,
        device_id: str,
        data: bytes,
        received_ns: int,
        *,
        is_retained: bool = False,
    ) -> None:
        super().__init__(b"message", data)
        self.sequence = sequence
        self.device_id = device_id
        self.received_ns = received_ns
        self.is_retained = is_retained

    def __repr__(self) -> str:
        return f"<Message {self.sequence} of {self.device_id!r}: {self.data!r}>"
