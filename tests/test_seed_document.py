"""The document that the users of the service before this one work by: each snippet, unchanged.

tests/data/seed.md is that document to the byte, as it came with this project. Its snippets ask
localhost:8000, which may be another program's here: so the browser, curl and Python are told
where that address leads, and the snippets are not touched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
import trio
from playwright.sync_api import ConsoleMessage, Page

from tests.browser import in_browser, wait_in
from tests.mosquitto import Mosquitto
from tests.publisher import Publisher
from tests.raw import (
    HANDSHAKE,
    Position,
    Wire,
    close_frame,
    event_block,
    event_text,
    open_websocket,
    parse_head,
    read_head,
    text_frame,
)
from tests.react import bundle
from tests.serving import Serving, wait_until
from tests.snippets import Document
from tests.tools import program
from tracker.settings import Settings

pytestmark = pytest.mark.mosquitto

SEED = Document("tests/data/seed.md")

#: Which test runs which fence.
RUN_BY = {
    "URL del Endpoint/": "test_the_urls",
    "Ejemplo en JavaScript/TypeScript/javascript": "test_javascript_websocket",
    "Ejemplo en Python (websockets library)/python": "test_python_websockets",
    "Ejemplo en React/jsx": "test_react",
    "Endpoint de Estadísticas/bash": "test_the_request_for_statistics",
    "Endpoint de Estadísticas/json": "test_the_request_for_statistics",
    "Mensaje de Datos/json": "test_the_data_message",
    "Mensaje Keep-Alive (Ping)/json": "test_the_keep_alive_message",
    "Mensaje de Error/json": "test_the_error_message",
    "Límites de Cola/python": "test_the_limit_of_a_queue",
    "Backpressure Automático/": "test_the_warning",
    "Usando curl + websocat/bash": "test_curl_handshake",
    "SSE (Antiguo)/javascript": "test_javascript_before_and_after",
    "WebSocket (Nuevo)/javascript": "test_javascript_before_and_after",
    "Retrocompatibilidad/bash": "test_curl_sse",
    "El WebSocket se desconecta inmediatamente/javascript": "test_the_urls",
    "No llegan mensajes/bash": "test_the_start_line",
    "No llegan mensajes/bash 2": "test_curl_statistics",
    "Mensajes se pierden (backpressure)/": "test_the_warning",
}
#: Why which fence is not run.
NOT_RUN = {
    "Componentes/": "a drawing of the parts of the service before this one",
    "Usando websocat (CLI)/bash": (
        "installs a program from a place that Debian 12 has not got; its URL is that of curl's "
        "handshake, which is run"
    ),
}

T = TypeVar("T")

DEVICE = "0848086072"
PAYLOADS = [
    b'{"timestamp":"2024-12-11T10:30:00Z","data":{"DEVICE_ID":"0848086072","LAT":-33.4567}}',
    b'{"timestamp":"2024-12-11T10:30:01Z","data":{"DEVICE_ID":"0848086072","SPEED":45,"X":[{}]}}',
]
NEWS = [json.loads(payload) for payload in PAYLOADS]

# Where a name leads, and without a proxy between.
DIRECT = {"no_proxy": "localhost", "NO_PROXY": "localhost"}


def test_every_fence_is_run_or_its_reason_named() -> None:
    assert sorted([*RUN_BY, *NOT_RUN]) == sorted(SEED.fences)
    assert set(RUN_BY.values()) <= set(globals())


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture
def device(mosquitto: Mosquitto) -> Iterator[Publisher]:
    with Publisher(mosquitto.port) as publisher:
        yield publisher


ENVIRONMENT = {"TRACKER_STREAM__PING_S": "0.5", "TRACKER_STREAM__DRAIN_S": "0.1"}


@pytest.fixture
def own_gateway(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Serving]:
    """One that the test may stop."""
    with Serving(tmp_path, mosquitto.url, environment=ENVIRONMENT) as gateway:
        yield gateway.wait_ready()


@pytest.fixture(scope="module")
def shared_gateway(
    mosquitto: Mosquitto, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("gateway")
    with Serving(directory, mosquitto.url, environment=ENVIRONMENT) as gateway:
        yield gateway.wait_ready()


@pytest.fixture
def gateway(shared_gateway: Serving) -> Serving:
    """One without clients, that others have used before."""
    shared_gateway.wait_subscribers(0)
    return shared_gateway


def publish_news(device: Publisher) -> None:
    """What a client of `DEVICE` gets, and something that it does not."""
    device.publish("trackers/x", PAYLOADS[0])
    device.publish("trackers/x", PAYLOADS[0].replace(DEVICE.encode(), b"another"))
    device.publish("trackers/x", PAYLOADS[1])


# In a browser


async def in_browser_at(gateway: Serving, visit: Callable[[Page], T]) -> T:
    """`in_browser`, where localhost:8000 leads to a gateway."""
    rule = f"--host-resolver-rules=MAP localhost:8000 127.0.0.1:{gateway.port}"
    # The icon that a browser asks for.
    return await in_browser(visit, tolerate="status of 404", arguments=(rule,))


def open_origin(page: Page) -> list[list[object]]:
    """Show an empty page of the gateway's own origin; returns what is printed there."""
    printed: list[list[object]] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "log":
            printed.append([argument.json_value() for argument in message.args])

    page.goto("http://localhost:8000/healthz")
    page.set_content('<div id="root"></div>')
    page.on("console", on_console)
    return printed


@pytest.mark.browser
@pytest.mark.slow
async def test_javascript_websocket(own_gateway: Serving, device: Publisher) -> None:
    script = SEED.fence("Ejemplo en JavaScript/TypeScript/javascript")
    keep_alive: list[object] = ["💓 Keep-alive"]

    def visit(page: Page) -> list[list[object]]:
        printed = open_origin(page)
        page.add_script_tag(content=script)
        own_gateway.wait_subscribers(2)
        publish_news(device)
        wait_in(page, lambda: keep_alive in printed)
        wait_in(page, lambda: ["📡 Datos recibidos:", NEWS[-1]] in printed)
        own_gateway.ask_to_stop()
        wait_in(page, lambda: printed[-1][0] == "🔌 WebSocket cerrado:")
        return printed

    printed = await in_browser_at(own_gateway, visit)
    assert [line for line in printed if line != keep_alive] == [
        ["✅ WebSocket conectado"],
        ["📡 Datos recibidos:", NEWS[0]],
        ["📡 Datos recibidos:", NEWS[1]],
        ["🔌 WebSocket cerrado:", 1012, ""],
    ]
    assert own_gateway.wait_stopped() == 0


@pytest.mark.browser
@pytest.mark.slow
async def test_javascript_before_and_after(gateway: Serving, device: Publisher) -> None:
    """The same page, before it was migrated and after: what it prints is the same."""

    def visit(page: Page, key: str) -> list[list[object]]:
        printed = open_origin(page)
        page.add_script_tag(content=SEED.fence(key))
        gateway.wait_subscribers(1)
        publish_news(device)
        wait_in(page, lambda: len(printed) >= len(NEWS))
        return printed

    for key in ("SSE (Antiguo)/javascript", "WebSocket (Nuevo)/javascript"):
        printed = await in_browser_at(gateway, partial(visit, key=key))
        assert printed == [[message] for message in NEWS]
        gateway.wait_subscribers(0)


@pytest.mark.browser
@pytest.mark.npm
@pytest.mark.slow
async def test_react(own_gateway: Serving, device: Publisher, tmp_path: Path) -> None:
    directory = tmp_path / "react"
    directory.mkdir()
    element = f'<DeviceStream deviceIds={{["{DEVICE}", "0848086073"]}} />'
    script = await trio.to_thread.run_sync(
        bundle, directory, SEED.fence("Ejemplo en React/jsx"), element
    )
    other = PAYLOADS[0].replace(DEVICE.encode(), b"0848086073")

    def visit(page: Page) -> list[list[object]]:
        printed = open_origin(page)
        page.add_script_tag(content=script)
        page.get_by_text("Estado: 🟢 Conectado", exact=True).wait_for()
        own_gateway.wait_subscribers(2)
        publish_news(device)
        device.publish("trackers/x", other)
        items = page.locator("li")
        wait_in(page, lambda: items.count() >= 3)
        assert list(map(json.loads, items.all_inner_texts())) == [*NEWS, json.loads(other)]
        own_gateway.ask_to_stop()
        page.get_by_text("Estado: 🔴 Desconectado", exact=True).wait_for()
        return printed

    printed = await in_browser_at(own_gateway, visit)
    assert printed == [["✅ WebSocket conectado"], ["🔌 Desconectado"]]


# In a terminal


class Program:
    """A running command whose output goes to a file; it ends with its block."""

    def __init__(self, output: Path, process: subprocess.Popen[bytes]) -> None:
        self._output = output
        self.process = process

    @property
    def printed(self) -> bytes:
        """What it has printed so far."""
        return self._output.read_bytes()

    def wait_printed(self, ending: bytes) -> bytes:
        """Wait until what it printed ends so; return all of it."""
        wait_until(lambda: self.printed.endswith(ending), f"{self._output} ends with {ending!r}")
        return self.printed


@contextmanager
def run(directory: Path, *command: str, **environment: str) -> Iterator[Program]:
    """Run a command, and kill it and its children in the end."""
    output = directory / "printed"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            env=os.environ | DIRECT | environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield Program(output, process)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself
        process.wait()


@contextmanager
def run_curl(key: str, directory: Path, gateway: Serving) -> Iterator[Program]:
    """Run a fence that is a shell command; its curl finds a gateway at localhost:8000."""
    program("curl")
    (directory / ".curlrc").write_text(
        f'silent\nconnect-to = "localhost:8000:127.0.0.1:{gateway.port}"\n'
    )
    command = (program("bash"), "-c", SEED.fence(key))
    with run(directory, *command, CURL_HOME=str(directory)) as running:
        yield running


@pytest.mark.slow
def test_python_websockets(gateway: Serving, device: Publisher, tmp_path: Path) -> None:
    # What `site` imports before any program.
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "look_up = socket.getaddrinfo\n"
        "def lead(host, port, *others, **named):\n"
        "    if (host, port) == ('localhost', 8000):\n"
        f"        host, port = '127.0.0.1', {gateway.port}\n"
        "    return look_up(host, port, *others, **named)\n"
        "socket.getaddrinfo = lead\n"
    )
    script = tmp_path / "snippet.py"
    script.write_text(SEED.fence("Ejemplo en Python (websockets library)/python"), "utf-8")
    command = (sys.executable, "-X", "utf8", "-u", str(script))
    with run(tmp_path, *command, PYTHONPATH=str(tmp_path)) as running:
        gateway.wait_subscribers(1)
        publish_news(device)
        wait_until(lambda: b"Keep-alive" in running.printed, "a keep-alive")
        wait_until(lambda: b"SPEED" in running.printed, "the second message")
        lines = running.printed.decode().splitlines()
    assert [line for line in lines if line != "💓 Keep-alive"] == [
        "✅ WebSocket conectado",
        *(f"📡 Datos recibidos: {message}" for message in NEWS),
    ]


def rising_ids(ids: list[bytes]) -> list[bytes]:
    """The ids, which part B adds to what the document shows: each is later than the last."""
    positions = [Position.of(event_id) for event_id in ids]
    assert all(later.is_after(sooner) for sooner, later in pairwise(positions))
    return ids


def test_curl_handshake(gateway: Serving, device: Publisher, tmp_path: Path) -> None:
    program("openssl")
    with run_curl("Usando curl + websocat/bash", tmp_path, gateway) as curl:
        gateway.wait_subscribers(1)
        publish_news(device)
        wait_until(lambda: PAYLOADS[1] in curl.printed, "the second message")
        head, _, body = curl.printed.partition(b"\r\n\r\n")
    status, headers = parse_head(head)
    assert (status, headers["upgrade"].lower()) == ("HTTP/1.1 101", "websocket")
    assert re.fullmatch(r"[A-Za-z0-9+/]{27}=", headers["sec-websocket-accept"])
    ping = text_frame(b'{"event":"ping","data":{"type":"keep-alive"}}')
    ids = rising_ids(re.findall(rb'"id":"([^"]*)"', body))
    frames = [
        text_frame(event_text(b"message", payload, event_id))
        for payload, event_id in zip(PAYLOADS, ids, strict=True)
    ]
    assert body.replace(ping, b"") == b"".join(frames)


def test_curl_sse(own_gateway: Serving, device: Publisher, tmp_path: Path) -> None:
    with run_curl("Retrocompatibilidad/bash", tmp_path, own_gateway) as curl:
        own_gateway.wait_subscribers(1)
        publish_news(device)
        wait_until(lambda: PAYLOADS[1] in curl.printed, "the second message")
        own_gateway.ask_to_stop()
        # curl ends with the stream, and finds its end a proper one
        assert curl.process.wait(20) == 0
        printed = curl.printed
    printed = printed.replace(b'event: ping\ndata: {"type":"keep-alive"}\n\n', b"")
    start, *ids = rising_ids(re.findall(rb"^id: (.*)$", printed, re.M))
    events = b"id: %b\n\n" % start + b"".join(
        event_block(b"message", payload, event_id)
        for payload, event_id in zip(PAYLOADS, ids, strict=True)
    )
    assert printed.startswith(events)
    assert re.fullmatch(rb"retry: \d+\nevent: reconnect\ndata: .*\n\n", printed[len(events) :])


def test_curl_statistics(gateway: Serving, tmp_path: Path) -> None:
    with run_curl("No llegan mensajes/bash 2", tmp_path, gateway) as curl:
        assert curl.process.wait(20) == 0
        keys = list(json.loads(curl.printed))
    assert keys[:3] == list(json.loads(SEED.fence("Endpoint de Estadísticas/json")))


# On the wire


def compact(key: str) -> bytes:
    """A fence of JSON on one line."""
    return json.dumps(json.loads(SEED.fence(key)), separators=(",", ":")).encode()


def test_the_urls(gateway: Serving) -> None:
    (documented,) = SEED.fence("URL del Endpoint/").splitlines()
    bad, good = re.findall(
        r"^ws://.*$", SEED.fence("El WebSocket se desconecta inmediatamente/javascript"), re.M
    )
    streams = {documented: 2, good: 1, bad: 0}
    for url, subscribers in streams.items():
        parts = urlsplit(url)
        assert (parts.scheme, parts.netloc) == ("ws", "localhost:8000")
        with Wire(gateway.port) as wire:
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            wire.send(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{HANDSHAKE}\r\n".encode())
            assert read_head(wire)[0] == "HTTP/1.1 101"
            if subscribers:
                gateway.wait_subscribers(subscribers)
            else:
                error = text_frame(compact("Mensaje de Error/json"))
                assert wire.read_to_end() == error + close_frame(1008)
        gateway.wait_subscribers(0)


def test_the_request_for_statistics(gateway: Serving) -> None:
    method, path = SEED.fence("Endpoint de Estadísticas/bash").split()
    assert method == "GET"
    status, body = gateway.get(path)
    shown = json.loads(SEED.fence("Endpoint de Estadísticas/json"))
    assert status == 200
    answer = json.loads(body)
    assert list(answer)[: len(shown)] == list(shown)
    assert [type(answer[key]) for key in shown] == [int] * 3
    rows = [cells[0].strip("`") for cells in SEED.rows("Métricas Disponibles")]
    assert rows == list(shown)


def test_the_data_message(gateway: Serving, device: Publisher) -> None:
    shown = SEED.fence("Mensaje de Datos/json")
    assert shown.count(",\n      ...\n") == 1  # what it leaves out
    message = json.loads(shown.replace(",\n      ...\n", "\n"))
    payload = json.dumps(message["data"]).encode()
    with open_websocket(gateway.port, f"?device_ids={DEVICE}") as wire:
        gateway.wait_subscribers(1)
        device.publish("trackers/x", payload)
        while (text := wire.read_frame()[1]) == compact("Mensaje Keep-Alive (Ping)/json"):
            pass
    (event_id,) = rising_ids(re.findall(rb'"id":"([^"]*)"', text))
    assert text == event_text(b"message", payload, event_id)
    assert json.loads(text) == {**message, "id": event_id.decode()}


def test_the_keep_alive_message(gateway: Serving) -> None:
    with open_websocket(gateway.port, f"?device_ids={DEVICE}") as wire:
        expected = text_frame(compact("Mensaje Keep-Alive (Ping)/json"))
        assert wire.read(len(expected)) == expected


def test_the_error_message(gateway: Serving) -> None:
    with open_websocket(gateway.port, "") as wire:
        expected = text_frame(compact("Mensaje de Error/json")) + close_frame(1008)
        assert wire.read_to_end() == expected


def test_the_limit_of_a_queue() -> None:
    """The line itself is the inside of another program; its number is a default here."""
    found = re.search(r"maxsize=(\d+)", SEED.fence("Límites de Cola/python"))
    assert found is not None
    assert int(found[1]) == Settings().stream.buffer_messages


def test_the_warning(gateway: Serving, device: Publisher) -> None:
    whole = SEED.fence("Backpressure Automático/").strip()
    begun = SEED.fence("Mensajes se pierden (backpressure)/").strip()
    assert whole.startswith(begun)
    with open_websocket(gateway.port, "?device_ids=X", receive_buffer_bytes=4096):
        gateway.wait_subscribers(1)
        payload = b'{"DEVICE_ID":"X","PAD":"%b"}' % (b"x" * 1000)
        for _ in range(300):
            device.publish("trackers/x", payload)
        assert gateway.wait_line(whole)


def test_the_start_line(gateway: Serving) -> None:
    found = re.search(r'"(.+)"', SEED.fence("No llegan mensajes/bash"))
    assert found is not None
    assert gateway.wait_line(found[1]).endswith(found[1])
