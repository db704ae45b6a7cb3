"""aiomqtt's client, on Trio.

Names, parameters, defaults, errors and semantics are those of aiomqtt 2.5, so that a
program moves here by changing the import and `asyncio` to `trio`. What is added:
`receive_batch`, `register_message_callback`, `state`, `statistics`, a limit in bytes,
and cancellation that says what it leaves behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Self

import paho.mqtt.client as paho
import trio
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from trio_util import AsyncValue

from tracker.mqtt.bridge import Bridge
from tracker.mqtt.errors import (
    MqttCodeError,
    MqttConnectError,
    MqttError,
    MqttReentrantError,
)
from tracker.mqtt.incoming import Incoming, MessageCallback
from tracker.mqtt.mailbox import Call
from tracker.mqtt.message import Message
from tracker.mqtt.options import (
    ConnectionState,
    PayloadType,
    ProtocolVersion,
    ProxySettings,
    SocketOption,
    SubscribeTopic,
    TLSParameters,
    WebSocketHeaders,
    Will,
)
from tracker.mqtt.pace import Pace
from tracker.mqtt.queues import LifoQueue, PriorityQueue, Queue
from tracker.mqtt.topics import Topic, TopicLike, Wildcard, WildcardLike
from tracker.mqtt.transport import PahoClient, open_socket

__all__ = [
    "Client",
    "ClientStatistics",
    "ConnectionState",
    "GrantedQos",
    "LifoQueue",
    "Message",
    "MessagesIterator",
    "MqttCodeError",
    "MqttConnectError",
    "MqttError",
    "MqttReentrantError",
    "PriorityQueue",
    "ProtocolVersion",
    "ProxySettings",
    "Queue",
    "TLSParameters",
    "Topic",
    "TopicLike",
    "Wildcard",
    "WildcardLike",
    "Will",
]

MQTT_LOGGER = logging.getLogger("mqtt")
MQTT_LOGGER.setLevel(logging.WARNING)

# paho's own time-out cannot be infinite; the caller's deadline is the one that counts.
LONGEST_CONNECT_S = 24 * 3600.0


class GrantedQos(int):
    """A granted QoS (0, 1, 2) or a refusal (128), below MQTT 5.

    aiomqtt documents plain numbers and hands out `ReasonCode`; this is both.
    """

    @property
    def value(self) -> int:
        """The number."""
        return int(self)

    @property
    def is_failure(self) -> bool:
        """Whether the broker refused the subscription."""
        return self >= 0x80


@dataclasses.dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What a client did since it was made, over all its connections.

    `received_…` counts what was kept for the reader, `discarded_messages` what was not:
    the queue was full, or the topic not UTF-8. `waiting_…` is what nobody has taken yet;
    bytes are of payload. `batches` is how many times Trio was woken for messages.
    `refused_calls` counts the calls that failed for want of a connection or of room.
    """

    state: ConnectionState
    connects: int
    received_messages: int
    received_bytes: int
    discarded_messages: int
    waiting_messages: int
    waiting_bytes: int
    batches: int
    pending_calls: int
    refused_calls: int


class MessagesIterator:
    """A view of what a client received. Several tasks may iterate: each message goes to one.

    It outlives the connection: what is queued is still handed out after it, then
    iterating raises MqttError until the client is entered anew.
    """

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        """Take the next message.

        Raises: MqttError when none waits and the connection is gone.
        Cancellation: atomic: a cancelled call takes nothing.
        """
        return await self._incoming.get()

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._incoming)


class Client:
    """A connection to an MQTT broker, as an async context manager.

    Args:
        hostname: Name or address of the broker; the path, if `transport` is "unix".
        port: Its port.
        username, password: Credentials.
        logger: Where to log; by default the logger "mqtt".
        identifier: The client id; the broker gives one if None.
        queue_type: In which order to hand out messages: `Queue` (the default, first in
            first out), `LifoQueue`, `PriorityQueue`, or a subclass of these.
        protocol: Version of MQTT; 3.1.1 by default.
        will: What the broker publishes when we are gone without a goodbye.
        clean_session: False: the broker keeps our session (below MQTT 5).
        transport: "tcp", "websockets" or "unix".
        timeout: Seconds for connecting, and for each call that sets none; 10 by default.
        keepalive: Seconds.
        bind_address, bind_port: The local end.
        clean_start: (MQTT 5) as paho has it.
        max_queued_incoming_messages: Bound of what waits to be taken; beyond it the
            newest is discarded. 0 or less: none.
        max_queued_outgoing_messages: Bound of unacknowledged publishes at QoS 1 and 2.
        max_inflight_messages: How many of them may be under way at once.
        max_concurrent_outgoing_calls: How many calls may be under way; others wait.
        properties: (MQTT 5) of the connection.
        tls_context, tls_params, tls_insecure: TLS; `tls_insecure` skips the host name.
        proxy: See `ProxySettings`. Connecting through one cannot be cut short.
        socket_options: Arguments of `setsockopt`, applied before connecting is done.
        websocket_path, websocket_headers: For transport "websockets".
        max_queued_incoming_bytes: As `max_queued_incoming_messages`, in bytes of payload.

    Raises: ValueError when paho does not like a combination of these.
    """

    def __init__(
        self,
        hostname: str,
        port: int = 1883,
        *,
        username: str | None = None,
        password: str | None = None,
        logger: logging.Logger | None = None,
        identifier: str | None = None,
        queue_type: type[Queue] | None = None,
        protocol: ProtocolVersion | None = None,
        will: Will | None = None,
        clean_session: bool | None = None,
        transport: Literal["tcp", "websockets", "unix"] = "tcp",
        timeout: float | None = None,
        keepalive: int = 60,
        bind_address: str = "",
        bind_port: int = 0,
        clean_start: bool | Literal[3] = paho.MQTT_CLEAN_START_FIRST_ONLY,
        max_queued_incoming_messages: int | None = None,
        max_queued_outgoing_messages: int | None = None,
        max_inflight_messages: int | None = None,
        max_concurrent_outgoing_calls: int | None = None,
        properties: Properties | None = None,
        tls_context: ssl.SSLContext | None = None,
        tls_params: TLSParameters | None = None,
        tls_insecure: bool | None = None,
        proxy: ProxySettings | None = None,
        socket_options: Iterable[SocketOption] | None = None,
        websocket_path: str | None = None,
        websocket_headers: WebSocketHeaders | None = None,
        max_queued_incoming_bytes: int | None = None,
    ) -> None:
        self._hostname = hostname
        self._port = port
        self._keepalive = keepalive
        self._bind_address = bind_address
        self._bind_port = bind_port
        self._clean_start = clean_start
        self._properties = properties
        self._transport = transport
        self._tls_params = tls_params
        self._tls_insecure = tls_insecure
        self._is_tls_configured = False
        self._has_proxy = proxy is not None
        self._socket_options = tuple(socket_options or ())
        self._logger = logger or MQTT_LOGGER

        self.timeout: float = 10 if timeout is None else timeout
        self.pending_calls_threshold: int = 10
        self.state: AsyncValue[ConnectionState] = AsyncValue(ConnectionState.DISCONNECTED)

        limit_messages = max_queued_incoming_messages or 0
        self._incoming = Incoming(
            (queue_type or Queue)(maxsize=limit_messages),
            limit_messages=limit_messages,
            limit_bytes=max_queued_incoming_bytes or 0,
            logger=self._logger,
        )
        #: Tell it what the messages bring about, where that is much: see `Pace`.
        self.pace = Pace()
        self._bridge: Bridge | None = None
        self._is_entered = False
        self._connects = 0
        self._pending_calls = 0
        self._refused_calls = 0
        self._outgoing_calls_sem: trio.Semaphore | None = (
            None
            if max_concurrent_outgoing_calls is None
            else trio.Semaphore(max_concurrent_outgoing_calls)
        )

        self._client = PahoClient(
            callback_api_version=CallbackAPIVersion.VERSION2,
            client_id=identifier,
            protocol=MQTTProtocolVersion(protocol or ProtocolVersion.V311),
            clean_session=clean_session,
            transport=transport,
            reconnect_on_failure=False,
        )
        self._client.enable_logger(self._logger)
        if max_inflight_messages is not None:
            self._client.max_inflight_messages_set(max_inflight_messages)
        if max_queued_outgoing_messages is not None:
            self._client.max_queued_messages_set(max_queued_outgoing_messages)
        if username is not None:
            self._client.username_pw_set(username=username, password=password)
        if tls_context is not None:
            self._client.tls_set_context(tls_context)
        if proxy is not None:
            self._client.proxy_set(**proxy.proxy_args)
        if websocket_path is not None or websocket_headers is not None:
            self._client.ws_set_options(path=websocket_path or "/mqtt", headers=websocket_headers)
        if will is not None:
            self._client.will_set(will.topic, will.payload, will.qos, will.retain, will.properties)

    @property
    def identifier(self) -> str:
        """The client id, empty if the broker is to give one."""
        identifier: bytes = self._client._client_id
        return identifier.decode()

    @property
    def has_session(self) -> bool:
        """Whether the broker of this connection had kept our session."""
        return self._bridge is not None and self._bridge.has_session

    @property
    def messages(self) -> MessagesIterator:
        """What was received, to iterate over."""
        return MessagesIterator(self._incoming)

    async def receive_batch(self) -> list[Message]:
        """Take everything that waits: at least one message, in the order of the queue.

        Raises: MqttError when nothing waits and the connection is gone.
        Cancellation: atomic: a cancelled call takes nothing.
        """
        return await self._incoming.get_batch()

    def register_message_callback(self, callback: MessageCallback) -> None:
        """Call `callback(message)` in Trio's thread with every message from now on.

        The messages go into the queue as well; if nobody takes them there, at most
        `max_queued_incoming_messages`, or 10,000, are kept. A callback that raises is
        logged, and called again with the next message.
        """
        self._incoming.register(callback)

    def unregister_message_callback(self, callback: MessageCallback) -> None:
        """Call `callback` no more. Raises: ValueError when it is not registered."""
        self._incoming.unregister(callback)

    @property
    def discarded_messages(self) -> int:
        """How many messages were lost because the queue was full, since it was made."""
        return self._incoming.discarded_messages

    def statistics(self) -> ClientStatistics:
        """Return what this client did so far."""
        incoming = self._incoming
        return ClientStatistics(
            state=self.state.value,
            connects=self._connects,
            received_messages=incoming.admitted_messages,
            received_bytes=incoming.admitted_bytes,
            discarded_messages=incoming.discarded_messages,
            waiting_messages=incoming.waiting_messages,
            waiting_bytes=incoming.waiting_bytes,
            batches=incoming.batches,
            pending_calls=self._pending_calls,
            refused_calls=self._refused_calls,
        )

    async def subscribe(
        self,
        /,
        topic: SubscribeTopic | list[str],
        qos: int = 0,
        options: SubscribeOptions | None = None,
        properties: Properties | None = None,
        *args: Any,
        timeout: float | None = None,  # noqa: ASYNC109 aiomqtt's signature
        **kwargs: Any,
    ) -> tuple[int, ...] | list[ReasonCode]:
        """Subscribe to topics or wildcards, and wait for the broker's answer.

        Returns one granted QoS (or refusal, 128 and above) for each topic: a tuple of
        numbers, or a list of `ReasonCode` on MQTT 5. `timeout` is in seconds,
        `math.inf` for none, the client's by default.

        Raises: MqttError on a time-out or without a connection; ValueError for an
        invalid topic or QoS.
        Cancellation: the subscription may come into being or not; its answer is lost.
        """
        wanted: Any = topic
        if isinstance(topic, list):
            wanted = [(item, qos) if isinstance(item, str) else item for item in topic]
        reasons = await self._call(
            "subscribe",
            lambda: self._client.subscribe(wanted, qos, options, properties, *args, **kwargs),
            timeout,
        )
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            return reasons or []
        return tuple([GrantedQos(reason.value) for reason in reasons or ()])

    async def unsubscribe(
        self,
        /,
        topic: str | list[str],
        properties: Properties | None = None,
        *args: Any,
        timeout: float | None = None,  # noqa: ASYNC109 aiomqtt's signature
        **kwargs: Any,
    ) -> None:
        """Unsubscribe from topics or wildcards, and wait for the broker's answer.

        Raises: MqttError on a time-out or without a connection; ValueError for an
        empty topic.
        Cancellation: the subscription may end or not; the answer is lost.
        """
        await self._call(
            "unsubscribe",
            lambda: self._client.unsubscribe(topic, properties, *args, **kwargs),
            timeout,
        )

    async def publish(
        self,
        /,
        topic: str,
        payload: PayloadType = None,
        qos: int = 0,
        retain: bool = False,
        properties: Properties | None = None,
        *args: Any,
        timeout: float | None = None,  # noqa: ASYNC109 aiomqtt's signature
        **kwargs: Any,
    ) -> None:
        """Publish a message, and wait until that is done.

        Done means: given to the kernel (QoS 0), acknowledged (QoS 1), completed (QoS 2).

        Raises: MqttError on a time-out, without a connection, or when it is lost
        meanwhile; ValueError or TypeError for an invalid topic, payload or QoS.
        Cancellation: the message is sent or not, never in part. At QoS 1 and 2 one that
        was under way is sent again when the client is entered anew.
        """
        if isinstance(payload, bytearray):
            payload = bytes(payload)  # the caller may go on changing it

        def invoke() -> tuple[int, int | None]:
            info = self._client.publish(topic, payload, qos, retain, properties, *args, **kwargs)
            return info.rc, info.mid

        await self._call("publish", invoke, timeout)

    async def _call(
        self,
        kind: str,
        invoke: Callable[[], tuple[int, int | None]],
        timeout_s: float | None,
    ) -> list[ReasonCode] | None:
        async with self._outgoing_calls_sem or contextlib.nullcontext():
            bridge = self._bridge
            if bridge is None:
                await trio.lowlevel.checkpoint()
                self._refused_calls += 1
                raise MqttCodeError(paho.MQTT_ERR_NO_CONN, f"Could not {kind}")
            self._pending_calls += 1
            try:
                if self._pending_calls > self.pending_calls_threshold:
                    self._logger.warning("There are %d pending publish calls.", self._pending_calls)
                with trio.move_on_after(self.timeout if timeout_s is None else timeout_s):
                    return await bridge.call(Call(kind, invoke))
            except MqttCodeError:
                self._refused_calls += 1
                raise
            finally:
                self._pending_calls -= 1
            raise MqttError("Operation timed out")

    async def __aenter__(self) -> Self:
        """Connect.

        Raises: MqttReentrantError when the client is entered already; MqttConnectError
        when the broker refuses; MqttError when it cannot be reached, or does not answer
        within `timeout`; ValueError for an address that is none.
        Cancellation: leaves neither a connection nor a thread, and the client as it was.
        """
        if self._is_entered:
            raise MqttReentrantError("The client context manager is reusable, but not reentrant")
        self._is_entered = True
        self.state.value = ConnectionState.CONNECTING
        try:
            with trio.move_on_after(self.timeout):
                self._bridge = await self._connect()
                self._connects += 1
                return self
            raise MqttError("Operation timed out")
        except BaseException:
            self._is_entered = False
            self.state.value = ConnectionState.DISCONNECTED
            raise

    async def _connect(self) -> Bridge:
        # None of these blocks: paho only checks and stores. An enter that failed on the
        # way may have left it in a state in which it takes no settings.
        self._client.close_socket()
        self._client.connect_timeout = min(max(self.timeout, 0.001), LONGEST_CONNECT_S)
        self._client.connect_async(
            self._hostname,
            self._port,
            self._keepalive,
            self._bind_address,
            self._bind_port,
            self._clean_start,
            self._properties,
        )
        sock = None
        if not self._has_proxy:
            try:
                sock = await open_socket(
                    hostname=self._hostname,
                    port=self._port,
                    unix=self._transport == "unix",
                    bind_address=self._bind_address,
                    bind_port=self._bind_port,
                    options=self._socket_options,
                )
            except (OSError, UnicodeError) as error:
                raise MqttError(str(error)) from error
        bridge = Bridge(
            self._client,
            self._incoming,
            self._logger,
            self.pace,
            prepare=self._configure_tls,
            on_change=self._set_state,
        )
        bridge.start(sock)
        try:
            await bridge.wait_connected()
        except BaseException:
            await bridge.abort()  # noqa: ASYNC102 it shields itself, with a deadline
            raise
        return bridge

    def _set_state(self, state: ConnectionState) -> None:
        self.state.value = state

    def _configure_tls(self) -> None:
        """Apply the TLS parameters, once. Runs in the thread: it reads files."""
        if self._is_tls_configured:
            return
        if self._tls_params is not None:
            self._client.tls_set(**dataclasses.asdict(self._tls_params))
        if self._tls_insecure is not None:
            self._client.tls_insecure_set(self._tls_insecure)
        self._is_tls_configured = True

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Disconnect. Does nothing when not connected.

        Cancellation: the goodbye to the broker gets a tenth of a second, then the
        connection is cut; in any case it is gone, and its thread too.
        """
        bridge = self._bridge
        if bridge is None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        try:
            await bridge.aclose(grace_s=self.timeout)  # noqa: ASYNC102 it bounds its own shield
        finally:
            self._bridge = None
            self._is_entered = False
