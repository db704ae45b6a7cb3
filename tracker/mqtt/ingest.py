"""From MQTT to the hub: decode once, publish in order, flush where we stand.

Theory of operation: a batch is what arrived while the last one was being published. It is
published in steps, and the clock ends a step, not a number of messages: one message may
have no client and the next one all of them. Between the publish and the flush of a step
there is no checkpoint, so what is new leaves before anything newer comes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence

import trio

from tracker.domain.decode import decode
from tracker.domain.errors import Malformed, MalformedPayloadError
from tracker.domain.histogram import Histogram
from tracker.domain.hub import Hub
from tracker.domain.message import Message
from tracker.domain.stream import Stream
from tracker.mqtt.client import Client
from tracker.mqtt.message import Message as MqttMessage

log = logging.getLogger("tracker.ingest")

#: Law 2: a checkpoint at least every 2 ms. What is longer is one message's way to all its
#: streams, which nothing may come between.
_TURN_NS = 2_000_000
#: How much of a turn is spent on publishing; the rest is for the flush.
_PUBLISH_NS = 1_000_000
#: How many streams are flushed between two looks at the clock.
_FLUSHES_PER_LOOK = 8
#: How many turns our own tasks get between two steps, to send what a stream could not: over
#: TLS and HTTP/2 each sends 64 KiB in a few turns, and a step may bring it 200 KiB.
_TURNS_GIVEN = 16

_COMPLAINT_INTERVAL_S = 1.0
_SHOWN_BYTES = 80

_LATENCY_BOUNDS_S = (
    *(0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.007_5, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5),
)
_BATCH_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Ingest:
    """Publishes what a client receives to `hub`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sequence = 0
        self._complaint_due_s = float("-inf")
        self._uncomplained = 0
        self.received = 0
        self.retained = 0
        self.malformed = dict.fromkeys(Malformed, 0)
        #: From the arrival of a step's oldest message to the end of the step's flush, for
        #: each delivery.
        self.latency_s = Histogram(_LATENCY_BOUNDS_S)
        self.batch_messages = Histogram(_BATCH_BOUNDS)

    async def consume(self, client: Client) -> None:
        """Publish what `client` receives, until its connection is lost.

        Raises: MqttError when it is.
        Cancellation: a batch that was taken may be published in part.
        """
        while True:
            await self.publish(await client.receive_batch())

    async def publish(self, batch: Sequence[MqttMessage]) -> None:
        """Publish `batch` in order and flush the streams that it touched.

        Cancellation: what was published by then stays published, and leaves with the next
        flush of its stream; the rest is lost.
        """
        self.batch_messages.observe(len(batch))
        pending = deque(batch)
        while pending:
            begun_ns = time.monotonic_ns()
            oldest_ns = pending[0].received_ns
            touched = self._hub.publish_batch(self._decode(pending, begun_ns + _PUBLISH_NS))
            left: Sequence[Stream] = ()
            if touched:
                left = await self._flush(touched, oldest_ns, begun_ns + _TURN_NS)
            if self._hub.notices:
                self.log_drops()
            if pending or left:
                await self._give_way(left)

    def _decode(self, pending: deque[MqttMessage], until_ns: int) -> Iterator[Message]:
        """Take and decode what is pending, at least one message, until the clock says so.

        The live ones are yielded as they come: what the hub does with them takes its time.
        """
        utc_minus_monotonic_s = time.time() - time.monotonic()
        while pending:
            incoming = pending.popleft()
            self.received += 1
            try:
                device_id, data = decode(
                    incoming.payload, utc_minus_monotonic_s + incoming.received_ns / 1e9
                )
            except MalformedPayloadError as error:
                self._note_malformed(incoming, error)
            else:
                self._sequence += 1
                message = Message(
                    self._sequence,
                    device_id,
                    data,
                    incoming.received_ns,
                    is_retained=incoming.retain,
                )
                if incoming.retain:
                    self.retained += 1
                    self._hub.seed(message)
                else:
                    yield message
            if time.monotonic_ns() >= until_ns:
                return

    async def _flush(
        self, touched: Sequence[Stream], oldest_ns: int, turn_ends_ns: int
    ) -> list[Stream]:
        """Flush; return the streams for which something still waits."""
        delivered = 0
        left = []
        for count, stream in enumerate(touched, 1):
            delivered += stream.flush()
            if stream.queue:
                left.append(stream)
            if count % _FLUSHES_PER_LOOK == 0 and time.monotonic_ns() >= turn_ends_ns:
                await trio.lowlevel.checkpoint()
                turn_ends_ns = time.monotonic_ns() + _TURN_NS
        self.latency_s.observe((time.monotonic_ns() - oldest_ns) / 1e9, delivered)
        return left

    async def _give_way(self, streams: Sequence[Stream]) -> None:
        """A checkpoint; a few more while a stream waits for nothing but a task of ours.

        Without them a burst is lost to clients that would have taken it. PROTOCOL A4.
        """
        for _ in range(_TURNS_GIVEN):
            await trio.lowlevel.checkpoint()
            streams = [stream for stream in streams if stream.is_unserved]
            if not streams:
                break

    def log_drops(self) -> None:
        """Log the drops that are due to be told. PROTOCOL A4."""
        for line in self._hub.notices.due(time.monotonic()):
            log.warning(line)

    def _note_malformed(self, incoming: MqttMessage, error: MalformedPayloadError) -> None:
        self.malformed[error.reason] += 1
        self._uncomplained += 1
        now_s = time.monotonic()
        if now_s < self._complaint_due_s:
            return
        self._complaint_due_s = now_s + _COMPLAINT_INTERVAL_S
        more = f", {self._uncomplained} since the last such line" if self._uncomplained > 1 else ""
        self._uncomplained = 0
        log.warning(
            "malformed message on %r (%s%s): %s: %r",
            _topic(incoming),
            error.reason.value,
            more,
            error,
            incoming.payload[:_SHOWN_BYTES],
        )


def _topic(message: MqttMessage) -> str:
    try:
        return str(message.topic)
    except ValueError as error:  # a broker may send what is no topic
        return str(error)
