"""What a gateway tells of its connections, at one moment."""

from __future__ import annotations

import dataclasses
import ssl

import msgspec
import trio

from tracker.watch.address import STREAM_PATH, GatewayAddress
from tracker.watch.errors import StreamError
from tracker.watch.gate import message_in
from tracker.watch.http import open_response

#: The gateway answers at once.
ANSWER_S = 5.0

_USER_AGENT = "tracker-top"
#: What the gateway's answer names when it does not list its connections.
_SETTING = "api.connections"


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One client, as the gateway tells; what it does not tell is 0 or "".

    `seat`: its number, until it ends. `lag_s`: how long the oldest message that waits has waited.
    """

    seat: int
    transport: str = ""
    address: str = ""
    user_agent: str = ""
    age_s: float = 0.0
    devices: int = 0
    mode: str = ""
    lag_s: float = 0.0
    waiting: int = 0
    delivered: int = 0
    dropped: int = 0


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's statistics, as far as they are shown."""

    total_messages_processed: int = 0
    active_subscribers: int = 0
    devices_being_monitored: int = 0
    connections: dict[str, int] = {}
    messages_delivered: int = 0
    messages_dropped: int = 0
    messages_waiting: int = 0
    gaps: int = 0
    resumes: dict[str, int] = {}
    mqtt_connected: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """`connections`: the slowest first, perhaps not all of `total`; `at_s`: on Trio's clock.

    `listed`, `stats`: the JSON of both answers, as it came.
    """

    at_s: float
    connections: list[Connection]
    total: int
    totals: Totals
    listed: bytes
    stats: bytes


class _Listed(msgspec.Struct):
    connections: list[Connection]
    total: int = 0


class ObservationError(StreamError):
    """The gateway does not tell. `is_final`: nor will it until somebody mends something."""

    def __init__(self, text: str, *, is_final: bool) -> None:
        super().__init__(text)
        self.is_final = is_final


_decode_listed = msgspec.json.Decoder(_Listed).decode
_decode_totals = msgspec.json.Decoder(Totals).decode


async def observe(address: GatewayAddress, context: ssl.SSLContext | None) -> Observation:
    """Ask the gateway.

    Raises: UnreachableError, HttpError, ObservationError. Cancellation: the connection is cut.
    """
    listed = await _fetch(address, context, "connections")
    at_s = trio.current_time()
    stats = await _fetch(address, context, "stats")
    try:
        found = _decode_listed(listed)
        totals = _decode_totals(stats)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ObservationError(
            f"what answers at {address} is no gateway of this version: {error}", is_final=True
        ) from None
    total = max(found.total, len(found.connections))
    return Observation(at_s, found.connections, total, totals, listed, stats)


async def _fetch(address: GatewayAddress, context: ssl.SSLContext | None, name: str) -> bytes:
    path = f"{address.prefix}{STREAM_PATH}/{name}"
    opening = open_response(address, path, user_agent=_USER_AGENT, ssl_context=context)
    try:
        with trio.fail_after(ANSWER_S):
            async with opening as response:
                body = await response.read()
    except trio.TooSlowError:
        raise ObservationError(f"no answer within {ANSWER_S:g} s", is_final=False) from None
    if response.status == 200:
        return body
    message = message_in(body)
    if response.status == 404 and _SETTING in message:
        raise ObservationError(
            "the gateway does not list its connections: set `api.connections = true` in its "
            "tracker.toml, or TRACKER_API__CONNECTIONS=true in its environment, and restart it",
            is_final=True,
        )
    raise ObservationError(
        f"{path} answered with HTTP status {response.status}" + (f": {message}" if message else ""),
        is_final=response.status < 500 and response.status not in (408, 425, 429),
    )
