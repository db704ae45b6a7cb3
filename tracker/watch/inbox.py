"""What has come and was not taken yet, and where the stream stands with what was."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import trio

Item = TypeVar("Item")


@dataclasses.dataclass(slots=True)
class _Entry(Generic[Item]):
    item: Item
    position: str


class Inbox(Generic[Item]):
    """A queue of items, each with the position that it leads to.

    Not a memory channel: a position may be reached without an item, behind those that wait, and
    the bound must give way for who waits for an answer that stands behind them.

    `position`: behind all that was taken.
    """

    def __init__(self, limit: int, position: str) -> None:
        self.position = position
        self._limit = limit
        self._entries: deque[_Entry[Item]] = deque()
        self._takers = trio.lowlevel.ParkingLot()
        self._feeders = trio.lowlevel.ParkingLot()
        self._hurried = 0
        self._has_ended = False
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, item: Item, position: str) -> None:
        """Add an item; see `wait_room`."""
        self._entries.append(_Entry(item, position))
        self._takers.unpark()

    def reach(self, position: str) -> None:
        """Note a position that lies behind all that was put."""
        if self._entries:
            self._entries[-1].position = position
        else:
            self.position = position

    async def wait_room(self) -> None:
        """Wait until one more item may be put. Cancellation: changes nothing."""
        await trio.lowlevel.checkpoint()
        while len(self._entries) >= self._limit and not self._hurried:
            await self._feeders.park()

    @contextmanager
    def without_limit(self) -> Iterator[None]:
        """Let anything in for as long as the block lasts."""
        self._hurried += 1
        self._feeders.unpark_all()
        try:
            yield
        finally:
            self._hurried -= 1

    async def take(self) -> Item:
        """Take the next item.

        Raises: trio.EndOfChannel when there are no more, trio.ClosedResourceError when closed.
        Cancellation: atomic, a cancelled call takes nothing.
        """
        await trio.lowlevel.checkpoint()
        while not self._entries and not self._is_closed and not self._has_ended:
            await self._takers.park()
        if self._is_closed:
            raise trio.ClosedResourceError
        if not self._entries:
            raise trio.EndOfChannel
        # No checkpoint from here on: who sees the position has the item.
        entry = self._entries.popleft()
        self.position = entry.position
        self._feeders.unpark()
        return entry.item

    def end(self) -> None:
        """No more items will be put. Idempotent."""
        self._has_ended = True
        self._takers.unpark_all()

    def close(self) -> None:
        """Forget what waits: nothing can be taken any more. Idempotent."""
        self._is_closed = True
        self._entries.clear()
        self._takers.unpark_all()
