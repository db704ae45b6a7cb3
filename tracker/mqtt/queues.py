"""The orders in which a client hands out what it received.

They offer the hooks of `asyncio.Queue` that aiomqtt's users override, `_init`, `_put`
and `_get`, so that a subclass written for it works here. They never wait and know no
limit: both are the business of `Incoming`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Any

from tracker.mqtt.message import Message


class Queue:
    """First in, first out."""

    _queue: Any

    def __init__(self, maxsize: int = 0) -> None:
        self._init(maxsize)

    def _init(self, maxsize: int) -> None:
        self._queue = deque()

    def _put(self, item: Any) -> None:
        self._queue.append(item)

    def _get(self) -> Any:
        return self._queue.popleft()

    def qsize(self) -> int:
        """Return how many messages wait."""
        return len(self._queue)

    def put_nowait(self, item: Message) -> None:
        """Add a message."""
        self._put(item)

    def get_nowait(self) -> Message:
        """Take the next message. Raises: IndexError when none waits."""
        message: Message = self._get()
        return message

    def put_batch(self, batch: Iterable[Message]) -> None:
        """Add messages in the order given."""
        if type(self)._put is Queue._put:
            self._queue.extend(batch)
        else:
            for message in batch:
                self._put(message)

    def get_batch(self) -> list[Message]:
        """Take everything that waits, in the order of this queue."""
        if type(self)._get is Queue._get:
            batch: list[Message] = list(self._queue)
            self._queue.clear()
            return batch
        return [self._get() for _ in range(self.qsize())]


class LifoQueue(Queue):
    """Last in, first out."""

    def _init(self, maxsize: int) -> None:
        self._queue = []

    def _get(self) -> Any:
        return self._queue.pop()


class PriorityQueue(Queue):
    """Lowest first: by message id, unless a subclass puts something else in."""

    def _init(self, maxsize: int) -> None:
        self._queue = []

    def _put(self, item: Any) -> None:
        heapq.heappush(self._queue, item)

    def _get(self) -> Any:
        return heapq.heappop(self._queue)
