"""`/api/v1/stream/connections`: who is connected, and who is slow. For operators."""

from __future__ import annotations

import time

import trio
from msgspec import Struct
from quart import Quart, Response

from tracker.domain.hub import drops_of
from tracker.domain.stream import Stream
from tracker.web.answers import error_response, json_response
from tracker.web.view import GatewayView

#: Others have their turn between so many connections.
_PER_TURN = 200
#: An operator looks at the slowest; `total` tells of the rest.
_LISTED_LIMIT = 1000


class ConnectionStatus(Struct):
    """One client. `lag_s`: how long the oldest message that waits has waited here.

    `seat`: a number that no other has now; whoever ends leaves it to another.
    """

    seat: int
    transport: str
    address: str
    user_agent: str
    age_s: float
    devices: int
    mode: str
    is_live: bool
    lag_s: float
    waiting: int
    waiting_bytes: int
    delivered: int
    replayed: int
    dropped: int
    overflows: int


def add_connections(app: Quart, gateway: GatewayView) -> None:
    """Add the list of connections; it answers 404 unless `api.connections` is set."""

    @app.get("/api/v1/stream/connections")
    async def connections() -> Response:
        if not gateway.api.connections:
            return error_response(
                404, "the list of connections is off here: set `api.connections = true` to have it"
            )
        now_ns, now_s = time.monotonic_ns(), trio.current_time()
        listed = []
        streams = gateway.hub.streams()
        for count, stream in enumerate(streams):
            if count % _PER_TURN == 0:
                await trio.lowlevel.checkpoint()
            listed.append(to_status(stream, now_ns, now_s))
        listed.sort(key=lambda status: (-status.lag_s, -status.dropped, -status.waiting))
        return json_response({"connections": listed[:_LISTED_LIMIT], "total": len(streams)})


def to_status(stream: Stream, now_ns: int, now_s: float) -> ConnectionStatus:
    """What is known of one client; `now_ns`: monotonic, `now_s`: Trio's clock."""
    oldest_ns = stream.queue.oldest_ns()
    return ConnectionStatus(
        seat=stream.seat,
        transport=stream.transport.name,
        address=stream.client.address,
        user_agent=stream.client.user_agent,
        age_s=round(now_s - stream.client.since_s, 3),
        devices=len(stream.subscriptions),
        mode=stream.overflow.value,
        is_live=stream.is_live,
        lag_s=0.0 if oldest_ns is None else round((now_ns - oldest_ns) / 1e9, 6),
        waiting=stream.waiting,
        waiting_bytes=stream.queue.waiting_bytes,
        delivered=stream.delivered,
        replayed=stream.replayed,
        dropped=sum(drops_of(stream).values()),
        overflows=stream.overflows,
    )
