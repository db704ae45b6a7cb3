"""The queue between the thread and the tasks: its bounds, its books, and what a cancel takes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.mqtt.checkpoints import cancelled_everywhere
from tracker.mqtt import LifoQueue, Message, MqttError, PriorityQueue, Queue
from tracker.mqtt import incoming as incoming_module
from tracker.mqtt.incoming import Incoming

LOGGER = logging.getLogger("test")


def make(queue: Queue | None = None, *, limit_messages: int = 0, limit_bytes: int = 0) -> Incoming:
    return Incoming(
        queue or Queue(), limit_messages=limit_messages, limit_bytes=limit_bytes, logger=LOGGER
    )


def message(payload: bytes = b"", mid: int = 0) -> Message:
    return Message("t", payload, 0, False, mid, None)


def offer(incoming: Incoming, *messages: Message) -> None:
    """Do what the thread and the hand-over do."""
    batch = [each for each in messages if incoming.admit(each)]
    if batch:
        incoming.store(batch)


@given(
    limit_messages=st.integers(0, 5),
    limit_bytes=st.integers(0, 20),
    steps=st.lists(
        st.one_of(st.lists(st.binary(max_size=8), max_size=4), st.just(None), st.just("all")),
        max_size=30,
    ),
)
async def test_the_books_balance_and_the_bounds_hold(
    limit_messages: int, limit_bytes: int, steps: list[list[bytes] | str | None]
) -> None:
    incoming = make(limit_messages=limit_messages, limit_bytes=limit_bytes)
    offered: list[bytes] = []
    taken: list[Message] = []
    for step in steps:
        if isinstance(step, list):
            offered.extend(step)
            offer(incoming, *map(message, step))
        elif len(incoming):
            taken.extend([await incoming.get()] if step is None else await incoming.get_batch())
        assert len(incoming) == incoming.waiting_messages
        assert len(offered) == len(taken) + incoming.waiting_messages + incoming.discarded_messages
        assert incoming.waiting_bytes == incoming.admitted_bytes - sum(
            len(each.payload) for each in taken
        )
        if limit_messages:
            assert incoming.waiting_messages <= limit_messages
        if limit_bytes:
            # The last one may reach over the bound; payloads have 8 bytes at most here.
            assert incoming.waiting_bytes < limit_bytes + 8
    remaining = iter(offered)
    assert all(each.payload in remaining for each in taken)


async def test_without_limits_nothing_is_discarded() -> None:
    incoming = make()
    offer(incoming, *(message(b"%d" % number) for number in range(1000)))
    assert [each.payload for each in await incoming.get_batch()] == [
        b"%d" % number for number in range(1000)
    ]
    assert incoming.discarded_messages == 0


def test_a_full_queue_is_told_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr("tracker.mqtt.incoming.time.monotonic", lambda: now)
    incoming = make(limit_messages=1)
    offer(incoming, *[message()] * 10)
    now += 1
    offer(incoming, *[message()] * 10)
    assert caplog.messages == ["Message queue is full. Discarding message."] * 2
    assert incoming.discarded_messages == 19


async def test_with_callbacks_an_unread_queue_stays_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(incoming_module, "UNREAD_BESIDE_CALLBACKS", 3)
    for limit, kept in ((0, 3), (2, 2)):
        incoming = make(limit_messages=limit)
        seen: list[bytes] = []
        incoming.register(lambda each, seen=seen: seen.append(each.payload))  # type: ignore[misc]  # bound per loop
        for number in range(5):
            offer(incoming, message(b"%d" % number))
        assert seen == [b"0", b"1", b"2", b"3", b"4"]
        assert [each.payload for each in await incoming.get_batch()] == seen[:kept]
        assert (incoming.discarded_messages, incoming.waiting_messages) == (0, 0)


async def test_taking_waits_until_something_comes_or_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    incoming = make()
    outcomes: list[object] = []

    async def take() -> None:
        try:
            outcomes.append((await incoming.get()).payload)
        except MqttError as error:
            outcomes.append(str(error.__cause__))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(take)
        await wait_all_tasks_blocked()
        offer(incoming, message(b"1"))
        await wait_all_tasks_blocked()
        assert outcomes == [b"1"]
        incoming.close(RuntimeError("gone"))
    assert outcomes == [b"1", "gone", "gone"]
    incoming.open(trio.sleep_forever)
    with trio.move_on_after(1) as scope:
        await incoming.get()
    assert scope.cancelled_caught


async def test_one_task_waits_in_attendance_and_the_others_are_woken() -> None:
    incoming = make()
    news = trio.Event()
    attending = 0
    taken: list[bytes] = []

    async def attend() -> None:
        nonlocal attending
        attending += 1
        assert attending == 1
        try:
            await news.wait()
        finally:
            attending -= 1

    async def take(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            taken.append((await incoming.get()).payload)

    incoming.open(attend)
    async with trio.open_nursery() as nursery:
        scopes = [await nursery.start(take) for _ in range(3)]
        await wait_all_tasks_blocked()
        assert attending == 1
        offer(incoming, message(b"1"))
        await wait_all_tasks_blocked()
        assert (taken, attending) == ([b"1"], 1)
        # Who attends may go; the next who comes attends, and those before are woken as ever.
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        assert attending == 0
        offer(incoming, message(b"2"))
        await wait_all_tasks_blocked()
        assert taken == [b"1", b"2"]
        await nursery.start(take)
        await wait_all_tasks_blocked()
        assert attending == 1
        incoming.store([each for each in [message(b"3")] if incoming.admit(each)])
        news.set()
    assert taken == [b"1", b"2", b"3"]


async def test_attendance_in_a_life_that_is_over_is_none_in_the_next() -> None:
    incoming = make()
    ends = [trio.Event(), trio.Event()]
    attending: list[int] = []

    def attend_in(life: int) -> Callable[[], Awaitable[None]]:
        async def attend() -> None:
            attending.append(life)
            await ends[life].wait()

        return attend

    async with trio.open_nursery() as nursery:
        incoming.open(attend_in(0))
        nursery.start_soon(incoming.get)
        await wait_all_tasks_blocked()
        incoming.open(attend_in(1))
        nursery.start_soon(incoming.get)
        await wait_all_tasks_blocked()
        assert attending == [0, 1]
        ends[0].set()  # it finds that another attends, and waits behind it
        await wait_all_tasks_blocked()
        assert attending == [0, 1]
        offer(incoming, message(), message())
        ends[1].set()


@pytest.mark.parametrize("take", ["get", "get_batch"])
async def test_a_cancelled_take_takes_nothing(take: str) -> None:
    incoming = make()
    offer(incoming, message(b"1"), message(b"2"))

    async def call() -> None:
        await getattr(incoming, take)()

    async for _ in cancelled_everywhere(call):
        assert len(incoming) == 2
    assert len(incoming) == (1 if take == "get" else 0)


def test_queues_hand_out_in_their_order() -> None:
    messages = [message(mid=mid) for mid in (2, 3, 1)]
    orders = {}
    for kind in (Queue, LifoQueue, PriorityQueue):
        queue = kind()
        queue.put_batch(messages)
        queue.put_nowait(messages[0])
        first = queue.get_nowait()
        assert queue.qsize() == 3
        orders[kind] = [each.mid for each in (first, *queue.get_batch())]
        assert queue.qsize() == 0
    assert orders == {
        Queue: [2, 3, 1, 2],
        LifoQueue: [2, 1, 3, 2],
        PriorityQueue: [1, 2, 2, 3],
    }
