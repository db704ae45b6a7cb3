"""Who consumes tells of the broker's loss and return, before anything that comes after."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
import trio

from tests.fakes import FakeOutbox
from tests.fleet import open_fleet
from tests.mosquitto import Mosquitto, broker, start_mosquitto
from tests.peer import PING, TEXT, Peer, client_frame
from tracker.domain.event import PING as CLOCK_PING
from tracker.domain.hub import Hub
from tracker.domain.message import Message
from tracker.domain.options import StreamOptions
from tracker.domain.stream import Stream
from tracker.domain.transport import WEBSOCKET_LINES
from tracker.mqtt import Client, MqttError
from tracker.settings import MqttSettings, StreamSettings
from tracker.upstream import consume_and_tell

__all__ = ["broker", "start_mosquitto"]

EPOCH = "e"
LOST, BACK = {"connected": False}, {"connected": True}


class SubscribedClient(Client):
    """What `consume` is called with; whether the broker had kept our session is said here."""

    def __init__(self, *, has_session: bool) -> None:
        super().__init__("127.0.0.1")
        self._had_session = has_session

    @property
    def has_session(self) -> bool:
        return self._had_session


def publish(hub: Hub, sequence: int) -> None:
    message = Message(sequence, "A", b'{"n":%d}' % sequence, 0, epoch=EPOCH.encode())
    for stream in hub.publish_batch([message]):
        stream.flush()


def open_stream(hub: Hub, last_event_id: str | None = None) -> tuple[Stream, FakeOutbox]:
    outbox = FakeOutbox()
    options = StreamOptions(last_event_id=last_event_id)
    stream = hub.open_stream(["A"], outbox, WEBSOCKET_LINES, options)
    stream.flush()
    return stream, outbox


def told(outbox: FakeOutbox) -> list[object]:
    lines = [json.loads(line) for line in outbox.kernel.splitlines()]
    return [line["data"].get("n", line["data"]) for line in lines]


async def consume(
    hub: Hub, act: Callable[[], object], client: Client, *, error: Exception | None
) -> None:
    act()
    if error is not None:
        raise error


async def live(hub: Hub, *sequences: int, has_session: bool = False) -> None:
    """One connection that brings these messages and is lost."""

    def act() -> None:
        for sequence in sequences:
            publish(hub, sequence)

    lost = MqttError("lost")
    with pytest.raises(MqttError) as caught:
        await consume_and_tell(
            hub,
            partial(consume, hub, act, error=lost),
            SubscribedClient(has_session=has_session),
        )
    assert caught.value is lost


async def test_the_loss_stands_behind_the_last_message_and_the_return_before_the_next() -> None:
    hub = Hub(epoch=EPOCH)
    hub.note_upstream(is_lost=True)
    _, outbox = open_stream(hub)
    await live(hub, 1, 2)
    await live(hub, 3)
    assert told(outbox) == [LOST, BACK, 1, 2, LOST, BACK, 3, LOST]


async def test_who_comes_during_an_outage_is_told_as_it_comes() -> None:
    hub = Hub(epoch=EPOCH)
    hub.note_upstream(is_lost=True)
    await live(hub, 1)
    _, outbox = open_stream(hub)
    assert told(outbox) == [LOST]
    await live(hub)
    assert told(outbox) == [LOST, BACK, LOST]


async def test_a_restart_that_the_broker_bridged_is_no_outage() -> None:
    hub = Hub(epoch=EPOCH)
    _, outbox = open_stream(hub)
    await live(hub, 1, has_session=True)
    assert told(outbox) == [1, LOST]


async def test_a_broker_that_has_forgotten_us_did_not_bridge_it() -> None:
    hub = Hub(epoch=EPOCH)
    _, outbox = open_stream(hub)
    await live(hub, 1, has_session=False)
    assert told(outbox) == [LOST, BACK, 1, LOST]


@pytest.mark.parametrize(
    ("position", "status"),
    [(0, "partial"), (1, "partial"), (2, "partial"), (3, "continued")],
)
async def test_a_resume_over_an_outage_is_partial(position: int, status: str) -> None:
    hub = Hub(epoch=EPOCH)
    hub.note_upstream(is_lost=True)
    await live(hub, 1, 2)
    entered = trio.Event()

    async def stay(_: Client) -> None:
        publish(hub, 3)
        publish(hub, 4)
        entered.set()

    await consume_and_tell(hub, stay, SubscribedClient(has_session=False))
    _, outbox = open_stream(hub, f"{EPOCH}-{position}")
    resume = told(outbox)[0]
    assert isinstance(resume, dict)
    assert resume["status"] == status


async def test_what_ends_it_otherwise_is_not_told() -> None:
    hub = Hub(epoch=EPOCH)
    _, outbox = open_stream(hub)
    with pytest.raises(RuntimeError):
        await consume_and_tell(
            hub,
            partial(consume, hub, lambda: None, error=RuntimeError()),
            SubscribedClient(has_session=True),
        )
    assert told(outbox) == []


async def test_a_thousand_clients_are_told_in_turns_and_each_once() -> None:
    hub = Hub(epoch=EPOCH)
    hub.note_upstream(is_lost=True)
    outboxes = [open_stream(hub)[1] for _ in range(1000)]

    async def come() -> None:
        outboxes.append(open_stream(hub)[1])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        await live(hub, 1)
    assert [told(outbox) for outbox in outboxes[:1000]] == [[LOST, BACK, 1, LOST]] * 1000
    assert told(outboxes[1000])[-2:] == [1, LOST]


#: The first tick of a period may come at any time.
BY_THE_CLOCK = (b":\n\n", CLOCK_PING.sse(), CLOCK_PING.text())


async def next_text(peer: Peer) -> bytes:
    frame = await peer.read_frame()
    while frame.opcode == PING or frame.payload in BY_THE_CLOCK:
        frame = await peer.read_frame()
    assert frame.opcode == TEXT
    return frame.payload


async def next_chunk(peer: Peer) -> bytes:
    while (chunk := await peer.read_chunk()) in BY_THE_CLOCK:
        pass
    return chunk


@pytest.mark.mosquitto
async def test_a_real_broker_dies_and_returns(broker: Mosquitto) -> None:
    settings = StreamSettings(drain_s=0.1, ping_s=1000.0)
    mqtt = MqttSettings(reconnect_min_s=0.01, reconnect_max_s=0.05)
    async with open_fleet(broker, stream=settings, mqtt=mqtt) as fleet:
        socket, events = await fleet.connect(), await fleet.connect()
        await socket.open_websocket("A")
        await events.open_sse("A")
        await fleet.wait_subscribed(2)
        assert (await events.read_chunk()).startswith(b"id: ")
        await trio.to_thread.run_sync(broker.kill)
        assert await next_text(socket) == b'{"event":"upstream","data":{"connected":false}}'
        assert await next_chunk(events) == b'event: upstream\ndata: {"connected":false}\n\n'
        late = await fleet.connect()
        await late.open_websocket("A&hello=1")
        assert json.loads(await next_text(late))["event"] == "hello"
        assert await next_text(late) == b'{"event":"upstream","data":{"connected":false}}'
        await late.send(client_frame(TEXT, b'{"op":"ping"}'))
        assert json.loads(await next_text(late))["event"] == "ack"
        await trio.to_thread.run_sync(broker.start)
        for peer in (socket, late):
            assert await next_text(peer) == b'{"event":"upstream","data":{"connected":true}}'
        assert await next_chunk(events) == b'event: upstream\ndata: {"connected":true}\n\n'
