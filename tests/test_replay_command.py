"""`tracker replay` and `tracker record`, as processes, around a real broker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mosquitto import (
    Mosquitto,
    StartMosquitto,
    broker,
    free_port,
    start_mosquitto,
    write_password,
)
from tests.publisher import Publisher
from tests.terminal.pty import open_terminal
from tracker.replay import bundled_recordings

__all__ = ["broker", "start_mosquitto"]

DEADLINE_S = 30.0

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tracker", *arguments],
        input=stdin,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )


class Recording:
    """A running `tracker record`."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path) -> None:
        self.process = process
        self.file = file

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Send a signal; its exit code, and what it said."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, said.decode()

    def wait_lines(self, count: int) -> list[bytes]:
        """Wait until so many lines are in the file; return them."""
        deadline = time.monotonic() + DEADLINE_S
        while (lines := self.file.read_bytes().splitlines(keepends=True)).__len__() < count:
            assert time.monotonic() < deadline, lines
            time.sleep(0.01)
        return lines


@contextmanager
def recording(directory: Path, broker: Mosquitto, *arguments: str) -> Iterator[Recording]:
    """Record into a file; the block begins when something is recorded: a first report of `?`."""
    file = directory / "recording.ndjson"
    with file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tracker", "record", "--mqtt-url", broker.url, *arguments],
            stdout=output,
            stderr=subprocess.PIPE,
        )
    try:
        running = Recording(process, file)
        with Publisher(broker.port) as publisher:
            deadline = time.monotonic() + DEADLINE_S
            while not file.stat().st_size:
                assert time.monotonic() < deadline
                assert process.poll() is None, process.communicate()[1]
                publisher.publish("trackers/probe", b'{"DEVICE_ID":"probe","LAT":0,"LON":0}')
                time.sleep(0.05)
        yield running
    finally:
        process.kill()
        process.communicate()


def but_time(lines: list[bytes]) -> list[dict[str, object]]:
    """The reports, without their times and the probe's."""
    reports = [json.loads(line) for line in lines]
    return [
        {key: value for key, value in report.items() if key != "t"}
        for report in reports
        if report["id"] != "probe"
    ]


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    """The beginning of a bundled recording, as a plain file."""
    (_, buses) = bundled_recordings()
    file = tmp_path / "bus.ndjson"
    file.write_text(
        "".join(
            json.dumps(
                {
                    "t": record.t_s,
                    "id": record.device_id,
                    "lat": record.lat_deg,
                    "lon": record.lon_deg,
                    "speed": record.speed_m_s,
                    "heading": record.heading_deg,
                    **{key.lower(): value for key, value in record.extras.items()},
                }
            )
            + "\n"
            for record in buses.records[:200]
        )
    )
    return file


def test_what_is_replayed_is_recorded_again(broker: Mosquitto, bus: Path, tmp_path: Path) -> None:
    with recording(tmp_path, broker) as recorded:
        done = run("replay", str(bus), "--mqtt-url", broker.url, "--speed", "5000")
        assert done.returncode == 0
        assert done.stdout == b""
        assert (
            done.stderr.decode()
            .splitlines()[-1]
            .startswith("tracker replay: published 200 reports of 6 devices in ")
        )
        original = but_time(bus.read_bytes().splitlines())
        deadline = time.monotonic() + DEADLINE_S
        while len(but_time(recorded.file.read_bytes().splitlines())) < 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        code, said = recorded.end()
    assert code == 0
    assert said.startswith("tracker record: recorded 2")
    lines = recorded.file.read_bytes().splitlines()
    assert but_time(lines) == original
    times_s = [json.loads(line)["t"] for line in lines]
    assert times_s == sorted(times_s)
    assert times_s[0] == 0


def test_the_topic_is_a_pattern_and_standard_input_a_file(
    broker: Mosquitto, bus: Path, tmp_path: Path
) -> None:
    with recording(tmp_path, broker, "--topic", "fleet/+/gps", "--topic", "trackers/#") as recorded:
        first = bus.read_bytes().splitlines(keepends=True)[0]
        arguments = ("--mqtt-url", broker.url, "--topic", "fleet/{device_id}/gps", "--qos", "1")
        assert run("replay", "-", *arguments, stdin=first).returncode == 0
        deadline = time.monotonic() + DEADLINE_S
        while but_time(recorded.file.read_bytes().splitlines()) != but_time([first]):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_loop_goes_on_until_a_signal(broker: Mosquitto, bus: Path, tmp_path: Path) -> None:
    with recording(tmp_path, broker) as recorded:
        arguments = ["--mqtt-url", broker.url, "--speed", "100000", "--loop"]
        process = subprocess.Popen(
            [sys.executable, "-m", "tracker", "replay", str(bus), *arguments],
            stderr=subprocess.PIPE,
        )
        recorded.wait_lines(450)  # more than two rounds
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
        assert b"tracker replay: published " in said
        assert b"Traceback" not in said


def test_count_and_seconds_end_a_recording(broker: Mosquitto, tmp_path: Path) -> None:
    done = run("record", "--mqtt-url", broker.url, "--seconds", "0.5")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"tracker record: recorded 0 reports of 0 devices\n"
    with recording(tmp_path, broker, "--count", "3") as recorded, Publisher(broker.port) as device:
        while recorded.process.poll() is None:
            device.publish("trackers/A", b'{"DEVICE_ID":"A","LAT":0,"LON":0}')
            time.sleep(0.01)
        assert recorded.process.returncode == 0
        assert len(recorded.file.read_bytes().splitlines()) == 3


def test_a_broker_that_restarts(broker: Mosquitto, bus: Path, tmp_path: Path) -> None:
    """Both go on: the recording stands still meanwhile, and is published to its end."""
    environment = ["--mqtt-url", broker.url]
    with recording(tmp_path, broker) as recorded:
        process = subprocess.Popen(
            [sys.executable, "-m", "tracker", "replay", str(bus), *environment, "--speed", "400"],
            stderr=subprocess.PIPE,
        )
        try:
            recorded.wait_lines(30)
            broker.restart()
            last = json.loads(bus.read_bytes().splitlines()[-1])
            deadline = time.monotonic() + DEADLINE_S
            while True:
                assert time.monotonic() < deadline
                report = json.loads(recorded.wait_lines(30)[-1])
                if (report["id"], report["lat"]) == (last["id"], last["lat"]):
                    break
                time.sleep(0.05)
            _, said = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 0
        assert "tracker replay: no broker (" in said.decode()
        assert "tracker replay: the broker is back" in said.decode()
        code, said_of_record = recorded.end()
        assert code == 0
        assert "tracker record: no broker (" in said_of_record
        assert "tracker record: the broker is back" in said_of_record


def test_a_reader_that_has_enough(broker: Mosquitto) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tracker", "record", "--mqtt-url", broker.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    said = process.stderr.read()
    assert process.wait() == 0
    watchdog.cancel()
    watchdog.join()
    process.stderr.close()
    assert b"Traceback" not in said


@pytest.mark.parametrize("command", [("record",), ("replay", "FILE")])
def test_no_broker_to_begin_with(command: tuple[str, ...], bus: Path) -> None:
    port = free_port()
    arguments = [str(bus) if one == "FILE" else one for one in command]
    done = run(*arguments, "--mqtt-url", f"mqtt://127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        f"tracker {command[0]}: cannot use mqtt://127.0.0.1:{port}: connection refused: nothing "
        f"listens on port {port} of 127.0.0.1; check mqtt.url and that the broker runs\n"
    )


@pytest.mark.parametrize("command", [("record",), ("replay", "FILE")])
def test_a_wrong_password(
    start_mosquitto: StartMosquitto, tmp_path: Path, command: tuple[str, ...], bus: Path
) -> None:
    write_password(tmp_path / "passwords", "me", "right")
    broker = start_mosquitto(anonymous=False, extra=f"password_file {tmp_path / 'passwords'}")
    arguments = [str(bus) if one == "FILE" else one for one in command]
    done = run(*arguments, "--mqtt-url", f"mqtt://me:wrong@127.0.0.1:{broker.port}")
    assert done.returncode == 1
    assert "the broker refused the connection: wrong credentials" in done.stderr.decode()
    assert "wrong@" not in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("/nowhere",), "tracker replay: [Errno 2] No such file or directory: '/nowhere'"),
        (("-",), "tracker replay: standard input: no report in it; a line is {"),
        (("FILE", "--topic", "a/#"), "tracker replay: --topic 'a/#' is nothing to publish to"),
        (("FILE", "--topic", "a/{id}"), "expected a topic without + and #, in which {device_id}"),
        (("FILE", "--speed", "0"), "Invalid value for '--speed'"),
        (("FILE", "--mqtt-url", "http://a"), "1 problem in the settings:"),
        ((), "Missing argument 'FILE...'"),
    ],
)
def test_what_cannot_be_asked(arguments: tuple[str, ...], said: str, bus: Path) -> None:
    done = run("replay", *(str(bus) if one == "FILE" else one for one in arguments))
    assert done.returncode == 2
    assert said in done.stderr.decode()


async def test_the_bar_in_a_terminal(broker: Mosquitto, bus: Path) -> None:
    arguments = ("replay", str(bus), "--mqtt-url", broker.url, "--speed", "400")
    async with open_terminal(*arguments, columns=60) as terminal:
        await terminal.wait_for(lambda: "[#" in terminal.wrote)
        assert await terminal.wait_end() == 0
        shown = terminal.wrote.split("\r")
        assert all(len(one.replace("\x1b[K", "").rstrip("\n")) <= 80 for one in shown)
        assert "\r\x1b[K\r\x1b[Ktracker replay: published 200 reports" in terminal.wrote
        assert terminal.wrote.endswith(" messages/s\r\n")


def test_the_tools_never_take_the_gateways_identity(broker: Mosquitto, tmp_path: Path) -> None:
    """A second client with the gateway's id would evict it."""
    config = tmp_path / "tracker.toml"
    config.write_text('[mqtt]\nclient_id = "the-gateway"\nclean_session = false\n')
    done = run("record", "--config", str(config), "--mqtt-url", broker.url, "--seconds", "0.2")
    assert done.returncode == 0
    assert "as tracker-record-" in broker.log
    assert "the-gateway" not in broker.log
