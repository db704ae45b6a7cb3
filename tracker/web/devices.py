"""`/api/v1/devices`: which devices are live, and where they were last."""

from __future__ import annotations

import time

import msgspec
import trio
from msgspec import Struct
from quart import Quart, Response

from tracker.domain.message import Message
from tracker.web.answers import error_response, json_response
from tracker.web.view import GatewayView

#: A page draws no more; `total` tells of the rest.
_LISTED_LIMIT = 5000
#: Each takes some microseconds to decode: others have their turn in between.
_DEVICES_PER_TURN = 200


class _Fix(Struct):
    # Devices send what they like: everything but a number is no position.
    LAT: object = None
    LON: object = None
    SPEED: object = None
    HEADING: object = None


class _Body(Struct):
    data: _Fix
    timestamp: object = None


class Device(Struct):
    """A device as the API shows it; what the device did not tell is null."""

    device_id: str
    lat: float | None
    lon: float | None
    speed: float | None
    heading: float | None
    timestamp: str | None
    age_s: float | None


_decode = msgspec.json.Decoder(_Body).decode


def add_devices(app: Quart, gateway: GatewayView) -> None:
    """Add the list of devices to `app`; it answers 404 unless `api.devices` is set."""

    @app.get("/api/v1/devices")
    async def devices() -> Response:
        if not gateway.api.devices:
            return error_response(
                404, "the list of devices is off here: set `api.devices = true` to have it"
            )
        messages = gateway.hub.last_messages()
        now_ns = time.monotonic_ns()
        listed = []
        for count, message in enumerate(messages[-_LISTED_LIMIT:]):
            if count % _DEVICES_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            listed.append(to_device(message, now_ns))
        most = gateway.stream.max_device_ids
        return json_response({"devices": listed, "total": len(messages), "max_device_ids": most})


def to_device(message: Message, now_ns: int) -> Device:
    """What the last message tells of a device; `now_ns`: the monotonic clock."""
    body = _decode(message.data)
    fix = body.data
    return Device(
        device_id=message.device_id,
        lat=_number(fix.LAT),
        lon=_number(fix.LON),
        speed=_number(fix.SPEED),
        heading=_number(fix.HEADING),
        timestamp=body.timestamp if isinstance(body.timestamp, str) else None,
        # A retained message tells where a device was, not when it was heard.
        age_s=None if message.is_retained else (now_ns - message.received_ns) / 1e9,
    )


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return None
