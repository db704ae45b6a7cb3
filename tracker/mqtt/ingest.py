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
from tracker.domain.joiner import Joiner
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
#: Below so many streams at once there is nothing to gain by holding a write back.
_FAN_OUT_STREAMS = 16
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
    """Publishes what a client receives to `hub`.

    `coalesce_ms`: under fan-out load, how long a write may be held back to send several
    messages at once; 0 for never.
    """

    def __init__(self, hub: Hub, *, coalesce_ms: float = 0.0) -> None:
        self._hub = hub
        self._coalesce_ns = int(coalesce_ms * 1e6)
        #: Streams whose flush is held back, since when, and when the last one was.
        self._held: dict[Stream, None] = {}
        self._held_oldest_ns = 0
        self._flushed_ns = 0
        self._sequence = hub.sequence
        self._epoch = hub.epoch.encode()
        self._lost = 0
        #: How many deliveries the clients' pace was told of.
        self._told_deliveries = 0
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
        Cancellation: takes effect between two batches: what was taken is published.
        """
        try:
            while True:
                await self._publish_from(client, await self._next_batch(client))
        finally:
            # Not cancelled in there: its checkpoints are shielded, and it is soon done.
            await self._flush_held()  # noqa: ASYNC102

    async def _next_batch(self, client: Client) -> list[MqttMessage]:
        while self._held:
            due_s = (self._flushed_ns + self._coalesce_ns - time.monotonic_ns()) / 1e9
            with trio.move_on_after(max(0.0, due_s)):
                return await client.receive_batch()
            await self._flush_held()
        return await client.receive_batch()

    async def drain(self, client: Client) -> None:
        """Publish what `client`, which is not connected any more, still holds.

        Cancellation: as `consume`.
        """
        try:
            while len(client.messages):
                await self._publish_from(client, await client.receive_batch())
        finally:
            await self._flush_held()  # noqa: ASYNC102  as above

    async def _publish_from(self, client: Client, batch: Sequence[MqttMessage]) -> None:
        lost = client.discarded_messages - self._lost
        if lost:
            # Where between these messages they were lost, nobody knows: told before the
            # first of them, and marked in the history behind the last.
            self._lost += lost
            self._hub.note_lost(lost)
        await self.publish(batch)
        delivered = self._hub.totals.delivered
        client.pace.count_deliveries(delivered - self._told_deliveries)
        self._told_deliveries = delivered
        if lost:
            self._hub.history.mark(self._hub.sequence)

    async def publish(self, batch: Sequence[MqttMessage]) -> None:
        """Publish `batch` in order and flush the streams that it touched.

        Cancellation: never takes effect here; the next checkpoint of the caller's does.
        """
        self.batch_messages.observe(len(batch))
        pending = deque(batch)
        while pending:
            begun_ns = time.monotonic_ns()
            oldest_ns = pending[0].received_ns
            touched = self._hub.publish_batch(self._decode(pending, begun_ns + _PUBLISH_NS))
            left: Sequence[Stream] = ()
            if touched or self._held:
                left = await self._flush_or_hold(touched, oldest_ns, begun_ns)
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
                    epoch=self._epoch,
                )
                if incoming.retain:
                    self.retained += 1
                    self._hub.seed(message)
                else:
                    yield message
            if time.monotonic_ns() >= until_ns:
                return

    async def _flush_or_hold(
        self, touched: Sequence[Stream], oldest_ns: int, begun_ns: int
    ) -> Sequence[Stream]:
        if not self._coalesce_ns or (not self._held and len(touched) < _FAN_OUT_STREAMS):
            return await self._flush(touched, oldest_ns, begun_ns + _TURN_NS)
        if not self._held:
            self._held_oldest_ns = oldest_ns
        self._held.update(dict.fromkeys(touched))
        if begun_ns - self._flushed_ns >= self._coalesce_ns:
            return await self._flush_held()
        return ()

    async def _flush_held(self) -> Sequence[Stream]:
        held, self._held = self._held, {}
        if not held:
            return ()
        self._flushed_ns = time.monotonic_ns()
        return await self._flush(list(held), self._held_oldest_ns, self._flushed_ns + _TURN_NS)

    async def _flush(
        self, touched: Sequence[Stream], oldest_ns: int, turn_ends_ns: int
    ) -> list[Stream]:
        """Flush; return the streams for which something still waits."""
        delivered = 0
        joiner = Joiner()
        left = []
        for count, stream in enumerate(touched, 1):
            delivered += stream.flush(joiner)
            if not stream.is_clear and stream.queue.entries:
                left.append(stream)
            if count % _FLUSHES_PER_LOOK == 0 and time.monotonic_ns() >= turn_ends_ns:
                await trio.lowlevel.cancel_shielded_checkpoint()
                turn_ends_ns = time.monotonic_ns() + _TURN_NS
        self.latency_s.observe((time.monotonic_ns() - oldest_ns) / 1e9, delivered)
        return left

    async def _give_way(self, streams: Sequence[Stream]) -> None:
        """A checkpoint; a few more while a stream waits for nothing but a task of ours.

        Without them a burst is lost to clients that would have taken it. PROTOCOL A4.
        """
        for _ in range(_TURNS_GIVEN):
            await trio.lowlevel.cancel_shielded_checkpoint()
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
