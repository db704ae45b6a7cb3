"""A stream of messages that outlives its connections.

Theory of operation. A `Keeper` connects and puts what comes into a bounded inbox, from which
whoever iterates takes; when a connection ends it resumes on the next from the position that it
had reached: the id of the last message, or what the gateway says it is.

Law: no message comes twice, and none is missing without an event that says so: `Gap`, `Resume`
that is not `CONTINUED`, or `Upstream`. For a device that is added later this holds from the
moment in which the gateway confirms it; see `Roster`.
"""

from __future__ import annotations

import dataclasses
import math
import random
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from tracker.watch.address import GatewayAddress, check_device_ids, parse_gateway, split_query
from tracker.watch.dial import Dial, make_dial
from tracker.watch.errors import RefusedError, StreamError
from tracker.watch.inbox import Inbox
from tracker.watch.keeper import Keeper, State, StreamStatistics
from tracker.watch.message import Event, Message, Report
from tracker.watch.nursery import open_plain_nursery
from tracker.watch.roster import Roster, Wish
from tracker.watch.timing import Timing


class Events:
    """A view of all that a stream receives, in order: messages, snapshots, tracks and events."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[Report | Event]:
        return self

    async def __anext__(self) -> Report | Event:
        """Take the next message or event. Raises and cancellation: as `Stream.__anext__`."""
        return await self._stream.receive()


class Stream:
    """A stream of the messages of some devices. Made by `open_stream`.

    `async for message in stream` gives the live messages alone, `async for item in
    stream.events()` all but the pings and the answers to operations; both take from the same
    queue, and so may several tasks: each item goes to one. `state` can be waited on
    (`trio_util.AsyncValue`).
    """

    def __init__(
        self,
        address: GatewayAddress,
        roster: Roster,
        inbox: Inbox[Report | Event],
        keeper: Keeper,
    ) -> None:
        self.address = address
        self.state = keeper.state
        self._roster = roster
        self._inbox = inbox
        self._keeper = keeper
        self._is_closed = False

    @property
    def device_ids(self) -> tuple[str, ...]:
        """The devices that are wanted now."""
        return self._roster.wanted

    @property
    def position(self) -> str:
        """Where the stream stands with all that was taken: a later `resume_from`. "" at first."""
        return self._inbox.position

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        """Take the next live message; all else before it is passed over.

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

    async def receive(self) -> Report | Event:
        """Take the next message or event.

        Raises: as `__anext__`. Cancellation: atomic, a cancelled call takes nothing.
        """
        try:
            return await self._inbox.take()
        except trio.EndOfChannel:
            pass
        error = await self._ending()
        raise error from error.__cause__

    async def subscribe(self, device_ids: Iterable[str]) -> None:
        """Add devices; return when the gateway has confirmed them.

        They begin with what `last` and `track_s` ask for, and stay over reconnections. While
        there is no connection this waits for one. Meanwhile more than `buffer_messages` may
        wait: what stands before the gateway's answer has to be read.

        Raises: RefusedError, and they are not added; ValueError for what is no device id; as
        `__anext__` when the stream is over.
        Cancellation: ends the waiting, the devices are added all the same.
        """
        await self._wait(self._roster.want(check_device_ids(device_ids)))

    async def unsubscribe(self, device_ids: Iterable[str]) -> None:
        """Take devices away; return when nothing more of them will come.

        What is unread of them still waits to be taken.

        Raises: as `subscribe`. Cancellation: as `subscribe`.
        """
        await self._wait(self._roster.unwant(check_device_ids(device_ids)))

    async def _wait(self, wish: Wish) -> None:
        if self.state.value is State.CLOSED:
            self._roster.end()
        try:
            with self._inbox.without_limit():
                await wish.done.wait()
        finally:
            self._roster.forget(wish)
        if wish.refusal is not None:
            raise RefusedError(wish.refusal)
        if self._is_closed:
            raise trio.ClosedResourceError
        if self.state.value is State.CLOSED:
            error = await self._ending()
            raise error from error.__cause__

    async def _ending(self) -> StreamError:
        """What ended the stream."""
        if self._keeper.error is None:  # a fault of ours, which is about to cancel who waits here
            await trio.sleep_forever()
        return self._keeper.error

    def statistics(self) -> StreamStatistics:
        """Return what this stream did so far."""
        return self._keeper.statistics()

    def _close(self) -> None:
        """End the connection with a goodbye, and what waits unread."""
        self._is_closed = True
        self._keeper.stop()
        self._inbox.close()


@asynccontextmanager
async def open_stream(
    url: str,
    device_ids: Iterable[str] = (),
    *,
    ssl_context: ssl.SSLContext | None = None,
    headers: Iterable[tuple[str, str]] = (),
    resume_from: str = "",
    last: bool = False,
    track_s: float = 0.0,
    mode: str | None = None,
    max_rate: float | None = None,
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
    by default). Only an error that would come again ends it, out of the iteration. It resumes
    where it was cut; `stream.events()` tells of what could not be had, as `Gap`, `Resume` and
    `Upstream`. The past that `last` and `track_s` ask for is not resumed: of one that is cut in
    its midst the rest does not come.

    Args:
        url: `http://`, `https://`, `ws://` or `wss://`, the gateway's own URL or its stream's;
            what is asked for in its query counts too. A user and password in it go to the proxy.
        device_ids: which devices.
        resume_from: the `position` of an earlier stream of these devices: go on from there.
        last: each device first with its last known message, as a `Snapshot`.
        track_s: each device first with its messages of so many seconds, as `Track`s.
        mode: "latest": of what waits while we are too slow only the newest message of each
            device is kept; or "drop_old", "drop_new". By default as the gateway's operator has
            it.
        max_rate: at most so many messages a second of each device; the newest always comes.
            With it, and with mode "latest", a stream resumes as a reset.
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
    timing = timing or Timing()
    address = parse_gateway(url)
    pasted_ids, parameters = split_query(address.query)
    position = resume_from or parameters.pop("last_event_id", "")
    parameters.pop("last_event_id", None)
    asked = {
        "last": "1" if last else None,
        "track": f"{track_s:.3f}".rstrip("0").rstrip(".") if track_s else None,
        "mode": mode,
        "max_rate": None if max_rate is None else f"{max_rate:g}",
    }
    parameters |= {name: value for name, value in asked.items() if value is not None}
    parameters["hello"] = "1"
    parameters.setdefault("ping", f"{timing.ping_s:g}")
    ids = check_device_ids((*pasted_ids, *check_device_ids(device_ids)))
    if not ids:
        raise ValueError("no device is named; expected at least one in device_ids")
    if buffer_messages < 1 or math.isinf(buffer_messages):
        raise ValueError(f"buffer_messages is {buffer_messages}; expected a number from 1 on")
    address = dataclasses.replace(address, query="")
    roster = Roster(ids, covered=ids if position else ())
    inbox: Inbox[Report | Event] = Inbox(buffer_messages, position)
    keeper = Keeper(
        address,
        roster,
        inbox,
        parameters=parameters,
        dial=dial or make_dial(ssl_context),
        headers=_named(tuple(headers)),
        timing=timing,
        rng=rng or random.Random(),
    )
    stream = Stream(address, roster, inbox, keeper)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(keeper.run)
        try:
            yield stream
        finally:
            stream._close()


def _named(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """With a name by which an operator knows us."""
    if any(name.lower() == "user-agent" for name, _ in headers):
        return headers
    return ("User-Agent", "tracker-watch"), *headers
