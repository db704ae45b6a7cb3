"""`tracker.domain.stream`: from the queue to the outbox, as far as the kernel takes it."""

from __future__ import annotations

import itertools
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.domain.test_wire import response_body, texts
from tests.event_stream import Dispatched, parse_event_stream
from tests.fakes import BusyOutbox, FakeOutbox, ServedOutbox, gap_event, make_message
from tracker.domain import wire
from tracker.domain.event import HEARTBEAT, PING, closed, reconnect
from tracker.domain.hub import Hub
from tracker.domain.message import Message
from tracker.domain.options import StreamOptions
from tracker.domain.position import Position
from tracker.domain.queue import Overflow, QueueLimits, Subscription
from tracker.domain.reasons import CloseReason
from tracker.domain.stream import WRITE_LIMIT_BYTES, Stream
from tracker.domain.totals import Totals
from tracker.domain.transport import SSE_BARE, SSE_CHUNKED, WEBSOCKET, WEBSOCKET_LINES, Transport

LIMITS = QueueLimits(messages=3, total_bytes=1000, events=2)

#: What a gap counts for in a queue's bytes.
GAP_BYTES = 100


class Owner:
    """Who is told of drops, in the hub's place."""

    #: It has no epoch: a stream outside any hub has no place in its order.
    position = Position("", 0)

    def __init__(self, drops: list[str]) -> None:
        self.note_drop = drops.append
        self.totals = Totals()

    def note_held(self, stream: Stream) -> None:
        """Nobody comes back for what is held."""

    def forget(self, stream: Stream) -> None:
        """There is no hub to leave."""


def open_stream(
    outbox: FakeOutbox,
    transport: Transport = WEBSOCKET,
    limits: QueueLimits = LIMITS,
    drops: list[str] | None = None,
) -> Stream:
    """A stream of the devices 1 and 2, outside any hub; `drops` gets the id of each drop."""
    told = list[str]() if drops is None else drops
    stream = Stream(outbox, transport, limits, Owner(told))
    for device_id in ("1", "2"):
        stream.subscriptions[device_id] = Subscription(device_id)
    return stream


def offer(stream: Stream, *messages: Message) -> None:
    for message in messages:
        stream.offer(message, stream.subscriptions[message.device_id])


def counters(stream: Stream, device_id: str = "1") -> tuple[int, int, int]:
    """What the stream delivered, of all its devices; what of one was dropped, or waits."""
    subscription = stream.subscriptions[device_id]
    return stream.delivered, subscription.dropped, subscription.waiting


def frames(*messages: Message) -> bytes:
    return b"".join(message.frame() for message in messages)


def messages_of(device_id: str, count: int) -> list[Message]:
    return [make_message(sequence, device_id) for sequence in range(count)]


# A client that takes what it is sent


def test_what_was_offered_leaves_in_one_write() -> None:
    outbox = FakeOutbox()
    stream = open_stream(outbox)
    messages = [make_message(1, "1"), make_message(2, "2"), make_message(3, "1")]
    offer(stream, *messages)
    assert (outbox.writes, counters(stream)) == ([], (0, 0, 2))
    assert stream.flush() == 3
    assert (outbox.writes, counters(stream)) == ([frames(*messages)], (3, 0, 0))
    assert stream.flush() == 0
    assert outbox.writes == [frames(*messages)]


@pytest.mark.parametrize("transport", [WEBSOCKET, SSE_BARE, SSE_CHUNKED, WEBSOCKET_LINES])
def test_every_client_gets_the_same_bytes(transport: Transport) -> None:
    """DESIGN, law 1: the same object, not an equal one."""
    outboxes = [FakeOutbox() for _ in range(3)]
    message = make_message(1)
    for outbox in outboxes:
        stream = open_stream(outbox, transport)
        offer(stream, message)
        stream.flush()
    assert all(write is transport.encode(message) for o in outboxes for write in o.writes)
    assert [len(outbox.writes) for outbox in outboxes] == [1, 1, 1]


def test_each_transport_carries_messages_and_events_in_one_order() -> None:
    received = []
    for transport in (WEBSOCKET, SSE_BARE, SSE_CHUNKED, WEBSOCKET_LINES):
        outbox = FakeOutbox(appetite=0)
        stream = open_stream(outbox, transport)
        for event in (make_message(1), PING, make_message(2), reconnect(5, "shutdown")):
            if isinstance(event, Message):
                offer(stream, event)
            else:
                stream.post(event)
        outbox.feed()
        received.append(bytes(outbox.kernel))
    names = ["message", "ping", "message", "reconnect"]
    values = [
        '{"timestamp":1,"data":{"DEVICE_ID":"1"}}',
        '{"type":"keep-alive"}',
        '{"timestamp":2,"data":{"DEVICE_ID":"1"}}',
        '{"after_ms":5,"reason":"shutdown"}',
    ]
    pairs = list(zip(names, values, strict=True))
    as_texts = [f'{{"event":"{name}","data":{value}}}' for name, value in pairs]
    assert texts(received[0]) == as_texts
    events = [Dispatched(name, value) for name, value in pairs]
    assert parse_event_stream(received[1]).events == events
    assert parse_event_stream(b"".join(response_body(received[2]))).events == events
    assert received[3].decode().splitlines() == as_texts


def test_a_burst_larger_than_the_queue_is_no_loss() -> None:
    """PROTOCOL A4: a client that takes what it is sent loses nothing, however large the burst."""
    outbox, drops = FakeOutbox(), list[str]()
    stream = open_stream(outbox, drops=drops)
    messages = messages_of("1", 5000)
    offer(stream, *messages)
    stream.flush()
    assert outbox.kernel == frames(*messages)
    assert (counters(stream), drops) == ((5000, 0, 0), [])


def test_a_message_larger_than_the_bound_is_no_loss() -> None:
    outbox, drops = FakeOutbox(), list[str]()
    stream = open_stream(outbox, drops=drops)
    messages = [make_message(n, data=b"x" * 2000) for n in range(3)]
    offer(stream, *messages)
    stream.flush()
    assert (outbox.kernel, drops) == (frames(*messages), [])


def test_a_write_is_bounded_in_bytes() -> None:
    """What a slow client's kernel refuses of one write is all that is held beside the queue."""
    assert WRITE_LIMIT_BYTES == 64 * 1024
    outbox = FakeOutbox()
    stream = open_stream(outbox, limits=QueueLimits(messages=10_000, total_bytes=10**7))
    large = make_message(5000, data=b"x" * (WRITE_LIMIT_BYTES + 1))
    messages = [*messages_of("1", 5000), large, *messages_of("1", 3)]
    offer(stream, *messages)
    stream.flush()
    assert outbox.kernel == frames(*messages)
    assert outbox.writes.count(large.frame()) == 1
    others = [len(write) for write in outbox.writes if write != large.frame()]
    assert max(others) <= WRITE_LIMIT_BYTES
    # And no smaller than need be: the next frame would not have fitted.
    assert all(size > WRITE_LIMIT_BYTES - len(messages[0].frame()) - 10 for size in others[:-2])


# A client that is behind


def test_nothing_leaves_the_queue_while_there_is_a_tail() -> None:
    outbox = FakeOutbox(appetite=5)
    stream = open_stream(outbox)
    first, *rest = messages_of("1", 3)
    offer(stream, first)
    assert stream.flush() == 1
    assert (outbox.kernel, outbox.tail) == (frames(first)[:5], frames(first)[5:])
    offer(stream, *rest)
    assert stream.flush() == 0
    assert counters(stream) == (1, 0, 2)
    outbox.feed(len(frames(first)) - 6)
    assert counters(stream) == (1, 0, 2)
    outbox.feed(1)  # the tail is gone: the outbox calls back, and the flush goes on
    assert (outbox.tail, counters(stream)) == (frames(*rest), (3, 0, 0))
    outbox.feed()
    assert outbox.kernel == frames(first, *rest)


def test_a_message_is_dropped_only_after_the_kernel_has_refused() -> None:
    outbox, drops = FakeOutbox(appetite=0), list[str]()
    stream = open_stream(outbox, drops=drops)
    messages = messages_of("1", 10)
    offer(stream, *messages[:3])
    assert outbox.writes == []
    # The fourth finds the queue full: the kernel is asked, and refuses. The three are the tail.
    offer(stream, messages[3])
    assert (outbox.tail, counters(stream), drops) == (frames(*messages[:3]), (3, 0, 1), [])
    offer(stream, *messages[4:])
    assert (counters(stream), drops) == ((3, 4, 3), ["1"] * 4)
    # The new ones are dropped, not the old ones, and the client is told where.
    outbox.feed()
    assert outbox.kernel == frames(*messages[:6]) + gap_event("1", 4).frame()


def test_one_device_does_not_take_the_room_of_another() -> None:
    outbox, drops = FakeOutbox(appetite=0), list[str]()
    stream = open_stream(outbox, drops=drops)
    stream.post(PING)
    offer(stream, *messages_of("1", 5), make_message(9, "2"))
    assert (counters(stream, "1"), counters(stream, "2"), drops) == (
        *((0, 2, 3), (0, 0, 1), ["1", "1"]),
    )


def test_the_bytes_of_all_devices_are_bounded() -> None:
    outbox, drops = FakeOutbox(appetite=0), list[str]()
    stream = open_stream(outbox, drops=drops)
    stream.post(PING)  # the tail
    offer(stream, make_message(1, "1", b"x" * 600), make_message(2, "2", b"x" * 400))
    offer(stream, make_message(3, "2", b"x"), make_message(4, "1", b"x"))
    assert (stream.queue.waiting_bytes, drops) == (1000 + 2 * GAP_BYTES, ["2", "1"])


@pytest.mark.parametrize("transport", [WEBSOCKET, SSE_CHUNKED])
def test_a_kernel_that_takes_any_number_of_bytes_at_a_time(transport: Transport) -> None:
    messages = [make_message(n, device_id) for n, device_id in enumerate(["1", "2", "1", "2"])]
    everything = b"".join(transport.encode(event) for event in (*messages, PING))
    for k in range(1, len(everything) + 1):
        outbox = FakeOutbox(appetite=k)
        stream = open_stream(outbox, transport)
        for message in messages:
            offer(stream, message)
            stream.flush()
        stream.post(PING)
        for taken in itertools.count(2 * k, k):
            assert everything.startswith(outbox.kernel)
            if outbox.kernel == everything:
                break
            assert taken <= len(everything) + 2 * k
            outbox.feed(k)
        assert (outbox.writable, stream.queue.waiting) == (True, 0)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(0, 2000).map(lambda size: ("offer", size)),
            st.integers(1, 3000).map(lambda size: ("feed", size)),
            st.just(("flush", 0)),
            st.just(("starve", 0)),
            st.just(("ping", 0)),
        ),
        max_size=40,
    )
)
def test_what_the_kernel_got_is_what_was_accepted_in_order(steps: list[tuple[str, int]]) -> None:
    outbox, drops = FakeOutbox(), list[str]()
    stream = open_stream(outbox, drops=drops)
    accepted: list[bytes] = []
    gap_at, gap_dropped = -1, 0  # where the last gap stands, while it may grow
    offered = 0
    for sequence, (step, size) in enumerate(steps):
        if len(outbox.written) > len(b"".join(accepted[: max(gap_at, 0)])):
            gap_at = -1  # it has left
        if step == "offer":
            offered += 1
            message = make_message(sequence, data=b"%d" % sequence + b"x" * size)
            told = len(drops)
            offer(stream, message)
            if len(drops) == told:
                accepted.append(message.frame())
                gap_at = -1
            else:
                assert outbox.refusing
                if gap_at < 0:
                    gap_at, gap_dropped = len(accepted), 0
                    accepted.append(b"")
                gap_dropped += 1
                accepted[gap_at] = gap_event("1", gap_dropped).frame()
        elif step == "feed":
            outbox.feed(size)
        elif step == "flush":
            stream.flush()
        elif step == "starve":
            outbox.starve()
        else:
            left_out = stream.queue.events_left_out
            stream.post(PING)
            if stream.queue.events_left_out == left_out:
                accepted.append(PING.frame())
        assert b"".join(accepted).startswith(outbox.kernel)
        delivered, dropped, waiting = counters(stream)
        assert offered == delivered + dropped + waiting
        assert (dropped, waiting <= 3) == (len(drops), True)
    stream.flush()
    outbox.feed()
    assert outbox.kernel == b"".join(accepted)


def test_a_kernel_that_has_room_again_costs_no_message() -> None:
    """It is asked once more before a drop, whether the outbox's task had its turn or not."""
    drops: list[str] = []
    outbox = FakeOutbox(appetite=10)
    stream = open_stream(outbox, drops=drops)
    messages = messages_of("1", 50)
    offer(stream, *messages[:6])
    assert (outbox.refusing, len(stream.queue)) == (True, 3)
    outbox.appetite = inf  # and nobody tells the outbox
    offer(stream, *messages[6:])
    stream.flush()
    assert drops == []
    assert outbox.kernel == b"".join(message.frame() for message in messages)


# An outbox that another task serves


def test_not_having_been_served_yet_is_no_refusal() -> None:
    """Over ASGI and TLS nothing leaves where it is written: the bytes bound what waits."""
    outbox, drops = ServedOutbox(), list[str]()
    limits = QueueLimits(messages=3, total_bytes=4000, events=2)
    stream = open_stream(outbox, limits=limits, drops=drops)
    messages = messages_of("1", 150)
    sizes = list(itertools.accumulate(message.size_bytes for message in messages))
    offer(stream, *messages)
    # The first three were written when the fourth came; the rest waits, up to the bytes.
    fit = sum(size - sizes[2] <= 4000 for size in sizes)
    assert (stream.queue.waiting, len(drops)) == (fit - 3, 150 - fit)
    assert fit > 90
    while outbox.tail:
        outbox.serve()
    assert outbox.kernel == frames(*messages[:fit]) + gap_event("1", 150 - fit).frame()


def test_a_served_outbox_that_is_behind_is_held_to_both_bounds() -> None:
    outbox, drops = ServedOutbox(), list[str]()
    stream = open_stream(outbox, drops=drops)
    offer(stream, make_message(0))
    stream.flush()
    outbox.is_behind = True
    offer(stream, *messages_of("1", 10))
    assert (counters(stream), len(drops)) == ((1, 7, 3), 7)


def test_what_waits_for_its_task_and_what_was_refused() -> None:
    outbox = ServedOutbox()
    stream = open_stream(outbox)
    seen = [stream.is_unserved]
    stream.post(PING)
    seen.append(stream.is_unserved)  # written: nothing waits in the queue
    stream.post(PING)
    seen.append(stream.is_unserved)
    outbox.is_behind = True
    seen.append(stream.is_unserved)
    outbox.is_behind = False
    outbox.serve()
    seen.append(stream.is_unserved)
    assert seen == [False, False, True, False, False]
    refusing = open_stream(FakeOutbox(appetite=0))
    refusing.post(PING)
    refusing.post(PING)
    assert not refusing.is_unserved


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=30))
def test_a_served_outbox_gets_everything_in_order(bursts: list[int]) -> None:
    outbox = ServedOutbox()
    stream = open_stream(outbox, limits=QueueLimits(messages=3))
    messages = messages_of("1", sum(bursts))
    pending = iter(messages)
    for burst in bursts:
        offer(stream, *itertools.islice(pending, burst))
        stream.flush()
        outbox.serve()
    while outbox.tail:
        outbox.serve()
    assert outbox.kernel == frames(*messages)


# Events


def test_an_event_leaves_at_once_if_the_kernel_takes_it() -> None:
    outbox = FakeOutbox()
    open_stream(outbox).post(PING)
    assert outbox.writes == [PING.frame()]
    assert outbox.writes[0] is PING.frame()


def test_a_heartbeat_is_for_a_line_on_which_nothing_flows() -> None:
    outbox = FakeOutbox()
    stream = open_stream(outbox)
    stream.heartbeat()
    assert outbox.writes == [wire.PING_FRAME]
    offer(stream, make_message(1))
    stream.heartbeat()  # a message waits for the flush
    assert outbox.writes == [wire.PING_FRAME]
    stream.flush()
    outbox.starve()
    stream.post(PING)
    stream.heartbeat()  # there is a tail
    assert outbox.writes == [wire.PING_FRAME, make_message(1).frame(), PING.frame()]
    assert len(stream.queue) == 0


@pytest.mark.parametrize(
    ("transport", "writes"),
    [
        (WEBSOCKET, [wire.PING_FRAME]),
        (SSE_BARE, [wire.SSE_COMMENT]),
        (SSE_CHUNKED, [wire.chunk(wire.SSE_COMMENT)]),
        # No door for a Ping frame; an empty write would never be served.
        (WEBSOCKET_LINES, []),
    ],
    ids=["frame", "sse", "chunk", "line"],
)
def test_a_heartbeat_on_each_transport(transport: Transport, writes: list[bytes]) -> None:
    outbox = ServedOutbox()
    stream = open_stream(outbox, transport)
    stream.heartbeat()
    assert (outbox.writes, stream.queue.waiting_bytes) == (writes, HEARTBEAT.size_bytes)
    outbox.serve()
    assert outbox.writable


def test_pings_of_a_client_that_is_behind_do_not_pile_up() -> None:
    outbox = FakeOutbox(appetite=0)
    stream = open_stream(outbox)
    for _ in range(10):
        stream.post(PING)
    assert (len(stream.queue), stream.queue.events_left_out) == (2, 7)
    outbox.feed()
    assert outbox.kernel == PING.frame() * 3


# The end


def test_the_first_reason_to_close_stands() -> None:
    stream, calls = open_stream(FakeOutbox()), list[int]()
    stream.on_close = lambda: calls.append(1)
    stream.close(CloseReason.FLOOD)
    stream.close(CloseReason.SHUTDOWN)
    assert (stream.close_reason, calls) == (CloseReason.FLOOD, [1])


def test_a_stalled_peer_closes_the_stream() -> None:
    outbox = FakeOutbox(appetite=0)
    stream, calls = open_stream(outbox), list[int]()
    stream.on_close = lambda: calls.append(1)
    stream.post(PING)
    outbox.stall()
    assert (stream.close_reason, calls) == (CloseReason.STALLED, [1])
    offer(stream, make_message(1))
    assert (stream.flush(), counters(stream)) == (0, (0, 0, 1))


def test_a_stream_without_anybody_to_tell_may_close() -> None:
    stream = open_stream(FakeOutbox())
    stream.close(CloseReason.SHUTDOWN)
    assert stream.close_reason is CloseReason.SHUTDOWN


def test_after_the_end_nothing_reaches_the_outbox() -> None:
    """Its connection may serve another answer by then."""
    outbox = FakeOutbox(appetite=0)
    stream = open_stream(outbox)
    stream.post(PING)
    offer(stream, make_message(1))
    stream.post(PING)
    stream.leave()
    assert (outbox.on_writable, outbox.on_stalled) == (None, None)
    outbox.feed()
    stream.post(PING)
    stream.heartbeat()
    assert stream.flush() == 0
    assert outbox.writes == [PING.frame()]
    assert (len(stream.queue), counters(stream)) == (0, (0, 1, 0))


@pytest.mark.parametrize("max_rate_per_s", [None, 1.0])
def test_nothing_stands_behind_the_last_event(max_rate_per_s: float | None) -> None:
    outbox = FakeOutbox(appetite=0)
    stream = open_stream(outbox)
    stream.set_max_rate(max_rate_per_s)
    stream.post(PING)
    first, *later = (make_message(sequence) for sequence in range(4))
    offer(stream, first)
    stream.finish(closed(4408, "too slow"))
    offer(stream, *later)
    stream.post(PING)
    stream.post_loss(7, "ingest")
    stream.answer(PING)
    stream.release(10**18)
    outbox.feed()
    offer(stream, *later)
    expected = first if max_rate_per_s is None else first.without_id()
    assert outbox.kernel == PING.frame() + expected.frame() + closed(4408, "too slow").frame()
    assert (len(stream.queue), counters(stream)) == (0, (1, 6, 0))
    assert (stream.closed_messages, stream.queue.dropped) == (6, 6)
    stream.leave()
    assert counters(stream) == (1, 6, 0)


def test_what_waits_elsewhere_is_dropped_when_the_stream_finishes() -> None:
    outbox = FakeOutbox()
    stream = open_stream(outbox)
    stream.set_max_rate(1.0)
    offer(stream, *messages_of("1", 3))
    stream.finish()
    assert outbox.written == make_message(0).without_id().frame()
    assert counters(stream) == (1, 2, 0)


def test_a_message_without_room_may_finish_the_stream_in_the_middle_of_a_burst() -> None:
    outbox = FakeOutbox(appetite=0)
    stream = open_stream(outbox)
    stream.set_overflow(Overflow.DISCONNECT)
    stream.on_close = lambda: stream.finish(closed(4408, "too slow"))
    messages = messages_of("1", 6)
    stream.post(PING)
    stream.burst = tuple(messages)
    stream.flush()
    outbox.feed()
    last = gap_event("1", 1).frame() + closed(4408, "too slow").frame()
    assert outbox.kernel == PING.frame() + frames(*messages[:3]) + last
    assert counters(stream) == (3, 3, 0)


def test_the_labels_of_the_metrics_stay_as_they_are() -> None:
    assert [reason.value for reason in CloseReason] == [
        *("client", "stalled", "slow", "shutdown", "flood", "error"),
    ]
    assert [t.name for t in (WEBSOCKET, WEBSOCKET_LINES, SSE_CHUNKED, SSE_BARE)] == [
        *("websocket", "websocket", "sse", "sse"),
    ]


@pytest.mark.parametrize("overflow", [Overflow.DROP_NEW, Overflow.DROP_OLD])
def test_a_position_from_before_the_ids_were_lost_is_not_told(overflow: Overflow) -> None:
    """A client that is cut behind it would get again what it has had without ids."""
    hub, outbox = Hub(epoch="e"), BusyOutbox()
    message = make_message(1, epoch="e")
    with hub.open_stream(["1"], outbox, SSE_BARE, StreamOptions(overflow=overflow)) as stream:
        stream.set_max_rate(0.5)
        hub.publish_batch([message])
        stream.set_max_rate(None)
        outbox.feed()
        assert outbox.kernel == (
            wire.sse_position(b"none") + message.without_id().sse() + wire.sse_position(b"e-1")
        )
        assert (len(stream.queue), stream.queue.events_waiting) == (0, 0)
