"""What the gateway says, as types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What one device said once.

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


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """All else that the gateway says: `reconnect`, `error`, and what later gateways invent.

    `data` is the decoded JSON value, `text` that value's JSON as it came.
    """

    name: str
    data: Any
    text: str


class UndecodableError(ValueError):
    """A text that is not of the contract."""


class _Envelope(msgspec.Struct):
    event: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Body(msgspec.Struct):
    timestamp: Any
    data: dict[str, Any]


class _RawTimestamp(msgspec.Struct):
    timestamp: msgspec.Raw


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_timestamp = msgspec.json.Decoder(_RawTimestamp).decode


def decode(text: str) -> Message | Event:
    """Decode one text message of the WebSocket. Raises: UndecodableError. Source: PROTOCOL A2."""
    try:
        envelope = _decode_envelope(text)
        inner = bytes(envelope.data).decode()
        if envelope.event != "message":
            return Event(name=envelope.event, data=msgspec.json.decode(inner), text=inner)
        body = _decode_body(inner)
        timestamp = body.timestamp
        if not isinstance(timestamp, str):
            timestamp = bytes(_decode_timestamp(inner).timestamp).decode()
    except (msgspec.DecodeError, RecursionError) as error:
        raise UndecodableError(str(error)) from None
    device_id = body.data.get("DEVICE_ID")
    if isinstance(device_id, bool) or not isinstance(device_id, str | int):
        raise UndecodableError("a message whose data has no DEVICE_ID")
    return Message(device_id=str(device_id), timestamp=timestamp, data=body.data, text=inner)
