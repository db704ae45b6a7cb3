"""The values of the events, as types: what is sent is encoded from them.

`docs/schema/` is generated from here, so that what is written down is what is sent. The
value of a `message`, a `snapshot` and a `track` is the device's own and never encoded
here; `MessageData` only says what it looks like.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType


def _one_of(*values: str) -> Meta:
    """What stands here; the code that says it has types of its own for it."""
    return Meta(extra_json_schema={"enum": list(values)})


Position = Annotated[
    str, Meta(description="where the stream stands, to resume from; opaque to clients")
]
Count = Annotated[int, Meta(ge=0)]
Ref = Annotated[str | int, Meta(description="of the operation that it answers")]


class Body(Struct, frozen=True):
    """What the device sent, byte for byte."""

    DEVICE_ID: str | int


class MessageData(Struct, frozen=True):
    """`message`, `snapshot` and `track`: what a device said; more keys may stand here."""

    timestamp: Annotated[Any, Meta(description="the device's own, or when it was received")]
    data: Body


class Ping(Struct, frozen=True):
    """`ping`: the gateway is there."""

    type: Annotated[str, _one_of("keep-alive")] = "keep-alive"


class Error(Struct, frozen=True):
    """`error`: what was wrong, and what was expected."""

    message: str
    ref: Ref | UnsetType = UNSET


class Hello(Struct, frozen=True):
    """`hello`: what the stream is like."""

    version: str
    ping_s: Annotated[float, Meta(description="seconds between pings")]
    buffer: Annotated[int, Meta(description="messages of one device that may wait")]
    position: Position


class Resume(Struct, frozen=True):
    """`resume`: how the resume turned out; `missed`: how many messages follow, where known."""

    status: Annotated[str, _one_of("continued", "partial", "reset")]
    missed: Count | None
    position: Position


class Gap(Struct, frozen=True):
    """`gap`: here messages are missing; `device_id` is null where nobody knows whose."""

    device_id: str | None
    dropped: Count
    reason: Annotated[str, _one_of("buffer_full", "evicted", "ingest")]


class Upstream(Struct, frozen=True):
    """`upstream`: the gateway lost, or regained, its broker."""

    connected: bool


class Mode(Struct, frozen=True):
    """`mode`: the gateway changed how the stream deals with overflow."""

    mode: Annotated[str, _one_of("latest")]
    reason: str


class Ack(Struct, frozen=True):
    """`ack`: the operation was carried out; `position` where the stream has one."""

    op: Annotated[str, _one_of("subscribe", "unsubscribe", "options", "auth", "ping")]
    ref: Ref | UnsetType = UNSET
    position: Position | UnsetType = UNSET


class Reconnect(Struct, frozen=True):
    """`reconnect`: a planned stop; come back after so many milliseconds."""

    after_ms: Count
    reason: Annotated[str, _one_of("shutdown")]


class Closed(Struct, frozen=True):
    """`closed`, on SSE: what a close frame says on WebSocket."""

    code: int
    message: str


#: The type of each event's value.
TYPES: dict[str, type[Struct]] = {
    "message": MessageData,
    "snapshot": MessageData,
    "track": MessageData,
    "ping": Ping,
    "error": Error,
    "hello": Hello,
    "resume": Resume,
    "gap": Gap,
    "upstream": Upstream,
    "mode": Mode,
    "ack": Ack,
    "reconnect": Reconnect,
    "closed": Closed,
}
