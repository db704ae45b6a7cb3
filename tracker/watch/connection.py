"""One WebSocket connection to a gateway, on trio-websocket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import h11
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from tracker.watch.address import GatewayAddress
from tracker.watch.dial import Dial
from tracker.watch.errors import ClosedError, HandshakeError, UnreachableError, closed_error
from tracker.watch.gate import Gate
from tracker.watch.nursery import open_plain_nursery

#: The gateway sends at most 64 KiB of payload, and an envelope.
MESSAGE_LIMIT_BYTES = 256 * 1024
#: How long the goodbye may take.
GOODBYE_S = 0.5

_READ_BYTES = 64 * 1024
_ABNORMAL = 1006  # RFC 6455 §7.1.5: no close frame


class Connection:
    """An open WebSocket. Made by `open_connection`."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self._websocket = websocket

    async def receive(self) -> str | bytes:
        """Receive one message. Whoever does not, stops the sender: nothing is read meanwhile.

        Raises: ClosedError of the kind that the close code says.
        Cancellation: atomic, a cancelled call takes nothing.
        """
        try:
            return await self._websocket.get_message()
        except ConnectionClosed as closed:
            raise _to_error(closed) from None

    async def send(self, text: str) -> None:
        """Send one text message.

        Raises: as `receive`. Cancellation: the connection is of no use any more.
        """
        try:
            await self._websocket.send_message(text)
        except ConnectionClosed as closed:
            raise _to_error(closed) from None


@asynccontextmanager
async def open_connection(
    address: GatewayAddress,
    device_ids: Iterable[str],
    *,
    dial: Dial,
    parameters: Mapping[str, str] = MappingProxyType({}),
    headers: Iterable[tuple[str, str]] = (),
    connect_s: float,
) -> AsyncIterator[Connection]:
    """Connect, do the WebSocket handshake, and say goodbye at the end of the block.

    `parameters`: of the stream's URL, beside the devices. `connect_s`: how long connecting and
    handshake may take together, in seconds.

    Raises: UnreachableError, HandshakeError.
    Cancellation: the connection is cut; no goodbye is waited for.
    """
    deadline_s = trio.current_time() + connect_s
    try:
        with trio.fail_at(deadline_s):
            stream = await dial(address)
    except trio.TooSlowError:
        raise UnreachableError(
            f"no {'TLS ' if address.is_tls else ''}connection to {address.host_header} within "
            f"{connect_s:g} s"
        ) from None
    gate = Gate(stream)
    target = address.stream_target(device_ids, parameters)
    async with open_plain_nursery() as nursery:
        try:
            reader: trio.Nursery = await nursery.start(_run_reader, gate)
            with trio.move_on_at(deadline_s) as shaking:
                websocket = await _shake_hands(reader, gate, address, target, headers)
            if shaking.cancelled_caught:
                raise HandshakeError(f"no answer to the WebSocket handshake in {connect_s:g} s")
            try:
                yield Connection(websocket)
            finally:
                with trio.move_on_after(GOODBYE_S):
                    await websocket.aclose()
        finally:
            # aclose() of trio-websocket leaves it open when the peer closed first
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


async def _run_reader(gate: Gate, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """Run trio-websocket's reader in a nursery of its own, until cancelled.

    It dies of a Ping that arrives behind our Close frame, and of some answers to a handshake:
    that is the end of its connection and no more.
    """
    try:
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()
    except* (ProtocolError, h11.ProtocolError, ConnectionClosed):
        pass
    finally:
        gate.ended.set()


async def _shake_hands(
    reader: trio.Nursery,
    gate: Gate,
    address: GatewayAddress,
    target: str,
    headers: Iterable[tuple[str, str]],
) -> WebSocketConnection:
    all_headers = [(name.encode(), value.encode()) for name, value in headers]
    if address.authorization is not None:
        all_headers.append((b"Authorization", address.authorization.encode()))
    websocket: WebSocketConnection | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_end, gate, nursery.cancel_scope)
        websocket = await wrap_client_stream(
            reader,
            gate,  # type: ignore[arg-type]  # it asks no more of it than of any stream
            address.host_header,
            target,
            extra_headers=all_headers,
            max_message_size=MESSAGE_LIMIT_BYTES,
            receive_buffer_size=_READ_BYTES,
        )
        nursery.cancel_scope.cancel()
    if websocket is None:
        raise gate.refusal or HandshakeError("no valid answer to the WebSocket handshake")
    return websocket


def _to_error(closed: ConnectionClosed) -> ClosedError:
    reason = closed.reason
    if reason is None:
        return closed_error(_ABNORMAL, "")
    return closed_error(int(reason.code), reason.reason or "")


async def _cancel_at_end(gate: Gate, scope: trio.CancelScope) -> None:
    await gate.ended.wait()
    scope.cancel()
