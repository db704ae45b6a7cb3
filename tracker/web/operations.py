"""What a client may say on a live WebSocket. PROTOCOL B3.

Law: every operation is answered, by `ack` or by an `error` that names the field at fault,
and a bad one costs nothing else. What is no operation, because clients of old may send
anything, is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tracker.domain import event
from tracker.domain.errors import BadRequestError
from tracker.domain.event import Event
from tracker.domain.hub import Hub
from tracker.domain.options import StreamOptions
from tracker.domain.stream import Stream
from tracker.web.parameters import (
    check_device_ids,
    check_track,
    parse_max_rate,
    parse_mode,
    parse_ping,
    parse_track,
    shown,
)

#: It comes back in the answer, and up to 64 answers may wait.
_REF_LIMIT_CHARS = 128
Ref = Annotated[str, Meta(max_length=_REF_LIMIT_CHARS)] | int | None
_DeviceIds = Annotated[list[Annotated[str, Meta(min_length=1)] | int], Meta(min_length=1)]
_Flag = bool | Annotated[int, Meta(ge=0, le=1)]


class Subscribe(Struct, forbid_unknown_fields=True, tag_field="op", tag="subscribe"):
    """Add devices to the stream, first with their last message or their track."""

    device_ids: _DeviceIds
    ref: Ref = None
    last: _Flag = False
    track: str | Annotated[float, Meta(ge=0)] = 0.0


class Unsubscribe(Struct, forbid_unknown_fields=True, tag_field="op", tag="unsubscribe"):
    """Take devices from the stream."""

    device_ids: _DeviceIds
    ref: Ref = None


class Options(Struct, forbid_unknown_fields=True, tag_field="op", tag="options"):
    """Change how the stream deals with overflow, its rate, or its pings."""

    ref: Ref = None
    mode: str | UnsetType = UNSET
    max_rate: float | UnsetType | None = UNSET
    ping: float | UnsetType | None = UNSET


class Auth(Struct, forbid_unknown_fields=True, tag_field="op", tag="auth"):
    """Present a new token."""

    token: str
    ref: Ref = None


class Ping(Struct, forbid_unknown_fields=True, tag_field="op", tag="ping"):
    """Ask whether the gateway is there."""

    ref: Ref = None


Operation = Subscribe | Unsubscribe | Options | Auth | Ping


#: Of every operation.
TYPES: tuple[type[Struct], ...] = (Subscribe, Unsubscribe, Options, Auth, Ping)
_NAMES = [str(each.__struct_config__.tag) for each in TYPES]


class _Named(Struct):
    op: object = UNSET
    ref: Raw = Raw(b"null")


class _WithRef(Struct):
    ref: Ref = None


_decode = msgspec.json.Decoder(Operation).decode
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_with_ref = msgspec.json.Decoder(_WithRef).decode


def perform(text: str, stream: Stream, hub: Hub, *, limit: int, now_ns: int) -> Event | None:
    """Carry out the operation in `text`; return the answer, or None: it is none.

    `limit`: how many device ids a connection may have.
    """
    try:
        named = _decode_named(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    if named.op is UNSET:
        return None
    ref: Ref = None
    prefix = f"{named.op}: " if named.op in _NAMES else ""
    try:
        ref = _decode_with_ref(text).ref
        if not prefix:
            return event.error(f"op: {shown(named.op)}, expected {' or '.join(_NAMES)}", ref)
        return _answer(_decode(text), stream, hub, limit, now_ns)
    except (msgspec.ValidationError, BadRequestError) as error:
        return event.error(f"{prefix}{error}", ref)


def _answer(operation: Operation, stream: Stream, hub: Hub, limit: int, now_ns: int) -> Event:
    if isinstance(operation, Subscribe):
        return _subscribe(operation, stream, hub, limit, now_ns)
    if isinstance(operation, Unsubscribe):
        hub.unsubscribe(stream, map(str, operation.device_ids))
        return _ack("unsubscribe", operation.ref, stream, hub)
    if isinstance(operation, Options):
        return _change(operation, stream, hub, now_ns)
    if isinstance(operation, Auth):
        raise BadRequestError("token: not configured here, expected no token")
    return _ack("ping", operation.ref, stream, hub)


def _subscribe(operation: Subscribe, stream: Stream, hub: Hub, limit: int, now_ns: int) -> Event:
    device_ids = list(dict.fromkeys(map(str, operation.device_ids)))
    new = [device_id for device_id in device_ids if device_id not in stream.subscriptions]
    if len(stream.subscriptions) + len(new) > limit:
        raise BadRequestError(
            f"device_ids: {len(stream.subscriptions)} ids and {len(new)} more, expected at most"
            f" {limit}"
        )
    check_device_ids(new, limit)
    track = operation.track
    options = StreamOptions(
        has_snapshot=bool(operation.last),
        track_s=parse_track(track) if isinstance(track, str) else check_track(track),
    )
    answer = _ack("subscribe", operation.ref, stream, hub)
    hub.subscribe(stream, device_ids, options, now_ns=now_ns)
    return answer


def _change(operation: Options, stream: Stream, hub: Hub, now_ns: int) -> Event:
    changes: list[Callable[[], object]] = []
    if operation.mode is not UNSET:
        overflow = parse_mode(operation.mode)
        changes.append(lambda: stream.set_overflow(overflow))
    if operation.max_rate is not UNSET:
        rate = None if operation.max_rate is None else parse_max_rate(operation.max_rate)
        changes.append(lambda: stream.set_max_rate(rate))
    if operation.ping is not UNSET:
        ping_s = None if operation.ping is None else parse_ping(operation.ping)
        changes.append(lambda: _set_ping(stream, hub, ping_s, now_ns))
    for change in changes:  # all of them are right: none is made where one is not
        change()
    return _ack("options", operation.ref, stream, hub)


def _set_ping(stream: Stream, hub: Hub, ping_s: float | None, now_ns: int) -> None:
    stream.ping_due_s = now_ns / 1e9 + (ping_s or 0.0)
    hub.set_ping(stream, ping_s)


def _ack(name: str, ref: Ref, stream: Stream, hub: Hub) -> Event:
    return event.ack(name, ref, hub.position_of(stream))
