"""The promise of the client: no message twice, and none missing without an event that says so.

Against a gateway that is the real hub, over a wire in memory that is cut at any byte.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.watch.fake_gateway import Longest
from tests.watch.hub_gateway import DEVICES_LIMIT, HubGateway
from tracker.watch import (
    Event,
    Gap,
    Message,
    RefusedError,
    Report,
    Resume,
    ResumeStatus,
    Snapshot,
    State,
    Stream,
    Timing,
    Track,
    Upstream,
    open_stream,
)

SETTLED_S = 10.0


def opened(
    gateway: HubGateway, *device_ids: str, **options: Any
) -> AbstractAsyncContextManager[Stream]:
    return open_stream(
        "ws://gateway",
        device_ids or ["A", "B"],
        dial=gateway.dial,
        timing=Timing(backoff_min_s=1, backoff_max_s=2),
        rng=Longest(),
        **options,
    )


def number(report: Report | Event) -> int:
    assert isinstance(report, Report)
    told: int = report.data["N"]
    return told


class Listener:
    """Takes all that comes, and keeps it."""

    def __init__(self) -> None:
        self.log: list[Report | Event] = []

    async def run(self, stream: Stream) -> None:
        async for item in stream.events():
            self.log.append(item)

    @property
    def numbers(self) -> list[int]:
        return [number(item) for item in self.log if isinstance(item, Message)]

    @property
    def resumes(self) -> list[tuple[ResumeStatus, int | None]]:
        return [(item.status, item.missed) for item in self.log if isinstance(item, Resume)]


# One thing after the other


async def test_it_goes_on_where_it_was_cut(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway, listener = HubGateway(nursery), Listener()
    async with opened(gateway) as stream:
        nursery.start_soon(listener.run, stream)
        await trio.sleep(1)
        gateway.publish("A", 3)
        await trio.sleep(1)
        await gateway.wires[-1].cut()
        gateway.publish("B", 2)
        gateway.publish("C")
        await trio.sleep(SETTLED_S)
        assert listener.numbers == [1, 2, 3, 4, 5]
        assert listener.resumes == [(ResumeStatus.CONTINUED, 2)]
        assert stream.position == "life1-5"
        assert gateway.targets == [
            "/api/v1/stream?hello=1&ping=20&device_ids=A,B",
            "/api/v1/stream?hello=1&ping=20&last_event_id=life1-3&device_ids=A,B",
        ]
        nursery.cancel_scope.cancel()


async def test_who_is_cut_before_a_first_message_resumes_too(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway, listener = HubGateway(nursery), Listener()
    gateway.publish("A", 3)
    async with opened(gateway) as stream:
        nursery.start_soon(listener.run, stream)
        await trio.sleep(1)
        assert stream.position == "life1-3"
        await gateway.wires[-1].cut()
        gateway.publish("A")
        await trio.sleep(SETTLED_S)
        assert listener.numbers == [4]
        nursery.cancel_scope.cancel()


async def test_the_position_is_that_of_what_was_taken(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = HubGateway(nursery)
    async with opened(gateway) as stream:
        await trio.sleep(1)
        gateway.publish("A", 3)
        await trio.sleep(1)
        assert stream.position == "life1-0"
        assert [(number(await anext(stream)), stream.position) for _ in range(2)] == [
            (1, "life1-1"),
            (2, "life1-2"),
        ]
        position = stream.position
    async with opened(gateway, resume_from=position) as stream:
        assert isinstance(await stream.receive(), Resume)
        assert number(await stream.receive()) == 3
        assert stream.position == "life1-3"
    nursery.cancel_scope.cancel()


async def test_a_pasted_position_counts_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway, listener = HubGateway(nursery), Listener()
    gateway.publish("A", 3)
    url = "ws://gateway/api/v1/stream?device_ids=A&last_event_id=life1-1&ping=30"
    async with open_stream(url, dial=gateway.dial) as stream:
        nursery.start_soon(listener.run, stream)
        await trio.sleep(1)
        await gateway.wires[-1].cut()
        await trio.sleep(SETTLED_S)
        assert listener.numbers == [2, 3]
        assert gateway.targets[1].endswith("?ping=30&hello=1&last_event_id=life1-3&device_ids=A")
        nursery.cancel_scope.cancel()


async def test_another_life_of_the_gateway_is_a_reset(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway, listener = HubGateway(nursery), Listener()
    async with opened(gateway) as stream:
        nursery.start_soon(listener.run, stream)
        await trio.sleep(1)
        gateway.publish("A")
        await trio.sleep(1)
        await gateway.restart()
        gateway.publish("B", 2)
        await trio.sleep(SETTLED_S)
        gateway.publish("A")
        await trio.sleep(1)
        kinds = [type(item) for item in listener.log]
        assert kinds == [Message, Resume, Snapshot, Message]
        assert listener.resumes == [(ResumeStatus.RESET, None)]
        assert listener.numbers == [1, 4]
        nursery.cancel_scope.cancel()


async def test_the_past_comes_first_and_once(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway, listener = HubGateway(nursery), Listener()
    gateway.publish("A", 2)
    async with opened(gateway, last=True, track_s=900) as stream:
        nursery.start_soon(listener.run, stream)
        await trio.sleep(1)
        gateway.publish("A")
        await trio.sleep(1)
        await gateway.wires[-1].cut()
        await trio.sleep(SETTLED_S)
        past = [(type(item), number(item)) for item in listener.log[:-1]]
        assert past == [(Snapshot, 2), (Track, 1), (Track, 2), (Message, 3)]
        assert listener.resumes == [(ResumeStatus.CONTINUED, 0)]
        assert "?last=1&track=900&hello=1&ping=20&" in gateway.targets[0]
        assert stream.statistics().past == 3
        nursery.cancel_scope.cancel()


async def test_only_the_newest_where_that_is_asked_for(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway, listener = HubGateway(nursery), Listener()
    async with opened(gateway, mode="latest") as stream:
        nursery.start_soon(listener.run, stream)
        await trio.sleep(1)
        gateway.publish("A")
        await trio.sleep(1)
        gateway.hold()
        gateway.publish("A", 5)
        await trio.sleep(1)
        gateway.flow()
        await trio.sleep(1)
        assert listener.numbers[0] == 1
        assert listener.numbers[-1] == 6
        assert len(listener.numbers) < 6
        await gateway.wires[-1].cut()
        await trio.sleep(SETTLED_S)
        assert listener.resumes == [(ResumeStatus.RESET, None)]
        assert isinstance(listener.log[-1], Snapshot)
        assert "mode=latest&" in gateway.targets[1]
        nursery.cancel_scope.cancel()


async def test_gaps_and_outages_stand_where_they_were(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway, listener = HubGateway(nursery, buffer=2), Listener()
    async with opened(gateway) as stream:
        nursery.start_soon(listener.run, stream)
        await trio.sleep(1)
        gateway.hold()
        gateway.publish("A", 6)
        gateway.flow()
        await trio.sleep(1)
        gateway.publish("A")
        gateway.lose(5)
        gateway.set_upstream(is_lost=True)
        gateway.set_upstream(is_lost=False)
        await trio.sleep(1)
        told = [
            (item.device_id, item.dropped) if isinstance(item, Gap) else type(item)
            for item in listener.log
        ]
        assert told == [Message] * 3 + [("A", 3), Message, (None, 5), Upstream, Upstream]
        assert stream.statistics().lost == 8
        nursery.cancel_scope.cancel()


# Devices come and go


async def test_a_device_is_added_with_its_past_and_taken_away(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway, listener = HubGateway(nursery), Listener()
    gateway.publish("C", 2)
    async with opened(gateway, last=True, track_s=60) as stream:
        nursery.start_soon(listener.run, stream)
        await stream.subscribe(["C", "A"])
        wanted = [stream.device_ids]
        gateway.publish("C")
        await trio.sleep(1)
        await stream.unsubscribe(["A", "C"])
        assert [*wanted, stream.device_ids] == [("A", "B", "C"), ("B",)]
        gateway.publish("C")
        gateway.publish("B")
        await trio.sleep(1)
        assert [(type(item), number(item)) for item in listener.log] == [
            (Snapshot, 2),
            (Track, 1),
            (Track, 2),
            (Message, 3),
            (Message, 5),
        ]
        nursery.cancel_scope.cancel()


async def test_who_waits_for_an_answer_does_not_have_to_take(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The answer stands behind messages that nobody takes meanwhile."""
    gateway = HubGateway(nursery)
    async with opened(gateway, buffer_messages=1) as stream:
        await trio.sleep(1)
        gateway.publish("A", 20)
        await trio.sleep(1)
        assert stream.statistics().unread == 1
        with trio.fail_after(60):
            await stream.subscribe(["C"])
        gateway.publish("C")
        assert [number(await anext(stream)) for _ in range(21)] == list(range(1, 22))
    nursery.cancel_scope.cancel()


async def test_a_refused_device_is_not_added(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = HubGateway(nursery)
    async with opened(gateway) as stream:
        await trio.sleep(1)
        with pytest.raises(RefusedError, match=r"device_ids: 2 ids and 4 more, expected at most 5"):
            await stream.subscribe(list("CDEF"))
        assert stream.device_ids == ("A", "B")
        await stream.subscribe(["C"])
        gateway.publish("C")
        assert number(await anext(stream)) == 1
        assert stream.statistics().events == 0
    nursery.cancel_scope.cancel()
    assert DEVICES_LIMIT == 5


async def test_without_a_connection_it_is_done_on_the_next(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway, listener = HubGateway(nursery), Listener()
    gateway.publish("C")
    async with opened(gateway, last=True) as stream:
        nursery.start_soon(listener.run, stream)
        await trio.sleep(1)
        gateway.publish("A")
        await trio.sleep(1)
        await gateway.wires[-1].cut()
        await stream.state.wait_value(State.WAITING)
        await stream.unsubscribe(["B"])
        gateway.publish("A")
        gateway.publish("B")
        gateway.publish("C")
        await stream.subscribe(["C"])
        gateway.publish("C")
        await trio.sleep(1)
        assert gateway.targets[1].endswith("last_event_id=life1-2&device_ids=A")
        assert [
            (type(item), number(item)) for item in listener.log if isinstance(item, Report)
        ] == [
            (Message, 2),
            (Message, 3),
            (Snapshot, 5),
            (Message, 6),
        ]
        nursery.cancel_scope.cancel()


async def test_without_devices_there_is_no_connection(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = HubGateway(nursery)
    async with opened(gateway) as stream:
        await trio.sleep(1)
        await stream.unsubscribe(["A", "B"])
        states = [stream.state.value]
        await gateway.wires[-1].cut()
        await trio.sleep(1000)
        assert [*states, stream.state.value] == [State.LIVE, State.IDLE]
        assert len(gateway.wires) == 1
        await stream.subscribe(["C"])
        gateway.publish("C")
        assert number(await anext(stream)) == 1
        assert gateway.targets[1].endswith("?hello=1&ping=20&device_ids=C")
    nursery.cancel_scope.cancel()


async def test_a_cancelled_subscribe_adds_all_the_same(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = HubGateway(nursery)
    async with opened(gateway) as stream:
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.subscribe(["C"])
        assert scope.cancelled_caught
        await trio.sleep(1)
        gateway.publish("C")
        assert number(await anext(stream)) == 1
    nursery.cancel_scope.cancel()


async def test_many_operations_are_no_flood(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The gateway sends away who says more than 50 messages a second."""
    gateway = HubGateway(nursery)
    async with opened(gateway) as stream:
        await trio.sleep(1)
        begun_s = trio.current_time()
        async with trio.open_nursery() as many:
            for _ in range(200):
                many.start_soon(stream.subscribe, ["C"])
                many.start_soon(stream.unsubscribe, ["C"])
                await trio.sleep(0.005)
        assert trio.current_time() - begun_s < 3
        assert stream.statistics().connects == 1
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("operation", [Stream.subscribe, Stream.unsubscribe])
async def test_leaving_ends_the_waiting(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    operation: Callable[[Stream, list[str]], Awaitable[None]],
) -> None:
    gateway = HubGateway(nursery)
    gateway.hold()

    was_told = trio.Event()

    async def wait(stream: Stream) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await operation(stream, ["A", "C"])
        was_told.set()

    async with opened(gateway) as stream:
        await stream.state.wait_value(State.LIVE)
        nursery.start_soon(wait, stream)
        await wait_all_tasks_blocked()
    await was_told.wait()
    with pytest.raises(trio.ClosedResourceError):
        await stream.subscribe(["A"])
    nursery.cancel_scope.cancel()


# Anything, in any order

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from("ABC"), st.integers(1, 12)),
        st.tuples(st.just("cut after"), st.integers(0, 1500)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.1, 1.0, 4.0])),
        st.tuples(st.just("subscribe"), st.sampled_from("BC")),
        st.tuples(st.just("unsubscribe"), st.sampled_from("BC")),
        st.tuples(st.just("hold")),
        st.tuples(st.just("flow")),
        st.tuples(st.just("lose"), st.integers(1, 3)),
        st.tuples(st.just("upstream"), st.booleans()),
        st.tuples(st.just("restart")),
    ),
    max_size=40,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "last": st.booleans(),
        "track_s": st.sampled_from([0.0, 60.0]),
        "buffer_messages": st.sampled_from([1, 3, 100]),
    },
)


class Told:
    """What the client was told, beside marks that say what it may rely on from there."""

    def __init__(self) -> None:
        self.log: list[Report | Event | tuple[str, str, int]] = []

    async def listen(self, stream: Stream) -> None:
        async for item in stream.events():
            self.log.append(item)
            if len(self.log) % 7 == 0:
                await trio.sleep(0.02)

    def check(self, published: list[tuple[str, int]], device_id: str, since: int) -> None:
        """Each message of a device after number `since` has come once, or was told to lack."""
        expected = [n for device, n in published if device == device_id and n > since]
        last = since
        lost, is_vague, is_cut = 0, False, False
        for item in self.log:
            if isinstance(item, Gap) and item.device_id in (device_id, None):
                lost += item.dropped
                is_vague = is_vague or item.device_id is None
            elif isinstance(item, Resume):
                is_cut = True
                is_vague = is_vague or item.status is not ResumeStatus.CONTINUED
            elif isinstance(item, Message) and item.device_id == device_id:
                this = number(item)
                if this <= since:
                    continue
                assert this > last, f"{this} behind {last}"
                missing = [n for n in expected if last < n < this]
                if not is_vague:
                    assert lost >= len(missing), f"{missing} lack, gaps tell {lost}"
                    assert is_cut or lost == len(missing), f"{missing} lack, gaps tell {lost}"
                last, lost, is_vague, is_cut = this, 0, False, False
        if expected:
            assert last == expected[-1], f"{last} is the last, {expected[-1]} was published"


@settings(deadline=None)
@given(ACTIONS, OPTIONS, st.sampled_from([3, 1000]), st.sampled_from([2, 1000]))
def test_whatever_happens_nothing_lacks_undeclared_and_nothing_comes_twice(
    actions: list[tuple[Any, ...]], options: dict[str, Any], history: int, buffer: int
) -> None:
    trio.run(
        partial(live_through, actions, options, history, buffer),
        clock=MockClock(autojump_threshold=0),
    )


async def live_through(
    actions: list[tuple[Any, ...]], options: dict[str, Any], history: int, buffer: int
) -> None:
    told = Told()
    async with trio.open_nursery() as serving:
        gateway = HubGateway(serving, history=history, buffer=buffer)
        async with (
            opened(gateway, "A", "B", **options) as stream,
            trio.open_nursery() as tasks,
        ):
            tasks.start_soon(told.listen, stream)
            await trio.sleep(1)
            begun = len(gateway.published)
            for action, *arguments in actions:
                await act(gateway, stream, tasks, action, arguments)
            gateway.calm()
            await trio.sleep(SETTLED_S)
            assert stream.state.value is State.LIVE
            await stream.subscribe(["C"])
            settled = len(gateway.published)
            for device_id in "ABC":
                gateway.publish(device_id, 2)
            await trio.sleep(SETTLED_S)
            event(f"{stream.statistics().reconnects} reconnects")
            told.check(gateway.published, "A", begun)
            told.check(gateway.published, "C", settled)
            tasks.cancel_scope.cancel()
        serving.cancel_scope.cancel()
    numbers = [number(item) for item in told.log if isinstance(item, Message)]
    assert numbers == sorted(set(numbers))


async def act(
    gateway: HubGateway, stream: Stream, nursery: trio.Nursery, action: str, arguments: list[Any]
) -> None:
    match action:
        case "publish":
            gateway.publish(*arguments)
        case "cut after":
            gateway.cut_after(*arguments)
        case "wait":
            await trio.sleep(*arguments)
        case "subscribe":
            nursery.start_soon(stream.subscribe, arguments)
        case "unsubscribe":
            nursery.start_soon(stream.unsubscribe, arguments)
        case "hold":
            gateway.hold()
        case "flow":
            gateway.flow()
        case "lose":
            gateway.lose(*arguments)
        case "upstream":
            gateway.set_upstream(is_lost=arguments[0])
        case "restart":
            await gateway.restart()
