"""What a client sends on a WebSocket, once the app has handed its connection over.

Theory of operation: wsproto parses, without any extension. Nothing here waits: answers
are put into the outbox, and the connection's reader waits until they have left before
it reads on, so a client that sends pings and reads nothing holds only itself.
"""

from __future__ import annotations

from collections.abc import Callable

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Event, Message, Ping, TextMessage

from tracker.domain import wire
from tracker.domain.outbox import Session
from tracker.server.outbox import Outbox

#: RFC 6455 §7.4.1.
_MESSAGE_TOO_BIG = 1009
#: How much is parsed between two checkpoints: at most 170 frames, some 2 ms.
_TURN_BYTES = 1024


class WebSocketInbox:
    """Takes a client's bytes: `session` hears its messages, `end` gets our last bytes.

    `limit_bytes`: a larger message ends the connection with 1009.
    """

    __slots__ = ("_connection", "_end", "_limit_bytes", "_outbox", "_parts", "_session", "_size")

    def __init__(
        self,
        outbox: Outbox,
        *,
        limit_bytes: int,
        session: Session,
        end: Callable[[bytes], object],
    ) -> None:
        self._connection = Connection(ConnectionType.SERVER)
        self._outbox = outbox
        self._limit_bytes = limit_bytes
        self._session = session
        self._end = end
        self._parts: list[str | bytes] = []
        self._size = 0

    async def handle(self, data: bytes) -> None:
        """Act on `data`, and wait until the answers have left.

        Cancellation: the rest of `data` is lost.
        """
        for start in range(0, len(data), _TURN_BYTES):
            self._connection.receive_data(data[start : start + _TURN_BYTES])
            for event in self._connection.events():
                if not self._act(event):
                    return
                while self._session.is_congested and await self._outbox.wait_writable():
                    pass
            await self._outbox.wait_writable()

    def let_go(self) -> None:
        """Let go of the connection."""
        self._end = _ignore

    def _act(self, event: Event) -> bool:
        """Act on one event; False when it was the last that counts."""
        if isinstance(event, Message):
            return self._gather(event)
        if isinstance(event, Ping):
            self._outbox.put(self._connection.send(event.response()))
        elif isinstance(event, CloseConnection):
            self._close(event)
            return False
        return True

    def _gather(self, event: Message) -> bool:  # type: ignore[type-arg]  # wsproto's own bound
        self._size += len(event.data.encode() if isinstance(event, TextMessage) else event.data)
        if self._size > self._limit_bytes:
            self._parts.clear()
            self._end(wire.close_frame(_MESSAGE_TOO_BIG))
            return False
        if event.data or not self._parts:  # empty fragments without end would be kept
            self._parts.append(event.data)
        if event.message_finished:
            parts, self._parts, self._size = self._parts, [], 0
            self._session.on_message(_join(parts))
        return True

    def _close(self, event: CloseConnection) -> None:
        if self._connection.state is ConnectionState.REMOTE_CLOSING:
            self._end(self._connection.send(event.response()))
        else:  # what came is no WebSocket: wsproto says which code is due
            self._end(wire.close_frame(event.code))


def _ignore(last: bytes) -> None:
    """The connection has ended already."""


def _join(parts: list[str | bytes]) -> str | bytes:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], str):
        return "".join(part for part in parts if isinstance(part, str))
    return b"".join(part for part in parts if not isinstance(part, str))
