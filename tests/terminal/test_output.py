"""`tracker.terminal.output`: whoever reads, however slowly, Trio goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tracker.terminal.output import Output

DEADLINE_S = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            pass


async def test_a_full_pipe_delays_nobody_else(pipe: tuple[int, int], nursery: trio.Nursery) -> None:
    read, write = pipe
    data = bytes(range(256)) * 4096
    nursery.start_soon(Output(write).write, data)
    with trio.fail_after(DEADLINE_S):
        await trio.testing.wait_all_tasks_blocked()  # the pipe is full
        received = b""
        while len(received) < len(data):
            await trio.lowlevel.wait_readable(read)
            received += os.read(read, 65536)
    assert received == data


async def test_cancelled_while_nobody_reads(pipe: tuple[int, int]) -> None:
    with trio.move_on_after(0.01) as scope:
        await Output(pipe[1]).write(bytes(1_000_000))
    assert scope.cancelled_caught


async def test_a_file_and_a_device_without_readiness(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        await Output(file.fileno()).write(b"x" * 10_000)
    assert (tmp_path / "file").read_bytes() == b"x" * 10_000
    null = os.open(os.devnull, os.O_WRONLY)
    await Output(null).write(b"x" * 10_000)
    os.close(null)


async def test_a_reader_that_leaves(pipe: tuple[int, int]) -> None:
    read, write = pipe
    output = Output(write)
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.wait_reader_gone)
            await trio.testing.wait_all_tasks_blocked()
            os.close(read)
        with pytest.raises(BrokenPipeError):
            await output.write(b"x")
    output.write_now(b"x")


async def test_of_a_file_nobody_leaves(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with (tmp_path / "file").open("wb") as file, trio.move_on_after(1000) as scope:
        await Output(file.fileno()).wait_reader_gone()
    assert scope.cancelled_caught


async def test_a_terminal_that_takes_nothing_delays_nobody_and_shares_no_flag() -> None:
    master, slave = os.openpty()
    output = Output(slave)
    with trio.move_on_after(0.2) as scope:
        await output.write(b"x\n" * 100_000)
    assert scope.cancelled_caught
    assert os.get_blocking(slave)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.write, b"y")
        with trio.fail_after(DEADLINE_S):
            received = b""
            while b"y" not in received:
                await trio.lowlevel.wait_readable(master)
                received = os.read(master, 65536)
    os.close(master)
    os.close(slave)
    os.close(output._own)
