"""`tracker.watch.stream`, on virtual time, against a gateway in memory."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import WebSocketConnection

from tests.watch.fake_gateway import (
    FakeGateway,
    Longest,
    Raw,
    closes,
    holds,
    listens,
    message_text,
    sends,
    vanishes,
)
from tracker.watch import (
    ClosedError,
    Event,
    ForbiddenError,
    Gap,
    GaveUpError,
    HandshakeError,
    InvalidRequestError,
    Message,
    RefusedError,
    Resume,
    ResumeStatus,
    State,
    Stream,
    StreamError,
    StreamStatistics,
    Timing,
    TokenError,
    UnreachableError,
    open_stream,
)
from tracker.watch.intake import Intake

PING = '{"event":"ping","data":{"type":"keep-alive"}}'
ENDLESS_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def opened(
    gateway: FakeGateway, *, buffer_messages: int = 100, **timing: float
) -> AbstractAsyncContextManager[Stream]:
    return open_stream(
        "ws://gateway",
        ["A", "B"],
        dial=gateway.dial,
        buffer_messages=buffer_messages,
        timing=Timing(**timing),
        rng=Longest(),
    )


def message(device_id: str, number: int = 0) -> Message:
    return Message(
        device_id=device_id,
        timestamp="2024-12-11T10:30:00Z",
        data={"DEVICE_ID": device_id, "N": number},
        text=f'{{"timestamp":"2024-12-11T10:30:00Z","data":'
        f'{{"DEVICE_ID":"{device_id}","N":{number}}}}}',
    )


# What comes


async def test_messages_come_in_order_and_pings_do_not(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(
        nursery, sends(message_text("A"), PING, "garbage", message_text("B"), message_text("A", 2))
    )
    async with opened(gateway) as stream:
        got = [await anext(stream) for _ in range(3)]
        assert stream.statistics() == StreamStatistics(
            state=State.LIVE,
            connects=1,
            reconnects=0,
            failed_attempts=0,
            messages=3,
            past=0,
            events=0,
            lost=0,
            pings=1,
            undecodable=1,
            unread=0,
            problem="",
            next_attempt_in_s=None,
        )
    assert got == [message("A"), message("B"), message("A", 2)]
    assert gateway.targets == ["/api/v1/stream?hello=1&ping=20&device_ids=A,B"]


async def test_events_stand_where_they_came(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gap = '{"event":"gap","data":{"device_id":"A","dropped":2}}'
    gateway = FakeGateway(nursery, sends(message_text("A"), gap, message_text("B")))
    async with opened(gateway) as stream:
        events = stream.events()
        got = [await anext(events) for _ in range(3)]
    assert got == [
        message("A"),
        Gap(
            name="gap",
            data={"device_id": "A", "dropped": 2},
            text=gap[22:-1],
            device_id="A",
            dropped=2,
        ),
        message("B"),
    ]


async def test_whoever_wants_messages_alone_does_not_see_the_events(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(nursery, sends('{"event":"upstream","data":{}}', message_text("B")))
    async with opened(gateway) as stream:
        assert await anext(stream) == message("B")


async def test_several_tasks_share_what_comes(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(nursery, sends(*(message_text("A", number) for number in range(4))))
    got: list[Message] = []

    async def take(stream: Stream) -> None:
        got.extend([await anext(stream), await anext(stream)])

    async with opened(gateway) as stream, trio.open_nursery() as takers:
        takers.start_soon(take, stream)
        takers.start_soon(take, stream)
    assert sorted(item.data["N"] for item in got) == [0, 1, 2, 3]


# The end of a connection, and the next one


async def test_the_pauses_double_up_to_the_longest(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(nursery, UnreachableError("no"))
    async with opened(gateway, backoff_min_s=1, backoff_max_s=5):
        await trio.sleep(20)
    assert gateway.attempts_s == [0, 1, 3, 7, 12, 17]


async def test_jitter_takes_up_to_half_a_pause(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(nursery, UnreachableError("no"))
    async with open_stream(
        "ws://gateway", ["A"], dial=gateway.dial, timing=Timing(backoff_min_s=8, backoff_max_s=8)
    ):
        await trio.sleep(200)
    pauses_s = [late - early for early, late in pairwise(gateway.attempts_s)]
    assert all(4 <= pause_s <= 8 for pause_s in pauses_s)
    assert len(set(pauses_s)) > 10


async def test_a_connection_that_held_starts_the_pauses_anew(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(
        nursery,
        UnreachableError("no"),
        UnreachableError("no"),
        holds(4, vanishes),  # not long enough
        holds(6, vanishes),
        listens,
    )
    async with opened(gateway, backoff_min_s=1) as stream:
        await trio.sleep(60)
        assert stream.statistics().reconnects == 2
        assert stream.statistics().failed_attempts == 2
    assert gateway.attempts_s == [0, 1, 3, 11, 18]


async def test_state_and_statistics_say_where_it_stands(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(nursery, sends(then=holds(1, closes(1011, "oh"))), listens)
    seen: list[State] = []
    async with opened(gateway, backoff_min_s=4) as stream:
        seen.append(stream.state.value)
        for _ in range(4):
            await stream.state.wait_transition()
            seen.append(stream.state.value)
            if stream.state.value is State.WAITING:
                await trio.sleep(1)
                assert stream.statistics().problem == "closed with 1011 (internal error): oh"
                assert stream.statistics().next_attempt_in_s == 3
    assert seen == [State.CONNECTING, State.LIVE, State.WAITING, State.CONNECTING, State.LIVE]
    assert stream.state.value is State.CLOSED


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1006, 1011, 1012, 4408, 4429, 4999])
async def test_after_these_it_connects_again(
    autojump_clock: MockClock, nursery: trio.Nursery, code: int
) -> None:
    end = vanishes if code == 1006 else closes(code)
    gateway = FakeGateway(nursery, end, sends(message_text("B")))
    async with opened(gateway, backoff_min_s=1) as stream:
        assert await anext(stream) == message("B")
    assert gateway.attempts_s == [0, 1]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1008, InvalidRequestError),
        (1009, InvalidRequestError),
        (4401, TokenError),
        (4403, ForbiddenError),
    ],
)
async def test_after_these_it_does_not(
    autojump_clock: MockClock, nursery: trio.Nursery, code: int, kind: type[ClosedError]
) -> None:
    error = '{"event":"error","data":{"message":"Debe especificar"}}'
    gateway = FakeGateway(nursery, sends(message_text("A"), error, then=closes(code)))
    async with opened(gateway) as stream:
        await stream.state.wait_value(State.CLOSED)
        # what came before the end is still there
        assert await anext(stream) == message("A")
        for _ in range(2):
            with pytest.raises(kind) as caught:
                await anext(stream)
            assert (caught.value.code, caught.value.message) == (code, "Debe especificar")
            assert str(caught.value).startswith(f"closed with {code} (")
            assert str(caught.value).endswith("): Debe especificar")
    assert len(gateway.attempts_s) == 1


@pytest.mark.parametrize("end", [closes(1012), vanishes])
async def test_a_planned_stop_is_followed_after_its_hint(
    autojump_clock: MockClock, nursery: trio.Nursery, end: object
) -> None:
    assert callable(end)
    hint = '{"event":"reconnect","data":{"after_ms":2750,"reason":"shutdown"}}'
    gateway = FakeGateway(nursery, sends(hint, then=end), listens)
    async with opened(gateway) as stream:
        (event,) = [await anext(stream.events())]
        assert event == Event(
            name="reconnect",
            data={"after_ms": 2750, "reason": "shutdown"},
            text='{"after_ms":2750,"reason":"shutdown"}',
        )
        await trio.sleep(100)
    assert gateway.attempts_s == [0, 2.75]


@pytest.mark.parametrize("after_ms", ["soon", -1, None, True])
async def test_a_hint_that_is_none(
    autojump_clock: MockClock, nursery: trio.Nursery, after_ms: object
) -> None:
    value = {"soon": '"soon"', -1: "-1", None: "null", True: "[]"}[after_ms]
    hint = f'{{"event":"reconnect","data":{{"after_ms":{value}}}}}'
    gateway = FakeGateway(nursery, sends(hint, then=closes(1012)), listens)
    async with opened(gateway, backoff_min_s=1):
        await trio.sleep(100)
    assert gateway.attempts_s == [0, 1]


async def test_no_hint_is_obeyed_for_ever(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    hint = '{"event":"reconnect","data":{"after_ms":1e300}}'
    gateway = FakeGateway(nursery, sends(hint, then=closes(1012)), listens)
    async with opened(gateway):
        await trio.sleep(400)
    assert gateway.attempts_s == [0, 300]


# A gateway of old, which knows no ids


async def test_after_a_cut_it_is_told_that_what_came_meanwhile_is_missing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    first = sends(message_text("A"), then=vanishes)
    gateway = FakeGateway(nursery, first, sends(PING, message_text("A", 2)))
    async with opened(gateway, backoff_min_s=1) as stream:
        events = stream.events()
        got = [await anext(events) for _ in range(3)]
        assert stream.position == "-"
    assert got == [
        message("A"),
        Resume(
            name="resume",
            data={"status": "reset", "missed": None, "position": ""},
            text='{"status":"reset","missed":null,"position":""}',
            status=ResumeStatus.RESET,
        ),
        message("A", 2),
    ]
    assert gateway.targets[1] == "/api/v1/stream?hello=1&ping=20&last_event_id=-&device_ids=A,B"


async def test_it_takes_no_operations(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    gateway = FakeGateway(nursery, sends(message_text("A"), message_text("B")))
    async with opened(gateway) as stream:
        assert [await anext(stream), await anext(stream)] == [message("A"), message("B")]
        with pytest.raises(RefusedError, match="the gateway takes no operations"):
            await stream.subscribe(["C"])
        assert stream.device_ids == ("A", "B")


async def test_operations_end_with_the_stream(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(nursery, holds(5, closes(4401, "no token")))
    async with opened(gateway) as stream:
        for _ in range(2):
            with pytest.raises(TokenError, match="no token"):
                await stream.subscribe(["C"])
        assert trio.current_time() == 5


# What answers the handshake


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


ENVELOPE = b'{"event":"error","data":{"message":"not from there"}}'


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (head("404 Not Found", "Content-Length: 0"), "refused with HTTP status 404"),
        (
            head("403 Forbidden", "Content-Length: 53") + ENVELOPE,
            "refused with HTTP status 403: not from there",
        ),
        (
            head("403 Forbidden", "Transfer-Encoding: chunked") + b"35\r\n" + ENVELOPE + b"\r\n0",
            "refused with HTTP status 403: not from there",
        ),
        (
            head("302 Found", "Location: https://b/", "Content-Length: 0"),
            "redirected to https://b/",
        ),
        (ENDLESS_SSE, "answered as if no WebSocket had been asked for (text/event-stream)"),
        (head("204 No Content"), "refused with HTTP status 204"),
    ],
)
@pytest.mark.parametrize("then_ends", [True, False])
async def test_refusals_that_would_come_again(
    autojump_clock: MockClock, nursery: trio.Nursery, answer: bytes, text: str, then_ends: bool
) -> None:
    gateway = FakeGateway(nursery, Raw(answer, then_ends=then_ends))
    async with opened(gateway) as stream:
        with pytest.raises(HandshakeError) as caught:
            await anext(stream)
    assert str(caught.value) == text
    assert len(gateway.attempts_s) == 1
    assert trio.current_time() <= 1  # what a body may take
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "problem", "again_s"),
    [
        (head("503 Away", "Content-Length: 0"), "refused with HTTP status 503", 1),
        (head("502 Bad", "Content-Length: 0"), "refused with HTTP status 502", 1),
        (
            head("429 Slow", "Retry-After: 8", "Content-Length: 0"),
            "refused with HTTP status 429",
            10,
        ),
        (b"", "the connection was closed without an answer", 1),
        (b"SSH-2.0-OpenSSH\r\n", r"no HTTP answer but 'SSH-2.0-OpenSSH\r\n'", 1),
        (b"\x16\x03" + b"x" * 70_000, r"no HTTP answer but '\x16\x03" + "x" * 38 + "'…", 1),
        (head("101 Switching"), "no valid answer to the WebSocket handshake", 1),
    ],
)
async def test_refusals_that_may_pass(
    autojump_clock: MockClock, nursery: trio.Nursery, answer: bytes, problem: str, again_s: float
) -> None:
    gateway = FakeGateway(nursery, Raw(answer), listens)
    async with opened(gateway, backoff_min_s=1) as stream:
        await stream.state.wait_value(State.WAITING)
        assert stream.statistics().problem == problem
        await stream.state.wait_value(State.LIVE)
    assert gateway.attempts_s == [0, again_s]


async def test_no_answer_at_all(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    gateway = FakeGateway(nursery, Raw(b"", then_ends=False), listens)
    async with opened(gateway, backoff_min_s=1, connect_s=7) as stream:
        await stream.state.wait_value(State.WAITING)
        assert stream.statistics().problem == "no answer to the WebSocket handshake in 7 s"
        await stream.state.wait_value(State.LIVE)
    assert gateway.attempts_s == [0, 8]
    nursery.cancel_scope.cancel()


# Silence, and who causes it


async def test_a_silent_connection_is_taken_for_dead(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(nursery, sends(PING, then=listens), listens)
    async with opened(gateway, backoff_min_s=1) as stream:
        await stream.state.wait_value(State.WAITING)
        assert stream.statistics().problem == "nothing came for 150 s"
        await stream.state.wait_value(State.LIVE)
        await trio.sleep(100)
    assert gateway.attempts_s == [0, 151]


async def test_a_short_interval_is_asked_for_and_its_lack_noticed(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hello = '{"event":"hello","data":{"version":"1","ping_s":10,"buffer":100,"position":"e-0"}}'
    gateway = FakeGateway(nursery, sends(hello, then=holds(25, listens)), listens)
    async with opened(gateway, backoff_min_s=1, ping_s=8) as stream:
        await stream.state.wait_value(State.WAITING)
        assert stream.statistics().problem == "nothing came for 25 s"
        await trio.sleep(30)
    assert "&ping=8&" in gateway.targets[0]
    # the second never said hello: it is as old as the first, or hangs
    assert gateway.attempts_s == [0, 26, 52]


async def test_pings_are_a_sign_of_life(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async def pings(websocket: WebSocketConnection) -> None:
        for _ in range(20):
            await websocket.send_message(PING)
            await trio.sleep(60)

    gateway = FakeGateway(nursery, pings)
    async with opened(gateway):
        await trio.sleep(1000)
        assert gateway.attempts_s == [0]
    nursery.cancel_scope.cancel()


async def test_who_does_not_take_stops_the_gateway_and_is_no_silence(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    sent: list[int] = []

    async def sends_for_ever(websocket: WebSocketConnection) -> None:
        for number in range(1000):
            await websocket.send_message(message_text("A", number))
            sent.append(number)

    gateway = FakeGateway(nursery, sends_for_ever)
    gateway.make_pair = lockstep_stream_pair  # a wire that holds nothing
    async with opened(gateway, buffer_messages=5) as stream:
        await trio.sleep(1000)
        assert stream.statistics().unread == 5
        # beyond the five: one in our hand, one in trio-websocket's queue, one in its hand, and
        # the write that waits
        assert len(sent) <= 5 + 4
        got = [(await anext(stream)).data["N"] for _ in range(1000)]
        assert got == list(range(1000))
        assert gateway.attempts_s == [0]


# Giving up


async def test_by_default_it_never_gives_up(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(nursery, UnreachableError("no"))
    async with opened(gateway) as stream:
        await trio.sleep(86_000)
        assert stream.state.value is State.WAITING
    assert len(gateway.attempts_s) > 2_800


@pytest.mark.parametrize(("patience_s", "attempts_s"), [(0, [0]), (3, [0, 1, 3]), (6.9, [0, 1, 3])])
async def test_it_gives_up_on_the_first_connection(
    autojump_clock: MockClock, nursery: trio.Nursery, patience_s: float, attempts_s: list[float]
) -> None:
    gateway = FakeGateway(nursery, UnreachableError("no"))
    async with opened(gateway, backoff_min_s=1, give_up_first_s=patience_s) as stream:
        with pytest.raises(GaveUpError, match=r"^no$") as caught:
            await anext(stream)
    assert isinstance(caught.value.__cause__, UnreachableError)
    assert gateway.attempts_s == attempts_s


async def test_it_gives_up_on_a_lost_connection(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    gateway = FakeGateway(nursery, holds(100, vanishes), UnreachableError("no"))
    async with opened(gateway, backoff_min_s=1, give_up_first_s=0, give_up_s=3) as stream:
        with pytest.raises(GaveUpError, match=r"^no$"):
            await anext(stream)
    assert gateway.attempts_s == [0, 101, 103]


# Leaving


async def test_leaving_says_goodbye(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    gateway = FakeGateway(nursery, sends(message_text("A")))
    async with opened(gateway) as stream:
        await anext(stream)
    await wait_all_tasks_blocked()
    assert gateway.goodbyes == [1000]
    assert stream.state.value is State.CLOSED
    with pytest.raises(trio.ClosedResourceError):
        await anext(stream)


async def test_a_goodbye_that_is_not_answered_takes_half_a_second(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def deaf(websocket: WebSocketConnection) -> None:
        websocket._reader_running = False
        await trio.sleep_forever()

    gateway = FakeGateway(nursery, deaf)
    gateway.make_pair = lockstep_stream_pair
    async with opened(gateway) as stream:
        await stream.state.wait_value(State.LIVE)
    assert trio.current_time() == 0.5
    nursery.cancel_scope.cancel()


async def test_a_ping_behind_our_close_frame_harms_nobody(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    client, server = memory_stream_pair()
    pump = client.send_stream.send_all_hook
    assert pump is not None
    is_leaving = False

    async def ping_and_pump() -> None:
        if is_leaving:
            client.receive_stream.put_data(b"\x89\x00")
        await pump()

    client.send_stream.send_all_hook = ping_and_pump
    gateway = FakeGateway(nursery, listens)
    gateway.make_pair = lambda: (client, server)
    async with opened(gateway) as stream:
        await stream.state.wait_value(State.LIVE)
        is_leaving = True
    assert gateway.goodbyes == [1000]


@pytest.mark.parametrize("when", [State.CONNECTING, State.LIVE, State.WAITING])
async def test_an_error_of_the_block_comes_out_as_it_is(
    autojump_clock: MockClock, nursery: trio.Nursery, when: State
) -> None:
    gateway = FakeGateway(nursery, holds(1, vanishes))
    stream = None
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 the block is what is tested
        async with opened(gateway) as stream:
            await stream.state.wait_value(when)
            _ = 1 / 0
    assert stream is not None
    assert stream.state.value is State.CLOSED


@pytest.mark.parametrize("at_s", [0, 0.5, 1.2])
async def test_cancelled_it_leaves_nothing_behind(
    autojump_clock: MockClock, nursery: trio.Nursery, at_s: float
) -> None:
    gateway = FakeGateway(nursery, holds(1, vanishes))
    with trio.move_on_after(at_s) as scope:
        async with opened(gateway, backoff_min_s=1) as stream:
            await anext(stream)
    assert scope.cancelled_caught
    assert trio.current_time() == at_s
    nursery.cancel_scope.cancel()


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when any task is about to take the n-th step."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._steps_left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps_left -= 1
        if self._steps_left == 0:
            self._scope.cancel()


async def test_cancelled_at_any_step_of_any_task_it_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    for step in range(1, 1000):
        tasks_before = trio.lowlevel.current_statistics().tasks_living
        stream = None
        async with trio.open_nursery() as server:
            first, second = sends(message_text("A"), then=vanishes), sends(message_text("B"))
            gateway = FakeGateway(server, first, second)
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(scope, step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    async with opened(gateway, backoff_min_s=1) as stream:
                        assert await anext(stream) == message("A")
                        assert await anext(stream) == message("B")
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            for client in gateway.clients:
                with pytest.raises(trio.ClosedResourceError):
                    await client.send_all(b"x")
            server.cancel_scope.cancel()
        assert trio.lowlevel.current_statistics().tasks_living == tasks_before
        assert stream is None or stream.state.value is State.CLOSED
        if not scope.cancel_called:
            return
    raise AssertionError("not done after 1000 steps")


async def test_cancelled_next_takes_nothing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """However often taking is cancelled, before and while a message comes: none is lost."""

    async def slow(websocket: WebSocketConnection) -> None:
        for number in range(50):
            await websocket.send_message(message_text("A", number))
            await trio.sleep(0.003)
        await listens(websocket)

    got: list[int] = []
    async with opened(FakeGateway(nursery, slow)) as stream:
        while len(got) < 50:
            with trio.move_on_after(0.002):
                got.append((await anext(stream)).data["N"])
            with trio.CancelScope() as scope:
                scope.cancel()
                got.append((await anext(stream)).data["N"])
    assert got == list(range(50))


async def test_a_fault_of_ours_comes_out_of_the_block(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(intake: Intake, text: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Intake, "take", broken)
    gateway = FakeGateway(nursery, sends(message_text("A")))
    with pytest.RaisesGroup(ZeroDivisionError):
        async with opened(gateway) as stream:
            await anext(stream)


# What is refused at once


@pytest.mark.parametrize(
    ("url", "device_ids", "buffer_messages", "text"),
    [
        ("gateway", ["A"], 1, "no gateway's address"),
        ("http://gateway", [], 1, "no device is named; expected at least one in device_ids"),
        ("http://gateway", ["A,B"], 1, "no device id"),
        ("http://gateway", ["A"], 0, "buffer_messages is 0; expected a number from 1 on"),
        ("http://gateway", ["A"], math.inf, "buffer_messages is inf; expected"),
    ],
)
async def test_refused(url: str, device_ids: list[str], buffer_messages: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        async with open_stream(url, device_ids, buffer_messages=buffer_messages):
            pass


def test_errors_say_whether_they_would_come_again() -> None:
    assert StreamError("x").is_final is False
    assert ClosedError(1011, "").is_final is False
    assert str(ClosedError(1012, "")) == "closed with 1012 (service restart)"
    assert str(ClosedError(4999, "x")) == "closed with 4999: x"
    assert HandshakeError("x", status=404).is_final is True
    assert HandshakeError("x", status=429).is_final is False
    assert HandshakeError("x").is_final is False
