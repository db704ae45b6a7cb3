"""MQTT payloads → a recording that `tracker.replay` reads. Pure.

A column is the device's key in lower case, as `tracker.replay` makes keys of columns in upper
case. What a recording cannot hold is left out and counted: a report without a position, a
device whose id no topic can have, one of two keys that would become the same column.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import Any

import msgspec

from tracker.domain.decode import decode
from tracker.domain.errors import MalformedPayloadError
from tracker.replay import COLUMNS, KEYS, Record


class Skipped(enum.Enum):
    """Why a message is not in the recording. The value is for people."""

    RETAINED = "retained, so not of now"
    MALFORMED = "not a tracker message"
    NO_POSITION = "without a position"
    BAD_ID = "of a device whose id no topic can have"


class Recorder:
    """Makes lines of messages, and counts."""

    def __init__(self) -> None:
        self.reports = 0
        self.devices: set[str] = set()
        self.skipped: Counter[Skipped] = Counter()
        self._first_ns: int | None = None

    def line(self, payload: bytes, received_ns: int, *, is_retained: bool) -> bytes | None:
        """The line of one message, with its line feed; None when it is left out.

        `received_ns`: nanoseconds of the monotonic clock, not below those of earlier calls.
        """
        if is_retained:
            self.skipped[Skipped.RETAINED] += 1
            return None
        try:
            device_id, body = decode(payload, 0.0)
            fields: dict[str, Any] = msgspec.json.decode(body)["data"]
        except (MalformedPayloadError, RecursionError):
            self.skipped[Skipped.MALFORMED] += 1
            return None
        first_ns = received_ns if self._first_ns is None else self._first_ns
        columns = {
            "t": round((received_ns - first_ns) / 1e9, 3),
            "id": device_id,
            "lat": fields.get("LAT"),
            "lon": fields.get("LON"),
            "speed": fields.get("SPEED"),
            "heading": fields.get("HEADING"),
        }
        at_fault = _field_at_fault(columns)
        while at_fault in ("speed", "heading"):  # 511 degrees: a receiver's "not available"
            columns[at_fault] = None
            at_fault = _field_at_fault(columns)
        if at_fault is not None:
            self.skipped[Skipped.BAD_ID if at_fault == "id" else Skipped.NO_POSITION] += 1
            return None
        self._first_ns = first_ns
        self.reports += 1
        self.devices.add(device_id)
        return msgspec.json.encode(columns | _extras(fields)) + b"\n"

    def summary(self) -> str:
        """What is to be said at the end."""
        text = (
            f"recorded {self.reports} {'report' if self.reports == 1 else 'reports'} of "
            f"{len(self.devices)} {'device' if len(self.devices) == 1 else 'devices'}"
        )
        left_out = [f"{count} {reason.value}" for reason, count in self.skipped.items()]
        return f"{text}; left out: {', '.join(left_out)}" if left_out else text


def _field_at_fault(columns: dict[str, Any]) -> str | None:
    """The first column that is not as a recording needs it."""
    for field in msgspec.structs.fields(Record):
        if field.encode_name in columns:
            try:
                msgspec.convert(columns[field.encode_name], field.type)
            except msgspec.ValidationError:
                return field.encode_name
    return None


def _extras(fields: dict[str, Any]) -> dict[str, Any]:
    """The columns beyond the known ones; the first of two that a replay would make one."""
    extras: dict[str, Any] = {}
    taken = set(KEYS)
    for key, value in fields.items():
        column = key.lower()
        if column in COLUMNS:
            column = key.upper()
        if column.upper() not in taken:
            taken.add(column.upper())
            extras[column] = value
    return extras
