"""Peers that take nothing of what they are owed: found, however little that is.

A peer that makes the kernel refuse bytes is watched by its outbox. One that vanished while
it was owed a few never gets that far: the kernel keeps them, and would try for a quarter
of an hour.

Why not TCP_USER_TIMEOUT: with it Linux counts from the first zero window on, and starts
anew not with each byte but only when a window opens for all of what it would send next. A
client that reads slowly but steadily was cut (20 KB/s, a window of 128 KB, segments of
1460 bytes, 2 s), and such a client is never to be cut: PROTOCOL A4.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import trio

#: How often each connection is looked at within the deadline.
_LOOKS = 4
#: A look costs 2 µs: others have their turn in between.
_LOOKS_PER_TURN = 100


class Watched(Protocol):
    """A connection, as it is watched."""

    def watch(self) -> None:
        """Look at what the peer has acknowledged, and give it up if that is due."""


async def run_watch(connections: Collection[Watched], stall_s: float) -> None:
    """Have every connection looked at four times in `stall_s` seconds, until cancelled.

    `connections` may change meanwhile. Cancellation: between two looks.
    """
    while True:
        await trio.sleep(stall_s / _LOOKS)
        await _look(connections)


async def _look(connections: Collection[Watched]) -> None:
    # A function of its own, so that the last connection is not held until the next look.
    for count, connection in enumerate(list(connections), 1):
        if connection in connections:
            connection.watch()
        if count % _LOOKS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
