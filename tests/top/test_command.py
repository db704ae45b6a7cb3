"""`tracker top`, as processes: in a terminal, in a pipe, and how it exits."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from functools import partial

import msgspec
import pytest
import trio

from tests.gateway import Gateway, start_gateway
from tests.terminal.pty import open_terminal
from tracker.watch import Stream, open_stream

DEADLINE_S = 30.0
LISTED = {"connections": True}

pytestmark = pytest.mark.slow


async def run_top(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(DEADLINE_S):
        return await trio.run_process(
            [sys.executable, "-m", "tracker", "top", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


async def hold_stream(
    gateway: Gateway, user_agent: str, *, task_status: trio.TaskStatus[Stream]
) -> None:
    """A client, and messages for it."""
    headers = [("User-Agent", user_agent)]
    async with open_stream(gateway.url, ["A"], headers=headers) as stream:
        await gateway.wait_streams(1)
        task_status.started(stream)
        while True:
            await gateway.publish("A")
            await trio.sleep(0.02)


async def test_once_it_shows_who_is_there_and_how_fast(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, api=LISTED)
    await nursery.start(hold_stream, gateway, "fleet-screen/2")
    done = await run_top(gateway.url, "--once")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("1 connection (1 websocket, 0 sse)  1 subscription  1 device  in ")
    header, row = (re.split("  +", line.strip()) for line in lines[-2:])
    told = dict(zip(header, row, strict=True))
    assert told["RATE"].endswith("/s")
    assert (told["TRANSPORT"], told["ADDRESS"]) == ("websocket", "127.0.0.1")
    assert told["USER AGENT"] == "fleet-screen/2"
    nursery.cancel_scope.cancel()


async def test_json_for_scripts(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, api=LISTED)
    await nursery.start(hold_stream, gateway, "fleet-screen/2")
    done = await run_top(gateway.url, "--once", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    (line,) = done.stdout.splitlines()
    told = msgspec.json.decode(line)
    (connection,) = told["connections"]
    assert connection["user_agent"] == "fleet-screen/2"
    assert connection["delivered_per_s"] > 0
    assert told["total"] == 1
    assert told["stats"]["active_subscribers"] == 1
    nursery.cancel_scope.cancel()


async def test_a_list_that_is_off(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    done = await run_top(gateway.url)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        "tracker top: the gateway does not list its connections: set `api.connections = true` in "
        "its tracker.toml, or TRACKER_API__CONNECTIONS=true in its environment, and restart it\n"
    )
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("http://127.0.0.1:1",), 1, "tracker top: connection refused: nothing listens on port 1"),
        (("nowhere",), 2, "tracker top: 'nowhere' is no gateway's address"),
        (("https://a", "--ca-file", "/nowhere"), 2, "cannot use --ca-file /nowhere: [Errno 2]"),
    ],
)
async def test_what_cannot_be(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = await run_top(*arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()


async def test_a_path_below_which_there_is_no_gateway(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, api=LISTED)
    done = await run_top(f"{gateway.url}/elsewhere")
    assert done.returncode == 1
    path = "/elsewhere/api/v1/stream/connections"
    assert done.stderr.decode() == (
        f"tracker top: {path} answered with HTTP status 404: Not Found: {path}\n"
    )
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("body", [b"[]", b'{"connections":7}', b"hello", b"[" * 10_000])
async def test_something_else_answers(nursery: trio.Nursery, body: bytes) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        await stream.send_all(head + body)

    listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    done = await run_top(f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    said = f"tracker top: what answers at http://127.0.0.1:{port} is no gateway of this version: "
    assert done.stderr.decode().startswith(said)
    nursery.cancel_scope.cancel()


async def test_a_reader_that_has_enough_ends_it_quietly(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, api=LISTED)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tracker", "top", gateway.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with trio.fail_after(DEADLINE_S):
        assert (await process.stdout.receive_some()).startswith(b"0 connections")
        await process.stdout.aclose()
        assert await process.wait() == 0
        assert await process.stderr.receive_some() == b""
        await process.stderr.aclose()
    nursery.cancel_scope.cancel()


async def test_the_table_lives_through_an_outage_and_the_terminal_is_given_back(
    nursery: trio.Nursery,
) -> None:
    life = await nursery.start(one_life)
    gateway, scope = life
    async with open_terminal("top", gateway.url, columns=120) as terminal:
        await terminal.wait_for(lambda: "fleet-screen/2" in "".join(terminal.frames[-1:]))
        terminal.resize(60, 8)
        await terminal.wait_for(lambda: "TRANSPORT" not in terminal.frames[-1])
        scope.cancel()
        await terminal.wait_for(lambda: "NO ANSWER: " in terminal.frames[-1])
        bind = (f"127.0.0.1:{gateway.port}",)
        await start_gateway(nursery, api=LISTED, http={"bind": bind})
        await terminal.wait_for(lambda: "0 connections" in terminal.frames[-1])
        terminal.press(b"\x03")
        assert await terminal.wait_end() == 128 + signal.SIGINT
        assert terminal.wrote.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
        assert "Traceback" not in terminal.wrote
    nursery.cancel_scope.cancel()


async def one_life(*, task_status: trio.TaskStatus[tuple[Gateway, trio.CancelScope]]) -> None:
    """A gateway with a client, until its scope is cancelled."""
    async with trio.open_nursery() as life:
        gateway = await start_gateway(life, api=LISTED)
        await life.start(hold_stream, gateway, "fleet-screen/2")
        task_status.started((gateway, life.cancel_scope))
        await trio.sleep_forever()
