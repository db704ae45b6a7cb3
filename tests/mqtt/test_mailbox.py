"""The two directions between Trio and a thread: nothing is left lying, and few wake-ups."""

from __future__ import annotations

import contextlib
import itertools
import select
import signal
import sys
import threading
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.mqtt.waiting import eventually
from tracker.mqtt import Message
from tracker.mqtt.mailbox import Accepted, End, Mailbox, News


def take_all(mailbox: Mailbox, into: list[News]) -> None:
    while (news := mailbox.next_news()) is not None:
        into.append(news)


def end(mailbox: Mailbox) -> None:
    """What the thread does at last, and then Trio."""
    mailbox.close_thread_end()
    mailbox.close_trio_end()


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Have the interpreter change threads between any two steps, not every 5 ms."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


async def test_news_from_a_thread_arrive_whole_and_in_order() -> None:
    got: list[News] = []
    wakes = 0

    def take_in() -> None:
        nonlocal wakes
        wakes += 1
        while (news := mailbox.next_news()) is not None:
            got.append(news)

    mailbox = Mailbox(take_in)
    sent: list[News] = [
        Accepted(),
        *([Message("t", b"%d" % number, 0, False, 0, None)] for number in range(10_000)),
        End(None),
    ]

    def tell() -> None:
        for news in sent:
            mailbox.tell(news)

    thread = threading.Thread(target=tell)
    thread.start()
    await eventually(lambda: len(got) == len(sent))
    thread.join()
    end(mailbox)
    assert got == sent
    assert 1 <= wakes <= len(sent)


async def test_news_that_gather_wake_once() -> None:
    wakes: list[None] = []
    mailbox = Mailbox(lambda: wakes.append(None))
    for _ in range(3):
        mailbox.tell(Accepted())
    await eventually(lambda: bool(wakes))
    await trio.lowlevel.checkpoint()
    assert len(wakes) == 1
    end(mailbox)


async def test_a_wake_up_is_seen_once_and_never_lost() -> None:
    await trio.lowlevel.checkpoint()
    mailbox = Mailbox(lambda: None)
    poller = select.poll()
    poller.register(mailbox.fileno(), select.POLLIN)
    for _ in range(3):
        mailbox.wake_thread()
        mailbox.wake_thread()
        assert len(poller.poll(1000)) == 1
        mailbox.take_wake_bytes()
        assert poller.poll(0) == []
    mailbox.close_thread_end()
    mailbox.wake_thread()
    mailbox.close_trio_end()
    mailbox.wake_thread()


async def test_whoever_attends_is_woken_without_the_entry_queue() -> None:
    got: list[News] = []
    mailbox = Mailbox(lambda: take_all(mailbox, got))
    news: list[News] = [[Message("t", b"%d" % n, 0, False, 0, None)] for n in range(3)]
    async with trio.open_nursery() as nursery:
        for number, each in enumerate(news, 1):
            nursery.start_soon(mailbox.attend)
            await wait_all_tasks_blocked()
            mailbox._token = None  # type: ignore[assignment]  # nothing else can wake it
            await trio.to_thread.run_sync(mailbox.tell, each)
            await wait_all_tasks_blocked()
            assert got == news[:number]
    end(mailbox)


async def test_what_is_told_between_two_who_attend_wakes_the_second() -> None:
    """Told to the entry queue, while nobody attended; taken in while somebody does."""
    got: list[News] = []
    mailbox = Mailbox(lambda: take_all(mailbox, got))
    mailbox.tell(Accepted())
    with trio.fail_after(5):
        await mailbox.attend()
    assert got == [Accepted()]
    end(mailbox)


async def test_what_is_told_when_the_last_news_were_just_taken_in_is_no_byte_to_nobody() -> None:
    got: list[News] = []

    def take_in() -> None:
        take_all(mailbox, got)
        if got == [Accepted()]:
            mailbox.tell(End(None))

    mailbox = Mailbox(take_in)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.attend)
        await wait_all_tasks_blocked()
        mailbox.tell(Accepted())
    await eventually(lambda: got == [Accepted(), End(None)])
    end(mailbox)


async def test_nothing_is_lost_by_whoever_stops_attending(often_switching: None) -> None:
    """A thread tells as fast as it can, while a task attends and is cancelled at any moment."""
    got: list[News] = []
    mailbox = Mailbox(lambda: take_all(mailbox, got))
    sent: list[News] = [
        [Message("t", b"%d" % number, 0, False, 0, None)] for number in range(20_000)
    ]

    def tell() -> None:
        for news in sent:
            mailbox.tell(news)

    thread = threading.Thread(target=tell)
    thread.start()
    cancelled = 0
    with trio.fail_after(30):
        for turn in itertools.count():
            if len(got) == len(sent):
                break
            with trio.move_on_after(turn % 4 * 0.000_05) as scope:
                await mailbox.attend()
            cancelled += scope.cancelled_caught
    thread.join()
    end(mailbox)
    assert got == sent
    assert cancelled


async def test_the_end_of_the_thread_wakes_whoever_attends() -> None:
    got: list[News] = []

    def take_in() -> None:
        take_all(mailbox, got)
        if got:
            mailbox.close_trio_end()

    mailbox = Mailbox(take_in)

    def end_thread() -> None:
        mailbox.tell(End(None))
        mailbox.close_thread_end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.attend)
        await wait_all_tasks_blocked()
        await trio.to_thread.run_sync(end_thread)
    assert got == [End(None)]
    mailbox.wake_thread()
    mailbox.wake_attendant()


def test_ctrl_c_interrupts_no_taking_in() -> None:
    """It may end the program later, but not between a message's count and its place."""
    got: list[News] = []

    async def main() -> None:
        def take_in() -> None:
            signal.raise_signal(signal.SIGINT)
            take_all(mailbox, got)

        async def tell() -> None:
            await wait_all_tasks_blocked()
            mailbox.tell(Accepted())

        mailbox = Mailbox(take_in)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            try:
                await mailbox.attend()
            finally:
                end(mailbox)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert got == [Accepted()]


async def test_a_full_pair_is_no_obstacle() -> None:
    await trio.lowlevel.checkpoint()
    mailbox = Mailbox(lambda: None)
    with contextlib.suppress(BlockingIOError):
        while True:
            mailbox._thread_end.send(bytes(65536))
    mailbox.wake_attendant()
    await mailbox.attend()
    mailbox.close_trio_end()
    mailbox.wake_attendant()  # there is no other end
    mailbox.close_thread_end()


def test_without_a_trio_to_tell_the_thread_is_to_end() -> None:
    async def make() -> Mailbox:
        await trio.lowlevel.checkpoint()
        return Mailbox(lambda: pytest.fail("nobody is there to be woken"))

    mailbox = trio.run(make)
    mailbox.tell(End(None))
    assert mailbox.is_interrupted
    mailbox.close_thread_end()
    assert mailbox._trio_end.fileno() == -1  # there is no Trio to close it
