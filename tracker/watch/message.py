"""What the gateway says, as types."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one device said once: a `Message`, a `Snapshot` or a `Track`.

    `timestamp` is the text that the device sent, or, where that was no JSON string, its JSON.
    `data` is the decoded object (`DEVICE_ID`, `LAT`, `LON`, … as the device named them), and
    `text` the JSON of both, `{"timestamp":…,"data":{…}}`, as it came: in it numbers are still
    those of the device, `1.10` and not `1.1`.
    """

    device_id: str
    timestamp: str
    data: dict[str, Any]
    text: str

    @property
    def time_utc(self) -> datetime | None:
        """`timestamp` as an aware UTC time; None when it is none in RFC 3339 with an offset."""
        try:
            moment = datetime.fromisoformat(self.timestamp)
            return None if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            return None


class Message(Report, frozen=True, kw_only=True):
    """A live message. It comes once.

    `id` is where the stream stands with it; "" on a stream that leaves messages out on purpose.
    """

    id: str = ""


class Snapshot(Report, frozen=True, kw_only=True):
    """The last known message of a device, from before the stream: `last`, or a resume's reset."""


class Track(Report, frozen=True, kw_only=True):
    """A message of a device from before the stream: `track`."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """All else that the gateway says: the events below, and what later gateways invent.

    `data` is the decoded JSON value, `text` that value's JSON as it came.
    """

    name: str
    data: Any
    text: str


class Gap(Event, frozen=True, kw_only=True):
    """Messages are missing here in the stream.

    `device_id` is None where nobody knows the device. Whoever is cut before the next message
    and resumes is sent them after all, or told again.
    """

    device_id: str | None
    dropped: Annotated[int, Meta(ge=0)]
    reason: str = ""


class ResumeStatus(enum.Enum):
    """How a resume turned out."""

    CONTINUED = "continued"  # nothing lacks
    PARTIAL = "partial"  # something does, nobody knows how much
    RESET = "reset"  # so does all that was missed; the last message of each device follows


class Resume(Event, frozen=True, kw_only=True):
    """The stream goes on after a cut, here. `missed`: messages that follow, where known."""

    status: ResumeStatus
    missed: int | None = None
    position: str = ""


class Upstream(Event, frozen=True, kw_only=True):
    """The gateway lost its MQTT broker, or has it again: what was sent meanwhile may be missing."""

    connected: bool


class ModeChanged(Event, frozen=True, kw_only=True):
    """The gateway deals in another way with a client that is too slow."""

    mode: str
    reason: str = ""


class UndecodableError(ValueError):
    """A text that is not of the contract."""


_REPORTS: dict[str, type[Report]] = {"message": Message, "snapshot": Snapshot, "track": Track}
_EVENTS: dict[str, type[Event]] = {
    "gap": Gap,
    "resume": Resume,
    "upstream": Upstream,
    "mode": ModeChanged,
}


class _Envelope(msgspec.Struct):
    event: str
    id: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Body(msgspec.Struct):
    timestamp: Any
    data: dict[str, Any]


class _RawTimestamp(msgspec.Struct):
    timestamp: msgspec.Raw


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_timestamp = msgspec.json.Decoder(_RawTimestamp).decode


def decode(text: str) -> Report | Event:
    """Decode one text message of the WebSocket.

    An event whose data is not as we know it is a plain `Event`.

    Raises: UndecodableError. Source: PROTOCOL A2, B4.
    """
    try:
        envelope = _decode_envelope(text)
        inner = bytes(envelope.data).decode()
        if envelope.event not in _REPORTS:
            return _to_event(envelope.event, msgspec.json.decode(inner), inner)
        body = _decode_body(inner)
        timestamp = body.timestamp
        if not isinstance(timestamp, str):
            timestamp = bytes(_decode_timestamp(inner).timestamp).decode()
    except (msgspec.DecodeError, RecursionError) as error:
        raise UndecodableError(str(error)) from None
    device_id = body.data.get("DEVICE_ID")
    if isinstance(device_id, bool) or not isinstance(device_id, str | int):
        raise UndecodableError(f"a {envelope.event} whose data has no DEVICE_ID")
    kind = _REPORTS[envelope.event]
    report: dict[str, Any] = {
        "device_id": str(device_id),
        "timestamp": timestamp,
        "data": body.data,
        "text": inner,
    }
    return Message(**report, id=envelope.id) if kind is Message else kind(**report)


def _to_event(name: str, data: Any, text: str) -> Event:
    common = {"name": name, "data": data, "text": text}
    kind = _EVENTS.get(name)
    if kind is not None and isinstance(data, dict):
        try:
            return msgspec.convert({**data, **common}, kind)
        except msgspec.ValidationError:
            pass
    return Event(**common)
