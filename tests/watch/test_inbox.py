"""`tracker.watch.inbox`: positions, the bound and what lifts it, its end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tracker.watch.inbox import Inbox


async def test_the_position_is_that_of_what_was_taken() -> None:
    inbox = Inbox[str](10, "p0")
    inbox.reach("p1")
    assert inbox.position == "p1"
    inbox.put("a", "p2")
    inbox.put("b", "p3")
    inbox.reach("p4")
    assert (inbox.position, len(inbox)) == ("p1", 2)
    assert (await inbox.take(), inbox.position) == ("a", "p2")
    assert (await inbox.take(), inbox.position) == ("b", "p4")


async def test_a_taker_that_waits_gets_it_and_sees_its_position(nursery: trio.Nursery) -> None:
    inbox = Inbox[str](10, "p0")
    seen: list[tuple[str, str]] = []

    async def take() -> None:
        seen.append((await inbox.take(), inbox.position))

    nursery.start_soon(take)
    await wait_all_tasks_blocked()
    inbox.put("a", "p1")
    inbox.reach("p2")
    assert inbox.position == "p0"
    await wait_all_tasks_blocked()
    assert seen == [("a", "p2")]


async def test_a_cancelled_taker_takes_nothing(nursery: trio.Nursery) -> None:
    inbox = Inbox[str](10, "")
    with trio.CancelScope() as scope:
        nursery.start_soon(inbox.take)
        await wait_all_tasks_blocked()
        inbox.put("for the other", "")
        inbox.put("b", "")
        scope.cancel()
        await inbox.take()
    assert scope.cancelled_caught
    await wait_all_tasks_blocked()
    assert len(inbox) == 1
    assert await inbox.take() == "b"


async def test_who_feeds_waits_for_room(nursery: trio.Nursery) -> None:
    inbox = Inbox[int](2, "")
    fed: list[int] = []

    async def feed() -> None:
        for number in range(6):
            await inbox.wait_room()
            inbox.put(number, "")
            fed.append(number)

    nursery.start_soon(feed)
    await wait_all_tasks_blocked()
    assert fed == [0, 1]
    assert await inbox.take() == 0
    await wait_all_tasks_blocked()
    assert fed == [0, 1, 2]
    with inbox.without_limit():
        await wait_all_tasks_blocked()
        assert fed == [0, 1, 2, 3, 4, 5]
    assert [await inbox.take() for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_an_end_comes_behind_what_waits(nursery: trio.Nursery) -> None:
    inbox = Inbox[str](10, "")
    inbox.put("a", "")
    inbox.end()
    assert await inbox.take() == "a"
    for _ in range(2):
        with pytest.raises(trio.EndOfChannel):
            await inbox.take()


@pytest.mark.parametrize(
    ("finish", "error"),
    [(Inbox.end, trio.EndOfChannel), (Inbox.close, trio.ClosedResourceError)],
)
async def test_who_waits_is_told(finish: object, error: type[Exception]) -> None:
    inbox = Inbox[str](10, "p")
    assert callable(finish)

    async def take() -> None:
        with pytest.raises(error):
            await inbox.take()

    async with trio.open_nursery() as takers:
        takers.start_soon(take)
        takers.start_soon(take)
        await wait_all_tasks_blocked()
        finish(inbox)


async def test_closed_it_forgets_what_waits() -> None:
    inbox = Inbox[str](10, "")
    inbox.put("a", "p")
    inbox.close()
    assert (len(inbox), inbox.position) == (0, "")
    with pytest.raises(trio.ClosedResourceError):
        await inbox.take()
