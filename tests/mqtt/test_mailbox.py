"""The two directions between Trio and a thread: nothing is left lying, and few wake-ups."""

from __future__ import annotations

import select
import threading

import pytest
import trio

from tests.mqtt.waiting import eventually
from tracker.mqtt import Message
from tracker.mqtt.mailbox import Accepted, End, Mailbox, News


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
    mailbox.close()
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
    mailbox.close()


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
    mailbox.close()
    mailbox.wake_thread()


def test_without_a_trio_to_tell_the_thread_is_to_end() -> None:
    async def make() -> Mailbox:
        await trio.lowlevel.checkpoint()
        return Mailbox(lambda: pytest.fail("nobody is there to be woken"))

    mailbox = trio.run(make)
    mailbox.tell(End(None))
    assert mailbox.is_interrupted
    mailbox.close()
