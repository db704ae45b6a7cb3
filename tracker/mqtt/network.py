"""The thread of one connection, which alone touches paho.

Theory of operation. It drives paho with its calls for external event loops, around a
`poll` of its own: paho's loop uses `select`, which refuses descriptors above 1023. Its end
is the disconnect, since paho's `on_disconnect` may come twice or never.

Plain PUBLISH packets are cut out of the stream before paho sees them (`packets`), which
saves most of the time that a message takes; paho does all the rest, keep-alive included.

Above some rate (`Pace`) it lets the kernel gather for a moment before it reads. That
turns two hand-overs of the interpreter lock per message into two per batch, and it more
than doubles what one core can take; below that rate a message is handed over at once.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tracker.mqtt.errors import MqttCodeError, MqttConnectError, MqttError
from tracker.mqtt.incoming import Incoming
from tracker.mqtt.mailbox import Accepted, Call, End, Mailbox
from tracker.mqtt.message import Message
from tracker.mqtt.pace import Pace
from tracker.mqtt.transport import PahoClient, SocketReader

# Calls that paho holds at once. paho's own queue has no bound, and a broker that stopped
# reading acknowledges nothing, so beyond this they wait in the mailbox.
HANDED_TO_PAHO_LIMIT = 1000

# paho wants `loop_misc`, which keeps the connection alive, about every second.
MISC_INTERVAL_S = 1.0


class NetworkThread(threading.Thread):
    """Connects, moves messages into `mailbox` and calls out of it, and ends.

    `prepare` is called first: what is needed before connecting, and may read files.
    """

    def __init__(
        self,
        client: PahoClient,
        mailbox: Mailbox,
        incoming: Incoming,
        logger: logging.Logger,
        pace: Pace,
        *,
        prepare: Callable[[], None],
    ) -> None:
        super().__init__(name="mqtt", daemon=True)
        self._paho = client
        self._mailbox = mailbox
        self._incoming = incoming
        self._logger = logger
        self._pace = pace
        self._prepare = prepare
        self._batch: list[Message] = []
        self._read_ns = 0
        self._wants_write = False
        self._connect_reason: ReasonCode | None = None
        self._disconnect_reason: ReasonCode | None = None
        # By kind and message id; read by Trio once the thread has ended.
        self.handed: dict[tuple[str, int], Call] = {}

    def run(self) -> None:
        """Live the connection's life."""
        error: Exception | None
        try:
            self._set_callbacks()
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
            if self._paho.owner is self:
                self._paho.close_socket()
        self._flush_batch()
        self._mailbox.tell(End(error))
        self._mailbox.close_thread_end()

    def _set_callbacks(self) -> None:
        client = self._paho
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write

    def _serve(self) -> None:
        """Move bytes and calls until the connection is gone."""
        client = self._paho
        mailbox = self._mailbox
        wake_fd = mailbox.fileno()
        poller = select.poll()
        poller.register(wake_fd, select.POLLIN)
        watched: tuple[int, int] = (-1, 0)
        pace = self._pace
        now = time.monotonic()
        misc_at = now + MISC_INTERVAL_S
        while (reader := client.reader) is not None and not mailbox.is_interrupted:
            fd = reader.inner.fileno()
            if fd < 0 or client.socket() is None:
                return
            interest = select.POLLIN
            if self._wants_write or client.want_write():
                interest |= select.POLLOUT
            if watched != (fd, interest):
                if watched[0] not in (-1, fd):
                    poller.unregister(watched[0])
                poller.register(fd, interest)
                watched = (fd, interest)
            wait_s = max(0.0, misc_at - now)
            if mailbox.calls and len(self.handed) < HANDED_TO_PAHO_LIMIT:
                wait_s = 0.0
            for ready_fd, events in poller.poll(wait_s * 1000):
                if ready_fd == wake_fd:
                    mailbox.take_wake_bytes()
                elif events & ~select.POLLOUT:
                    if gather_s := pace.gather_s():
                        time.sleep(gather_s)
                    pace.count(self._read_burst(reader))
            if mailbox.calls or mailbox.is_goodbye_wanted:
                self._take_calls()
            # Each call to paho may take so long that what it belongs to is over by then, and
            # paho has another connection.
            if client.want_write() and not mailbox.is_interrupted:
                self._wants_write = False
                client.loop_write()
            now = time.monotonic()
            if now >= misc_at and not mailbox.is_interrupted:
                misc_at = now + MISC_INTERVAL_S
                client.loop_misc()
            self._flush_batch()

    def _read_burst(self, reader: SocketReader) -> int:
        """Handle every packet that one read of the socket brought; return how many messages."""
        client = self._paho
        self._read_ns = time.monotonic_ns()
        all_is_pahos = client.protocol == MQTTProtocolVersion.MQTTv5 or client.is_watched(
            self._on_message
        )
        packets = reader.packets
        is_going_on = True
        while is_going_on:
            has_bytes = reader.fill()
            while True:
                if not all_is_pahos:
                    for topic, payload, retain in packets.take_publishes():
                        self._receive(topic, payload, 0, retain, 0, None)
                if not packets.is_for_paho(all_is=all_is_pahos):
                    break
                client.loop_read()
                if client.reader is not reader or client.socket() is None:
                    return len(self._batch)
            if not has_bytes:
                client.loop_read()  # it finds out why
            is_going_on = has_bytes and reader.has_decrypted()
        return len(self._batch)

    def _take_calls(self) -> None:
        """Give paho the calls that wait, as far as there is room."""
        mailbox = self._mailbox
        while (
            mailbox.calls and len(self.handed) < HANDED_TO_PAHO_LIMIT and not mailbox.is_interrupted
        ):
            try:
                call = mailbox.calls.popleft()
            except IndexError:
                break  # its task withdrew it since the line above
            if call.withdrawn:
                continue
            try:
                code, mid = call.invoke()
            except Exception as error:
                call.error = error
                mailbox.tell(call)
                continue
            if code != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
                call.error = MqttCodeError(code, f"Could not {call.kind}")
                mailbox.tell(call)
            else:
                self.handed[call.kind, mid] = call
        if mailbox.is_goodbye_wanted and not mailbox.is_interrupted:
            mailbox.is_goodbye_wanted = False
            self._paho.disconnect()

    def _answer(self, kind: str, mid: int, result: list[ReasonCode] | None) -> None:
        call = self.handed.pop((kind, mid), None)
        # Nobody waits for what an earlier connection left unacknowledged at QoS 1 and 2.
        if call is not None:
            call.result = result
            self._mailbox.tell(call)

    def _flush_batch(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._mailbox.tell(batch)

    def _ending(self) -> Exception | None:
        if self._connect_reason is not None and self._connect_reason.is_failure:
            return MqttConnectError(self._connect_reason)
        reason = self._disconnect_reason
        if reason is None:
            if self._mailbox.is_interrupted:
                return None
            return MqttCodeError(MQTTErrorCode.MQTT_ERR_CONN_LOST, "Unexpected disconnection")
        if reason.value == 0:
            return None
        return MqttCodeError(reason, "Unexpected disconnection")

    # paho's callbacks. paho holds a lock meanwhile, so nothing here calls it; and what
    # they raise ends the loop, so nothing here raises.

    def _on_connect(
        self, _client: Any, _userdata: Any, flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if self._connect_reason is None:
            self._connect_reason = reason
            if not reason.is_failure:
                self._mailbox.tell(Accepted(has_session=bool(flags.session_present)))

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
        self._receive(
            received._topic,
            received.payload,  # type: ignore[arg-type]  # bytes, whatever paho declares
            received.qos,
            received.retain,
            received.mid,
            received.properties,
        )

    def _receive(
        self,
        topic: bytes,
        payload: bytes,
        qos: int,
        retain: bool,
        mid: int,
        properties: Properties | None,
    ) -> None:
        try:
            text = topic.decode()
        except UnicodeDecodeError:
            self._incoming.discarded_messages += 1
            self._logger.warning("Discarding a message whose topic is not UTF-8.")
            return
        message = Message(text, payload, qos, retain, mid, properties, received_ns=self._read_ns)
        if self._incoming.admit(message):
            self._batch.append(message)

    # Users reach for `_client` from Trio, so these wake the thread out of its poll.

    def _on_socket_close(self, _client: Any, _userdata: Any, _sock: Any) -> None:
        self._mailbox.wake_thread()

    def _on_register_write(self, _client: Any, _userdata: Any, _sock: Any) -> None:
        self._wants_write = True
        if threading.current_thread() is not self:
            self._mailbox.wake_thread()

    def _on_unregister_write(self, _client: Any, _userdata: Any, _sock: Any) -> None:
        self._wants_write = False
