"""docs/es/migracion.md: its snippets are run, and every name of its tables is looked up.

The snippets that come from the document of the service before this one are run unchanged but for
the port; they are its users' programs.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner
from playwright.sync_api import Page

import tracker.app
from tests.browser import in_browser, wait_in
from tests.docs.names import dotted_names, look_up
from tests.fleet import Fleet, open_fleet
from tests.mosquitto import Mosquitto, free_port
from tests.react import bundle
from tests.snippets import Document
from tests.tools import program
from tracker.cli import main
from tracker.domain.notices import DropNotices
from tracker.mqtt.link import STARTED
from tracker.settings import ApiSettings, StreamSettings

GUIDE = Document("docs/es/migracion.md")
SHOWN_ADDRESS = "localhost:8000"
DEADLINE_S = 20.0
DEVICE = "0848086072"
NEWS = f'{{"timestamp":"2024-12-11T10:30:00Z","data":{{"DEVICE_ID":"{DEVICE}","SPEED":45}}}}'

#: Which test runs which fence.
RUN_BY = {
    "El cambio mínimo/javascript": "test_both_ways_print_the_same",
    "El cambio mínimo/javascript 2": "test_both_ways_print_the_same",
    "Reconectar/javascript": "test_reconnecting",
    "Todos los eventos de la conexión/javascript": "test_all_events",
    "React/jsx": "test_react",
    "Python/python": "test_python",
    "Probar desde la terminal/bash": "test_curl_sse",
    "Probar desde la terminal/bash 2": "test_curl_handshake",
    "Probar desde la terminal/bash 3": "test_curl_statistics",
    "Del lado del servidor/sh": "test_serve_command",
}

pytestmark = pytest.mark.mosquitto


def test_every_fence_is_run() -> None:
    assert set(GUIDE.fences) == set(RUN_BY)
    assert set(RUN_BY.values()) <= set(globals())


def shown(key: str, port: int) -> str:
    """A fence that asks the gateway on `port`."""
    text = GUIDE.fence(key)
    assert text.count(SHOWN_ADDRESS) == 1
    return text.replace(SHOWN_ADDRESS, f"127.0.0.1:{port}")


@pytest.mark.browser
@pytest.mark.slow
async def test_both_ways_print_the_same(broker: Mosquitto) -> None:
    # A page without an address of its own, `about:blank`, has the origin `null`.
    async with open_fleet(broker, api=ApiSettings(cors_origins=("*",))) as fleet:
        sse = shown("El cambio mínimo/javascript", fleet.port)
        websocket = shown("El cambio mínimo/javascript 2", fleet.port)

        def visit(page: Page) -> list[object]:
            printed: list[object] = []
            page.on("console", lambda message: printed.append(message.args[0].json_value()))
            page.add_script_tag(content=sse)
            page.add_script_tag(content=websocket)
            trio.from_thread.run(fleet.wait_subscribed, 2)
            trio.from_thread.run(fleet.publish, "trackers/x", NEWS)
            wait_in(page, lambda: len(printed) == 2)
            return printed

        assert await in_browser(visit) == [json.loads(NEWS)] * 2


@pytest.mark.browser
@pytest.mark.slow
async def test_all_events(broker: Mosquitto) -> None:
    stream = StreamSettings(ping_s=0.3, drain_s=0.1)
    async with open_fleet(broker, stream=stream) as fleet:
        script = shown("Todos los eventos de la conexión/javascript", fleet.port)

        def visit(page: Page) -> list[str]:
            printed: list[str] = []
            page.on("console", lambda message: printed.append(message.text))

            def wait_for(text: str) -> None:
                wait_in(page, lambda: any(text in line for line in printed))

            page.add_script_tag(content=script)
            trio.from_thread.run(fleet.wait_subscribed, 2)
            trio.from_thread.run(fleet.publish, "trackers/x", NEWS)
            wait_for("📡")
            wait_for("💓")
            trio.from_thread.run_sync(fleet.gateway.stop)
            wait_for("🔌")
            return list(dict.fromkeys(line[:30] for line in printed))

        printed = await in_browser(visit)
    assert sorted(printed) == sorted(
        [
            "✅ WebSocket conectado",
            "📡 Datos recibidos: {timestamp:"[:30],
            "💓 Keep-alive",
            "🔌 WebSocket cerrado: 1012 "[:30],
        ]
    )


@pytest.mark.browser
@pytest.mark.slow
async def test_reconnecting(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back after a planned stop, and after a cut; not after it was told to leave."""
    monkeypatch.setattr(tracker.app, "_RECONNECT_MS", (10, 20))
    port = free_port()
    script = shown("Reconectar/javascript", port)
    printed: list[str] = []
    has_printed = trio.Event()
    is_left = trio.Event()

    def visit(page: Page) -> None:
        def note(text: str) -> None:
            nonlocal has_printed
            printed.append(text)
            has_printed.set()
            has_printed = trio.Event()

        def on_console(message: object) -> None:
            if getattr(message, "type", "") == "log":
                trio.from_thread.run_sync(note, getattr(message, "text", ""))

        page.on("console", on_console)
        page.add_script_tag(content=script)
        wait_in(page, is_left.is_set)
        page.evaluate("dejarDeSeguir()")

    async def see_one_message(fleet: Fleet) -> None:
        await fleet.wait_subscribed(2)
        arrived = has_printed
        await fleet.publish("trackers/x", NEWS)
        with trio.fail_after(DEADLINE_S):
            await arrived.wait()

    async with trio.open_nursery() as nursery:
        async with open_fleet(broker, port=port) as fleet:
            nursery.start_soon(partial(in_browser, visit, tolerate="WebSocket connection"))
            await see_one_message(fleet)
            fleet.gateway.stop()
            await fleet.wait_stopped()
        for _ in range(2):
            async with open_fleet(broker, port=port) as fleet:
                await see_one_message(fleet)
        async with open_fleet(broker, port=port) as fleet:
            await see_one_message(fleet)
            is_left.set()
            await fleet.wait_unsubscribed()
    assert [line.split()[0] for line in printed] == [DEVICE] * 4


@pytest.mark.browser
@pytest.mark.npm
@pytest.mark.slow
async def test_react(tmp_path: Path, broker: Mosquitto) -> None:
    async with open_fleet(broker) as fleet:
        component = shown("React/jsx", fleet.port)
        element = f'<DeviceStream deviceIds={{["{DEVICE}"]}} />'
        script = await trio.to_thread.run_sync(bundle, tmp_path, component, element)

        def visit(page: Page) -> list[str]:
            page.set_content('<div id="root"></div>')
            page.add_script_tag(content=script)
            page.get_by_text("🟢 Conectado").wait_for()
            trio.from_thread.run(fleet.wait_subscribed)
            trio.from_thread.run(fleet.publish, "trackers/x", NEWS)
            page.locator("li").wait_for()
            trio.from_thread.run_sync(fleet.gateway.stop)
            page.get_by_text("🔴 Desconectado").wait_for()
            return page.locator("li").all_inner_texts()

        assert await in_browser(visit) == [NEWS]


async def test_python(broker: Mosquitto) -> None:
    async with open_fleet(broker) as fleet:
        script = shown("Python/python", fleet.port)
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                [sys.executable, "-X", "utf8", "-u", "-c", script],
                stdout=-1,
                check=False,
            )
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            await fleet.wait_subscribed()
            await fleet.publish("trackers/x", NEWS)
            printed = ""
            with trio.fail_after(DEADLINE_S):
                while "📡" not in printed or not printed.endswith("\n"):
                    printed += (await process.stdout.receive_some()).decode()
            process.kill()
    lines = [line for line in printed.splitlines() if "💓" not in line]
    assert lines == ["✅ WebSocket conectado", f"📡 Datos recibidos: {json.loads(NEWS)}"]


async def until(process_line: str, wanted: bytes, fleet: Fleet) -> bytes:
    """Run a shell command, publish once it is subscribed, and read until `wanted` has come."""
    command = [program("bash"), "-c", f"exec {process_line}"]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(trio.run_process, command, stdout=-1, stderr=-3, check=False)
        )
        assert process.stdout is not None
        await fleet.wait_subscribed()
        await fleet.publish("trackers/x", NEWS)
        arrived = b""
        with trio.fail_after(DEADLINE_S):
            while wanted not in arrived:
                data = await process.stdout.receive_some()
                assert data, arrived
                arrived += data
        process.kill()
    return arrived


async def test_curl_sse(broker: Mosquitto) -> None:
    program("curl")
    async with open_fleet(broker) as fleet:
        line = shown("Probar desde la terminal/bash", fleet.port)
        await until(line, f"\ndata: {NEWS}\n\n".encode(), fleet)


async def test_curl_handshake(broker: Mosquitto) -> None:
    program("curl")
    program("openssl")
    async with open_fleet(broker) as fleet:
        line = shown("Probar desde la terminal/bash 2", fleet.port)
        answer = await until(line, f'"data":{NEWS}}}'.encode(), fleet)
        assert answer.startswith(b"HTTP/1.1 101 ")


async def test_curl_statistics(broker: Mosquitto) -> None:
    async with open_fleet(broker) as fleet:
        words = shlex.split(shown("Probar desde la terminal/bash 3", fleet.port))
        process = await trio.run_process([program("curl"), "-s", *words[1:]], capture_stdout=True)
        keys = list(json.loads(process.stdout))
    (row,) = [row for row in GUIDE.rows("Del lado del servidor") if "stats" in row[0]]
    assert keys[:3] == re.findall(r"`(\w+)`", row[1])


def test_serve_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(GUIDE.fence("Del lado del servidor/sh"))
    assert words[:2] == ["tracker", "serve"]
    assert CliRunner().invoke(main, ["check-config", *words[2:]]).exit_code == 0


# The table from the old names to the new ones


@pytest.mark.parametrize("name", dotted_names(GUIDE.code_spans()))
def test_new_names(name: str) -> None:
    look_up(name)


def test_every_old_name_is_there() -> None:
    old = {
        span
        for row in GUIDE.rows("Del lado del servidor")
        for span in re.findall(r"`([^`]+)`", row[0])
    }
    assert old >= {
        *("WebSocketBroker", "WebSocketBroker.subscribe(maxsize)", "asyncio.Queue(maxsize=100)"),
        *("start_mqtt_broker_bridge", "mqtt_message_handler", "MQTTClient", "_on_message"),
        *("register_message_callback", "unregister_message_callback", "_message_callbacks"),
        *("GET /api/v1/stream/stats", STARTED),
    }


def test_names_of_the_api_and_of_the_log() -> None:
    notices = DropNotices()
    notices.count("X")
    (line,) = notices.due(0.0)
    spans = GUIDE.code_spans()
    assert {line, STARTED} <= set(spans)


def test_settings_named_in_the_text() -> None:
    named = {span for span in GUIDE.code_spans() if re.fullmatch(r"(stream|api)\.\w+", span)}
    assert named == {"stream.buffer_messages", "stream.buffer_bytes", "api.cors_origins"}
    for name in named:
        branch, _, leaf = name.partition(".")
        assert leaf in {"stream": StreamSettings, "api": ApiSettings}[branch].__struct_fields__
