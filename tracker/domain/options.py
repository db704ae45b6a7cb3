"""What a client may ask of its stream, beside the devices. PROTOCOL B2."""

from __future__ import annotations

from dataclasses import dataclass

from tracker.domain.queue import Overflow


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Parsed from query parameters, or from the operations on a live WebSocket.

    `last_event_id`: where to resume, as the client sent it, or None; `has_snapshot`: first
    the last known message of each device (`last=1`); `track_s`: first the messages of so
    many seconds (`track`), 0 for none; `overflow`: what happens when the client is too slow
    (`mode`), None as the operator has it; `max_rate_per_s`: messages of each device
    (`max_rate`), None for no limit; `has_hello`: a `hello` event first; `ping_s`: seconds
    between `ping` events, None as the operator has it.
    """

    last_event_id: str | None = None
    has_snapshot: bool = False
    track_s: float = 0.0
    overflow: Overflow | None = None
    max_rate_per_s: float | None = None
    has_hello: bool = False
    ping_s: float | None = None


PLAIN = StreamOptions()
