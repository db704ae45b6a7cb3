"""Tell the clients when the broker is gone, and when it is back. PROTOCOL B4."""

from __future__ import annotations

import trio
from trio_util import AsyncValue

from tracker.domain.event import UPSTREAM_BACK, UPSTREAM_LOST, Event
from tracker.domain.hub import Hub
from tracker.mqtt.link import LinkState

#: Others have their turn between so many clients.
_PER_TURN = 100


async def watch_upstream(hub: Hub, state: AsyncValue[LinkState]) -> None:
    """Tell every client of each change, until cancelled.

    Both ends of an outage leave a mark in the history: a resume over it is `partial`. The
    start is the end of an outage too, unless the hub knows that nothing was lost before it;
    then it holds only if the broker had really kept our session.
    Cancellation: some clients may have been told, and others not.
    """
    link = await state.wait_value(lambda link: link.is_subscribed)
    if not hub.is_upstream_lost and not link.has_session:
        await _tell(hub, UPSTREAM_LOST)
    while True:
        if hub.is_upstream_lost:
            await _tell(hub, UPSTREAM_BACK)
        connection = link.reconnects
        # An outage may be over before we come to look.
        await state.wait_value(
            lambda link, told=connection: not link.is_subscribed or link.reconnects != told
        )
        await _tell(hub, UPSTREAM_LOST)
        link = await state.wait_value(lambda link: link.is_subscribed)


async def _tell(hub: Hub, change: Event) -> None:
    hub.note_upstream(is_lost=change is UPSTREAM_LOST)
    # Who comes from now on has been told as it came.
    for count, stream in enumerate(hub.streams()):
        stream.post(change)
        if count % _PER_TURN == 0:
            await trio.lowlevel.checkpoint()
