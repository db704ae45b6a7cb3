"""What passes between Trio and the thread of a connection: calls one way, news the other.

Neither side ever waits for the other. A byte in a socket pair wakes the thread out of its
`poll`, and another one, the other way, the task that attends; where none does, it is
`run_sync_soon` that wakes Trio, which costs it another turn of its loop. A wake-up is sent
only when the last one has been seen: the sender writes first and reads the flag then, the
receiver clears the flag first and reads then, so nothing is left lying.
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
        self._is_attended = False
        self._has_ended = False
        self._is_run_over = False
        self._lock = threading.Lock()
        self._trio_end, self._thread_end = socket.socketpair()
        self._trio_end.setblocking(False)
        self._thread_end.setblocking(False)

    def wake_thread(self) -> None:
        """Make the thread look at `calls` and at what is wanted of it. From any thread."""
        if self._is_wake_due:
            return
        self._is_wake_due = True
        with self._lock:  # or an end could be closed in between
            _send_byte(self._trio_end)

    def next_news(self) -> News | None:
        """Return what the thread told next, None when that is all. For Trio."""
        self._is_take_in_due = False
        return self._news.popleft() if self._news else None

    @trio.lowlevel.enable_ki_protection  # while it waits, a Ctrl-C is heard; not in between
    async def attend(self) -> None:
        """Wait until the thread tells something, and take it in. One task at a time may.

        It may return without news. Cancellation: what has been told is taken in.
        """
        self._is_attended = True
        try:
            await trio.lowlevel.wait_readable(self._trio_end)
            try:
                self._trio_end.recv(4096)
            except (BlockingIOError, ConnectionResetError):
                pass  # nothing, or the thread's end: both are no reason to wait here
        finally:
            self._is_attended = False
            self._take_in()
            if self._has_ended:
                self.close_trio_end()

    def _take_in_soon(self) -> None:
        self._take_in()
        if self._is_attended:
            self.wake_attendant()

    def wake_attendant(self) -> None:
        """Make the task that attends, if one does, return from there. For Trio."""
        with self._lock:  # or the thread could close its end in between
            _send_byte(self._thread_end)

    def close_trio_end(self) -> None:
        """Close the other end, as soon as nobody attends. For Trio, after the thread's."""
        self._has_ended = True
        if not self._is_attended:
            with self._lock:
                self._trio_end.close()

    def fileno(self) -> int:
        """Return what the thread is to poll."""
        return self._thread_end.fileno()

    def take_wake_bytes(self) -> None:
        """Have the next `wake_thread` wake again. For the thread, before it looks at `calls`."""
        self._thread_end.recv(4096)
        self._is_wake_due = False

    def tell(self, news: News) -> None:
        """Hand something to Trio. For the thread."""
        self._news.append(news)
        if not self._is_take_in_due:
            self._is_take_in_due = True
            if self._is_attended:
                _send_byte(self._thread_end)
                return
            try:
                self._token.run_sync_soon(self._take_in_soon)
            except trio.RunFinishedError:
                # Nobody is left to tell, so nobody is left to serve.
                self.is_interrupted = self._is_run_over = True

    def close_thread_end(self) -> None:
        """Close the end at which the thread is woken. For the thread, as its last act."""
        with self._lock:
            self._thread_end.close()
            if self._is_run_over:
                self._trio_end.close()


def _send_byte(sock: socket.socket) -> None:
    if sock.fileno() >= 0:
        try:
            sock.send(b"\0")
        except BlockingIOError:
            pass  # full of wake-ups already
        except BrokenPipeError:
            pass  # the other side has ended, and sees that
