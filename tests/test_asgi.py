"""The same app under a stock Hypercorn, as a developer starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mosquitto import Mosquitto
from tests.publisher import Publisher
from tests.raw import Wire
from tests.serving import wait_until

pytestmark = pytest.mark.slow

DEADLINE_S = 20.0
WARNING = "tracker.asgi is for development only"


class Stock:
    """A running `hypercorn -k trio tracker.asgi:app`."""

    def __init__(self, directory: Path, mqtt_url: str, *flags: str) -> None:
        self._log = directory / "hypercorn.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRACKER_")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0"),
                    *(*flags, "tracker.asgi:app"),
                ],
                cwd=directory,
                env=inherited | {"TRACKER_MQTT__URL": mqtt_url},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """All that it wrote so far."""
        return self._log.read_text()

    @property
    def port(self) -> int:
        """Where it listens, once it says so."""
        listens = re.compile(r"Running on http://127\.0\.0\.1:(\d+)")
        wait_until(lambda: listens.search(self.log) is not None, f"listening: {self.log}")
        found = listens.search(self.log)
        assert found is not None
        return int(found[1])

    def get(self, path: str) -> bytes:
        """The body of an answer 200."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=DEADLINE_S) as r:
            return bytes(r.read())

    def end(self) -> None:
        """End it and its workers, whatever they do."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(DEADLINE_S)


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    """A stock server without a broker."""
    stock = Stock(tmp_path, "mqtt://127.0.0.1:1")
    yield stock
    stock.end()


def test_it_warns_once_and_answers(stock: Stock) -> None:
    assert json.loads(stock.get("/healthz")) == {"alive": True}
    assert json.loads(stock.get("/api/v1/stream/stats"))["active_subscribers"] == 0
    assert b"tracker_mqtt_connected 0.0" in stock.get("/metrics")
    assert stock.log.count(WARNING) == 1


def test_it_ends_in_order(stock: Stock) -> None:
    stock.get("/healthz")
    stock.process.send_signal(signal.SIGTERM)
    assert stock.process.wait(DEADLINE_S) == 0
    assert "Traceback" not in stock.log


@pytest.mark.mosquitto
def test_messages_come_through_on_both_transports(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        stock = Stock(tmp_path, broker.url)
        try:
            wait_until(
                lambda: json.loads(stock.get("/api/v1/stream/stats"))["mqtt_connected"],
                "subscribed",
            )
            with Wire(stock.port) as sse, Wire(stock.port) as websocket:
                target = "/api/v1/stream?device_ids=a"
                sse.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                websocket.send(
                    f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
                )
                wait_until(
                    lambda: (
                        json.loads(stock.get("/api/v1/stream/stats"))["active_subscribers"] == 2
                    ),
                    "both are subscribed",
                )
                payload = b'{"timestamp":1,"data":{"DEVICE_ID":"a","N":1.10}}'
                with Publisher(broker.port) as device:
                    device.publish("trackers/a", payload)
                head = sse.read_until(b"data: " + payload + b"\n\n")
                assert re.search(rb"\nevent: message\nid: [0-9a-z]+-1\ndata: .*\n\n$", head)
                head = websocket.read_until(b'"data":' + payload + b"}")
                assert re.search(rb'{"event":"message","id":"[0-9a-z]+-1","data":.*$', head)
        finally:
            stock.end()


def test_a_second_worker_is_refused(tmp_path: Path) -> None:
    """Each would feed only the clients that happen to be its own."""
    stock = Stock(tmp_path, "mqtt://127.0.0.1:1", "-w", "2")
    try:
        begun_s = time.monotonic()
        stock.process.wait(DEADLINE_S)
        assert time.monotonic() - begun_s < DEADLINE_S
        assert "tracker.asgi runs in one worker only: start it with `-w 1`" in stock.log
    finally:
        stock.end()
