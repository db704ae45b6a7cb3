"""MQTT payload → device id and JSON value, once for each message.

Law: `decode` raises nothing but `MalformedPayloadError`, on any bytes.

Theory of operation: msgspec checks the whole text but builds only the id. A payload of
the usual shape, `{"timestamp":…,"data":{"DEVICE_ID":…}}`, takes one pass, and its bytes
are passed on as they are. Every other shape takes a second, slower look.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import accumulate

from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType, ValidationError
from msgspec.json import Decoder

from tracker.domain.errors import Malformed, MalformedPayloadError

#: A payload larger than this is malformed.
PAYLOAD_LIMIT_BYTES = 64 * 1024
#: A device id longer than this is malformed.
DEVICE_ID_LIMIT_CHARS = 128
#: A payload of more levels than this is malformed. A limit of our own: where the parser
#: gives up depends on Python's version and on how deep the stack is just then, and who
#: decodes the payload again, here or at the client's, must not fail where this passed.
NESTING_LIMIT_LEVELS = 500

# C0, DEL and C1: nothing that a log line or a URL should carry.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LINE_BREAKS = b"\r\n"
_JSON_SPACE = b" \t\r\n"
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_LEVELS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - _LEVELS.keys())


class _Fix(Struct):
    DEVICE_ID: str | int


class _Usual(Struct):
    timestamp: Raw
    data: _Fix


class _Inner(Struct):
    DEVICE_ID: Raw | UnsetType = UNSET


class _Outer(Struct):
    DEVICE_ID: Raw | UnsetType = UNSET
    timestamp: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET


_decode_usual = Decoder(_Usual).decode
_decode_outer = Decoder(_Outer).decode
_decode_inner = Decoder(_Inner).decode
_decode_id = Decoder(str | int).decode


def decode(payload: bytes, received_utc_s: float) -> tuple[str, bytes]:
    """Decode one payload.

    `received_utc_s`: seconds since the epoch, for payloads without a timestamp.
    Returns the device id and the JSON value `{"timestamp":…,"data":…}`, without line
    breaks; every other byte is the device's own.

    Raises: MalformedPayloadError. Source: PROTOCOL A2.
    """
    if len(payload) > PAYLOAD_LIMIT_BYTES:
        raise MalformedPayloadError(
            Malformed.TOO_LARGE, f"{len(payload)} bytes, expected at most {PAYLOAD_LIMIT_BYTES}"
        )
    try:
        str(payload, "utf-8")  # msgspec does not check UTF-8 in what it skips
        try:
            usual = _decode_usual(payload)
        except ValidationError:
            device_id, data = _decode_unusual(payload, received_utc_s)
        else:
            device_id, data = str(usual.data.DEVICE_ID), payload
    except UnicodeDecodeError as error:
        raise MalformedPayloadError(Malformed.BAD_UTF8, str(error)) from None
    except DecodeError as error:
        if not payload.strip(_JSON_SPACE):
            raise MalformedPayloadError(Malformed.EMPTY, "empty payload") from None
        raise MalformedPayloadError(Malformed.BAD_JSON, str(error)) from None
    except RecursionError:
        is_too_deep = True
    else:
        # Most payloads are too short to be deep.
        is_too_deep = len(payload) > 2 * NESTING_LIMIT_LEVELS and _is_too_deep(payload)
    if is_too_deep:
        raise MalformedPayloadError(
            Malformed.TOO_DEEP, f"expected at most {NESTING_LIMIT_LEVELS} levels of nesting"
        )
    _check_device_id(device_id)
    if 10 in data or 13 in data:
        # JSON allows them between tokens only, so nothing but layout goes.
        data = data.translate(None, _LINE_BREAKS)
    return device_id, data


def _decode_unusual(payload: bytes, received_utc_s: float) -> tuple[str, bytes]:
    try:
        outer = _decode_outer(payload)
    except ValidationError:
        raise MalformedPayloadError(
            Malformed.NOT_AN_OBJECT, "expected a JSON object at the top"
        ) from None
    nested_id = _nested_id(outer.data)
    if nested_id is not UNSET:
        device_id = _to_device_id(nested_id)
        if outer.timestamp is not UNSET:
            return device_id, payload
        body = payload.lstrip(_JSON_SPACE)
        return device_id, b'{"timestamp":"%b",%b' % (_rfc3339(received_utc_s), body[1:])
    if outer.DEVICE_ID is UNSET:
        raise MalformedPayloadError(
            Malformed.NO_DEVICE_ID, "expected DEVICE_ID in `data` or at the top"
        )
    device_id = _to_device_id(outer.DEVICE_ID)
    return device_id, b'{"timestamp":"%b","data":%b}' % (
        _rfc3339(received_utc_s),
        payload.strip(_JSON_SPACE),
    )


def _nested_id(data: Raw | UnsetType) -> Raw | UnsetType:
    if data is UNSET:
        return UNSET
    try:
        return _decode_inner(data).DEVICE_ID
    except ValidationError:
        return UNSET  # `data` is no object: the payload may still be a flat one


def _is_too_deep(json: bytes) -> bool:
    if json.count(b"[") + json.count(b"{") <= NESTING_LIMIT_LEVELS:
        return False
    brackets = _STRING.sub(b"", json).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_LEVELS.__getitem__, brackets))) > NESTING_LIMIT_LEVELS


def _to_device_id(raw: Raw) -> str:
    try:
        return str(_decode_id(raw))
    except ValidationError:
        raise MalformedPayloadError(
            Malformed.BAD_DEVICE_ID, "expected DEVICE_ID as a string or an integer"
        ) from None


def _check_device_id(device_id: str) -> None:
    if not device_id or len(device_id) > DEVICE_ID_LIMIT_CHARS or _CONTROL.search(device_id):
        raise MalformedPayloadError(
            Malformed.BAD_DEVICE_ID,
            f"expected DEVICE_ID of 1 to {DEVICE_ID_LIMIT_CHARS} characters, none a control"
            f" character, got {device_id[: DEVICE_ID_LIMIT_CHARS + 1]!r}",
        )


def _rfc3339(utc_s: float) -> bytes:
    moment = datetime.fromtimestamp(utc_s, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.").encode() + b"%03dZ" % (moment.microsecond // 1000)
