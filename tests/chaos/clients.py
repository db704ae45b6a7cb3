"""Clients that keep a log, are cut at random, and come back with what they know."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import trio

from tests.chaos.ledger import Account, Entry
from tests.event_stream import EventStream
from tests.peer import CLOSE, TEXT, Peer, WireError, connect, handshake, request_head

Transport = Literal["websocket", "sse", "either"]

_RETRY_S = 0.1
#: Of a slow client: long enough that its kernel and its queue are full.
_PAUSE_S = (1.0, 3.0)
_PAUSES_PER_EVENT = 1 / 1500
_STREAM = "/api/v1/stream"

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Habits:
    """How a client behaves.

    `cut_s`: it breaks its connection after so many seconds, anything between the two bounds;
    `is_slow`: it has a small window and reads in fits, so that messages are dropped.
    """

    transport: Transport
    cut_s: tuple[float, float]
    is_slow: bool = False


def to_entry(name: str, data: Any, event_id: str, heard_s: float) -> Entry:
    """What one event means for the books."""
    if name == "message":
        body = data["data"]
        assert data["timestamp"] == body["N"], data
        return Entry("message", body["DEVICE_ID"], body["N"], event_id, heard_s=heard_s)
    if name == "gap":
        device_id, dropped = data["device_id"] or "", data["dropped"]
        return Entry("gap", device_id, dropped, word=data["reason"], heard_s=heard_s)
    if name == "resume":
        # From here on the client resumes from where it stood, or from this position.
        return Entry("resume", id=data["position"], word=data["status"], heard_s=heard_s)
    if name == "upstream":
        word = "back" if data["connected"] else "lost"
        return Entry("upstream", word=word, heard_s=heard_s)
    if name in ("hello", "ack"):
        return Entry("position", id=data.get("position", ""), word=name)
    assert name in ("ping", "reconnect", "closed", "snapshot", "mode"), (name, data)
    return Entry("other", word=name)


class Client:
    """A client of the gateway at `port()`, which may change."""

    def __init__(
        self,
        name: str,
        device_ids: tuple[str, ...],
        habits: Habits,
        rng: random.Random,
        port: Callable[[], int],
    ) -> None:
        self.account = Account(name, device_ids)
        self.cuts = 0
        #: Set once it knows a position: from then on nothing may be missing.
        self.has_begun = trio.Event()
        #: Whether it still breaks its connections.
        self.is_restless = True
        self._habits = habits
        self._rng = rng
        self._port = port
        self._position = ""
        self._latest: dict[str, int] = dict.fromkeys(device_ids, 0)

    def has_all(self, last: dict[str, int]) -> bool:
        """Whether it has the last message of each of its devices."""
        return all(self._latest[device_id] == last[device_id] for device_id in self._latest)

    async def run(self) -> None:
        """Listen, be cut, and come back, until cancelled."""
        while True:
            try:
                peer = await connect(
                    self._port(), receive_buffer_bytes=4096 if self._habits.is_slow else None
                )
            except OSError:
                await trio.sleep(_RETRY_S)
                continue
            try:
                await self._listen(peer)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, WireError):
                pass  # a WireError: the end came in the middle
            finally:
                peer.forget()
            await trio.sleep(self._rng.uniform(0, 2 * _RETRY_S))

    async def _listen(self, peer: Peer) -> None:
        self.account.entries.append(Entry("cut", heard_s=time.time()))
        transport = self._habits.transport
        if transport == "either":
            transport = self._rng.choice(("websocket", "sse"))
        listen = self._listen_to_socket if transport == "websocket" else self._listen_to_events
        if not self.is_restless:
            await listen(peer)
            return
        with trio.move_on_after(self._rng.uniform(*self._habits.cut_s)) as scope:
            await listen(peer)
        if scope.cancelled_caught:
            self.cuts += 1
            if self._rng.random() < 0.5:
                await peer.reset()

    async def _listen_to_socket(self, peer: Peer) -> None:
        resume = f"&last_event_id={self._position}" if self._position else ""
        await peer.send(handshake(f"{self._target()}&hello=1{resume}"))
        head = await peer.read_head()
        if head.status != 101:
            return
        while (frame := await peer.read_frame()).opcode != CLOSE:
            if frame.opcode == TEXT:
                told = _decode(frame.payload)
                self._hear(told["event"], told["data"], told.get("id", ""))
                await self._be_slow()

    async def _listen_to_events(self, peer: Peer) -> None:
        resume = [f"Last-Event-ID: {self._position}"] if self._position else []
        await peer.send(request_head(self._target(), *resume))
        head = await peer.read_head()
        if head.status != 200:
            return
        stream = EventStream()
        while chunk := await peer.read_chunk():
            before = stream.last_event_id
            stream.feed(chunk)
            for event in stream.events:
                is_message = event.type == "message"
                self._hear(event.type, _decode(event.data), event.last_event_id * is_message)
            if not stream.events and stream.last_event_id != before:
                self._note(Entry("position", id=stream.last_event_id))
            stream.events.clear()
            await self._be_slow()

    def _target(self) -> str:
        return f"{_STREAM}?device_ids={','.join(self.account.device_ids)}"

    def _hear(self, name: str, data: Any, event_id: str) -> None:
        self._note(to_entry(name, data, event_id, time.time()))

    def _note(self, entry: Entry) -> None:
        self.account.entries.append(entry)
        if entry.kind == "message":
            self._latest[entry.device_id] = entry.number
        if entry.id:
            self._position = entry.id
            self.has_begun.set()

    async def _be_slow(self) -> None:
        if self._habits.is_slow and self.is_restless and self._rng.random() < _PAUSES_PER_EVENT:
            await trio.sleep(self._rng.uniform(*_PAUSE_S))
