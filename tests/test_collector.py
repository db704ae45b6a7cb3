"""`tracker.collector`: when it collects, and that an ended connection needs no collector."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from tests.faults import SMALL_BUFFER_BYTES, RudePeer
from tests.gateway import DEADLINE_S, STREAM, Gateway, start_gateway
from tests.http2 import Http2Client, connect_tls, tls_context
from tests.mqtt.conftest import Certificates, certificates
from tests.peer import TEXT, Peer, client_frame, close_frame, request_head
from tracker import collector
from tracker.collector import run_collector
from tracker.domain.reasons import CloseReason
from tracker.domain.stream import Stream
from tracker.server.connection import Connection
from tracker.server.inbox import HypercornInbox
from tracker.server.outbox import Outbox
from tracker.server.websocket import WebSocketInbox
from tracker.web.session import HandedOverSession

__all__ = ["certificates"]

LOOK_S = 0.25
BUSY_CONNECTIONS = 2000
#: In place of an hour.
THAW_S = 60.0


# When it collects


@dataclass
class FakeGc:
    """What the collector is told, and when, in seconds since the start."""

    told: list[tuple[float, str]] = field(default_factory=list)
    thresholds: tuple[int, int, int] = (700, 10, 10)

    def _note(self, what: str) -> None:
        self.told.append((round(trio.current_time(), 3), what))

    def collect(self) -> None:
        self._note("collect")

    def freeze(self) -> None:
        self._note("freeze")

    def unfreeze(self) -> None:
        self._note("unfreeze")

    def get_threshold(self) -> tuple[int, int, int]:
        return self.thresholds

    def set_threshold(self, *thresholds: int) -> None:
        self.thresholds = thresholds[0], thresholds[1], thresholds[2]


@dataclass
class Load:
    """The counters that the collector looks at."""

    messages: int = 0
    connections: int = 0

    async def flow(self) -> None:
        """Messages, so that no moment is quiet."""
        while True:
            self.messages += 1
            await trio.sleep(LOOK_S / 2)


@pytest.fixture
def fake_gc(monkeypatch: pytest.MonkeyPatch) -> FakeGc:
    fake = FakeGc()
    monkeypatch.setattr(collector, "gc", fake)
    monkeypatch.setattr(collector, "_THAW_S", THAW_S)
    return fake


@pytest.fixture
async def load(fake_gc: FakeGc, nursery: trio.Nursery) -> Load:
    """The load of a collector that runs; its start is not in `told` any more."""
    load = Load()
    nursery.start_soon(run_collector, lambda: load.messages, lambda: load.connections)
    await trio.sleep(LOOK_S / 10)  # from now on between two looks
    assert fake_gc.told == [(0.0, "collect"), (0.0, "freeze")]
    fake_gc.told.clear()
    return load


async def test_at_rest_nothing_is_collected(
    load: Load, fake_gc: FakeGc, autojump_clock: MockClock
) -> None:
    await trio.sleep(THAW_S - 1)
    assert fake_gc.told == []


async def test_a_connection_that_went_is_collected_in_a_quiet_moment(
    load: Load, fake_gc: FakeGc, autojump_clock: MockClock
) -> None:
    load.connections += 1
    await trio.sleep(10)
    assert fake_gc.told == [(LOOK_S, "collect"), (LOOK_S, "freeze")]
    load.connections += 500
    await trio.sleep(10)
    assert [what for _, what in fake_gc.told] == ["collect", "freeze"] * 2


async def test_while_messages_come_a_collection_waits(
    load: Load, fake_gc: FakeGc, autojump_clock: MockClock
) -> None:
    with trio.move_on_after(10):
        load.connections += BUSY_CONNECTIONS - 1
        await load.flow()
    assert fake_gc.told == []
    await trio.sleep(2 * LOOK_S)
    assert [what for _, what in fake_gc.told] == ["collect", "freeze"]


async def test_a_storm_of_connections_is_collected_while_messages_come(
    load: Load, fake_gc: FakeGc, autojump_clock: MockClock
) -> None:
    async def storm() -> None:
        for _ in range(10):
            await trio.sleep(10)
            load.connections += BUSY_CONNECTIONS // 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.flow)
        await storm()
        nursery.cancel_scope.cancel()
    # Every other one made it so many since the last collection; the last is still to come.
    collected_s = [time_s for time_s, what in fake_gc.told if what == "collect"]
    assert collected_s == [20.25, 40.25, 60.25, 80.25]


async def test_what_was_frozen_is_looked_at_again_in_a_quiet_moment_after_an_hour(
    load: Load, fake_gc: FakeGc, autojump_clock: MockClock
) -> None:
    with trio.move_on_after(THAW_S + 50):
        await load.flow()
    assert fake_gc.told == []
    await trio.sleep(THAW_S - 1)
    first_s = fake_gc.told[0][0]
    assert THAW_S + 50 <= first_s <= THAW_S + 50 + 2 * LOOK_S
    assert fake_gc.told == [(first_s, "unfreeze"), (first_s, "collect"), (first_s, "freeze")]
    await trio.sleep(10)
    assert [what for _, what in fake_gc.told] == ["unfreeze", "collect", "freeze"] * 2


async def test_without_a_quiet_moment_it_is_looked_at_after_two_hours(
    load: Load, fake_gc: FakeGc, autojump_clock: MockClock
) -> None:
    with trio.move_on_after(2 * THAW_S - 1):
        await load.flow()
    assert fake_gc.told == []
    with trio.move_on_after(2 * THAW_S):
        await load.flow()
    first_s = fake_gc.told[0][0]
    assert 2 * THAW_S < first_s <= 2 * THAW_S + 2 * LOOK_S
    assert fake_gc.told == [(first_s, "unfreeze"), (first_s, "collect"), (first_s, "freeze")]


async def test_the_collector_is_left_as_it_was(fake_gc: FakeGc, autojump_clock: MockClock) -> None:
    with trio.move_on_after(10):
        await run_collector(lambda: 0, lambda: 0)
    assert fake_gc.thresholds == (700, 10, 10)
    assert [what for _, what in fake_gc.told] == ["collect", "freeze", "unfreeze"]


async def test_the_real_one_too() -> None:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_collector, lambda: 0, lambda: 0)
        await trio.testing.wait_all_tasks_blocked()
        assert gc.get_threshold()[0] > thresholds[0]
        assert gc.get_freeze_count() > frozen
        nursery.cancel_scope.cancel()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (thresholds, 0)


# What an ended connection leaves behind

#: All that a connection is made of, and that belongs to it alone.
PARTS = (Connection, Outbox, Stream, HandedOverSession, HypercornInbox, WebSocketInbox)
STATS = f"{STREAM}/stats"

#: Opens a connection, has it served, and sees its end.
Life = Callable[[Gateway], Awaitable[None]]


@pytest.fixture(scope="module")
def thawed_heap() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture
def no_collector(thawed_heap: None) -> Iterator[None]:
    """From a clean start on, nothing frees a cycle."""
    gc.collect()
    assert parts() == Counter()
    gc.freeze()  # what there is by now needs no look in any test that follows
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def gateway(nursery: trio.Nursery) -> Gateway:
    return await start_gateway(nursery, stream={"stall_s": 0.5}, http={"read_head_timeout": 0.2})


def parts() -> Counter[str]:
    """How many parts of connections there are."""
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, PARTS))


async def wait_freed() -> None:
    """Wait until nothing is left of any connection."""
    with trio.fail_after(DEADLINE_S):
        while left := parts():
            assert left  # to be seen when it fails
            await trio.sleep(0.01)


async def open_websocket(gateway: Gateway) -> Peer:
    """A WebSocket on which everything has happened that happens to one."""
    peer = await gateway.connect()
    await peer.open_websocket("a,b&last=1&last_event_id=x")
    await peer.read_frame()
    await peer.send(client_frame(TEXT, b'{"op":"subscribe","device_ids":["c"]}'))
    await peer.read_frame()
    await gateway.publish("a", N=1)
    await peer.read_frame()
    return peer


async def open_events(gateway: Gateway) -> Peer:
    peer = await gateway.connect()
    await peer.open_sse("a,b&last=1", "Last-Event-ID: x")
    await peer.read_position()
    await gateway.publish("a", N=1)
    for _ in range(2):
        await peer.read_chunk()
    return peer


async def end_by_gateway(gateway: Gateway, peer: Peer) -> None:
    (stream,) = gateway.parts.hub.streams()
    stream.close(CloseReason.SHUTDOWN)
    await peer.read_end()
    peer.forget()


async def websocket_closed(gateway: Gateway) -> None:
    peer = await open_websocket(gateway)
    await peer.send(close_frame(1000))
    await peer.read_end()
    peer.forget()


async def websocket_finished(gateway: Gateway) -> None:
    peer = await open_websocket(gateway)
    await peer.finish()
    await peer.read_end()
    peer.forget()


async def websocket_reset(gateway: Gateway) -> None:
    await (await open_websocket(gateway)).reset()


async def websocket_closed_by_the_gateway(gateway: Gateway) -> None:
    await end_by_gateway(gateway, await open_websocket(gateway))


async def websocket_message_too_large(gateway: Gateway) -> None:
    peer = await open_websocket(gateway)
    await peer.send(client_frame(TEXT, b"x" * 70_000))
    await peer.read_end()
    peer.forget()


async def websocket_flood(gateway: Gateway) -> None:
    peer = await open_websocket(gateway)
    await peer.send(client_frame(TEXT, b"?") * 200)
    await peer.read_end()
    peer.forget()


async def websocket_garbage(gateway: Gateway) -> None:
    peer = await open_websocket(gateway)
    await peer.send(b"\xff" * 100)
    await peer.read_end()
    peer.forget()


async def websocket_stalled(gateway: Gateway) -> None:
    peer = await gateway.connect(receive_buffer_bytes=SMALL_BUFFER_BYTES)
    await peer.open_websocket("a")
    await gateway.wait_streams(1)
    for _ in range(300):
        await gateway.publish("a", size=3000)
    await gateway.wait_connections(0)
    peer.forget()


async def websocket_refused(gateway: Gateway) -> None:
    peer = await gateway.connect()
    await peer.open_websocket("")
    await peer.send(close_frame(1008))
    await peer.read_end()
    peer.forget()


async def websocket_gone_at_once(gateway: Gateway) -> None:
    peer = await gateway.connect()
    await peer.open_websocket("a", behind=client_frame(TEXT, b"early"))
    peer.forget()


async def events_closed(gateway: Gateway) -> None:
    await (await open_events(gateway)).close()


async def events_reset(gateway: Gateway) -> None:
    await (await open_events(gateway)).reset()


async def events_closed_by_the_gateway(gateway: Gateway) -> None:
    await end_by_gateway(gateway, await open_events(gateway))


async def events_http10(gateway: Gateway) -> None:
    peer = await gateway.connect()
    await peer.send(request_head(f"{STREAM}?device_ids=a", version="1.0"))
    await gateway.wait_streams(1)
    await peer.close()


async def events_refused(gateway: Gateway) -> None:
    peer = await gateway.connect()
    assert (await peer.request(STREAM)).status == 400
    await peer.close()


async def events_head(gateway: Gateway) -> None:
    peer = await gateway.connect()
    await peer.request(f"{STREAM}?device_ids=a", method="HEAD")
    await peer.close()


async def requests_kept_alive(gateway: Gateway) -> None:
    peer = await gateway.connect()
    for target in (STATS, "/", "/metrics", "/nowhere"):
        await peer.request(target)
    await peer.close()


async def requests_reset(gateway: Gateway) -> None:
    peer = await gateway.connect()
    await peer.request(STATS)
    await peer.reset()


async def request_and_close(gateway: Gateway) -> None:
    peer = await gateway.connect()
    await peer.request(STATS, "Connection: close")
    await peer.read_end()
    peer.forget()


async def request_with_a_body(gateway: Gateway) -> None:
    peer = await gateway.connect()
    await peer.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello")
    await peer.read_end()
    peer.forget()


async def nothing_said(gateway: Gateway) -> None:
    await (await gateway.connect()).close()


async def head_never_whole(gateway: Gateway) -> None:
    peer = await gateway.connect()
    await peer.send(b"GET / HT")
    await peer.read_end()
    peer.forget()


async def rudeness(gateway: Gateway) -> None:
    peer = await gateway.connect()
    await peer.send(RudePeer.garbage(seed=1))
    await peer.read_end()
    peer.forget()


LIVES: list[Life] = [
    *(websocket_closed, websocket_finished, websocket_reset, websocket_closed_by_the_gateway),
    *(websocket_message_too_large, websocket_flood, websocket_garbage, websocket_stalled),
    *(websocket_refused, websocket_gone_at_once),
    *(events_closed, events_reset, events_closed_by_the_gateway, events_http10),
    *(events_refused, events_head),
    *(requests_kept_alive, requests_reset, request_and_close, request_with_a_body),
    *(nothing_said, head_never_whole, rudeness),
]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("live", LIVES, ids=lambda live: live.__name__)
async def test_an_ended_connection_leaves_no_cycle(live: Life, gateway: Gateway) -> None:
    """With the collector off, what is in a cycle would stay for good."""
    await live(gateway)
    await wait_freed()


@pytest.mark.usefixtures("no_collector")
async def test_an_open_connection_is_seen(gateway: Gateway) -> None:
    """What the test above counts is there while it lives."""
    peer = await open_websocket(gateway)
    names = {"Connection", "Outbox", "Stream", "HandedOverSession", "WebSocketInbox"}
    assert parts() == Counter(names)
    await peer.close()
    await wait_freed()


@pytest.fixture
async def secure(nursery: trio.Nursery, certificates: Certificates) -> Gateway:
    return await start_gateway(
        nursery,
        http={"certfile": str(certificates.server), "keyfile": str(certificates.server_key)},
    )


@pytest.fixture
async def open_tls(
    secure: Gateway, certificates: Certificates
) -> AsyncIterator[Callable[[str], Awaitable[trio.SSLStream[trio.SocketStream]]]]:
    """Open a TLS connection that speaks this protocol; it ends with the test."""
    opened = []

    async def connect(protocol: str) -> trio.SSLStream[trio.SocketStream]:
        stream = await connect_tls(secure.port, tls_context(str(certificates.ca), protocol))
        opened.append(stream)
        return stream

    yield connect
    for stream in opened:
        stream.transport_stream.socket.close()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("ending", ["closed", "cut"])
@pytest.mark.parametrize("what", ["websocket", "events", "request", "no request"])
async def test_nor_does_one_over_tls(
    what: str,
    ending: str,
    secure: Gateway,
    open_tls: Callable[[str], Awaitable[trio.SSLStream[trio.SocketStream]]],
) -> None:
    peer = Peer(await open_tls("http/1.1"))
    if what == "websocket":
        await peer.open_websocket("a")
        await secure.wait_streams(1)
        await secure.publish("a")
        await peer.read_frame()
    elif what == "events":
        await peer.open_sse("a")
        await peer.read_position()
    elif what == "request":
        await peer.request(STATS)
    if ending == "closed":
        await peer.close()
    else:
        peer.forget()
    await wait_freed()


@pytest.mark.parametrize("what", ["websocket", "events", "request", "garbage"])
async def test_over_http2_one_collection_frees_all(
    what: str,
    secure: Gateway,
    open_tls: Callable[[str], Awaitable[trio.SSLStream[trio.SocketStream]]],
) -> None:
    """Its library has cycles of its own."""
    tls = await open_tls("h2")
    client = Http2Client(tls)
    await client.start()
    assert (await client.answer(await client.request(STATS)))[0] == 200
    if what == "websocket":
        stream = await client.open_websocket(f"{STREAM}?device_ids=a", (":protocol", "websocket"))
        await client.wait_status(stream)
        await secure.wait_streams(1)
        await secure.publish("a")
        await client.read_frame(stream)
    elif what == "events":
        stream = await client.request(f"{STREAM}?device_ids=a")
        await client.wait_status(stream)
        await secure.wait_streams(1)
    elif what == "garbage":
        await client.stream.send_all(b"x" * 100)
    tls.transport_stream.socket.close()
    await secure.wait_connections(0)
    with trio.fail_after(DEADLINE_S):
        while parts():  # what its tasks hold may go a little later
            await trio.sleep(0.01)
            gc.collect()
