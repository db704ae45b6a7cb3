"""What passes between Trio and the thread of a connection: calls one way, news the other.

Neither side ever waits for the other. A byte in a socket pair wakes the thread out of its
`poll`, one `run_sync_soon` wakes Trio, and each is sent only when the last one has been
seen: the sender writes first and reads the flag then, the receiver clears the flag first
and reads then, so nothing is left lying.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import trio
from paho.mqtt.reasoncodes import ReasonCode

from tracker.mqtt.message import Message


class Call:
    """A publish, subscribe or unsubscribe on its way to the thread and back.

    `invoke` makes the call to paho, in the thread, and returns its code and message id.
    """

    __slots__ = ("done", "error", "invoke", "kind", "result", "withdrawn")

    def __init__(self, kind: str, invoke: Callable[[], tuple[int, int | None]]) -> None:
        self.kind = kind
        self.invoke = invoke
        self.done = trio.Event()
        self.result: list[ReasonCode] | None = None
        self.error: Exception | None = None
        self.withdrawn = False


@dataclasses.dataclass(frozen=True)
class Accepted:
    """The broker accepted the connection. `has_session`: it had kept our session."""

    has_session: bool = False


@dataclasses.dataclass(frozen=True)
class End:
    """The connection is over, and why: `error` is None when it was closed on our demand."""

    error: Exception | None


News: TypeAlias = list[Message] | Call | Accepted | End


class Mailbox:
    """The two directions between Trio and one thread.

    `take_in` is called in Trio when there is news; it must not raise. Made in Trio.
    """

    def __init__(self, take_in: Callable[[], None]) -> None:
        self.calls: deque[Call] = deque()
        self.is_goodbye_wanted = False
        self.is_interrupted = False
        self._news: deque[News] = deque()
        self._take_in = take_in
        self._token = trio.lowlevel.current_trio_token()
        self._is_take_in_due = False
        self._is_wake_due = False
        self._lock = threading.Lock()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def wake_thread(self) -> None:
        """Make the thread look at `calls` and at what is wanted of it. From any thread."""
        if self._is_wake_due:
            return
        self._is_wake_due = True
        with self._lock:  # or the thread could close the socket in between
            if self._writer.fileno() >= 0:
                try:
                    self._writer.send(b"\0")
                except BlockingIOError:
                    pass  # the pair is full of wake-ups already

    def next_news(self) -> News | None:
        """Return what the thread told next, None when that is all. For Trio."""
        self._is_take_in_due = False
        return self._news.popleft() if self._news else None

    def fileno(self) -> int:
        """Return what the thread is to poll."""
        return self._reader.fileno()

    def take_wake_bytes(self) -> None:
        """Have the next `wake_thread` wake again. For the thread, before it looks at `calls`."""
        self._reader.recv(4096)
        self._is_wake_due = False

    def tell(self, news: News) -> None:
        """Hand something to Trio. For the thread."""
        self._news.append(news)
        if not self._is_take_in_due:
            self._is_take_in_due = True
            try:
                self._token.run_sync_soon(self._take_in)
            except trio.RunFinishedError:
                # Nobody is left to tell, so nobody is left to serve.
                self.is_interrupted = True

    def close(self) -> None:
        """Close the sockets; a thread that is woken after this is none. News still pass."""
        with self._lock:
            self._reader.close()
            self._writer.close()
