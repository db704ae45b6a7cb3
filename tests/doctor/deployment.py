"""A deployment to be examined: broker, devices, gateway; each in order, or broken on purpose."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

from tests.gateway import make_settings
from tests.publisher import Publisher
from tracker.app import Gateway, serve_gateway
from tracker.broker import ToolBroker
from tracker.doctor.examination import DoctorOptions, examine
from tracker.doctor.finding import Finding, Outcome
from tracker.settings import MqttSettings
from tracker.watch.address import parse_gateway
from tracker.watch.dial import default_ssl_context

DEADLINE_S = 30.0
CHECKS = (
    "broker",
    "credentials",
    "topic",
    "URL",
    "gateway ready",
    "clock",
    "HTTP/2",
    "WebSocket",
    "SSE",
    "delivery by WebSocket",
    "delivery by SSE",
    "idle WebSocket",
    "idle SSE",
)
PAYLOAD = b'{"DEVICE_ID":"A","LAT":1,"LON":2}'


class Findings:
    """What a doctor found, by the names of its checks."""

    def __init__(self, findings: list[Finding]) -> None:
        assert tuple(finding.check for finding in findings) == CHECKS
        self.all = findings
        for finding in findings:
            assert (finding.outcome is Outcome.FAILED) <= bool(finding.remedy), finding

    def __getitem__(self, check: str) -> Finding:
        return next(finding for finding in self.all if finding.check == check)

    def of(self, outcome: Outcome) -> list[str]:
        """The checks with an outcome."""
        return [finding.check for finding in self.all if finding.outcome is outcome]

    @property
    def failed(self) -> list[str]:
        """The checks that failed."""
        return self.of(Outcome.FAILED)

    @property
    def passed(self) -> list[str]:
        """The checks that passed."""
        return self.of(Outcome.PASSED)


async def examined(
    url: str,
    mqtt_url: str,
    *,
    mqtt: Mapping[str, Any] | None = None,
    ca_file: str | None = None,
    **options: Any,
) -> Findings:
    """What the doctor finds."""
    settings = MqttSettings(url=mqtt_url, **(mqtt or {}))
    asked = DoctorOptions(url=url, mqtt=settings, ca_file=ca_file, **{"wait_s": 1.0, **options})
    context: ssl.SSLContext | None = default_ssl_context(ca_file) if ca_file else None
    findings: list[Finding] = []
    with trio.fail_after(DEADLINE_S):
        await examine(
            asked,
            parse_gateway(url),
            ToolBroker(settings, "doctor"),
            context,
            report=findings.append,
            doing=lambda what: None,
        )
    return Findings(findings)


async def run_device(port: int, payload: bytes = PAYLOAD, topic: str = "trackers/A") -> None:
    """A device that reports every 50 ms, until cancelled."""
    with Publisher(port) as publisher:
        while True:
            publisher.publish(topic, payload)
            await trio.sleep(0.05)


async def started_gateway(
    nursery: trio.Nursery,
    mqtt_url: str,
    *,
    is_ready: bool = True,
    **branches: Mapping[str, Any],
) -> str:
    """Start a gateway in `nursery`, wait until it is subscribed, and return its URL."""
    mqtt = {"url": mqtt_url, "reconnect_min_s": 0.1, **branches.pop("mqtt", {})}
    settings = make_settings(mqtt=mqtt, **branches)
    gateway: Gateway = await nursery.start(partial(serve_gateway, settings))
    url = gateway.urls[0]
    if is_ready:
        deadline = time.monotonic() + DEADLINE_S
        while (await _ready_status(url)) != b"200":
            assert time.monotonic() < deadline
            await trio.sleep(0.01)
    return url


async def _ready_status(url: str) -> bytes:
    address = parse_gateway(url)
    stream = await trio.open_tcp_stream(address.host, address.port)
    async with stream:
        await stream.send_all(b"GET /readyz HTTP/1.0\r\n\r\n")
        return bytes(await stream.receive_some())[9:12]
