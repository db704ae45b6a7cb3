"""README.md against the program: everything that it shows is run, and what it links is there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from playwright.sync_api import Page

from tests.browser import in_browser
from tests.fleet import next_heartbeat, next_message, open_fleet
from tests.mosquitto import Mosquitto, broker, free_port, start_mosquitto
from tests.nginx import run_nginx
from tests.snippets import ROOT, Document
from tests.tools import program
from tracker.cli import main
from tracker.config import load_settings
from tracker.replay import bundled_recordings
from tracker.settings import ApiSettings, StreamSettings

__all__ = ["broker", "start_mosquitto"]

README = Document("README.md")
DEADLINE_S = 20.0
SHOWN_ADDRESS = "127.0.0.1:8000"
NEWS = '{{"timestamp":1,"data":{{"DEVICE_ID":"{}","LAT":40.7,"LON":-74}}}}'

#: Which test runs which fence.
RUN_BY = {
    "tracker/": "test_diagram_names_paths_that_are_served",
    "Try it/sh": "test_make_targets",
    "Try it/sh 2": "test_make_targets",
    "Run it/sh": "test_serve_command",
    "The contract on one screen/js": "test_javascript",
    "The contract on one screen/html": "test_javascript_client",
    "From the terminal, and from Python/sh": "test_commands",
    "From the terminal, and from Python/python": "test_python",
    "Settings/toml": "test_settings",
    "Behind a proxy/nginx": "test_nginx",
}

pytestmark = pytest.mark.mosquitto


def test_every_fence_is_run() -> None:
    assert set(README.fences) == set(RUN_BY)
    assert set(RUN_BY.values()) <= set(globals())


def test_make_targets() -> None:
    """Each is in the Makefile, has a line in `make help`, and make knows how to build it."""
    shown = set(README.fence("Try it/sh").splitlines() + README.fence("Try it/sh 2").splitlines())
    named = {span for span in README.code_spans() if span.startswith("make ")}
    make = program("make")
    listed = subprocess.run(
        [make, "--no-print-directory", "help"],
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=True,
    ).stdout  # fmt: skip
    targets = {" ".join(line.split()[:2]) for line in listed.splitlines()}
    assert shown == {"make demo", "make test"}
    assert shown | named <= targets
    for command in shown | named:
        subprocess.run(
            [make, "--dry-run", *shlex.split(command)[1:]],
            cwd=ROOT, capture_output=True, timeout=DEADLINE_S, check=True,
        )  # fmt: skip


def test_serve_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    install, serve = README.fence("Run it/sh").splitlines()
    assert install == "pip install ."
    assert (ROOT / "pyproject.toml").is_file()
    words = shlex.split(serve)
    assert words[:2] == ["tracker", "serve"]
    checked = CliRunner().invoke(main, ["check-config", *words[2:]])
    assert checked.exit_code == 0, checked.output
    assert 'url = "mqtt://user:***@broker.example:1883"' in checked.output
    assert 'bind = ["0.0.0.0:8000"]' in checked.output


async def test_curl_readyz(broker: Mosquitto) -> None:
    (line,) = {span for span in README.code_spans() if span.startswith("curl ")}
    words = shlex.split(line)
    words[0] = program("curl")
    async with open_fleet(broker) as fleet:
        words[-1] = words[-1].replace(SHOWN_ADDRESS, f"127.0.0.1:{fleet.port}")
        assert await _output(words) == b'{"ready":true}'
        broker.kill()
        await fleet.wait_not_ready()
        assert b'"reason":"' in await _output(words)


async def _output(command: list[str]) -> bytes:
    with trio.fail_after(DEADLINE_S):
        process = await trio.run_process([*command, "--silent"], capture_stdout=True)
    return bytes(process.stdout)


@pytest.mark.browser
@pytest.mark.slow
async def test_javascript(broker: Mosquitto) -> None:
    script = README.fence("The contract on one screen/js")
    vessel, bus = re.findall(r"device_ids=(\w+),(\w+)", script)[0]
    async with open_fleet(broker) as fleet:
        assert script.count(SHOWN_ADDRESS) == 1
        script = script.replace(SHOWN_ADDRESS, f"127.0.0.1:{fleet.port}")

        def visit(page: Page) -> list[str]:
            with page.expect_console_message() as first:
                page.add_script_tag(content=script)
                trio.from_thread.run(fleet.wait_subscribed, 2)
                trio.from_thread.run(fleet.publish, "trackers/x", NEWS.format(vessel))
            with page.expect_console_message() as second:
                trio.from_thread.run(fleet.publish, "trackers/x", NEWS.format(bus))
            return [first.value.text, second.value.text]

        assert await in_browser(visit) == [f"{vessel} 40.7 -74", f"{bus} 40.7 -74"]


@pytest.mark.browser
@pytest.mark.slow
async def test_javascript_client(broker: Mosquitto) -> None:
    (script,) = re.findall(
        r'<script type="module">(.*)</script>',
        README.fence("The contract on one screen/html"),
        re.S,
    )
    device_ids = re.findall(r'"(\d+)"', script)
    assert len(device_ids) == 2
    async with open_fleet(broker) as fleet:

        def visit(page: Page) -> list[str]:
            page.goto(f"http://127.0.0.1:{fleet.port}/healthz")
            page.add_script_tag(content=script, type="module")
            trio.from_thread.run(fleet.wait_subscribed, 2)
            said = []
            for device_id in device_ids:
                with page.expect_console_message(lambda said: said.type == "log") as message:
                    trio.from_thread.run(fleet.publish, "trackers/x", NEWS.format(device_id))
                said.append(message.value.text)
            return said

        # A browser asks every site for its icon.
        said = await in_browser(visit, tolerate="404")
        assert said == [f"{each} 40.7 -74" for each in device_ids]


def test_devices_of_the_javascript_are_in_the_demo() -> None:
    ids = re.findall(r"device_ids=(\w+),(\w+)", README.fence("The contract on one screen/js"))[0]
    for device_id, recording in zip(ids, bundled_recordings(), strict=True):
        assert device_id in {record.device_id for record in recording.records}


def test_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is taken as it is shown, and each has a row that says what it does."""
    monkeypatch.chdir(tmp_path)
    shown = []
    for line in README.fence("From the terminal, and from Python/sh").splitlines():
        program_name, name, *arguments = shlex.split(re.sub(r" >>? \S+$", "", line))
        assert program_name == "tracker"
        with main.commands[name].make_context(name, arguments):
            shown.append(name)
    explained = [row[0].strip("`") for row in README.rows("From the terminal, and from Python")]
    assert list(dict.fromkeys(shown)) == explained


async def test_python(broker: Mosquitto, tmp_path: Path) -> None:
    script = README.fence("From the terminal, and from Python/python")
    assert script.count(SHOWN_ADDRESS) == 1
    async with open_fleet(broker) as fleet:
        file = tmp_path / "shown.py"
        file.write_text(script.replace(SHOWN_ADDRESS, f"127.0.0.1:{fleet.port}"))
        process = await trio.lowlevel.open_process(
            [sys.executable, "-u", str(file)], stdout=subprocess.PIPE, cwd=ROOT
        )
        try:
            with trio.fail_after(DEADLINE_S):
                await fleet.wait_subscribed(2)
                await fleet.publish("trackers/x", NEWS.format("4836"))
                assert process.stdout is not None
                async with process.stdout:
                    assert await process.stdout.receive_some() == b"4836 40.7 -74\n"
        finally:
            process.kill()
            with trio.move_on_after(DEADLINE_S, shield=True):
                await process.wait()


def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "tracker.toml"
    shown = README.fence("Settings/toml")
    path.write_text(shown, encoding="utf-8")
    loaded = load_settings(environ={}, config_file=path)
    assert loaded.settings.mqtt.url == "mqtts://broker.example:8883"
    assert loaded.warnings == ()
    # the line that is commented out is one too
    secret = tmp_path / "password"
    secret.write_text("secret")
    path.write_text(re.sub(r"^# (password_file = )\"[^\"]+\"", rf'\1"{secret}"', shown, flags=re.M))
    loaded = load_settings(environ={}, config_file=path)
    assert loaded.sources["mqtt.password_file"] == str(path)


def test_settings_named_in_the_text() -> None:
    for span in README.code_spans():
        if match := re.fullmatch(r"(api|mqtt|stream|http|log)\.(\w+)( = .+)?", span):
            assert match[0].partition(" ")[0] in load_settings(environ={}).sources


async def test_paths(broker: Mosquitto) -> None:
    rows = [row for row in README.rows("The contract on one screen") if len(row) == 2]
    paths = [path.strip("`") for path, _ in rows]
    assert len(paths) == 7
    async with open_fleet(broker) as fleet:
        answers = {path: (await fleet.request(path)).status for path in paths}
    assert answers == dict.fromkeys(paths, 200) | {"/api/v1/devices": 404}
    async with open_fleet(broker, api=ApiSettings(devices=True, page=False)) as fleet:
        answers = {path: (await fleet.request(path)).status for path in paths}
    assert answers == dict.fromkeys(paths, 200) | {"/": 404}


async def test_diagram_names_paths_that_are_served(broker: Mosquitto) -> None:
    paths = re.findall(r"/api/\S+", README.fence("tracker/"))
    assert len(paths) == 3
    async with open_fleet(broker) as fleet:
        for path in paths:
            peer = await fleet.connect()
            await peer.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await peer.read_head()).status == 200


@pytest.mark.nginx
async def test_nginx(tmp_path: Path, broker: Mosquitto) -> None:
    """The upgrade; events that nginx does not hold back, not even those that it compresses;
    heartbeats; and a client that leaves.
    """
    port = free_port()
    async with open_fleet(broker, stream=StreamSettings(heartbeat_s=0.2)) as fleet:
        shown = README.fence("Behind a proxy/nginx")
        for old, new in {
            "listen 80;": f"listen 127.0.0.1:{port};",
            SHOWN_ADDRESS: f"127.0.0.1:{fleet.port}",
        }.items():
            assert shown.count(old) == 1
            shown = shown.replace(old, new)
        with run_nginx(tmp_path, shown, port):
            socket, events, squeezed = [await fleet.connect(port) for _ in range(3)]
            assert (await socket.open_websocket("A")).status == 101
            assert (await events.open_sse("A")).headers["content-type"] == "text/event-stream"
            head = await squeezed.open_sse("A", "Accept-Encoding: gzip")
            assert head.headers["content-encoding"] == "gzip"
            await fleet.wait_subscribed(3)
            await next_heartbeat(socket, events)
            # The stream goes on behind it: what arrives here was not held back for its end.
            await fleet.publish("trackers/a", NEWS.format("A"))
            await next_message(socket, events)
            gunzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
            arrived = b""
            while b"event: message\n" not in arrived:
                arrived += gunzip.decompress(await squeezed.read_chunk())
            fleet.forget_peers()
            await fleet.wait_unsubscribed()


@pytest.mark.slow
def test_stock_server(tmp_path: Path) -> None:
    """Shown in the last section: with the file that this repository has."""
    (line,) = [span for span in README.code_spans() if span.startswith("hypercorn -c")]
    port = free_port()
    config = (ROOT / "hypercorn.toml").read_text().replace(SHOWN_ADDRESS, f"127.0.0.1:{port}")
    (tmp_path / "hypercorn.toml").write_text(config)
    process = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(line)],
        cwd=tmp_path,
        env=os.environ | {"TRACKER_MQTT__URL": f"mqtt://127.0.0.1:{free_port()}"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it has a process of its own for the server
    )
    try:
        subprocess.run(
            [
                program("curl"), "--silent", "--fail", "--retry", "40", "--retry-connrefused",
                "--retry-delay", "1", f"http://127.0.0.1:{port}/healthz",
            ],
            check=True, timeout=DEADLINE_S, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
