"""The outbox of a server that frames for itself: one write at a time, in order."""

from __future__ import annotations

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.fakes import make_message
from tests.mqtt.checkpoints import cancelled_everywhere
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.queue import QueueLimits
from tracker.domain.reasons import CloseReason
from tracker.domain.transport import WEBSOCKET_LINES
from tracker.web.asgi_outbox import AsgiOutbox

DEADLINE_S = 20.0


async def test_a_write_is_taken_and_has_left_when_the_next_is_asked_for() -> None:
    outbox = AsgiOutbox()
    calls: list[str] = []
    outbox.on_writable = lambda: calls.append("writable")
    outbox.write_nowait(b"first")
    assert not outbox.writable
    assert await outbox.next_write() == b"first"
    assert (outbox.writable, calls) == (False, [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.next_write)
        await trio.testing.wait_all_tasks_blocked()
        assert (outbox.writable, calls) == (True, ["writable"])
        nursery.cancel_scope.cancel()


async def test_finish_lets_the_last_write_leave_first() -> None:
    outbox = AsgiOutbox()
    outbox.write_nowait(b"last")
    outbox.finish()
    outbox.finish()
    assert await outbox.next_write() == b"last"
    assert await outbox.next_write() is None
    assert await outbox.next_write() is None


async def test_whoever_writes_from_the_call_back_is_sent_before_the_end() -> None:
    outbox = AsgiOutbox()
    more = [b"2", b"3"]

    def write_more() -> None:
        if more:
            outbox.write_nowait(more.pop(0))

    outbox.on_writable = write_more
    outbox.write_nowait(b"1")
    outbox.finish()
    sent = []
    while (data := await outbox.next_write()) is not None:
        sent.append(data)
    assert sent == [b"1", b"2", b"3"]


async def test_wait_writable_waits_until_all_has_left(nursery: trio.Nursery) -> None:
    outbox = AsgiOutbox()
    assert await outbox.wait_writable() is True
    outbox.write_nowait(b"x")
    waited = trio.Event()

    @nursery.start_soon
    async def wait() -> None:
        await outbox.wait_writable()
        waited.set()

    await outbox.next_write()
    await trio.testing.wait_all_tasks_blocked()
    assert not waited.is_set()
    nursery.start_soon(outbox.next_write)
    with trio.fail_after(DEADLINE_S):
        await waited.wait()


async def test_it_refuses_once_a_send_takes_long(autojump_clock: MockClock) -> None:
    outbox = AsgiOutbox()
    assert not outbox.refusing
    outbox.write_nowait(b"x")
    await trio.sleep(1)
    assert not outbox.refusing, "nobody has tried to send it"
    await outbox.next_write()
    assert not outbox.refusing
    await trio.sleep(1)
    assert outbox.refusing


async def test_a_cancelled_next_write_takes_nothing() -> None:
    outbox = AsgiOutbox()

    async def take_later() -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def write() -> None:
                if outbox.writable:
                    outbox.write_nowait(b"x")

            taken.append(await outbox.next_write())

    taken: list[bytes | None] = []
    async for _ in cancelled_everywhere(take_later):
        if not taken:
            assert outbox.writable or await outbox.next_write() == b"x"
        outbox, taken = AsgiOutbox(), []
    assert taken == [b"x"]


@given(
    st.lists(st.one_of(st.just("turn"), st.integers(1, 40)), max_size=40),
)
async def test_a_stream_loses_nothing_and_keeps_its_order(
    steps: list[str | int],
) -> None:
    """Nobody is behind: as many as come are kept, up to the bytes."""
    hub = Hub(HubSettings(queue=QueueLimits(messages=3), devices_limit=5))
    outbox = AsgiOutbox()
    sent: list[bytes] = []

    async def send() -> None:
        while (data := await outbox.next_write()) is not None:
            await trio.lowlevel.checkpoint()
            sent.extend(data.splitlines())

    sequence = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        stream = hub.open_stream(["1"], outbox, WEBSOCKET_LINES)
        for step in steps:
            if step == "turn":
                await trio.lowlevel.checkpoint()
                continue
            for _ in range(int(step)):
                sequence += 1
                hub.publish_batch([make_message(sequence)])
            stream.flush()
        await trio.testing.wait_all_tasks_blocked()
        stream.leave()
        outbox.finish()
    assert sent == [make_message(number + 1).line().rstrip() for number in range(sequence)]


async def test_a_stalled_client_is_told_to_the_stream() -> None:
    hub = Hub(HubSettings(queue=QueueLimits(), devices_limit=5))
    outbox = AsgiOutbox()
    stream = hub.open_stream(["1"], outbox, WEBSOCKET_LINES)
    outbox.write_nowait(b"unread")
    outbox.stalled()
    assert stream.close_reason is CloseReason.STALLED
    with trio.fail_after(DEADLINE_S):
        assert await outbox.wait_writable() is False, "there are no last words to wait for"
    stream.leave()
    outbox.stalled()
    assert hub.statistics().closed[CloseReason.STALLED] == 1
