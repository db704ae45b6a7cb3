"""One connection's life: the thread that alone touches paho, and its door to Trio.

Theory of operation. The thread drives paho with its calls for external event loops,
around a `poll` of its own (paho's loop uses `select`, which refuses descriptors above
1023). What Trio wants done is a `Call` in a bounded deque, and a byte in a socket pair
wakes the thread. What the thread has for Trio, batches of messages, calls done, the
CONNACK, its own end, goes into another deque, and one `run_sync_soon` for all that
gathers there wakes Trio. The thread never waits for Trio.

The end of the thread is the disconnect: paho's `on_disconnect` may come twice or never.

Above `BUSY_RATE_HZ` messages a second the thread lets the kernel gather for
`GATHER_S` before it reads. That turns two hand-overs of the interpreter lock per
message into two per batch, and it more than doubles what one core can take; below that
rate a message is handed over at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
import trio
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from tracker.mqtt.errors import MqttCodeError, MqttConnectError, MqttError
from tracker.mqtt.incoming import Incoming
from tracker.mqtt.message import Message
from tracker.mqtt.options import ConnectionState
from tracker.mqtt.transport import PahoClient

BUSY_RATE_HZ = 1000
RATE_WINDOW_S = 0.05
GATHER_S = 0.0005

# Calls that wait for the thread; one more is refused with MQTT_ERR_QUEUE_SIZE.
CALLS_LIMIT = 10_000
# Calls that paho holds at once. paho's own queue has no bound, and a broker that stopped
# reading acknowledges nothing, so beyond this they wait in ours.
HANDED_TO_PAHO_LIMIT = 1000

# paho wants `loop_misc`, which keeps the connection alive, about every second.
MISC_INTERVAL_S = 1.0

# How long the end of an interrupted thread may take: it has nothing left to wait for.
END_DEADLINE_S = 2.0


class Call:
    """A publish, subscribe or unsubscribe on its way to the thread and back."""

    __slots__ = ("done", "error", "invoke", "kind", "result", "withdrawn")

    def __init__(self, kind: str, invoke: Callable[[], tuple[int, int | None]]) -> None:
        self.kind = kind
        self.invoke = invoke
        self.done = trio.Event()
        self.result: list[ReasonCode] | None = None
        self.error: Exception | None = None
        self.withdrawn = False


@dataclasses.dataclass(frozen=True)
class End:
    """Why a connection is over: `error` is None when it was closed on our demand."""

    error: Exception | None


class Bridge:
    """One connection of a client, from the first byte to the last."""

    def __init__(
        self,
        client: PahoClient,
        incoming: Incoming,
        logger: logging.Logger,
        *,
        prepare: Callable[[], None],
        on_change: Callable[[ConnectionState], None],
    ) -> None:
        self._paho = client
        self._incoming = incoming
        self._logger = logger
        self._prepare = prepare
        self._on_change = on_change
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

        self._calls: deque[Call] = deque()
        self._handed: dict[tuple[str, int], Call] = {}
        self._news: deque[list[Message] | Call | End | None] = deque()
        self._batch: list[Message] = []
        self._is_drain_due = False
        self._read_ns = 0

        self._wake_lock = threading.Lock()
        self._is_wake_due = False
        self._wake_reader: socket.socket | None = None
        self._wake_writer: socket.socket | None = None

        self._is_interrupted = False
        self._is_goodbye_wanted = False
        self._wants_write = False
        self._disconnect_reason: ReasonCode | None = None
        self._connect_reason: ReasonCode | None = None
        # A second hold on the socket while paho blocks in a handshake, to interrupt it.
        self._handshake: socket.socket | None = None

        self.connected = trio.Event()
        self.ended = trio.Event()
        self.end: End | None = None

    # Trio's side

    def start(self, sock: socket.socket | None) -> None:
        """Start the thread on a connected socket, which it owns from now on.

        With None, paho makes the socket itself, which `interrupt` cannot cut short.
        """
        client = self._paho
        client.connected_socket = sock
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write
        try:
            self._handshake = sock.dup() if sock is not None else None
            self._wake_reader, self._wake_writer = socket.socketpair()
            self._wake_reader.setblocking(False)
            self._wake_writer.setblocking(False)
            self._thread.start()
        except BaseException:
            self._close_sockets()
            raise

    async def wait_connected(self) -> None:
        """Wait for the CONNACK.

        Raises: MqttError when it is a refusal or the connection ends before it; any
        error of paho's that is the caller's doing (ValueError).
        Cancellation: changes nothing; `interrupt` is what ends the thread.
        """
        await self.connected.wait()
        if self.end is not None:
            raise self.end.error or MqttError("Disconnected while connecting")

    async def call(self, call: Call) -> list[ReasonCode] | None:
        """Have the thread do a call, and wait for the broker's answer to it.

        Raises: MqttCodeError when there is no connection, or no more room for calls;
        what paho raises for arguments that it does not like.
        Cancellation: a call that the thread has not taken yet is withdrawn, and leaves
        nothing behind. One that it has is on its way: it will be done, only its answer
        is lost.
        """
        failure = f"Could not {call.kind}"
        if self.end is not None:
            await trio.lowlevel.checkpoint()
            raise MqttCodeError(MQTTErrorCode.MQTT_ERR_NO_CONN, failure) from self.end.error
        if len(self._calls) >= CALLS_LIMIT:
            await trio.lowlevel.checkpoint()
            raise MqttCodeError(MQTTErrorCode.MQTT_ERR_QUEUE_SIZE, failure)
        self._calls.append(call)
        self._wake()
        try:
            await call.done.wait()
        except BaseException:
            call.withdrawn = True
            try:
                self._calls.remove(call)
            except (ValueError, IndexError):
                pass  # the thread took it, or is taking calls this very moment
            raise
        if call.error is not None:
            raise call.error
        return call.result

    def say_goodbye(self) -> None:
        """Have the thread send DISCONNECT, behind what paho holds already, and end."""
        self._is_goodbye_wanted = True
        self._wake()

    def interrupt(self) -> None:
        """Have the thread end now, whatever it waits for."""
        self._is_interrupted = True
        self._wake()
        if self._handshake is not None:
            # Ends a blocking handshake in the thread with an end of file.
            with contextlib.suppress(OSError):
                self._handshake.shutdown(socket.SHUT_RDWR)

    async def aclose(self, *, grace_s: float) -> None:
        """End the connection: with a goodbye within `grace_s` seconds, else without.

        Cancellation: the goodbye gets a tenth of a second, then the thread is
        interrupted; it ends in any case before this returns, unless it outlives
        `END_DEADLINE_S`.
        """
        if self.end is None:
            self.say_goodbye()
            try:
                with trio.move_on_after(grace_s):
                    await self.ended.wait()
            finally:
                if self.end is None:
                    # A cancelled task must still be able to say goodbye, or the broker
                    # publishes its will.
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 0.1):
                        await self.ended.wait()
                await self.abort()
        else:
            await trio.lowlevel.checkpoint()

    async def abort(self) -> None:
        """End the connection without a goodbye.

        Cancellation: none: it waits for the thread, for at most `END_DEADLINE_S`.
        """
        if self.end is None:
            self.interrupt()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + END_DEADLINE_S):
                await self.ended.wait()
            if self.end is None:
                self._logger.warning("The MQTT thread is stuck in a blocking call; left to itself")
        self._let_go_of_handshake()

    def _wake(self) -> None:
        if self._is_wake_due:
            return
        self._is_wake_due = True
        with self._wake_lock:
            if self._wake_writer is not None:
                try:
                    self._wake_writer.send(b"\0")
                except BlockingIOError:
                    pass  # the pair is full of wake-ups already

    def _drain(self) -> None:
        """Take in all the thread's news. Runs in Trio, which an exception here would end."""
        # First the flag, then the deque: what the thread adds after this line schedules anew.
        self._is_drain_due = False
        while self._news:
            news = self._news.popleft()
            try:
                if type(news) is list:
                    self._incoming.store(news)
                elif isinstance(news, Call):
                    news.done.set()
                elif isinstance(news, End):
                    self._finish(news)
                else:
                    self._let_go_of_handshake()
                    self._incoming.open()
                    self.connected.set()
                    self._on_change(ConnectionState.CONNECTED)
            except Exception:
                self._logger.exception("Taking in what MQTT delivered failed")

    def _finish(self, end: End) -> None:
        self.end = end
        # It sent this as its last act, so this waits for a few instructions at most.
        self._thread.join(END_DEADLINE_S)
        self._let_go_of_handshake()
        for call in (*self._handed.values(), *self._calls):
            call.error = MqttCodeError(
                MQTTErrorCode.MQTT_ERR_CONN_LOST, f"Disconnected before the {call.kind} was done"
            )
            call.error.__cause__ = end.error
            call.done.set()
        self._handed.clear()
        self._calls.clear()
        if self.connected.is_set():
            self._incoming.close(end.error)
        self.connected.set()
        self.ended.set()
        self._on_change(ConnectionState.DISCONNECTED)

    def _let_go_of_handshake(self) -> None:
        if self._handshake is not None:
            self._handshake.close()
            self._handshake = None

    # The thread's side

    def _run(self) -> None:
        error: Exception | None
        try:
            self._prepare()
            self._paho.reconnect()
            self._serve()
            error = self._ending()
        except (OSError, paho.WebsocketConnectionError) as failure:
            error = MqttError(str(failure))
            error.__cause__ = failure
        except ValueError as failure:
            error = failure
        except Exception as failure:
            self._logger.exception("The MQTT thread failed")
            error = MqttError(f"The MQTT thread failed: {failure!r}")
            error.__cause__ = failure
        finally:
            self._close_sockets()
        self._flush_batch()
        self._tell(End(error))

    def _serve(self) -> None:
        """Move bytes and calls until the connection is gone."""
        client = self._paho
        assert self._wake_reader is not None
        wake_fd = self._wake_reader.fileno()
        poller = select.poll()
        poller.register(wake_fd, select.POLLIN)
        watched: tuple[int, int] = (-1, 0)
        pace = Pace()
        misc_at = time.monotonic() + MISC_INTERVAL_S
        while (sock := client.socket()) is not None and not self._is_interrupted:
            fd = sock.fileno()
            if fd < 0:
                return
            interest = select.POLLIN
            if self._wants_write or client.want_write():
                interest |= select.POLLOUT
            if watched != (fd, interest):
                if watched[0] not in (-1, fd):
                    poller.unregister(watched[0])
                poller.register(fd, interest)
                watched = (fd, interest)
            wait_s = max(0.0, misc_at - time.monotonic())
            if self._calls and len(self._handed) < HANDED_TO_PAHO_LIMIT:
                wait_s = 0.0
            for ready_fd, events in poller.poll(wait_s * 1000):
                if ready_fd == wake_fd:
                    self._take_wake_bytes()
                elif events & ~select.POLLOUT:
                    if pace.is_busy():
                        time.sleep(GATHER_S)
                    pace.count(self._read_burst())
            self._take_calls()
            if client.want_write():
                self._wants_write = False
                client.loop_write()
            if time.monotonic() >= misc_at:
                misc_at = time.monotonic() + MISC_INTERVAL_S
                client.loop_misc()
            self._flush_batch()

    def _read_burst(self) -> int:
        """Handle every packet that one read of the socket brought; return how many messages."""
        client = self._paho
        self._read_ns = time.monotonic_ns()
        client.loop_read()
        while client.has_read_ahead():
            client.loop_read()
        return len(self._batch)

    def _take_wake_bytes(self) -> None:
        assert self._wake_reader is not None
        # First the byte, then the flag, then (by the caller) the calls: what comes after
        # the flag sends another byte.
        self._wake_reader.recv(4096)
        self._is_wake_due = False

    def _take_calls(self) -> None:
        """Give paho the calls that wait, as far as there is room."""
        while self._calls and len(self._handed) < HANDED_TO_PAHO_LIMIT:
            try:
                call = self._calls.popleft()
            except IndexError:
                break  # its task withdrew it since the line above
            if call.withdrawn:
                continue
            try:
                code, mid = call.invoke()
            except Exception as error:
                call.error = error
                self._tell(call)
                continue
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
                call.error = MqttCodeError(code, f"Could not {call.kind}")
                self._tell(call)
            else:
                self._handed[call.kind, mid] = call
        if self._is_goodbye_wanted:
            self._is_goodbye_wanted = False
            self._paho.disconnect()

    def _answer(self, kind: str, mid: int, result: list[ReasonCode] | None) -> None:
        call = self._handed.pop((kind, mid), None)
        # Nobody waits for what an earlier connection left unacknowledged at QoS 1 and 2.
        if call is not None:
            call.result = result
            self._tell(call)

    def _flush_batch(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._tell(batch)

    def _tell(self, news: list[Message] | Call | End | None) -> None:
        self._news.append(news)
        # Read after the append: if Trio has not cleared it, it has yet to look at the deque.
        if not self._is_drain_due:
            self._is_drain_due = True
            try:
                self._token.run_sync_soon(self._drain)
            except trio.RunFinishedError:
                # Nobody is left to tell, so nobody is left to serve.
                self._is_interrupted = True

    def _close_sockets(self) -> None:
        # paho closes only what it was given or got itself; a thread that was interrupted,
        # or failed before it took the socket, leaves that to us.
        self._paho.close_socket()
        with self._wake_lock:
            for end in (self._wake_reader, self._wake_writer):
                if end is not None:
                    end.close()
            self._wake_reader = self._wake_writer = None

    def _ending(self) -> Exception | None:
        if self._connect_reason is not None and self._connect_reason.is_failure:
            return MqttConnectError(self._connect_reason)
        reason = self._disconnect_reason
        if reason is None:
            if self._is_interrupted:
                return None
            return MqttCodeError(MQTTErrorCode.MQTT_ERR_CONN_LOST, "Unexpected disconnection")
        if reason.value == 0:
            return None
        return MqttCodeError(reason, "Unexpected disconnection")

    # paho's callbacks. paho holds a lock meanwhile, so nothing here calls it; and what
    # they raise ends the loop, so nothing here raises.

    def _on_connect(
        self, _client: Any, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if self._connect_reason is None:
            self._connect_reason = reason
            if not reason.is_failure:
                self._tell(None)

    def _on_disconnect(
        self, _client: Any, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if self._disconnect_reason is None:
            self._disconnect_reason = reason

    def _on_subscribe(
        self, _client: Any, _userdata: Any, mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        self._answer("subscribe", mid, reasons)

    def _on_unsubscribe(
        self, _client: Any, _userdata: Any, mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        self._answer("unsubscribe", mid, reasons)

    def _on_publish(
        self, _client: Any, _userdata: Any, mid: int, _reason: Any, _properties: Any
    ) -> None:
        self._answer("publish", mid, None)

    def _on_message(self, _client: Any, _userdata: Any, received: paho.MQTTMessage) -> None:
        try:
            topic = received.topic
        except UnicodeDecodeError:
            self._incoming.discarded_messages += 1
            self._logger.warning("Discarding a message whose topic is not UTF-8.")
            return
        message = Message(
            topic,
            received.payload,  # type: ignore[arg-type]  # bytes, whatever paho declares
            received.qos,
            received.retain,
            received.mid,
            received.properties,
            received_ns=self._read_ns,
        )
        if self._incoming.admit(message):
            self._batch.append(message)

    def _on_socket_close(self, _client: Any, _userdata: Any, _sock: Any) -> None:
        # Users reach for `_client`; a socket closed under a sleeping poll would sleep on.
        self._wake()

    def _on_register_write(self, _client: Any, _userdata: Any, _sock: Any) -> None:
        self._wants_write = True

    def _on_unregister_write(self, _client: Any, _userdata: Any, _sock: Any) -> None:
        self._wants_write = False


class Pace:
    """Knows whether messages come so fast that gathering them pays."""

    def __init__(self) -> None:
        self._messages = 0
        self._since = time.monotonic()
        self._busy = False

    def count(self, messages: int) -> None:
        """Note messages that have come."""
        self._messages += messages

    def is_busy(self) -> bool:
        """Say whether more than `BUSY_RATE_HZ` messages a second came of late."""
        now = time.monotonic()
        elapsed_s = now - self._since
        if elapsed_s >= RATE_WINDOW_S:
            self._busy = self._messages > BUSY_RATE_HZ * elapsed_s
            self._messages = 0
            self._since = now
        return self._busy
