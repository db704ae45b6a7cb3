"""One connection of a client, seen from Trio: started, called, ended.

The work is done by a `NetworkThread`, which Trio never waits for but to see it end; what
passes between them goes through a `Mailbox`.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable

import trio
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from tracker.mqtt.errors import MqttCodeError, MqttError
from tracker.mqtt.incoming import Incoming
from tracker.mqtt.mailbox import Accepted, Call, End, Mailbox, News
from tracker.mqtt.network import NetworkThread
from tracker.mqtt.options import ConnectionState
from tracker.mqtt.pace import Pace
from tracker.mqtt.transport import PahoClient

# Calls that wait for the thread; one more is refused with MQTT_ERR_QUEUE_SIZE.
CALLS_LIMIT = 10_000

# What a goodbye gets when there is no time: it is written to the kernel at once, if at all.
GOODBYE_S = 0.1
# How long the end of an interrupted thread may take: it has nothing left to wait for.
END_DEADLINE_S = 2.0


class Bridge:
    """One connection, from the first byte to the last.

    `end` is None until it is over. `on_change` is told of its being connected and its end.
    """

    def __init__(
        self,
        client: PahoClient,
        incoming: Incoming,
        logger: logging.Logger,
        pace: Pace,
        *,
        prepare: Callable[[], None],
        on_change: Callable[[ConnectionState], None],
    ) -> None:
        self._paho = client
        self._incoming = incoming
        self._logger = logger
        self._on_change = on_change
        self._mailbox = Mailbox(self._take_in)
        self._thread = NetworkThread(client, self._mailbox, incoming, logger, pace, prepare=prepare)
        # A second hold on the socket while paho blocks in a handshake, to interrupt it.
        self._handshake: socket.socket | None = None
        self._settled = trio.Event()
        self._ended = trio.Event()
        self.end: End | None = None
        # Its end is none of the client's any more, which may have another connection by then.
        self._is_left = False
        #: Whether the broker had kept our session; known once it accepted the connection.
        self.has_session = False

    def start(self, sock: socket.socket | None) -> None:
        """Start the thread on a connected socket, which it owns from now on.

        With None, paho makes the socket itself, which `interrupt` cannot cut short.
        """
        self._paho.owner = self._thread
        self._paho.connected_socket = sock
        try:
            self._handshake = sock.dup() if sock is not None else None
            self._thread.start()
        except BaseException:
            self._paho.close_socket()
            self._mailbox.close_thread_end()
            self._mailbox.close_trio_end()
            self._let_go_of_handshake()
            raise

    async def wait_connected(self) -> None:
        """Wait for the CONNACK.

        Raises: MqttError when it is a refusal or the connection ends before it; any
        error of paho's that is the caller's doing (ValueError).
        Cancellation: changes nothing; `abort` is what ends the thread.
        """
        await self._settled.wait()
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
        calls = self._mailbox.calls
        if self.end is not None:
            await trio.lowlevel.checkpoint()
            raise MqttCodeError(MQTTErrorCode.MQTT_ERR_NO_CONN, failure) from self.end.error
        if len(calls) >= CALLS_LIMIT:
            await trio.lowlevel.checkpoint()
            raise MqttCodeError(MQTTErrorCode.MQTT_ERR_QUEUE_SIZE, failure)
        calls.append(call)
        self._mailbox.wake_thread()
        try:
            await call.done.wait()
        except BaseException:
            call.withdrawn = True
            try:
                calls.remove(call)
            except (ValueError, IndexError):
                pass  # the thread took it, or is taking calls this very moment
            raise
        if call.error is not None:
            raise call.error
        return call.result

    async def aclose(self, *, grace_s: float) -> None:
        """End the connection: with a goodbye within `grace_s` seconds, else without.

        Cancellation: the goodbye gets `GOODBYE_S` more, then the thread is interrupted. It
        has ended when this returns, unless it outlives `END_DEADLINE_S`.
        """
        if self.end is not None:
            await trio.lowlevel.checkpoint()
            return
        self._mailbox.is_goodbye_wanted = True
        self._mailbox.wake_thread()
        try:
            with trio.move_on_after(grace_s):
                await self._ended.wait()
        finally:
            # A task that was cancelled must still be able to say goodbye, or the broker
            # publishes its will.
            with trio.move_on_after(GOODBYE_S, shield=True):
                await self._ended.wait()
            await self.abort()  # noqa: ASYNC102 it shields itself, with a deadline

    async def abort(self) -> None:
        """End the connection without a goodbye, whatever the thread waits for.

        Cancellation: none: it waits for the thread, for at most `END_DEADLINE_S`.
        """
        if self.end is None:
            self._mailbox.is_interrupted = True
            self._mailbox.wake_thread()
            if self._handshake is not None:
                # Ends a blocking handshake in the thread with an end of file.
                with contextlib.suppress(OSError):
                    self._handshake.shutdown(socket.SHUT_RDWR)
            with trio.move_on_after(END_DEADLINE_S, shield=True):
                await self._ended.wait()
        if self.end is None:
            self._logger.warning("The MQTT thread is stuck in a blocking call; left to itself")
            self._is_left = True
            self._tell_end(None)
            self._mailbox.wake_attendant()
        self._let_go_of_handshake()

    def _tell_end(self, cause: Exception | None) -> None:
        if self._settled.is_set():
            self._incoming.close(cause)
        self._on_change(ConnectionState.DISCONNECTED)

    def _take_in(self) -> None:
        """Take in all the thread's news. Runs in Trio, which an exception here would end."""
        while (news := self._mailbox.next_news()) is not None:
            try:
                self._take_in_one(news)
            except Exception:
                self._logger.exception("Taking in what MQTT delivered failed")

    def _take_in_one(self, news: News) -> None:
        if isinstance(news, list):
            self._incoming.store(news)
        elif isinstance(news, Call):
            news.done.set()
        elif isinstance(news, Accepted):
            if not self._is_left:
                self._open(news)
        else:
            self._finish(news)

    def _open(self, accepted: Accepted) -> None:
        self.has_session = accepted.has_session
        self._let_go_of_handshake()
        self._incoming.open(self._mailbox.attend)
        self._settled.set()
        self._on_change(ConnectionState.CONNECTED)

    def _finish(self, end: End) -> None:
        self.end = end
        # It sent this as its last act, so this waits for a few instructions at most.
        self._thread.join(END_DEADLINE_S)
        self._mailbox.close_trio_end()
        self._let_go_of_handshake()
        for call in (*self._thread.handed.values(), *self._mailbox.calls):
            call.error = MqttCodeError(
                MQTTErrorCode.MQTT_ERR_CONN_LOST, f"Disconnected before the {call.kind} was done"
            )
            call.error.__cause__ = end.error
            call.done.set()
        self._thread.handed.clear()
        self._mailbox.calls.clear()
        if not self._is_left:
            self._tell_end(end.error)
        self._settled.set()
        self._ended.set()

    def _let_go_of_handshake(self) -> None:
        if self._handshake is not None:
            self._handshake.close()
            self._handshake = None
