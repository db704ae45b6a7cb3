"""A clear stream's messages go past its queue: whatever the kernel takes, nobody can tell."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.domain.test_wire import texts
from tests.fakes import FakeOutbox, ServedOutbox, make_message
from tracker.domain.event import PING, Event, ack
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.joiner import Joiner
from tracker.domain.message import Message
from tracker.domain.options import StreamOptions
from tracker.domain.queue import Overflow, QueueLimits
from tracker.domain.reasons import CloseReason, Drop
from tracker.domain.stream import WRITE_LIMIT_BYTES, Stream
from tracker.domain.transport import SSE_BARE, SSE_CHUNKED, WEBSOCKET, WEBSOCKET_LINES, Transport

DEVICES = ("1", "2", "3")
TRANSPORTS = (WEBSOCKET, WEBSOCKET_LINES, SSE_CHUNKED, SSE_BARE)
ANSWER = ack("ping", 1, None)


def make_hub(limits: QueueLimits | None = None, *, overflow: Overflow = Overflow.DROP_NEW) -> Hub:
    return Hub(HubSettings(queue=limits or QueueLimits(), overflow=overflow), epoch="e")


def message(sequence: int, device_id: str = "1", size_bytes: int = 0) -> Message:
    data = b'{"timestamp":%d,"data":{"DEVICE_ID":"%b","X":"%b"}}' % (
        *(sequence, device_id.encode(), b"x" * size_bytes),
    )
    return make_message(sequence, device_id, data, epoch="e")


def open_clear(
    hub: Hub,
    outbox: FakeOutbox,
    device_ids: tuple[str, ...] = ("1",),
    transport: Transport = WEBSOCKET,
) -> Stream:
    """A stream that has begun: its first position has left, and is forgotten."""
    stream = hub.open_stream(device_ids, outbox, transport)
    appetite, outbox.appetite = outbox.appetite, float("inf")
    stream.flush()
    outbox.appetite, outbox.kernel, outbox.writes = appetite, b"", []
    assert stream.is_clear
    return stream


def is_balanced(hub: Hub, stream: Stream) -> bool:
    """Conservation: what is neither delivered nor dropped waits; there is no other stream."""
    waiting = len(stream.burst) + sum(each.waiting for each in stream.subscriptions.values())
    return hub.statistics().waiting == waiting == stream.waiting


@dataclass
class Sides:
    """The same stream twice: as it is, and one that queues everything."""

    transport: Transport
    limits: QueueLimits
    device_ids: tuple[str, ...] = DEVICES
    hubs: list[Hub] = field(default_factory=list)
    outboxes: list[FakeOutbox] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    sequence: int = 0

    def __post_init__(self) -> None:
        for _ in range(2):
            hub, outbox = make_hub(self.limits), FakeOutbox(appetite=0)
            self.hubs.append(hub)
            self.outboxes.append(outbox)
            self.streams.append(open_clear(hub, outbox, self.device_ids, self.transport))

    def publish(self, batch: list[tuple[str, int]]) -> None:
        messages = []
        for device_id, size_bytes in batch:
            self.sequence += 1
            messages.append(message(self.sequence, device_id, size_bytes))
        plain, queueing = self.streams
        queueing.is_clear = False
        wanted = any(each.device_id in plain.subscriptions for each in messages)
        for hub, stream in zip(self.hubs, self.streams, strict=True):
            assert hub.publish_batch(messages) == ([stream] if wanted else [])
        assert not queueing.burst

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush(Joiner())
            assert not stream.burst

    def say(self, event: Event) -> None:
        for stream in self.streams:
            stream.post(event)

    def feed(self, size_bytes: float) -> None:
        for outbox in self.outboxes:
            outbox.feed(size_bytes)


sizes = st.sampled_from([0, 0, 10, 100, 3_000, WRITE_LIMIT_BYTES])
batches = st.lists(st.tuples(st.sampled_from((*DEVICES, "nobody's")), sizes), max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), batches),
        st.tuples(st.just("feed"), st.sampled_from([0, 1, 7, 150, 4_000, 70_000])),
        st.tuples(st.just("say"), st.sampled_from([PING, ANSWER])),
    ),
    max_size=25,
)


@pytest.mark.parametrize("transport", TRANSPORTS, ids=["frame", "line", "chunk", "bare"])
@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_the_bytes_are_those_of_a_stream_that_queues(
    transport: Transport, steps: list[tuple[str, object]]
) -> None:
    """For any kernel, as long as nothing has to be dropped: what it took, at every step."""
    sides = Sides(transport, QueueLimits(messages=1000, total_bytes=1 << 30))
    for name, value in steps:
        if name == "publish":
            assert isinstance(value, list)
            sides.publish(value)
            sides.flush()
        elif name == "feed":
            assert isinstance(value, int)
            sides.feed(value)
        else:
            assert isinstance(value, Event)
            sides.say(value)
        plain, queueing = sides.outboxes
        assert plain.kernel == queueing.kernel
        assert plain.tail == queueing.tail
        assert all(map(is_balanced, sides.hubs, sides.streams))
    sides.feed(float("inf"))
    plain, queueing = sides.outboxes
    assert plain.written == queueing.written == plain.kernel
    for one, other in zip(
        *(stream.subscriptions.values() for stream in sides.streams), strict=True
    ):
        assert (one.dropped, one.waiting) == (other.dropped, other.waiting)
    one_sum, other_sum = (hub.statistics() for hub in sides.hubs)
    assert one_sum == other_sum
    for stream in sides.streams:
        stream.leave()


@settings(max_examples=100, deadline=None)
@given(
    steps=steps,
    overflow=st.sampled_from([Overflow.DROP_NEW, Overflow.DROP_OLD, Overflow.LATEST]),
    messages=st.sampled_from([1, 2, 5]),
)
def test_what_is_dropped_is_dropped_by_the_same_laws(
    steps: list[tuple[str, object]], overflow: Overflow, messages: int
) -> None:
    """Order, conservation, and gaps that add up, whichever way a message went."""
    hub = make_hub(QueueLimits(messages=messages, total_bytes=8_000), overflow=overflow)
    outbox = FakeOutbox(appetite=0)
    stream = open_clear(hub, outbox, DEVICES)
    published: list[str] = []
    sequence = 0
    for name, value in steps:
        if name == "publish":
            assert isinstance(value, list)
            batch = []
            for device_id, size_bytes in value:
                sequence += 1
                batch.append(message(sequence, device_id, min(size_bytes, 3_000)))
            published += [each.text().decode() for each in batch if each.device_id in DEVICES]
            hub.publish_batch(batch)
            stream.flush()
        elif name == "feed":
            assert isinstance(value, int)
            outbox.feed(value)
        assert is_balanced(hub, stream)
    outbox.feed()
    received = [text for text in texts(outbox.kernel) if text.startswith('{"event":"message"')]
    gaps = [text for text in texts(outbox.kernel) if text.startswith('{"event":"gap"')]
    if overflow is Overflow.LATEST:  # its messages have no ids
        published = [text.replace(f'"id":"e-{_sequence(text)}",', "") for text in published]
    # A newer one stands where the older one of its device stood, or else at the end.
    for group in [DEVICES] if overflow is not Overflow.LATEST else [(each,) for each in DEVICES]:
        remaining = iter(_of(group, published))
        assert all(text in remaining for text in _of(group, received)), "out of order, or doubled"
    statistics = hub.statistics()
    assert statistics.delivered == len(received)
    assert statistics.offered == len(published) == len(received) + sum(statistics.dropped.values())
    told = sum(int(text.partition('"dropped":')[2].partition(",")[0]) for text in gaps)
    assert told == statistics.dropped[Drop.BUFFER_FULL]
    stream.leave()


def _of(device_ids: tuple[str, ...], texts_: list[str]) -> list[str]:
    return [text for text in texts_ if any(f'"DEVICE_ID":"{each}"' in text for each in device_ids)]


def _sequence(text: str) -> str:
    return text.partition('"id":"e-')[2].partition('"')[0]


# Who shares a write, and what stays in order with it


def test_streams_that_get_the_same_share_one_write() -> None:
    hub, joiner = make_hub(), Joiner()
    outboxes = [FakeOutbox() for _ in range(3)]
    streams = [open_clear(hub, outbox, DEVICES) for outbox in outboxes]
    batch = [message(1), message(2, "2")]
    assert hub.publish_batch(batch) == streams
    assert [stream.waiting for stream in streams] == [2, 2, 2]
    assert [stream.flush(joiner) for stream in streams] == [2, 2, 2]
    first = outboxes[0].writes[0]
    assert first == b"".join(each.frame() for each in batch)
    assert all(outbox.writes == [first] for outbox in outboxes)
    assert all(outbox.writes[0] is first for outbox in outboxes)


def test_a_joiner_tells_streams_apart_by_what_they_get_and_how() -> None:
    joiner = Joiner()
    one, two = message(1), message(2)
    assert joiner.join((one,), WEBSOCKET.encode) is one.frame()
    assert joiner.join((one, two), WEBSOCKET.encode) == one.frame() + two.frame()
    assert joiner.join((one, two), SSE_BARE.encode) == one.sse() + two.sse()
    assert joiner.join((two, one), SSE_BARE.encode) == two.sse() + one.sse()
    bare = one.without_id().sse()
    assert joiner.join((one,), SSE_BARE.encode_without_id) == bare != one.sse()


def test_the_first_refusal_holds_the_whole_burst_and_the_second_goes_to_the_queue() -> None:
    """At most one write, of at most 64 KiB, is held beside the queue."""
    hub = make_hub(QueueLimits(messages=2))
    outbox = FakeOutbox(appetite=0)
    with open_clear(hub, outbox) as stream:
        hub.publish_batch([message(n) for n in range(1, 6)])
        assert (stream.flush(), stream.waiting, len(outbox.writes)) == (5, 0, 1)
        hub.publish_batch([message(n) for n in range(6, 10)])
        assert (stream.flush(), stream.waiting, stream.is_clear) == (0, 2, False)
        assert hub.statistics().dropped[Drop.BUFFER_FULL] == 2
        outbox.feed()
        assert stream.is_clear
        assert [_sequence(text) for text in texts(outbox.kernel)] == [*"1234567", ""]


def test_a_burst_beyond_one_write_is_queued_and_lost_only_to_a_kernel_that_refuses() -> None:
    hub = make_hub(QueueLimits(messages=2))
    batch = [message(n, size_bytes=10_000) for n in range(1, 21)]
    outbox = FakeOutbox()
    with open_clear(hub, outbox) as stream:
        hub.publish_batch(batch)
        stream.flush()
        assert outbox.kernel == b"".join(each.frame() for each in batch)
        assert max(map(len, outbox.writes)) <= WRITE_LIMIT_BYTES
        assert sum(hub.statistics().dropped.values()) == 0


@pytest.mark.parametrize("event", [PING, ANSWER])
def test_what_is_said_does_not_overtake_what_was_published(event: Event) -> None:
    """The flush of a step has checkpoints, and with `coalesce_ms` it may be a while away."""
    hub, outbox = make_hub(), FakeOutbox()
    with open_clear(hub, outbox) as stream:
        hub.publish_batch([message(1)])
        if event is PING:
            stream.post(event)
        else:
            stream.answer(event)
        assert outbox.kernel == message(1).frame() + event.frame()
        assert stream.flush() == 0


def test_the_position_of_an_answer_is_behind_what_was_published() -> None:
    hub, outbox = make_hub(), FakeOutbox(appetite=0)
    with open_clear(hub, outbox) as stream:
        hub.publish_batch([message(1)])
        answer = ack("subscribe", None, hub.position_of(stream))
        stream.answer(answer)
        outbox.feed()
        assert outbox.kernel == message(1).frame() + answer.frame()


def test_a_loss_stands_behind_what_was_published_before_it() -> None:
    hub, outbox = make_hub(), FakeOutbox()
    with open_clear(hub, outbox):
        hub.publish_batch([message(1)])
        hub.note_lost(7)
        assert [text[:16] for text in texts(outbox.kernel)] == [
            '{"event":"messag',
            '{"event":"gap","',
        ]


def test_who_subscribes_in_between_gets_the_past_behind_the_burst() -> None:
    hub, outbox = make_hub(), FakeOutbox()
    hub.publish_batch([message(1, "2")])
    with open_clear(hub, outbox) as stream:
        hub.publish_batch([message(2)])
        hub.subscribe(stream, ["2"], StreamOptions(has_snapshot=True))
        hub.publish_batch([message(3, "2"), message(4)])
        stream.flush()
        snapshot = message(1, "2").as_snapshot()
        wanted = [message(2), snapshot, message(3, "2"), message(4)]
        assert outbox.kernel == b"".join(each.frame() for each in wanted)


def test_a_subscription_that_ends_in_between_keeps_its_balance() -> None:
    hub, outbox = make_hub(), FakeOutbox()
    with open_clear(hub, outbox, ("1", "2")) as stream:
        subscription = stream.subscriptions["1"]
        hub.publish_batch([message(1), message(2, "2")])
        hub.unsubscribe(stream, ["1"])
        assert (stream.delivered, subscription.dropped, subscription.waiting) == (2, 0, 0)
        assert stream.flush() == 0
    assert (hub.statistics().offered, hub.statistics().delivered) == (2, 2)


def test_what_is_in_the_burst_when_the_stream_leaves_is_dropped_and_counted() -> None:
    hub, outbox = make_hub(), FakeOutbox()
    stream = open_clear(hub, outbox)
    touched = hub.publish_batch([message(1), message(2)])
    stream.leave()
    assert [each.flush() for each in touched] == [0]
    assert outbox.writes == []
    statistics = hub.statistics()
    assert (statistics.offered, statistics.delivered, statistics.waiting) == (2, 0, 0)
    assert statistics.dropped[Drop.CLOSED] == 2 == stream.closed_messages


def test_what_is_in_the_burst_when_the_stream_is_to_close_leaves_before_its_last_words() -> None:
    hub, outbox = make_hub(), FakeOutbox()
    with open_clear(hub, outbox) as stream:
        hub.publish_batch([message(1)])
        stream.close(CloseReason.SHUTDOWN)
        stream.post(PING)
        assert outbox.kernel == message(1).frame() + PING.frame()


# Who is not clear


@pytest.mark.parametrize("what", ["behind", "limited", "catching up", "left"])
def test_who_is_not_clear_gets_no_burst(what: str) -> None:
    hub = make_hub()
    hub.publish_batch([message(1)])
    options = StreamOptions(
        max_rate_per_s=1 if what == "limited" else None, has_snapshot=what == "catching up"
    )
    outbox = FakeOutbox(appetite=0 if what == "behind" else float("inf"))
    stream = hub.open_stream(["1"], outbox, WEBSOCKET, options)
    if what == "behind":
        hub.publish_batch([message(2)])
        stream.flush()
    elif what == "left":
        stream.leave()
    assert not stream.is_clear
    hub.publish_batch([message(3)])
    assert stream.burst == ()
    stream.leave()


def test_an_outbox_that_another_task_serves_is_clear_when_it_is_idle() -> None:
    hub, outbox = make_hub(), ServedOutbox()
    with hub.open_stream(["1"], outbox, SSE_BARE) as stream:
        hub.publish_batch([message(1)])
        stream.flush()
        hub.publish_batch([message(2)])
        assert (stream.burst, stream.queue.waiting) == ((), 1)
        outbox.serve()
        outbox.serve()
        assert stream.is_clear
    assert [line for line in outbox.kernel.split(b"\n") if line.startswith(b"id")] == [
        *(b"id: e-0", b"id: e-1", b"id: e-2"),
    ]


def test_an_outbox_that_stops_taking_behind_the_streams_back_loses_nothing() -> None:
    """A pong, or Hypercorn, may be in the way between the publish and the flush."""
    hub, outbox = make_hub(), FakeOutbox()
    with open_clear(hub, outbox) as stream:
        outbox.starve()
        outbox.write_nowait(b"\x8a\x00")
        assert stream.is_clear  # it has not been told
        hub.publish_batch([message(1), message(2)])
        assert (stream.flush(), stream.waiting, stream.is_clear) == (0, 2, False)
        outbox.feed()
        assert outbox.kernel == b"\x8a\x00" + message(1).frame() + message(2).frame()
