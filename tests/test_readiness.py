"""`tracker.readiness`, on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_util import AsyncValue

from tracker.mqtt.link import LinkState
from tracker.readiness import Readiness

GRACE_S = 30.0


def state(reason: str, *, is_subscribed: bool = False) -> LinkState:
    return LinkState(
        is_connected=is_subscribed,
        is_subscribed=is_subscribed,
        since_s=0.0,
        reason=reason,
        reconnects=0,
    )


AWAY = state("not connected to mqtt://broker yet")
SUBSCRIBED = state("subscribed", is_subscribed=True)
LOST = state("connection to broker lost: closed")
LOST_ANSWER = "MQTT: connection to broker lost: closed"


@asynccontextmanager
async def watched(link: AsyncValue[LinkState]) -> AsyncIterator[Readiness]:
    readiness = Readiness(link, grace_s=GRACE_S)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.watch)
        await wait_all_tasks_blocked()
        yield readiness
        nursery.cancel_scope.cancel()


async def set_state(link: AsyncValue[LinkState], *states: LinkState) -> None:
    """Go through `states`, with no task's turn between them."""
    for each in states:
        link.value = each
    await wait_all_tasks_blocked()


async def test_not_ready_until_subscribed_however_long_that_takes(
    autojump_clock: MockClock,
) -> None:
    link = AsyncValue(AWAY)
    async with watched(link) as readiness:
        assert readiness.reason() == "MQTT: not connected to mqtt://broker yet"
        await trio.sleep(1000)
        await set_state(link, state("host unknown"))
        assert readiness.reason() == "MQTT: host unknown"
        await set_state(link, SUBSCRIBED)
        assert readiness.reason() is None
        await trio.sleep(1000)
        assert readiness.reason() is None


async def test_ready_for_the_grace_without_the_broker_and_no_longer(
    autojump_clock: MockClock,
) -> None:
    link = AsyncValue(SUBSCRIBED)
    async with watched(link) as readiness:
        await trio.sleep(100)
        await set_state(link, LOST)
        assert readiness.reason() is None
        await trio.sleep(GRACE_S - 0.01)
        assert readiness.reason() is None
        await trio.sleep(0.02)
        assert readiness.reason() == LOST_ANSWER
        await trio.sleep(1000)
        assert readiness.reason() == LOST_ANSWER
        await set_state(link, SUBSCRIBED)
        assert readiness.reason() is None


async def test_failed_attempts_do_not_prolong_the_grace(autojump_clock: MockClock) -> None:
    link = AsyncValue(SUBSCRIBED)
    async with watched(link) as readiness:
        for _ in range(7):
            await set_state(link, LOST)
            assert readiness.reason() is None
            await trio.sleep(GRACE_S / 7 + 0.001)
        assert readiness.reason() == LOST_ANSWER


async def test_each_loss_has_its_own_grace(autojump_clock: MockClock) -> None:
    link = AsyncValue(SUBSCRIBED)
    async with watched(link) as readiness:
        for _ in range(5):
            await set_state(link, LOST)
            await trio.sleep(GRACE_S - 1)
            assert readiness.reason() is None
            await set_state(link, SUBSCRIBED)


async def test_changes_faster_than_a_task_can_look(autojump_clock: MockClock) -> None:
    link = AsyncValue(AWAY)
    async with watched(link) as readiness:
        # It was ready for a moment: the grace runs from there.
        await set_state(link, SUBSCRIBED, LOST)
        assert readiness.reason() is None
        await trio.sleep(GRACE_S + 0.01)
        assert readiness.reason() == LOST_ANSWER
        await set_state(link, SUBSCRIBED)
        await set_state(link, LOST, SUBSCRIBED)
        await trio.sleep(GRACE_S + 0.01)
        assert readiness.reason() is None


async def test_a_planned_stop_is_not_ready_whatever_mqtt_does(autojump_clock: MockClock) -> None:
    link = AsyncValue(SUBSCRIBED)
    async with watched(link) as readiness:
        assert (readiness.is_stopping, readiness.reason()) == (False, None)
        readiness.stop()
        assert (readiness.is_stopping, readiness.reason()) == (True, "the gateway is stopping")
        await set_state(link, LOST)
        assert readiness.reason() == "the gateway is stopping"
