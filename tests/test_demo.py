"""`tracker demo`, as a newcomer runs it: a process of its own, without a terminal."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import pytest

from tracker.demo import liveliest, run
from tracker.replay import Record, Recording, bundled_recordings

LIMIT_S = 60.0
# as a script would ask, not as a person would watch: the first message comes at once
SPEED = "400"


class Demo:
    """A running `tracker demo`. Its end, however it comes, ends the process."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tracker", "demo", "--speed", SPEED, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self.said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_ready(self) -> None:
        """Until it says how to end it, which is the last thing that it says."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(LIMIT_S, self.process.kill)
        watchdog.start()
        try:
            while "Ctrl-C" not in self.said:
                line = self.process.stdout.readline()
                if not line:
                    raise AssertionError(f"it ended: {self.process.communicate()[1]}")
                self.said += line
        finally:
            watchdog.cancel()
            watchdog.join()

    def end(self, by: signal.Signals) -> tuple[int, str]:
        """Send a signal; its exit code, and all that it wrote to stderr."""
        self.process.send_signal(by)
        _, errors = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, errors

    @property
    def url(self) -> str:
        return self.line("On a map")

    def line(self, name: str) -> str:
        found = re.search(rf"^  {name} +(.*)$", self.said, re.MULTILINE)
        assert found is not None, self.said
        return found[1]

    def children(self) -> set[int]:
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"of the processes {pids} some are still there"
        time.sleep(0.01)


def needs(command: str) -> None:
    if shutil.which(command) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{command} is not installed")
        pytest.skip(f"{command} is not installed")


def first_line(command: str, wanted: str) -> str:
    """Run a line that the demo printed, until it prints one that holds `wanted`."""
    with subprocess.Popen(
        shlex.split(command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if wanted in line:
                    return line.rstrip("\n")
        finally:
            process.kill()
    raise AssertionError(f"no line with {wanted!r} from {command}")


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    with Demo("--bind", "127.0.0.1:0") as running:
        running.wait_ready()
        yield running


@pytest.mark.slow
def test_the_page_is_there(demo: Demo) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", demo.url)
    with urllib.request.urlopen(demo.url, timeout=LIMIT_S) as answer:
        assert answer.status == 200
        assert answer.headers.get_content_type() == "text/html"


@pytest.mark.slow
def test_the_curl_line_shows_live_vehicles(demo: Demo) -> None:
    needs("curl")
    command = demo.line("As they come")
    ids = command.rstrip("'").partition("device_ids=")[2].split(",")
    assert len(ids) == 4
    line = first_line(f"{command} --silent --max-time {LIMIT_S:g}", "DEVICE_ID")
    assert line.startswith("data:")
    message = json.loads(line.removeprefix("data:"))
    assert list(message) == ["timestamp", "data"]
    assert message["data"]["DEVICE_ID"] in ids


@pytest.mark.slow
@pytest.mark.mosquitto
def test_the_mosquitto_sub_line_shows_live_vehicles(demo: Demo) -> None:
    needs("mosquitto_sub")
    command = demo.line("Behind the gateway")
    line = first_line(f"{command} -C 1 -W {LIMIT_S:g}", "DEVICE_ID")
    topic, _, payload = line.partition(" ")
    assert topic == f"trackers/{json.loads(payload)['data']['DEVICE_ID']}"


@pytest.mark.slow
def test_the_devices_are_listed(demo: Demo) -> None:
    deadline = time.monotonic() + LIMIT_S
    body = b""
    while b"4836" not in body:  # the bus that the recording begins with
        assert time.monotonic() < deadline
        with urllib.request.urlopen(f"{demo.url}api/v1/devices", timeout=LIMIT_S) as answer:
            assert answer.status == 200
            body = answer.read()


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_all_of_it(by: signal.Signals) -> None:
    with Demo("--bind", "127.0.0.1:0") as running:
        running.wait_ready()
        children = running.children()
        assert len(children) == 1
        # with a client that is connected and reads nothing
        address = urlsplit(running.url)
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(b"GET /api/v1/stream?device_ids=4836 HTTP/1.1\r\nHost: demo\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
            assert running.end(by) == (0, "")
        wait_gone(children)


@pytest.mark.slow
def test_killed_it_leaves_no_broker_behind() -> None:
    with Demo("--bind", "127.0.0.1:0") as running:
        running.wait_ready()
        children = running.children()
        assert len(children) == 1
        assert running.end(signal.SIGKILL)[0] == -signal.SIGKILL
        wait_gone(children)


@pytest.mark.slow
def test_a_dead_broker_ends_it_and_the_last_line_says_so() -> None:
    with Demo("--bind", "127.0.0.1:0") as running:
        running.wait_ready()
        (broker,) = running.children()
        os.kill(broker, signal.SIGKILL)
        _, errors = running.process.communicate(timeout=LIMIT_S)
        assert running.process.returncode == 1
        assert re.fullmatch(
            r"tracker demo: the embedded MQTT broker on 127\.0\.0\.1:\d+ ended by itself "
            r"\(exit status -9\): .*",
            errors.splitlines()[-1],
        )


@pytest.mark.slow
def test_port_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with Demo("--bind", bind) as running:
            said, errors = running.process.communicate(timeout=LIMIT_S)
        assert running.process.returncode == 1
        assert said == ""
        assert errors.count("\n") == 1
        assert errors.startswith("tracker demo: ")
        assert bind in errors


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("0.0.0.0:0", r"http://127\.0\.0\.1:\d+/"),
        ("[::]:0", r"http://\[::1\]:\d+/"),
        ("localhost:0", r"http://127\.0\.0\.1:\d+/"),
    ],
)
@pytest.mark.slow
def test_the_url_is_one_that_a_browser_opens(bind: str, url: str) -> None:
    with Demo("--bind", bind) as running:
        running.wait_ready()
        assert re.fullmatch(url, running.url)


def test_a_socket_file_is_nothing_for_a_browser(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(speed=20, bind="unix:/nowhere", log_level="warning", log_format="text") == 1
    assert capsys.readouterr() == (
        "",
        "tracker demo: bind is unix:/nowhere, which no browser opens; expected host:port\n",
    )


# Which vehicles are named


def report(t_s: float, device_id: str, lat_deg: float) -> Record:
    return Record(t_s=t_s, device_id=device_id, lat_deg=lat_deg, lon_deg=0.0)


def test_the_liveliest_moved_most_often_early() -> None:
    reports = [
        *(report(t_s, "anchored", 1.0 + t_s * 1e-7) for t_s in range(0, 900, 10)),
        *(report(t_s, "fast", 1.0 + t_s * 1e-3) for t_s in range(0, 900, 60)),
        *(report(t_s, "faster", 1.0 + t_s * 1e-3) for t_s in range(0, 900, 30)),
        *(report(t_s, "late", 1.0 + t_s * 1e-3) for t_s in range(901, 1800, 10)),
    ]
    reports.sort(key=lambda one: one.t_s)
    assert liveliest(Recording(name="made up", records=tuple(reports)), 2) == ("faster", "fast")


def test_those_named_report_soon_and_often() -> None:
    """At the usual speed: each within ten seconds, and again every ten for a minute."""
    speed, window_s, limit_s = 20, 60, 10
    vessels, buses = bundled_recordings()
    for device_id in liveliest(vessels, 3):
        times_s = [
            one.t_s / speed
            for one in vessels.records
            if one.device_id == device_id and one.t_s / speed <= window_s
        ]
        gaps_s = [after - before for before, after in itertools.pairwise(times_s)]
        assert times_s[0] < limit_s
        assert max(gaps_s) < limit_s
    (bus,) = liveliest(buses, 1)
    assert next(one.t_s for one in buses.records if one.device_id == bus) / speed < limit_s
