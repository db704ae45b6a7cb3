"""The watch over peers that take nothing, in virtual time."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock

from tracker.server import sockets
from tracker.server.connection import Connection
from tracker.server.watch import run_watch


class Seen:
    """A connection that notes when it was looked at."""

    def __init__(self) -> None:
        self.at_s: list[float] = []

    def watch(self) -> None:
        self.at_s.append(trio.current_time())


async def test_every_connection_is_looked_at_four_times_within_the_deadline(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    connections = {Seen(): None for _ in range(250)}
    begun_s = trio.current_time()
    nursery.start_soon(run_watch, connections, 8.0)
    await trio.sleep(8.5)
    for connection in connections:
        assert [round(at_s - begun_s) for at_s in connection.at_s] == [2, 4, 6, 8]


async def test_a_connection_that_ended_meanwhile_is_not_looked_at(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    connections: dict[Seen | Ending, None] = {}
    late = Seen()

    class Ending(Seen):
        def watch(self) -> None:
            connections.pop(late, None)

    connections[Ending()] = None
    connections[late] = None
    nursery.start_soon(run_watch, connections, 4.0)
    await trio.sleep(4.5)
    assert late.at_s == []


@pytest.mark.parametrize(
    ("acknowledged", "stalled_at_s"),
    [
        ([None] * 9, None),
        ([7] * 9, 4),  # the first look sees it owed, four more make the deadline
        ([None, None, 7, 7, 7, 7, 7, 7, 7], 6),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], None),
        ([1, 1, 1, 1, 2, 2, 2, 2, 3], None),  # a byte in time, always just
        ([1, 1, 1, 1, None, 1, 1, 1, 1], None),  # it was owed nothing in between
        ([1, 1, 1, 1, 2, 2, 2, 2, 2], 8),
    ],
)
async def test_the_deadline_starts_anew_with_each_byte(
    acknowledged: list[int | None],
    stalled_at_s: int | None,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Connection(
            ours,
            None,  # type: ignore[arg-type]  # nothing of it is asked for
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            stall_s=4.0,
            head_s=1,
        )
        stalled: list[int] = []
        looks = iter(acknowledged)
        monkeypatch.setattr(sockets, "acknowledged_bytes", lambda _: next(looks))
        for second in range(len(acknowledged)):
            connection.outbox.on_stalled = lambda now=second: stalled.append(now)
            connection.watch()
            await trio.sleep(1)
        assert stalled == ([] if stalled_at_s is None else [stalled_at_s])
