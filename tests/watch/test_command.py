"""`tracker watch`, as processes: in a terminal, in a pipe, and how it exits."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.gateway import Gateway, start_gateway
from tests.terminal.pty import open_terminal

DEADLINE_S = 30.0

pytestmark = pytest.mark.slow


async def run_watch(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(DEADLINE_S):
        return await trio.run_process(
            [sys.executable, "-m", "tracker", "watch", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


async def publish_for_ever(gateway: Gateway, payload: bytes = b'{"DEVICE_ID":"A","N":1}') -> None:
    await gateway.wait_streams(1)
    while True:
        await gateway.publish_payloads([payload])
        await trio.sleep(0.02)


async def test_raw_lines_are_the_json_as_it_was_sent(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    payload = '{"timestamp":"t","data":{"DEVICE_ID":"A","X":1.10,"N":"ñ\\u001b"}}'
    nursery.start_soon(publish_for_ever, gateway, payload.encode())
    done = await run_watch(gateway.url, "--devices", "A", "--raw", "--count", "3")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == f"{payload}\n" * 3
    nursery.cancel_scope.cancel()


async def test_lines_for_people_where_there_is_no_terminal(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    payload = b'{"timestamp":"t\\u001b","data":{"DEVICE_ID":"A","LAT":1,"LON":2,"SPEED":3}}'
    nursery.start_soon(publish_for_ever, gateway, payload)
    done = await run_watch(gateway.url, "--devices", "B, A", "--count", "1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "t\\x1b  A  speed 3.0  at 1.00000 2.00000\n"
    nursery.cancel_scope.cancel()


async def test_what_is_missing_has_lines_of_its_own(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)

    async def publish() -> None:
        await gateway.wait_streams(1)
        gateway.parts.hub.note_lost(3)
        await gateway.publish("A", N=1)

    nursery.start_soon(publish)
    done = await run_watch(gateway.url, "--devices", "A", "--raw", "--count", "1")
    gap, message = done.stdout.decode().splitlines()
    assert gap == '{"event":"gap","data":{"device_id":null,"dropped":3,"reason":"ingest"}}'
    assert '"N":1' in message
    nursery.start_soon(publish)
    done = await run_watch(gateway.url, "--devices", "A", "--count", "1")
    assert done.stdout.decode().count("\n") == 1
    assert done.stderr.decode() == (
        "tracker watch: lost: 3 messages of devices that nobody knows (ingest)\n"
    )
    nursery.cancel_scope.cancel()


async def test_the_past_comes_first(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    await gateway.publish_payloads([b'{"timestamp":"t","data":{"DEVICE_ID":"A"}}'] * 2)
    arguments = ("--devices", "A", "--last", "--track", "15m", "--count", "3")
    done = await run_watch(gateway.url, *arguments)
    assert done.stdout.decode().splitlines() == [
        "t  A  (snapshot)",
        "t  A  (track)",
        "t  A  (track)",
    ]
    nursery.cancel_scope.cancel()


async def test_it_goes_on_where_an_earlier_one_ended(nursery: trio.Nursery, tmp_path: Path) -> None:
    gateway = await start_gateway(nursery)
    bookmark = tmp_path / "position"
    arguments = (gateway.url, "--devices", "A", "--raw", "--resume", str(bookmark), "--count")
    nursery.start_soon(publish_for_ever, gateway, b'{"timestamp":1,"data":{"DEVICE_ID":"A"}}')
    assert (await run_watch(*arguments, "1")).returncode == 0
    begun = int(bookmark.read_text().rpartition("-")[2])
    resume, *messages = (await run_watch(*arguments, "5")).stdout.decode().splitlines()
    assert resume.startswith('{"event":"resume","data":{"status":"continued",')
    assert len(messages) == 5
    assert int(bookmark.read_text().rpartition("-")[2]) == begun + 5
    nursery.cancel_scope.cancel()


async def test_seconds_end_it(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    done = await run_watch(gateway.url, "--devices", "A", "--raw", "--seconds", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("http://127.0.0.1:1", "--devices", "A"),
            1,
            "tracker watch: connection refused: nothing listens on port 1 of 127.0.0.1\n",
        ),
        (
            ("http://127.0.0.1:1", "--devices", "A", "--seconds", "1", "--give-up", "60"),
            1,
            "tracker watch: no connection within 1 s: connection refused: nothing listens on port",
        ),
        (("http://a",), 2, "tracker watch: no device is named; expected --devices A,B\n"),
        (("nowhere", "--devices", "A"), 2, "(perhaps http://nowhere?); expected http://, https://"),
        (("http://a", "--devices", "A", "--count", "0"), 2, "Invalid value for '--count'"),
        (
            ("http://a", "--devices", "A", "--track", "soon"),
            2,
            "'soon' is no duration; expected one such as 15m, 90s or 1h.",
        ),
        (("http://a", "--devices", "A", "--track", "0"), 2, "'0' is no duration"),
        (
            ("http://a", "--devices", "A", "--resume", "/nowhere/position"),
            2,
            "cannot use --resume: [Errno 2] No such file or directory: '/nowhere'\n",
        ),
        (
            ("http://a", "--devices", "A", "--resume", "/proc/self/cmdline"),
            2,
            "/proc/self/cmdline does not hold a position; expected",
        ),
        (
            ("https://a", "--devices", "A", "--ca-file", "/nowhere"),
            2,
            "cannot use --ca-file /nowhere: [Errno 2] No such file",
        ),
    ],
)
async def test_what_cannot_be(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = await run_watch(*arguments)
    assert done.returncode == code
    assert said in done.stderr.decode()
    assert done.stdout == b""


async def test_the_gateway_refuses(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    done = await run_watch(f"{gateway.url}/elsewhere", "--devices", "A")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "tracker watch: refused with HTTP status 404: Not Found: /elsewhere/api/v1/stream; "
        f"`tracker doctor {gateway.url}/elsewhere` finds out why\n"
    )
    done = await run_watch(f"{gateway.url}/api/v1/stream?device_ids=A&last=2")
    assert done.returncode == 1
    assert "(bad request): last: '2', expected 1 or 0\n" in done.stderr.decode()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_silent", [False, True])
async def test_a_reader_that_has_enough_ends_it_quietly(
    nursery: trio.Nursery, is_silent: bool
) -> None:
    gateway = await start_gateway(nursery)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tracker", "watch", gateway.url, "--devices", "A", "--raw"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with trio.fail_after(DEADLINE_S):
        await gateway.wait_streams(1)
        if not is_silent:
            await gateway.publish("A")
            await process.stdout.receive_some()
            nursery.start_soon(publish_for_ever, gateway)
        await process.stdout.aclose()
        assert await process.wait() == 0
        assert await process.stderr.receive_some() == b""
        await process.stderr.aclose()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_with_the_code_that_shells_expect(
    nursery: trio.Nursery, number: signal.Signals
) -> None:
    gateway = await start_gateway(nursery)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tracker", "watch", gateway.url, "--devices", "A", "--raw"],
    )
    with trio.fail_after(DEADLINE_S):
        await gateway.wait_streams(1)
        process.send_signal(number)
        assert await process.wait() == 128 + number
    nursery.cancel_scope.cancel()


async def test_losses_and_returns_are_told_on_stderr(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as first:
        gateway = await start_gateway(first)
        arguments = (gateway.url, "--devices", "A", "--raw", "--count", "1")
        has_ended = trio.Event()
        results: list[subprocess.CompletedProcess[bytes]] = []

        async def watch() -> None:
            results.append(await run_watch(*arguments))
            has_ended.set()

        nursery.start_soon(watch)
        await gateway.wait_streams(1)
        first.cancel_scope.cancel()
    again = await start_gateway(nursery, http={"bind": (f"127.0.0.1:{gateway.port}",)})
    await again.wait_streams(1)
    await again.publish("A")
    with trio.fail_after(DEADLINE_S):
        await has_ended.wait()
    assert results[0].returncode == 0
    lost, back = results[0].stderr.decode().splitlines()
    assert lost.startswith("tracker watch: no connection: closed with 10")
    assert lost.endswith("; trying again")
    assert back == f"tracker watch: connected to {gateway.url}"
    resume, message = results[0].stdout.decode().splitlines()
    assert resume.startswith('{"event":"resume","data":{"status":"reset",')
    assert '"DEVICE_ID":"A"' in message
    nursery.cancel_scope.cancel()


# In a terminal


async def test_the_table_lives_and_the_terminal_is_given_back(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    payload = b'{"DEVICE_ID":"A","LAT":1,"LON":2,"SPEED":3}'
    nursery.start_soon(publish_for_ever, gateway, payload)
    async with open_terminal("watch", gateway.url, "--devices", "A,B") as terminal:
        await terminal.wait_for(lambda: "1.00000 2.00000" in "".join(terminal.frames[-1:]))
        assert terminal.frames[-1].startswith("live  ")
        gateway.parts.hub.note_lost(3)
        await terminal.wait_for(lambda: "lost: 3 messages of devices" in terminal.frames[-1])
        terminal.resize(30, 6)
        await terminal.wait_for(lambda: "POSITION" not in terminal.frames[-1])
        terminal.press(b"\x03")
        assert await terminal.wait_end() == 130
        assert terminal.wrote.startswith("\x1b[?1049h\x1b[?25l\x1b[?7l")
        assert "\x1b[?7h\x1b[?25h\x1b[?1049l" in terminal.wrote
        assert "DEVICE" in terminal.afterwards
        assert "Traceback" not in terminal.wrote
    nursery.cancel_scope.cancel()


async def test_a_suspended_table_gives_the_terminal_back_too(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    async with open_terminal("watch", gateway.url, "--devices", "A") as terminal:
        await gateway.wait_streams(1)
        await terminal.wait_for(lambda: bool(terminal.frames))
        terminal.process.send_signal(signal.SIGTSTP)
        await terminal.wait_for(lambda: terminal.wrote.endswith("\x1b[?1049l"))
        with trio.fail_after(DEADLINE_S):
            while not _is_stopped(terminal.process.pid):  # noqa: ASYNC110 the kernel sets no event
                await trio.sleep(0.01)
        terminal.process.send_signal(signal.SIGCONT)
        await terminal.wait_for(lambda: terminal.wrote.count("\x1b[?1049h") == 2)
        count = len(terminal.frames)
        await terminal.wait_for(lambda: len(terminal.frames) > count)
        terminal.process.send_signal(signal.SIGTERM)
        assert await terminal.wait_end() == 143
    nursery.cancel_scope.cancel()


def _is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


async def test_no_colours_where_none_are_wanted_and_no_table_on_a_dumb_terminal(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    async with open_terminal("watch", gateway.url, "--devices", "A", NO_COLOR="1") as terminal:
        await terminal.wait_for(lambda: any("live" in frame for frame in terminal.frames))
        assert "\x1b[32m" not in terminal.wrote
    nursery.start_soon(partial(publish_for_ever, gateway, b'{"DEVICE_ID":"A","SPEED":3}'))
    arguments = ("watch", gateway.url, "--devices", "A", "--count", "1")
    async with open_terminal(*arguments, TERM="dumb") as terminal:
        assert await terminal.wait_end() == 0
        assert "\x1b" not in terminal.wrote
        assert f"tracker watch: connected to {gateway.url}\r\n" in terminal.wrote
        assert "A  speed 3.0\r\n" in terminal.wrote
    nursery.cancel_scope.cancel()


async def test_a_refusal_in_a_terminal_is_told_when_the_terminal_is_back() -> None:
    async with open_terminal("watch", "http://127.0.0.1:1", "--devices", "A") as terminal:
        assert await terminal.wait_end() == 1
        assert "nothing listens on port 1 of 127.0.0.1\r\n" in terminal.afterwards
