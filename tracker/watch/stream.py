"""A stream of messages that outlives its connections.

Theory of operation. One task connects, reads, decodes and puts into a bounded channel; when the
connection ends it waits and connects again. Whoever iterates takes from the channel. While the
channel is full the task does not read: trio-websocket then stops after one more message, and
the kernel's buffers fill, so that the gateway sees a slow client and no memory grows here. The
task never raises: the error that ends a stream for good is handed to whoever iterates, behind
the messages that came before it.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import math
import random
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio
from trio_util import AsyncValue

from tracker.watch.address import GatewayAddress, check_device_ids, parse_gateway
from tracker.watch.connection import Connection, open_connection
from tracker.watch.dial import Dial, make_dial
from tracker.watch.errors import (
    ClosedError,
    GaveUpError,
    HandshakeError,
    StalledError,
    StreamError,
    closed_error,
)
from tracker.watch.message import Event, Message, UndecodableError, decode
from tracker.watch.nursery import open_plain_nursery
from tracker.watch.timing import Backoff, Timing

LOGGER = logging.getLogger("tracker.watch")

# A connection that held for this long starts the backoff anew.
STABLE_S = 5.0
# No hint of a server is obeyed beyond this.
LONGEST_HINT_S = 300.0


class State(enum.Enum):
    """Where a stream stands."""

    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"  # for the next attempt
    CLOSED = "closed"


@dataclasses.dataclass(frozen=True, slots=True)
class StreamStatistics:
    """What a stream did since it was opened.

    `events` counts all that was neither message nor ping, `undecodable` texts that were not of
    the contract and were skipped, `unread` messages and events that nobody has taken yet.
    `problem` says why there is no connection now, "" while there is one. `next_attempt_in_s` is
    None unless the state is WAITING.
    """

    state: State
    connects: int
    reconnects: int
    failed_attempts: int
    messages: int
    events: int
    pings: int
    undecodable: int
    unread: int
    problem: str
    next_attempt_in_s: float | None


class Events:
    """A view of all that a stream receives, in order: messages and events."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[Message | Event]:
        return self

    async def __anext__(self) -> Message | Event:
        """Take the next message or event. Raises and cancellation: as `Stream.__anext__`."""
        return await self._stream.receive()


class Stream:
    """A stream of the messages of some devices. Made by `open_stream`.

    `async for message in stream` gives the messages alone, `async for item in stream.events()`
    all but the pings; both take from the same queue, and so may several tasks: each item goes
    to one. `state` can be waited on (`trio_util.AsyncValue`).
    """

    def __init__(
        self,
        address: GatewayAddress,
        device_ids: tuple[str, ...],
        *,
        dial: Dial,
        headers: tuple[tuple[str, str], ...],
        buffer_messages: int,
        timing: Timing,
        rng: random.Random,
    ) -> None:
        self.state: AsyncValue[State] = AsyncValue(State.CONNECTING)
        self.address = address
        self.device_ids = device_ids
        self._dial = dial
        self._headers = headers
        self._timing = timing
        self._backoff = Backoff(timing.backoff_min_s, timing.backoff_max_s, rng)
        self._rng = rng
        self._send, self._receive = trio.open_memory_channel[Message | Event](buffer_messages)
        # Two scopes: leaving cancels no more than is under way, so that a live connection can
        # say goodbye.
        self._running = trio.CancelScope()
        self._taking: trio.CancelScope | None = None
        self._is_stopping = False
        self._error: StreamError | None = None
        self._connects = self._failed_attempts = 0
        self._messages = self._events = self._pings = self._undecodable = 0
        self._problem = "not connected yet"
        self._next_attempt_s = 0.0
        self._away_since_s = 0.0
        #: The last that the gateway said of this connection's end.
        self._hint_s: float | None = None
        self._error_message = ""

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        """Take the next message; events before it are passed over.

        Raises: StreamError, when the stream has ended for good and nothing waits any more;
        trio.ClosedResourceError, when its block was left.
        Cancellation: takes no message.
        """
        while True:
            item = await self.receive()
            if isinstance(item, Message):
                return item

    def events(self) -> Events:
        """A view of messages and events together."""
        return Events(self)

    async def receive(self) -> Message | Event:
        """Take the next message or event.

        Raises: as `__anext__`. Cancellation: atomic, a cancelled call takes nothing.
        """
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            error = self._error
        if error is None:  # a fault of ours ended it, and is about to cancel whoever waits here
            await trio.sleep_forever()
        raise error from error.__cause__

    def statistics(self) -> StreamStatistics:
        """Return what this stream did so far."""
        state = self.state.value
        return StreamStatistics(
            state=state,
            connects=self._connects,
            reconnects=max(0, self._connects - 1),
            failed_attempts=self._failed_attempts,
            messages=self._messages,
            events=self._events,
            pings=self._pings,
            undecodable=self._undecodable,
            unread=self._receive.statistics().current_buffer_used,
            problem=self._problem,
            next_attempt_in_s=max(0.0, self._next_attempt_s - trio.current_time())
            if state is State.WAITING
            else None,
        )

    async def _run(self) -> None:
        """Keep a connection until stopped, or until an error that is final."""
        try:
            with self._running, self._send:
                self._away_since_s = trio.current_time()
                while self._error is None and not self._is_stopping:
                    self.state.value = State.CONNECTING
                    try:
                        await self._live()
                    except StreamError as error:
                        await self._handle(error)
        finally:
            self.state.value = State.CLOSED

    def _stop(self) -> None:
        """End the connection with a goodbye, and what waits unread."""
        self._is_stopping = True
        (self._taking or self._running).cancel()
        self._receive.close()

    async def _live(self) -> None:
        """Live one connection. Raises: StreamError when it ends."""
        self._hint_s, self._error_message = None, ""
        async with open_connection(
            self.address,
            self.device_ids,
            dial=self._dial,
            headers=self._headers,
            connect_s=self._timing.connect_s,
        ) as connection:
            self._connects += 1
            self._problem = ""
            self.state.value = State.LIVE
            LOGGER.info("connected to %s", self.address)
            since_s = trio.current_time()
            try:
                with trio.CancelScope() as self._taking:
                    await self._take_all(connection)
            finally:
                self._taking = None
                self._away_since_s = trio.current_time()
                if self._away_since_s - since_s >= STABLE_S:
                    self._backoff.reset()

    async def _take_all(self, connection: Connection) -> None:
        while True:
            text: str | bytes | None = None
            with trio.move_on_after(self._timing.stall_s):
                text = await connection.receive()
            if text is None:
                raise StalledError(f"nothing came for {self._timing.stall_s:g} s")
            item = self._decode(text)
            if item is not None:
                await self._send.send(item)

    def _decode(self, text: str | bytes) -> Message | Event | None:
        try:
            if isinstance(text, bytes):
                raise UndecodableError("a binary message")
            item = decode(text)
        except UndecodableError as error:
            self._undecodable += 1
            if self._undecodable == 1:
                LOGGER.warning("skipping what is not of the contract: %s", error)
            return None
        if isinstance(item, Message):
            self._messages += 1
        elif item.name == "ping":
            self._pings += 1
            return None
        else:
            self._events += 1
            self._note(item)
        return item

    def _note(self, event: Event) -> None:
        """Remember what an event says of the end of this connection."""
        data = event.data if isinstance(event.data, dict) else {}
        if event.name == "reconnect":
            after_ms = data.get("after_ms")
            if isinstance(after_ms, int | float) and after_ms >= 0:
                self._hint_s = min(after_ms / 1000, LONGEST_HINT_S)
        elif event.name == "error":
            self._error_message = str(data.get("message", ""))

    async def _handle(self, error: StreamError) -> None:
        """Wait after a failure, or end the stream."""
        if isinstance(error, ClosedError) and self._error_message:
            error = closed_error(error.code, self._error_message)
        self._problem = str(error)
        if self.state.value is State.CONNECTING:
            self._failed_attempts += 1
        if error.is_final:
            self._error = error
            return
        now_s = trio.current_time()
        pause_s = self._pause_s(error)
        timing = self._timing
        patience_s = timing.give_up_s if self._connects else timing.give_up_first_s
        if now_s + pause_s - self._away_since_s > patience_s:
            self._error = GaveUpError(self._problem)
            self._error.__cause__ = error
            return
        LOGGER.info("no connection to %s: %s; again in %.1f s", self.address, error, pause_s)
        self._next_attempt_s = now_s + pause_s
        self.state.value = State.WAITING
        await trio.sleep(pause_s)

    def _pause_s(self, error: StreamError) -> float:
        if self._hint_s is not None:  # it is jittered already
            return self._hint_s
        pause_s = self._backoff.next_s()
        if isinstance(error, HandshakeError) and error.retry_after_s is not None:
            asked_s = min(error.retry_after_s, LONGEST_HINT_S)
            return max(pause_s, asked_s * self._rng.uniform(1.0, 1.25))
        return pause_s


@asynccontextmanager
async def open_stream(
    url: str,
    device_ids: Iterable[str] = (),
    *,
    ssl_context: ssl.SSLContext | None = None,
    headers: Iterable[tuple[str, str]] = (),
    buffer_messages: int = 100,
    timing: Timing | None = None,
    dial: Dial | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Stream]:
    """Open a stream of the messages of some devices, for as long as the block lasts.

        async with open_stream("https://fleet.example", device_ids=["A", "B"]) as stream:
            async for message in stream:
                print(message.device_id, message.data.get("SPEED"))

    It connects in the background, and again whenever the connection is lost: with exponential
    backoff and jitter, after what the gateway asked for, for as long as `timing` says (for ever
    by default). Only an error that would come again ends it, out of the iteration.

    Args:
        url: `http://`, `https://`, `ws://` or `wss://`, the gateway's own URL or its stream's;
            the ids in its `device_ids` count too. A user and password in it go to the proxy.
        device_ids: which devices.
        ssl_context: for TLS; by default certificates are verified against the system's
            authorities. It has to offer HTTP/1.1 alone, or nothing, by ALPN.
        headers: more headers for the handshake.
        buffer_messages: how many messages may wait to be taken. Beyond it nothing is read, and
            the gateway's own rules for slow clients apply.
        timing: see `Timing`.
        dial: what opens the byte stream; for tests and unusual networks.
        rng: where the jitter comes from.

    Raises: ValueError for a URL or a device id that cannot be one, or when no device is named.
    Cancellation: the connection is cut. At the end of the block it is closed with a goodbye,
    which takes at most half a second.
    """
    address = parse_gateway(url)
    ids = check_device_ids(device_ids)
    if not ids and "device_ids=" not in address.query:
        raise ValueError("no device is named; expected at least one in device_ids")
    if buffer_messages < 1 or math.isinf(buffer_messages):
        raise ValueError(f"buffer_messages is {buffer_messages}; expected a number from 1 on")
    stream = Stream(
        address,
        ids,
        dial=dial or make_dial(ssl_context),
        headers=tuple(headers),
        buffer_messages=buffer_messages,
        timing=timing or Timing(),
        rng=rng or random.Random(),
    )
    async with open_plain_nursery() as nursery:
        nursery.start_soon(stream._run)
        try:
            yield stream
        finally:
            stream._stop()
