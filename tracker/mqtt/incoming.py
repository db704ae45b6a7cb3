"""What was received and not yet taken: bounded, and filled by one thread.

The thread admits a message (`admit`), Trio stores it (`store`) and hands it to a task
(`get`, `get_batch`). Each counter is written on one side only and only grows, so the
difference of two of them is how much waits between, and no lock is needed to know it.
When a limit is reached the newest message is discarded, and counted.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable

import trio

from tracker.mqtt.errors import DISCONNECTED, MqttError
from tracker.mqtt.message import Message
from tracker.mqtt.queues import Queue

MessageCallback = Callable[[Message], object]

# How many messages a client keeps that nobody takes because its callbacks do the work,
# if it was given no limit of its own.
UNREAD_BESIDE_CALLBACKS = 10_000

WARNING_INTERVAL_S = 1.0


class Incoming:
    """The queue of one client. It outlives its connections.

    `limit_messages` and `limit_bytes` (of payload) bound it; 0 or less means no limit.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        limit_messages: int,
        limit_bytes: int,
        logger: logging.Logger,
    ) -> None:
        self._queue = queue
        self._limit_messages = limit_messages if limit_messages > 0 else math.inf
        self._limit_bytes = limit_bytes if limit_bytes > 0 else math.inf
        self._logger = logger
        self._callbacks: tuple[MessageCallback, ...] = ()
        self._waiting_tasks = trio.lowlevel.ParkingLot()
        self._attend: Callable[[], Awaitable[None]] = trio.sleep_forever
        self._is_attended = True
        self._is_closed = False
        self._close_cause: BaseException | None = None
        # Written by the thread.
        self.admitted_messages = 0
        self.admitted_bytes = 0
        self.discarded_messages = 0
        self._warn_at = 0.0
        # Written by Trio.
        self._stored_messages = 0
        self._stored_bytes = 0
        self._taken_messages = 0
        self._taken_bytes = 0
        self.batches = 0

    # The thread's side

    def admit(self, message: Message) -> bool:
        """Say whether there is room for a message, and count it either way."""
        if self._callbacks:
            messages, size = self._stored_messages, self._stored_bytes
        else:
            messages, size = self._taken_messages, self._taken_bytes
        if (
            self.admitted_messages - messages < self._limit_messages
            and self.admitted_bytes - size < self._limit_bytes
        ):
            self.admitted_messages += 1
            self.admitted_bytes += len(message.payload)
            return True
        self.discarded_messages += 1
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + WARNING_INTERVAL_S
            self._logger.warning("Message queue is full. Discarding message.")
        return False

    # Trio's side

    def open(self, attend: Callable[[], Awaitable[None]]) -> None:
        """Start a life in which waiting for a message makes sense.

        `attend` waits until something was stored, or nothing will be any more; it may also
        return for no reason. One task at a time waits there, which is the cheapest way.
        """
        self._attend = attend
        self._is_attended = False
        self._is_closed = False
        self._close_cause = None

    def close(self, cause: BaseException | None) -> None:
        """Make whoever waits, or comes when nothing waits any more, fail for this reason."""
        self._is_closed = True
        self._close_cause = cause
        self._waiting_tasks.unpark_all()

    def store(self, batch: list[Message]) -> None:
        """Call the callbacks with messages that were admitted, and let tasks take them."""
        self.batches += 1
        self._stored_messages += len(batch)
        self._stored_bytes += sum([len(message.payload) for message in batch])
        if self._callbacks:
            self._call_back(batch)
            room = min(self._limit_messages, UNREAD_BESIDE_CALLBACKS) - self._queue.qsize()
            unread = batch[max(0, int(room)) :]
            batch = batch[: max(0, int(room))]
            self._count_taken(unread)
        self._queue.put_batch(batch)
        if self._waiting_tasks:
            self._waiting_tasks.unpark(count=len(batch))

    def _call_back(self, batch: list[Message]) -> None:
        for message in batch:
            for callback in self._callbacks:
                try:
                    callback(message)
                except Exception:
                    self._logger.exception("The message callback %r failed", callback)

    def register(self, callback: MessageCallback) -> None:
        """Call `callback` with every message from now on."""
        self._callbacks = (*self._callbacks, callback)

    def unregister(self, callback: MessageCallback) -> None:
        """Stop calling `callback`. Raises: ValueError when it is not registered."""
        callbacks = list(self._callbacks)
        callbacks.remove(callback)
        self._callbacks = tuple(callbacks)

    async def get(self) -> Message:
        """Take the next message, waiting for it if need be.

        Raises: MqttError when nothing waits and the connection is gone.
        Cancellation: atomic: a cancelled call takes nothing.
        """
        await self._wait()
        message = self._queue.get_nowait()
        self._count_taken([message])
        return message

    async def get_batch(self) -> list[Message]:
        """Take everything that waits, at least one message, waiting for it if need be.

        Raises: MqttError when nothing waits and the connection is gone.
        Cancellation: atomic: a cancelled call takes nothing.
        """
        await self._wait()
        batch = self._queue.get_batch()
        self._count_taken(batch)
        return batch

    async def _wait(self) -> None:
        """Return, after a checkpoint, in a moment in which a message waits."""
        if self._queue.qsize() or self._is_closed:
            await trio.lowlevel.checkpoint()
        while not self._queue.qsize():
            if self._is_closed:
                raise MqttError(DISCONNECTED) from self._close_cause
            if self._is_attended:
                await self._waiting_tasks.park()
            else:
                await self._wait_in_attendance()

    async def _wait_in_attendance(self) -> None:
        attend = self._attend
        self._is_attended = True
        try:
            await attend()
        finally:
            if self._attend is attend:
                self._is_attended = False

    def _count_taken(self, batch: list[Message]) -> None:
        self._taken_messages += len(batch)
        self._taken_bytes += sum([len(message.payload) for message in batch])

    def __len__(self) -> int:
        """Return how many messages can be taken without waiting."""
        return self._queue.qsize()

    @property
    def waiting_messages(self) -> int:
        """How many messages were admitted and not yet taken."""
        return self.admitted_messages - self._taken_messages

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of payload were admitted and not yet taken."""
        return self.admitted_bytes - self._taken_bytes
