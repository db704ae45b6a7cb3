"""`tracker doctor`, as a process: its lines, its exit codes, a terminal."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from tests.doctor.deployment import CHECKS, run_device, started_gateway
from tests.mosquitto import Mosquitto
from tests.terminal.pty import open_terminal

DEADLINE_S = 30.0

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]


async def run_doctor(
    *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(DEADLINE_S):
        return await trio.run_process(
            [sys.executable, "-m", "tracker", "doctor", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=cwd,
        )


def checks(output: str, outcome: str = r"passed|FAILED|not applicable") -> list[str]:
    """The checks that have a line with that outcome."""
    return [match[1] for match in re.finditer(rf"^(?:{outcome}) +(.+?): ", output, re.MULTILINE)]


async def test_all_is_well(broker: Mosquitto, nursery: trio.Nursery) -> None:
    nursery.start_soon(run_device, broker.port)
    url = await started_gateway(nursery, broker.url)
    done = await run_doctor(url, "--mqtt-url", broker.url)
    assert (done.returncode, done.stderr) == (0, b"")
    output = done.stdout.decode()
    assert checks(output) == list(CHECKS)
    assert output.splitlines()[-1] == "no check failed"
    assert "\x1b" not in output
    nursery.cancel_scope.cancel()


async def test_what_fails_has_its_remedy_beneath_and_the_exit_code_says_so(
    broker: Mosquitto,
) -> None:
    done = await run_doctor("http://127.0.0.1:1", "--mqtt-url", broker.url, "--wait", "0.1")
    assert (done.returncode, done.stderr) == (1, b"")
    lines = done.stdout.decode().splitlines()
    assert checks(done.stdout.decode(), "FAILED") == ["topic", "URL"]
    for line, after in pairwise(lines):
        assert line.startswith("FAILED") == after.startswith(" " * 16 + "→ ")
    assert lines[-1] == "2 of 13 checks failed; begin with: topic"


async def test_the_settings_of_the_gateway_are_those_of_the_doctor(
    broker: Mosquitto, tmp_path: Path
) -> None:
    (tmp_path / "tracker.toml").write_text(
        f'[mqtt]\nurl = "{broker.url}"\ntopics = ["fleet/+/gps"]\nclient_id = "the-gateway"\n'
    )
    done = await run_doctor("http://127.0.0.1:1", "--wait", "0.1", cwd=tmp_path)
    assert "topic: no message on 'fleet/+/gps' within 0.1 s" in done.stdout.decode()
    assert "the-gateway" not in broker.log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("nowhere",),
            "tracker doctor: 'nowhere' is no gateway's address (perhaps http://nowhere?)",
        ),
        (("http://a", "--mqtt-url", "http://b"), "1 problem in the settings:"),
        (("http://a", "--topic", "a/#/b"), "1 problem in the settings:"),
        (("https://a", "--ca-file", "/nowhere"), "cannot use --ca-file /nowhere: "),
        (("http://a", "--publish-topic", "a/+"), "--publish-topic 'a/+' is nothing to publish to"),
        (("http://a", "--wait", "0"), "Invalid value for '--wait'"),
        ((), "Missing argument 'URL'"),
    ],
)
async def test_what_cannot_be_asked(arguments: tuple[str, ...], said: str) -> None:
    done = await run_doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr.decode()


async def test_in_a_terminal(broker: Mosquitto, nursery: trio.Nursery) -> None:
    url = await started_gateway(nursery, broker.url)
    arguments = ("doctor", url, "--mqtt-url", broker.url, "--wait", "1")
    async with open_terminal(*arguments, columns=60) as terminal:
        assert await terminal.wait_end() == 1
    shown = re.sub(r"\x1b\[[0-9;]*[mK]", "", terminal.wrote)
    assert "asking the broker, and waiting up to 1 s" in shown
    assert "\x1b[1;31mFAILED" in terminal.wrote
    lines = [line.rpartition("\r")[2] for line in shown.replace("\r\n", "\n").split("\n")]
    assert all(len(line) <= 60 for line in lines)
    assert "1 of 13 checks failed; begin with: topic" in lines
    nursery.cancel_scope.cancel()


async def test_ctrl_c(broker: Mosquitto) -> None:
    arguments = ("doctor", "http://127.0.0.1:1", "--mqtt-url", broker.url, "--wait", "100")
    async with open_terminal(*arguments) as terminal:
        await terminal.wait_for(lambda: "credentials" in terminal.wrote)
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.wait_end() == 130
        assert "Traceback" not in terminal.wrote
