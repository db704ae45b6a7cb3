"""Tell the clients when the broker is gone, and when it is back. PROTOCOL B4."""

from __future__ import annotations

import trio
from trio_util import AsyncValue

from tracker.domain import event
from tracker.domain.hub import Hub
from tracker.mqtt.link import LinkState

#: Others have their turn between so many shares of the clients.
_SHARES = 64

_GONE = event.upstream(is_connected=False)
_BACK = event.upstream(is_connected=True)


async def watch_upstream(hub: Hub, state: AsyncValue[LinkState]) -> None:
    """Tell every client of each change, from the first loss on, until cancelled.

    Both ends of an outage leave a mark in the history: a resume over it is `partial`.
    Cancellation: some clients may have been told, and others not.
    """
    await state.wait_value(lambda link: link.is_subscribed)
    while True:
        await state.wait_value(lambda link: not link.is_subscribed)
        await _tell(hub, _GONE)
        await state.wait_value(lambda link: link.is_subscribed)
        await _tell(hub, _BACK)


async def _tell(hub: Hub, change: event.Event) -> None:
    hub.note_upstream()
    for share in range(_SHARES):
        for stream in hub.streams(share, _SHARES):
            stream.post(change)
        await trio.lowlevel.checkpoint()
