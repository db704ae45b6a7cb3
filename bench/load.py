"""The load: all clients of one run, in one process, on bare epoll sockets.

Driven over its standard input by one JSON object a line, each answered by one on its output:

    {"do": "connect", "host": …, "port": …, "transport": "websocket",
     "groups": [[["000001"], 1, true], …]}
        groups of clients: device ids, how many, whether they read; answers when all are open
    {"do": "measure", "start_ns": …, "end_ns": …}   latencies count between these readings
    {"do": "settle", "published": {"000001": 10000, …}, "quiet_s": 1, "deadline_s": 10}
        waits until nothing is missing, or nothing came for so long; answers what came

It ends with its input. It raises, and so ends with a traceback, for an answer that is not the
protocol's, and for bytes that break it.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.framing import Framing, FramingError, sse_unit, websocket_unit
from bench.handshake import HandshakeError, Transport, check_head, request
from bench.latency import LatencyWindows
from bench.reader import KnownStream, Reader

READ_BYTES = 64 * 1024
IN_FLIGHT = 100
"""How many handshakes are under way at once."""
_STUCK_BUFFER_BYTES = 4096
_CONNECT_LIMIT_S = 60.0
FRACTIONS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}

_FRAMINGS: dict[Transport, Framing] = {"websocket": websocket_unit, "sse": sse_unit}


class Client:
    """One connection."""

    def __init__(
        self,
        load: Load,
        address: tuple[str, int],
        transport: Transport,
        ids: list[str],
        reads: bool,
    ) -> None:
        self.devices = tuple(device.encode() for device in ids)
        self.reads = reads
        self.reader: Reader | None = None
        self.is_cut = False
        self.sock = socket.socket()
        if not reads:
            # So that it is stuck at once, not after the megabytes that a kernel may hold.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STUCK_BUFFER_BYTES)
        self.sock.setblocking(False)
        self.sock.connect_ex(address)
        self._load = load
        self._transport = transport
        self._request = request(transport, ids)
        self._head = b""

    def on_connected(self) -> None:
        """Send the request."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self.sock.send(self._request)

    def on_head(self) -> bool:
        """Read the answer's head; True once the stream is open."""
        self._head += self.sock.recv(READ_BYTES if self.reads else 1024)
        head, separator, rest = self._head.partition(b"\r\n\r\n")
        if not separator:
            return False
        check_head(head, self._transport)
        self._head = b""
        self.reader = Reader(self._load.known_stream(self._transport, self.devices))
        if rest and self.reads:
            self.reader.feed(rest, time.monotonic_ns(), None)
        return True

    def on_readable(self) -> None:
        """Read what came."""
        assert self.reader is not None
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        now_ns = time.monotonic_ns()
        if data:
            self.reader.feed(data, now_ns, self._load.window(now_ns))
            self._load.last_read_ns = now_ns
        if not data or self.reader.closed:
            self.is_cut = True
            self._load.forget(self)


class Load:
    """All clients, and what they received."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.last_read_ns = 0
        self.windows = LatencyWindows(0, 0)
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._known: dict[tuple[Transport, tuple[bytes, ...]], KnownStream] = {}
        self._window: dict[int, int] | None = None
        self._window_ends_ns = 0

    def known_stream(self, transport: Transport, devices: tuple[bytes, ...]) -> KnownStream:
        """What is known of the stream of these devices."""
        key = (transport, devices)
        if key not in self._known:
            self._known[key] = KnownStream(_FRAMINGS[transport])
        return self._known[key]

    def window(self, now_ns: int) -> dict[int, int] | None:
        """Where the latencies of a reading at `now_ns` go."""
        if now_ns >= self._window_ends_ns:
            self._window, self._window_ends_ns = self.windows.span(now_ns)
        return self._window

    def forget(self, client: Client) -> None:
        """Listen no more to what is at its end."""
        self._poll.unregister(client.sock)
        del self._handlers[client.sock.fileno()]
        client.sock.close()

    def turn(self, timeout_s: float) -> None:
        """Handle what is ready, or becomes so in time."""
        handlers = self._handlers
        for descriptor, _ in self._poll.poll(timeout_s):
            handler = handlers.get(descriptor)
            if handler is not None:
                handler()

    # -- the commands

    def connect(
        self,
        *,
        host: str,
        port: int,
        transport: Transport,
        groups: list[tuple[list[str], int, bool]],
    ) -> dict[str, Any]:
        """Open all clients, `IN_FLIGHT` at a time; say how long it took.

        Raises: HandshakeError, OSError; TimeoutError after a minute without an end.
        """
        waiting = deque((ids, reads) for ids, count, reads in groups for _ in range(count))
        total, opened, in_flight = len(waiting), 0, 0
        started = time.monotonic()

        def ask(client: Client) -> None:
            client.on_connected()
            self._poll.modify(client.sock, select.EPOLLIN)
            self._handlers[client.sock.fileno()] = partial(answer, client)

        def answer(client: Client) -> None:
            nonlocal opened, in_flight
            if not client.on_head():
                return
            opened += 1
            in_flight -= 1
            if client.reads:
                self._handlers[client.sock.fileno()] = client.on_readable
            else:
                self._poll.unregister(client.sock)

        while opened < total:
            while waiting and in_flight < IN_FLIGHT:
                ids, reads = waiting.popleft()
                client = Client(self, (host, port), transport, ids, reads)
                self.clients.append(client)
                self._poll.register(client.sock, select.EPOLLOUT)
                self._handlers[client.sock.fileno()] = partial(ask, client)
                in_flight += 1
            self.turn(0.1)
            if time.monotonic() - started > _CONNECT_LIMIT_S:
                raise TimeoutError(f"{opened} of {total} clients are open after a minute")
        return {"opened": opened, "took_s": time.monotonic() - started}

    def measure(self, *, start_ns: int, end_ns: int) -> dict[str, Any]:
        """Count latencies between these two moments."""
        self.windows = LatencyWindows(start_ns, end_ns)
        self._window_ends_ns = 0
        return {}

    def settle(
        self, *, published: dict[str, int], quiet_s: float, deadline_s: float
    ) -> dict[str, Any]:
        """Wait for what is missing; say what came, of all that was published since the start."""
        expected = {device.encode(): count for device, count in published.items()}
        total = sum(expected[device] for client in self.readers for device in client.devices)
        deadline = time.monotonic() + deadline_s
        self.turn(0)  # who was cut while nothing was asked
        while (
            sum(client.reader.received for client in self.readers if client.reader) < total
            and time.monotonic() < deadline
            and time.monotonic_ns() - self.last_read_ns < quiet_s * 1e9
        ):
            until = time.monotonic() + 0.05
            while time.monotonic() < until:
                self.turn(0.05)
        events: Counter[str] = Counter()
        lost = misplaced = alone = received = 0
        for client in self.readers:
            assert client.reader is not None
            tally = client.reader.tally()
            lost += tally.lost({device: expected[device] for device in client.devices})
            misplaced += tally.misplaced
            received += client.reader.received
            alone += client.reader.is_alone
            events.update(client.reader.events)
        windows = self.windows
        return {
            "received": received,
            "in_windows": windows.count,
            "lost": lost,
            "misplaced": misplaced,
            "alone": alone,
            "cut": sum(client.is_cut for client in self.readers),
            "events": dict(events),
            "window_ms": {name: windows.of_windows_ms(part) for name, part in FRACTIONS.items()},
            "all_ms": {name: windows.of_all_ms(part) for name, part in FRACTIONS.items()},
        }

    @property
    def readers(self) -> list[Client]:
        """The clients that read."""
        return [client for client in self.clients if client.reads]

    def run(self) -> None:
        """Do what standard input says, until it ends."""
        commands: dict[str, Callable[..., dict[str, Any]]] = {
            "connect": self.connect,
            "measure": self.measure,
            "settle": self.settle,
        }
        lines: deque[bytes] = deque()
        rest = b""
        ended = False

        def on_input() -> None:
            nonlocal rest, ended
            data = os.read(sys.stdin.fileno(), 1 << 20)
            ended = not data
            *complete, rest = (rest + data).split(b"\n")
            lines.extend(complete)

        self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        self._handlers[sys.stdin.fileno()] = on_input
        while not ended:
            self.turn(1.0)
            while lines:
                command = json.loads(lines.popleft())
                answer = commands[command.pop("do")](**command)
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    # A collection would stop the clock of every client; nothing here makes cycles that matter.
    gc.freeze()
    gc.disable()
    try:
        Load().run()
    except (HandshakeError, FramingError, OSError) as error:
        sys.exit(f"bench.load: {type(error).__name__}: {error}")
