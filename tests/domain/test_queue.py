"""`tracker.domain.queue`: one order, exact counters, bounds in items and in bytes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import gap_event, make_message
from tracker.domain.event import HEARTBEAT, PING, Event
from tracker.domain.message import Message
from tracker.domain.queue import Encoding, Overflow, Queue, QueueLimits, Subscription
from tracker.domain.reasons import Drop
from tracker.domain.totals import Totals

NO_LIMIT_BYTES = 1 << 30
LIMITS = QueueLimits(messages=3, total_bytes=100, events=2)


def sized(size_bytes: int, sequence: int = 0) -> Message:
    return make_message(sequence, data=b"x" * size_bytes)


def counters(subscription: Subscription) -> tuple[int, int]:
    return subscription.dropped, subscription.waiting


def test_the_limits_of_the_contract() -> None:
    """PROTOCOL A4."""
    assert QueueLimits() == QueueLimits(messages=100, total_bytes=1024 * 1024, events=16)


def test_the_labels_of_the_metric_stay_as_they_are() -> None:
    assert [reason.value for reason in Drop] == [
        *("buffer_full", "conflated", "evicted", "closed"),
    ]


def test_the_policies_are_named_as_in_the_contract() -> None:
    """PROTOCOL B2: the values of `mode`, and of the operator's setting."""
    assert [policy.value for policy in Overflow] == [
        *("drop_new", "drop_old", "latest", "disconnect"),
    ]


def test_what_goes_in_comes_out_in_order() -> None:
    queue, one, two = Queue(LIMITS, Totals()), Subscription("1"), Subscription("2")
    messages = [make_message(1, "1"), make_message(2, "2"), make_message(3, "1")]
    queue.put(messages[0], one)
    queue.put(messages[1], two)
    queue.put_event(PING)
    queue.put(messages[2], one)
    assert (len(queue), queue.waiting, queue.waiting_bytes) == (
        *(4, 3, sum(message.size_bytes for message in messages) + PING.size_bytes),
    )
    taken = queue.take(Event.frame, NO_LIMIT_BYTES)
    expected = [messages[0], messages[1], PING, messages[2]]
    assert taken == b"".join(event.frame() for event in expected)
    assert (len(queue), queue.waiting, queue.waiting_bytes, queue.delivered) == (0, 0, 0, 3)
    assert [counters(one), counters(two)] == [(0, 0), (0, 0)]


def test_one_event_alone_is_the_bytes_that_all_connections_share() -> None:
    """DESIGN, law 1."""
    queue, message = Queue(LIMITS, Totals()), make_message(1)
    for encode in (Event.frame, Event.sse, Event.chunk, Event.line):
        queue.put(message, Subscription("1"))
        assert queue.take(encode, NO_LIMIT_BYTES) is encode(message)


@pytest.mark.parametrize("encode", [Event.frame, Event.sse, Event.chunk, Event.line])
def test_a_take_is_bounded_on_the_wire(encode: Encoding) -> None:
    """In wire bytes: with many small messages the envelopes are the greater part."""
    queue, messages = Queue(LIMITS, Totals()), [sized(size) for size in (1, 2, 30, 1)]
    for message in messages:
        queue.put(message, Subscription("1"))
    first_two = encode(messages[0]) + encode(messages[1])
    assert queue.take(encode, len(first_two) + 1) == first_two
    # What is larger than the limit goes alone, or it would never go.
    assert queue.take(encode, 1) == encode(messages[2])
    assert queue.take(encode, len(encode(messages[3]))) == encode(messages[3])
    assert (len(queue), queue.waiting_bytes) == (0, 0)


def test_room_is_counted_for_each_device_and_in_bytes_for_all() -> None:
    queue, one, two = Queue(LIMITS, Totals()), Subscription("1"), Subscription("2")
    for _ in range(3):
        assert queue.has_room(sized(10), one)
        queue.put(sized(10), one)
    assert not queue.has_room(sized(1), one)
    assert queue.has_room_for_bytes(sized(70))
    assert queue.has_room(sized(70), two)
    assert not queue.has_room(sized(71), two)
    queue.put(sized(70), two)
    assert [queue.has_room(sized(size), two) for size in (0, 1)] == [True, False]


def test_a_message_larger_than_the_bound_fits_where_nothing_waits() -> None:
    """Otherwise a client that takes everything would lose it. PROTOCOL A4."""
    queue, subscription = Queue(LIMITS, Totals()), Subscription("1")
    assert queue.has_room(sized(101), subscription)
    queue.put(sized(101), subscription)
    assert not queue.has_room(sized(0), subscription)


def test_an_event_that_finds_too_many_waiting_is_left_out_and_counted() -> None:
    queue = Queue(LIMITS, Totals())
    for _ in range(5):
        queue.put_event(PING)
    assert (len(queue), queue.waiting, queue.events_left_out) == (2, 0, 3)
    assert queue.take(Event.sse, NO_LIMIT_BYTES) == PING.sse() * 2
    queue.put_event(HEARTBEAT)
    assert (len(queue), queue.events_left_out) == (1, 3)


def test_clearing_counts_messages_only() -> None:
    queue, one, two = Queue(LIMITS, Totals()), Subscription("1"), Subscription("2")
    queue.put(sized(10), one)
    queue.put(sized(10), two)
    queue.put_event(PING)
    queue.put_without_room(sized(10), one)
    assert (len(queue), queue.waiting) == (4, 2)  # the gap is no message
    assert queue.clear() == 2
    assert (len(queue), queue.waiting, queue.waiting_bytes, queue.dropped) == (0, 0, 0, 3)
    assert [counters(one), counters(two)] == [(2, 0), (1, 0)]
    # The room for events is free again.
    queue.put_event(PING)
    queue.put_event(PING)
    assert (len(queue), queue.clear(), queue.events_left_out) == (2, 0, 0)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("message"), st.integers(0, 2), st.integers(0, 60)),
            st.tuples(st.just("event"), st.just(0), st.just(0)),
            st.tuples(st.just("take"), st.just(0), st.integers(1, 200)),
            st.tuples(st.just("clear"), st.just(0), st.just(0)),
        ),
        max_size=40,
    )
)
def test_it_behaves_as_a_list_with_counters(steps: list[tuple[str, int, int]]) -> None:
    queue = Queue(LIMITS, Totals())
    subscriptions = [Subscription(str(device)) for device in range(3)]
    model = deque[_Entry]()
    offered, delivered, dropped = [0] * 3, [0] * 3, [0] * 3
    for sequence, (step, device, size) in enumerate(steps):
        subscription = subscriptions[device]
        if step == "message":
            message = sized(size, sequence)
            offered[device] += 1
            if queue.has_room(message, subscription):
                queue.put(message, subscription)
                model.append(_Entry(message, subscription))
            else:
                queue.put_without_room(message, subscription)
                dropped[device] += 1
                _note_gap(model, subscription)
        elif step == "event":
            if sum(entry.event is PING for entry in model) < LIMITS.events:
                model.append(_Entry(PING))
            queue.put_event(PING)
        elif step == "take" and model:
            expected: list[bytes] = []
            while model:
                part = model[0].frame()
                if expected and sum(map(len, expected)) + len(part) > size:
                    break
                expected.append(part)
                taken = model.popleft()
                if taken.is_message:
                    delivered[int(taken.device_id)] += 1
            assert queue.take(Event.frame, size) == b"".join(expected)
        elif step == "clear":
            messages = [entry for entry in model if entry.is_message]
            for entry in messages:
                dropped[int(entry.device_id)] += 1
            model.clear()
            assert queue.clear() == len(messages)
        waiting = [
            sum(entry.is_message and entry.whose is each for entry in model)
            for each in subscriptions
        ]
        assert [counters(each) for each in subscriptions] == list(
            zip(dropped, waiting, strict=True)
        )
        assert offered == [sum(counts) for counts in zip(delivered, dropped, waiting, strict=True)]
        assert max(waiting) <= LIMITS.messages
        assert (len(queue), queue.waiting) == (len(model), sum(waiting))
        assert queue.waiting_bytes == sum(entry.size_bytes for entry in model)
        assert (queue.delivered, queue.dropped) == (sum(delivered), sum(dropped))


@dataclass(eq=False)
class _Entry:
    """What waits, according to the model: a message, an event, or the count of a gap."""

    event: Event | None
    whose: Subscription | None = None
    dropped: int = 0

    @property
    def device_id(self) -> str:
        assert self.whose is not None
        return self.whose.device_id

    @property
    def is_message(self) -> bool:
        return isinstance(self.event, Message)

    @property
    def size_bytes(self) -> int:
        return 100 if self.event is None else self.event.size_bytes

    def frame(self) -> bytes:
        return (self.event or gap_event(self.device_id, self.dropped)).frame()


def _note_gap(model: deque[_Entry], whose: Subscription) -> None:
    """The last gap of the device grows, unless a message of it stands behind. PROTOCOL B4."""
    last = next((entry for entry in reversed(model) if entry.whose is whose), None)
    if last is None or last.is_message:
        last = _Entry(None, whose)
        model.append(last)
    last.dropped += 1


def test_a_gap_that_does_not_leave_yet_goes_on_growing() -> None:
    queue, subscription = Queue(LIMITS, Totals()), Subscription("1")
    first = sized(100)
    queue.put(first, subscription)
    queue.put_without_room(sized(10), subscription)
    # There is no room on the wire for the gap.
    assert queue.take(Event.frame, len(first.frame()) + 1) == first.frame()
    queue.put_without_room(sized(10), subscription)
    assert queue.take(Event.frame, NO_LIMIT_BYTES) == gap_event("1", 2).frame()
    # It has left: the next one stands for itself.
    queue.put_without_room(sized(10), subscription)
    assert queue.take(Event.sse, NO_LIMIT_BYTES) == gap_event("1", 1).sse()
