"""Fakes of what stands around the domain: the outbox of a connection, and its kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf

from tracker.domain.event import Event
from tracker.domain.message import Message


class FakeOutbox:
    """The outbox of a plain TCP connection, over a kernel that takes as much as it is told.

    `appetite` is how many bytes the kernel still takes: `inf`, none, or any number between.
    `kernel` is all that it took, `writes` what was written, object by object.
    """

    def __init__(self, appetite: float = inf) -> None:
        self.appetite = appetite
        self.kernel = b""
        self.tail = b""
        self.writes: list[bytes] = []
        self.writable = True
        self.on_writable: Callable[[], object] | None = None
        self.on_stalled: Callable[[], object] | None = None

    @property
    def refusing(self) -> bool:
        return bool(self.tail)

    @property
    def written(self) -> bytes:
        """All that the stream has let go."""
        return b"".join(self.writes)

    def write_nowait(self, data: bytes) -> None:
        assert self.writable, "written to while not writable"
        assert data, "an empty write: an outbox that another task serves never recovers from it"
        self.writes.append(data)
        self.tail += data
        self._push()
        self.writable = not self.tail

    def feed(self, size_bytes: float = inf) -> None:
        """Let the kernel take `size_bytes` more; call back when the tail is gone."""
        self.appetite += size_bytes
        self.push_nowait()

    def push_nowait(self) -> None:
        had_tail = bool(self.tail)
        self._push()
        if had_tail and not self.tail:
            self.writable = True
            if self.on_writable is not None:
                self.on_writable()

    def starve(self) -> None:
        """Refuse everything from now on."""
        self.appetite = 0

    def stall(self) -> None:
        """Give the peer up, as the deadline does: tell the stream, and break."""
        if self.on_stalled is not None:
            self.on_stalled()
        self.close()

    def close(self) -> None:
        """The connection is gone, and with it what was not sent."""
        self.writable = False
        self.tail = b""

    async def wait_writable(self) -> bool:
        raise NotImplementedError("nothing in the domain waits")

    def _push(self) -> None:
        taken = int(min(self.appetite, len(self.tail)))
        self.kernel += self.tail[:taken]
        self.tail = self.tail[taken:]
        self.appetite -= taken


class BusyOutbox(FakeOutbox):
    """An outbox that holds unsent bytes of others when the stream begins: a response's head."""

    def __init__(self) -> None:
        super().__init__()
        self.writable = False
        self._is_busy = True

    @property
    def refusing(self) -> bool:
        return self._is_busy or bool(self.tail)

    def feed(self, size_bytes: float = inf) -> None:
        """Let the kernel take what was there before, and `size_bytes` more."""
        if self._is_busy:
            self._is_busy = False
            self.appetite = size_bytes
            self.writable = True
            if self.on_writable is not None:
                self.on_writable()
        else:
            super().feed(size_bytes)


class ServedOutbox(FakeOutbox):
    """An outbox that another task serves, over ASGI or TLS: no write leaves where it is made.

    So it is not writable right after a write, without anybody having refused a byte; only
    `is_behind` tells that the peer takes nothing.
    """

    def __init__(self) -> None:
        super().__init__(appetite=0)
        self.is_behind = False

    def push_nowait(self) -> None:
        pass

    @property
    def refusing(self) -> bool:
        return self.is_behind

    def serve(self) -> None:
        """The other task's turn: what was written leaves."""
        self.appetite += len(self.tail)
        super().push_nowait()


def make_message(
    sequence: int,
    device_id: str = "1",
    data: bytes | None = None,
    *,
    received_ns: int = 0,
    epoch: str = "",
) -> Message:
    """A message whose data tells which one it is, unless `data` is given."""
    if data is None:
        data = b'{"timestamp":%d,"data":{"DEVICE_ID":"%b"}}' % (sequence, device_id.encode())
    return Message(sequence, device_id, data, received_ns, epoch=epoch.encode())


def gap_event(device_id: str | None, dropped: int, reason: str = "buffer_full") -> Event:
    """The event that says so, as PROTOCOL B4 has it."""
    value = {"device_id": device_id, "dropped": dropped, "reason": reason}
    return Event(b"gap", json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
