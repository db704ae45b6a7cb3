"""Tell the clients when the broker is gone, and when it is back. PROTOCOL B4.

Law: whatever an outage may have cost lies, in every client's stream, behind the word that
the broker is gone. So whoever consumes does the telling: nothing is published meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from tracker.domain.event import UPSTREAM_BACK, UPSTREAM_LOST, Event
from tracker.domain.hub import Hub
from tracker.mqtt import Client, MqttError

#: Others have their turn between so many clients.
_PER_TURN = 100


async def consume_and_tell(
    hub: Hub, consume: Callable[[Client], Awaitable[None]], client: Client
) -> None:
    """Consume what `client`, which has just been subscribed, receives; tell of both ends.

    Both ends of an outage leave a mark in the history: a resume over it is `partial`. Where
    the hub takes it that nothing was lost before, that holds only if the broker has really
    kept our session.
    Raises: MqttError when the connection is lost; the clients have been told.
    Cancellation: as `consume`; nobody is told, unless the telling itself was cancelled:
    then some have been.
    """
    if not hub.is_upstream_lost and not client.has_session:
        await _tell(hub, UPSTREAM_LOST)
    if hub.is_upstream_lost:
        await _tell(hub, UPSTREAM_BACK)
    try:
        await consume(client)
    except MqttError:
        await _tell(hub, UPSTREAM_LOST)  # noqa: ASYNC120 whoever cancels needs no such error
        raise


async def _tell(hub: Hub, change: Event) -> None:
    hub.note_upstream(is_lost=change is UPSTREAM_LOST)
    # Who comes from now on has been told as it came.
    for count, stream in enumerate(hub.streams()):
        stream.post(change)
        if count % _PER_TURN == 0:
            await trio.lowlevel.checkpoint()
