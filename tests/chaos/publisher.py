"""Devices that publish with QoS 1 and keep the books of what the broker acknowledged."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import trio

from tests.chaos.ledger import Published

_CONNECT = b"\x10\x17\x00\x04MQTT\x04\x02\x00\x00\x00\x0bchaos-fleet"
_CONNACK = b"\x20\x02\x00\x00"
_PUBLISH_QOS_1 = 0x32
_PUBACK = 0x40
_RETRY_S = 0.05
#: Below the broker's inflight limit, so that what is unknown after a kill is little.
_IN_FLIGHT_LIMIT = 50


class Fleet:
    """Publishes numbered messages of `device_ids`, in turn at random, `per_s` a second.

    Each message is sent once: one that the broker did not acknowledge before it died may have
    reached the gateway, or not.
    """

    def __init__(
        self, port: int, device_ids: list[str], rng: random.Random, *, per_s: float
    ) -> None:
        self._port = port
        self._device_ids = device_ids
        self._rng = rng
        self._per_s = per_s
        self._numbers = dict.fromkeys(device_ids, 0)
        self._in_flight: dict[int, tuple[str, int]] = {}
        self._is_stopping = False
        self._packet_ids = self._count_packets()
        self.published = Published(
            {device_id: set() for device_id in device_ids},
            {device_id: set() for device_id in device_ids},
        )

    def stop(self) -> None:
        """Publish one last message of each device, and let `run` return."""
        self._is_stopping = True

    async def run(self) -> None:
        """Publish until stopped, over all the broker's deaths.

        Cancellation: the books miss what was under way.
        """
        while not self._is_stopping or not await self._publish_last():
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", self._port)
            except OSError:
                await trio.sleep(_RETRY_S)
                continue
            async with stream, trio.open_nursery() as nursery:
                try:
                    await self._connect(stream)
                    nursery.start_soon(self._read_acknowledgements, stream, nursery.cancel_scope)
                    await self._publish(stream)
                except (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
                    pass
                nursery.cancel_scope.cancel()
            self._give_up()

    async def _connect(self, stream: trio.SocketStream) -> None:
        await stream.send_all(_CONNECT)
        answer = b""
        while len(answer) < len(_CONNACK):
            data = await stream.receive_some(len(_CONNACK) - len(answer))
            if not data:
                raise ConnectionError("the broker closed the connection")
            answer += data
        assert answer == _CONNACK, answer

    async def _publish(self, stream: trio.SocketStream) -> None:
        due_s = trio.current_time()
        while not self._is_stopping:
            due_s = max(due_s + 1 / self._per_s, trio.current_time() - 0.1)
            await trio.sleep_until(due_s)
            if len(self._in_flight) < _IN_FLIGHT_LIMIT:
                await self._send(stream, self._rng.choice(self._device_ids))

    async def _send(self, stream: trio.SocketStream, device_id: str) -> None:
        self._numbers[device_id] += 1
        number = self._numbers[device_id]
        packet_id = next(self._packet_ids)
        self._in_flight[packet_id] = (device_id, number)
        self.published.sent_s[device_id, number] = time.time()
        await stream.send_all(_publish_packet(packet_id, device_id, number))

    async def _publish_last(self) -> bool:
        """A last message of each device; False when the broker went away meanwhile."""
        try:
            async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
                await self._connect(stream)
                for device_id in self._device_ids:
                    await self._send(stream, device_id)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_acknowledgements, stream, nursery.cancel_scope)
                    while self._in_flight:  # noqa: ASYNC110 the reader sets no event
                        await trio.sleep(_RETRY_S)
                    nursery.cancel_scope.cancel()
        except* OSError:
            pass
        is_done = not self._in_flight
        self._give_up()
        return is_done

    async def _read_acknowledgements(
        self, stream: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        buffer = bytearray()
        try:
            while data := await stream.receive_some(4096):
                buffer += data
                while len(buffer) >= 4:
                    assert (buffer[0], buffer[1]) == (_PUBACK, 2), bytes(buffer)
                    device_id, number = self._in_flight.pop(int.from_bytes(buffer[2:4], "big"))
                    self.published.acknowledged[device_id].add(number)
                    del buffer[:4]
        except trio.BrokenResourceError:
            pass
        scope.cancel()

    def _give_up(self) -> None:
        """What is under way will never be acknowledged."""
        for device_id, number in self._in_flight.values():
            self.published.unknown[device_id].add(number)
        self._in_flight.clear()

    @staticmethod
    def _count_packets() -> Iterator[int]:
        while True:
            yield from range(1, 0x10000)


#: Long enough that a client that does not read is refused bytes soon.
_FILLING = "x" * 300


def _publish_packet(packet_id: int, device_id: str, number: int) -> bytes:
    payload = (
        f'{{"timestamp":{number},"data":{{"DEVICE_ID":"{device_id}","N":{number},'
        f'"FILL":"{_FILLING}"}}}}'
    ).encode()
    topic = f"trackers/{device_id}".encode()
    body = len(topic).to_bytes(2, "big") + topic + packet_id.to_bytes(2, "big") + payload
    size, low = divmod(len(body), 128)
    assert 0 < size < 128  # two bytes of length. MQTT 3.1.1 §2.2.3
    return bytes((_PUBLISH_QOS_1, low | 0x80, size)) + body
