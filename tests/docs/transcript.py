"""Runs the transcripts of docs/protocol.md, in the notation that it explains at its top.

A `…` in what is expected stands for anything within that line, a line `⋮` for any number of
lines. Pings and heartbeats come when they like: where none is expected, they are passed over.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator

import msgspec
import trio

from tests.fleet import Fleet, open_fleet
from tests.mosquitto import Mosquitto
from tests.peer import (
    CLOSE,
    PING,
    TEXT,
    Frame,
    Peer,
    Response,
    client_frame,
    handshake,
    request_head,
)
from tracker.mqtt import Client
from tracker.settings import ApiSettings, MqttSettings, StreamSettings

_PING_TEXT = '{"event":"ping","data":{"type":"keep-alive"}}'
_PING_LINES = ["event: ping", 'data: {"type":"keep-alive"}', ""]
_METHODS = ("GET", "HEAD", "POST")
_FAST = StreamSettings(ping_s=0.3, heartbeat_s=0.2, drain_s=0.1)
_SOON_BACK = MqttSettings(reconnect_min_s=0.01, reconnect_max_s=0.05)
_ID = re.compile(r'"(?:id|position)":"([^"]+)"|^id: (.+)$')
#: A flood overflows a client that does not read.
_SMALL_BUFFER_BYTES = 4096
_FILL_BYTES = 4000


class Talk(ABC):
    """The client's side of one transcript."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    @abstractmethod
    async def next_line(self, expected: str) -> str:
        """What the client gets next, without what is passed over."""

    @abstractmethod
    async def send(self, text: str) -> None:
        """Send a message."""

    @abstractmethod
    async def end(self) -> str:
        """How it ended: `CLOSE 1008`, or `END`; nothing may come before."""


class WebSocketTalk(Talk):
    """Text messages, one a line."""

    async def next_line(self, expected: str) -> str:
        while True:
            frame = await self._peer.read_frame()
            if frame.opcode == PING:
                if expected == "(Ping frame)":
                    return expected
            elif frame.opcode == TEXT:
                text = frame.payload.decode()
                if text != _PING_TEXT or expected == _PING_TEXT:
                    return text
            else:
                return _called(frame)

    async def send(self, text: str) -> None:
        await self._peer.send(client_frame(TEXT, text.encode()))

    async def end(self) -> str:
        frames = [frame for frame in await self._peer.read_frames_to_end() if frame.opcode != PING]
        return " ".join(_called(frame) for frame in frames) or "END"


def _called(frame: Frame) -> str:
    return f"CLOSE {frame.code}" if frame.opcode == CLOSE else frame.payload.decode()


class HttpTalk(Talk):
    """The status and the content type, then the lines of the body."""

    def __init__(self, peer: Peer, head: Response, *, with_body: bool) -> None:
        super().__init__(peer)
        self._is_chunked = head.headers.get("transfer-encoding") == "chunked"
        self._rest_bytes = int(head.headers.get("content-length", -1)) if with_body else 0
        self._with_body = with_body
        self._lines = [f"{head.status} {head.headers['content-type']}"]
        self._partial = ""
        self._has_ended = False

    async def next_line(self, expected: str) -> str:
        while True:
            await self._fill(len(_PING_LINES))
            if self._lines[: len(_PING_LINES)] == _PING_LINES and expected != _PING_LINES[0]:
                del self._lines[: len(_PING_LINES)]
            elif self._lines[:2] == [":", ""] and expected != ":":
                del self._lines[:2]
            elif self._lines:
                return self._lines.pop(0)
            else:
                return "END"

    async def _fill(self, count: int) -> None:
        """Have a line, and whole the event that it begins."""
        while not self._has_ended and (
            not self._lines
            or (self._lines[0] == _PING_LINES[0] and len(self._lines) < count)
            or (self._lines[0] == ":" and len(self._lines) < 2)
        ):
            data = await self._read_some()
            self._has_ended = not data
            *lines, self._partial = (self._partial + data).split("\n")
            self._lines += lines
            if self._has_ended and self._partial:
                self._lines.append(self._partial)
                self._partial = ""

    async def _read_some(self) -> str:
        if not self._with_body:
            return ""
        if self._is_chunked:
            return (await self._peer.read_chunk()).decode()
        if self._rest_bytes < 0:
            return (await self._peer.read_until(b"\n\n")).decode()
        size, self._rest_bytes = self._rest_bytes, 0
        return (await self._peer.read_exactly(size)).decode() if size else ""

    async def send(self, text: str) -> None:
        raise AssertionError(f"nothing can be sent on an HTTP answer: {text}")

    async def end(self) -> str:
        return await self.next_line("END")


async def run_transcript(text: str, broker: Mosquitto) -> None:
    """Do what a transcript says with a gateway of its own, and hold what comes against it.

    Raises: AssertionError that names the line.
    """
    steps = list(_parse(text))
    async with Client("127.0.0.1", broker.port) as device:
        while steps[0][0] == "RETAINED":
            topic, _, payload = steps.pop(0)[1].partition(" ")
            await device.publish(topic, payload, qos=1, retain=True)
    stream = _FAST
    while steps[0][0] == "SET":
        name, _, value = steps.pop(0)[1].removeprefix("stream.").partition(" ")
        stream = msgspec.convert(
            msgspec.to_builtins(stream) | {name: value}, StreamSettings, strict=False
        )
    api = ApiSettings(devices=True, connections=True)
    async with open_fleet(broker, stream=stream, api=api, mqtt=_SOON_BACK) as fleet:
        await _Run(fleet, broker).go_through(steps)


class _Run:
    """A transcript under way. `last_id`: where the client stands, in `{id}` of a request."""

    def __init__(self, fleet: Fleet, broker: Mosquitto) -> None:
        self._fleet = fleet
        self._broker = broker
        self._peer: Peer | None = None
        self._talk: Talk | None = None
        self._last_id = ""
        self._is_passing_over = False

    async def go_through(self, steps: list[tuple[str, str]]) -> None:
        """Do one step after the other."""
        is_flooded = any(verb == "FLOOD" for verb, _ in steps)
        for verb, argument in steps:
            if verb in ("WS", *_METHODS):
                assert self._talk is None, "one connection at a time"
                target = argument.replace("{id}", self._last_id)
                self._peer = await self._fleet.connect(
                    receive_buffer_bytes=_SMALL_BUFFER_BYTES if is_flooded else None
                )
                self._talk = await _open(self._peer, verb, target)
            elif verb in ("MQTT", "FLOOD", "STOP", "BROKER"):
                await self._happen(verb, argument)
            else:
                assert self._talk is not None, f"{verb} before anything is open"
                await self._go_on(self._talk, verb, argument)

    async def _happen(self, verb: str, argument: str) -> None:
        if self._talk is not None:
            await self._fleet.wait_subscribed()
        if verb == "MQTT":
            topic, _, payload = argument.partition(" ")
            await self._fleet.publish(topic, payload.replace(r"\n", "\n"))
        elif verb == "FLOOD":
            count, topic, payload = argument.split(" ", 2)
            filled = payload.replace("FILL", "x" * _FILL_BYTES)
            await self._fleet.flood(
                topic, [filled.replace("{n}", str(n)) for n in range(1, int(count) + 1)]
            )
        elif verb == "STOP":
            self._fleet.gateway.stop()
        else:
            act = {"away": self._broker.kill, "back": self._broker.start}[argument]
            await trio.to_thread.run_sync(act)

    async def _go_on(self, talk: Talk, verb: str, argument: str) -> None:
        if verb == "SEND":
            await talk.send(argument)
        elif (verb, argument) == ("<", "⋮"):
            self._is_passing_over = True
        elif verb == "<":
            await self._expect(talk, argument)
        elif verb == "CUT":
            assert self._peer is not None
            self._peer.forget()
            self._talk = None
            await self._fleet.wait_unsubscribed()
        elif verb in ("CLOSE", "END"):
            expected = f"{verb} {argument}".strip()
            got = await talk.end()
            assert got == expected, f"got {got!r}, expected {expected!r}"
        else:
            raise AssertionError(f"no such verb: {verb} {argument}")

    async def _expect(self, talk: Talk, expected: str) -> None:
        got = await talk.next_line(expected)
        while self._is_passing_over and got != "END" and not is_like(got, expected):
            got = await talk.next_line(expected)
        self._is_passing_over = False
        assert is_like(got, expected), f"got {got!r}, expected {expected!r}"
        if found := _ID.search(got):
            self._last_id = found[1] or found[2]


async def _open(peer: Peer, verb: str, argument: str) -> Talk:
    if verb == "WS":
        await peer.send(handshake(argument))
        head = await peer.read_head()
        assert head.status == 101, head
        return WebSocketTalk(peer)
    target, _, header = argument.partition(" ")
    await peer.send(request_head(target, *([header] if header else []), method=verb))
    return HttpTalk(peer, await peer.read_head(), with_body=verb != "HEAD")


def _parse(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        verb, _, argument = line.partition(" ")
        yield verb, argument


def is_like(got: str, expected: str) -> bool:
    """Whether `got` is what was expected, `…` standing for anything."""
    pattern = ".*?".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, got) is not None
