"""What keeps a stream connected: it connects, reads, waits, and connects again.

Theory of operation. One task does it all. It never raises: the error that ends a stream for good
is left in `error`, behind the messages that came before it. While the inbox is full it does not
read: trio-websocket then stops after one more message, and the kernel's buffers fill, so that the
gateway sees a slow client and no memory grows here.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import random
from collections.abc import Mapping

import msgspec
import trio
from trio_util import AsyncValue

from tracker.watch.address import GatewayAddress
from tracker.watch.connection import Connection, open_connection
from tracker.watch.dial import Dial
from tracker.watch.errors import (
    ClosedError,
    GaveUpError,
    HandshakeError,
    StalledError,
    StreamError,
    closed_error,
)
from tracker.watch.inbox import Inbox
from tracker.watch.intake import LONGEST_HINT_S, Intake
from tracker.watch.message import Event, Report
from tracker.watch.nursery import open_plain_nursery
from tracker.watch.roster import Op, Roster
from tracker.watch.timing import STALL_PERIODS, Backoff, Timing

LOGGER = logging.getLogger("tracker.watch")

#: A connection that held for this long starts the backoff anew.
STABLE_S = 5.0
#: Who says too much is sent away: so long between two rounds of operations.
SETTLE_S = 0.05


class State(enum.Enum):
    """Where a stream stands."""

    IDLE = "idle"  # no device is wanted
    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"  # for the next attempt
    CLOSED = "closed"


@dataclasses.dataclass(frozen=True, slots=True)
class StreamStatistics:
    """What a stream did since it was opened.

    `messages` counts live messages, `past` snapshots and tracks, `lost` messages that gaps told
    of, `events` all other events that can be taken, `undecodable` texts that were not of the
    contract and were skipped, `unread` what nobody has taken yet. `problem` says why there is no
    connection now, "" while there is one. `next_attempt_in_s` is None unless the state is WAITING.
    """

    state: State
    connects: int
    reconnects: int
    failed_attempts: int
    messages: int
    past: int
    events: int
    lost: int
    pings: int
    undecodable: int
    unread: int
    problem: str
    next_attempt_in_s: float | None


class Keeper:
    """Keeps one stream connected while `run` runs.

    `error`: what ended it for good, if anything did.
    """

    def __init__(
        self,
        address: GatewayAddress,
        roster: Roster,
        inbox: Inbox[Report | Event],
        *,
        parameters: Mapping[str, str],
        dial: Dial,
        headers: tuple[tuple[str, str], ...],
        timing: Timing,
        rng: random.Random,
    ) -> None:
        self.state: AsyncValue[State] = AsyncValue(State.CONNECTING)
        self.error: StreamError | None = None
        self._address = address
        self._roster = roster
        self._inbox = inbox
        self._intake = Intake(inbox, roster)
        self._parameters = parameters
        self._dial = dial
        self._headers = headers
        self._timing = timing
        self._backoff = Backoff(timing.backoff_min_s, timing.backoff_max_s, rng)
        self._rng = rng
        # Two scopes: leaving cancels no more than is under way, so that a live connection can
        # say goodbye.
        self._running = trio.CancelScope()
        self._taking: trio.CancelScope | None = None
        self._is_stopping = False
        self._connects = self._failed_attempts = 0
        self._problem = "not connected yet"
        self._next_attempt_s = 0.0
        self._away_since_s = 0.0

    async def run(self) -> None:
        """Keep a connection until stopped, or until an error that is final."""
        try:
            with self._running:
                self._away_since_s = trio.current_time()
                while self.error is None and not self._is_stopping:
                    if not self._roster.wanted:
                        await self._idle()
                    self.state.value = State.CONNECTING
                    try:
                        await self._live()
                    except StreamError as error:
                        await self._handle(error)
        finally:
            self.state.value = State.CLOSED
            self._inbox.end()
            self._roster.end()

    def stop(self) -> None:
        """End the connection with a goodbye."""
        self._is_stopping = True
        (self._taking or self._running).cancel()

    def statistics(self) -> StreamStatistics:
        """What was done so far."""
        state, intake = self.state.value, self._intake
        return StreamStatistics(
            state=state,
            connects=self._connects,
            reconnects=max(0, self._connects - 1),
            failed_attempts=self._failed_attempts,
            messages=intake.messages,
            past=intake.past,
            events=intake.events,
            lost=intake.lost,
            pings=intake.pings,
            undecodable=intake.undecodable,
            unread=len(self._inbox),
            problem=self._problem,
            next_attempt_in_s=max(0.0, self._next_attempt_s - trio.current_time())
            if state is State.WAITING
            else None,
        )

    async def _idle(self) -> None:
        self.state.value = State.IDLE
        while not self._roster.wanted:
            await self._roster.wait_change()
        self._away_since_s = trio.current_time()

    async def _live(self) -> None:
        """Live one connection. Raises: StreamError when it ends."""
        device_ids = self._roster.connect()
        position = self._intake.begin()
        resuming = {"last_event_id": position} if position else {}
        try:
            async with open_connection(
                self._address,
                device_ids,
                dial=self._dial,
                parameters={**self._parameters, **resuming},
                headers=self._headers,
                connect_s=self._timing.connect_s,
            ) as connection:
                await self._live_on(connection)
        finally:
            self._roster.disconnect()

    async def _live_on(self, connection: Connection) -> None:
        self._connects += 1
        self._problem = ""
        self.state.value = State.LIVE
        LOGGER.info("connected to %s", self._address)
        since_s = trio.current_time()
        try:
            with trio.CancelScope() as self._taking:
                async with open_plain_nursery() as nursery:
                    nursery.start_soon(self._run_operations, connection)
                    try:
                        await self._take_all(connection)
                    finally:
                        nursery.cancel_scope.cancel()
        finally:
            self._taking = None
            self._away_since_s = trio.current_time()
            if self._away_since_s - since_s >= STABLE_S:
                self._backoff.reset()

    async def _run_operations(self, connection: Connection) -> None:
        """Tell the gateway which devices are wanted, whenever that changes, until cancelled."""
        while True:
            operations = self._roster.settle()
            for operation in operations:
                asked = {"op": operation.op.value, "device_ids": operation.device_ids}
                past = self._past_asked_for() if operation.op is Op.SUBSCRIBE else {}
                text = msgspec.json.encode({**asked, "ref": operation.ref, **past}).decode()
                try:
                    await connection.send(text)
                except ClosedError:
                    return  # whoever receives is told
            if operations:
                await trio.sleep(SETTLE_S)
            else:
                await self._roster.wait_change()

    def _past_asked_for(self) -> dict[str, object]:
        past: dict[str, object] = {}
        if self._parameters.get("last") == "1":
            past["last"] = True
        if "track" in self._parameters:
            past["track"] = self._parameters["track"]
        return past

    async def _take_all(self, connection: Connection) -> None:
        while True:
            await self._inbox.wait_room()
            stall_s = self._timing.stall_s
            if stall_s is None:
                stall_s = STALL_PERIODS * self._intake.keepalive_s
            text: str | bytes | None = None
            with trio.move_on_after(stall_s):
                text = await connection.receive()
            if text is None:
                raise StalledError(f"nothing came for {stall_s:g} s")
            self._intake.take(text)

    async def _handle(self, error: StreamError) -> None:
        """Wait after a failure, or end the stream."""
        if isinstance(error, ClosedError) and self._intake.error_message:
            error = closed_error(error.code, self._intake.error_message)
        self._problem = str(error)
        if self.state.value is State.CONNECTING:
            self._failed_attempts += 1
        if error.is_final:
            self.error = error
            return
        now_s = trio.current_time()
        pause_s = self._pause_s(error)
        timing = self._timing
        patience_s = timing.give_up_s if self._connects else timing.give_up_first_s
        if now_s + pause_s - self._away_since_s > patience_s:
            self.error = GaveUpError(self._problem)
            self.error.__cause__ = error
            return
        LOGGER.info("no connection to %s: %s; again in %.1f s", self._address, error, pause_s)
        self._next_attempt_s = now_s + pause_s
        self.state.value = State.WAITING
        await trio.sleep(pause_s)

    def _pause_s(self, error: StreamError) -> float:
        if self._intake.hint_s is not None:  # it is jittered already
            return self._intake.hint_s
        pause_s = self._backoff.next_s()
        if isinstance(error, HandshakeError) and error.retry_after_s is not None:
            asked_s = min(error.retry_after_s, LONGEST_HINT_S)
            return max(pause_s, asked_s * self._rng.uniform(1.0, 1.25))
        return pause_s
