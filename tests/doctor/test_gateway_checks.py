"""Gateways and proxies that are broken on purpose, and what the doctor says of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.doctor.deployment import examined, run_device, started_gateway
from tests.mosquitto import Mosquitto, StartMosquitto, free_port, write_password
from tests.mqtt.conftest import Certificates
from tests.nginx import run_nginx
from tracker.doctor.finding import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]

UPGRADE = """
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection "upgrade";
"""
BUFFERING = """
    proxy_buffering on;
    proxy_ignore_headers X-Accel-Buffering;
"""


@contextmanager
def nginx(directory: Path, *lines: str, listen: str = "") -> Iterator[str]:
    """nginx with these lines in its `server` block; gives its address, `127.0.0.1:port`."""
    port = free_port()
    server = "\n".join([f"server {{ listen 127.0.0.1:{port} {listen};", *lines, "}"])
    with run_nginx(directory, server, port):
        yield f"127.0.0.1:{port}"


def location(gateway_url: str, *lines: str, path: str = "/") -> str:
    return "\n".join([f"location {path} {{ proxy_pass {gateway_url};", *lines, "}"])


@pytest.fixture
async def gateway_url(broker: Mosquitto, nursery: trio.Nursery) -> str:
    """A gateway in order, with a device that reports."""
    nursery.start_soon(run_device, broker.port)
    return await started_gateway(nursery, broker.url)


async def test_the_gateway_is_down(broker: Mosquitto) -> None:
    port = free_port()
    found = await examined(f"http://127.0.0.1:{port}", broker.url, wait_s=0.1)
    assert found.failed == ["topic", "URL"]
    assert found["URL"].detail == (
        f"connection refused: nothing listens on port {port} of 127.0.0.1"
    )
    assert "that the gateway, or the proxy before it, runs" in found["URL"].remedy
    assert found["SSE"].detail == "not checked yet: needs the URL"


async def test_an_unknown_host(broker: Mosquitto) -> None:
    found = await examined("http://nowhere.invalid", broker.url, wait_s=0.1)
    assert found["URL"].detail.startswith("unknown host 'nowhere.invalid' (")
    assert found["URL"].remedy == "check the host in the URL, and the resolver"


async def test_a_gateway_without_its_broker(broker: Mosquitto, nursery: trio.Nursery) -> None:
    port = free_port()
    nursery.start_soon(run_device, broker.port)
    url = await started_gateway(nursery, f"mqtt://127.0.0.1:{port}", is_ready=False)
    found = await examined(url, broker.url)
    assert found.failed == ["gateway ready"]
    assert found["gateway ready"].detail.startswith("it says: MQTT: ")
    assert "its broker" in found["gateway ready"].remedy
    assert found["delivery by SSE"].detail == "not checked yet: needs the gateway to be ready"
    nursery.cancel_scope.cancel()


async def test_a_gateway_on_other_topics(broker: Mosquitto, nursery: trio.Nursery) -> None:
    nursery.start_soon(run_device, broker.port)
    url = await started_gateway(nursery, broker.url, mqtt={"topics": ("elsewhere/#",)})
    found = await examined(url, broker.url)
    assert found.failed == ["delivery by WebSocket", "delivery by SSE"]
    for check in found.failed:
        assert "did not come out of the gateway within 5 s" in found[check].detail
        assert "tracker check-config" in found[check].remedy
    nursery.cancel_scope.cancel()


async def test_who_may_not_publish_is_told_so(
    start_mosquitto: StartMosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    write_password(tmp_path / "passwords", "doc", "pw")
    (tmp_path / "acl").write_text(
        "topic readwrite trackers/#\n"
        "user doc\ntopic read trackers/#\ntopic readwrite trackers/d/#\n"
    )
    broker = start_mosquitto(
        extra=f"password_file {tmp_path / 'passwords'}\nacl_file {tmp_path / 'acl'}"
    )
    nursery.start_soon(run_device, broker.port)
    url = await started_gateway(nursery, broker.url)
    mqtt_url = f"mqtt://doc:pw@127.0.0.1:{broker.port}"
    found = await examined(url, mqtt_url)
    assert found.failed == []
    for check in ("delivery by WebSocket", "delivery by SSE"):
        assert found[check].outcome is Outcome.NOT_APPLICABLE
        assert "published to 'trackers/tracker-doctor': the user 'doc' may not publish there" in (
            found[check].detail
        )
        assert "--publish-topic" in found[check].remedy
    found = await examined(url, mqtt_url, publish_topic="trackers/d/1")
    assert found["delivery by SSE"].outcome is Outcome.PASSED
    found = await examined(url, mqtt_url, may_publish=False)
    assert found["delivery by SSE"].detail == "--no-publish leaves it out"
    nursery.cancel_scope.cancel()


# Proxies


@pytest.mark.nginx
async def test_a_proxy_in_order(
    gateway_url: str, broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    with nginx(tmp_path, location(gateway_url, UPGRADE)) as address:
        found = await examined(f"http://{address}", broker.url)
    assert found.failed == []
    assert found["delivery by SSE"].detail.startswith("a message came through ")
    nursery.cancel_scope.cancel()


@pytest.mark.nginx
async def test_a_proxy_that_buffers(
    gateway_url: str, broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    with nginx(tmp_path, location(gateway_url, UPGRADE, BUFFERING)) as address:
        found = await examined(f"http://{address}", broker.url)
    assert len(found.failed) == 1
    assert found.failed[0] in ("SSE", "delivery by SSE")
    assert "proxy_buffering off; gzip off;" in found[found.failed[0]].remedy
    assert found["delivery by WebSocket"].outcome is Outcome.PASSED
    nursery.cancel_scope.cancel()


@pytest.mark.nginx
async def test_a_proxy_that_does_not_pass_the_upgrade_on(
    gateway_url: str, broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    with nginx(tmp_path, location(gateway_url)) as address:
        found = await examined(f"http://{address}", broker.url)
    assert found.failed == ["WebSocket"]
    assert found["WebSocket"].detail == (
        "answered as if no WebSocket had been asked for (text/event-stream)"
    )
    assert "proxy_set_header Upgrade $http_upgrade" in found["WebSocket"].remedy
    assert found["delivery by WebSocket"].detail == "not checked yet: needs WebSocket"
    assert found["delivery by SSE"].outcome is Outcome.PASSED
    nursery.cancel_scope.cancel()


@pytest.mark.nginx
async def test_a_wrong_path(
    gateway_url: str, broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    found = await examined(f"{gateway_url}/fleet", broker.url)
    assert found.failed == ["gateway ready"]
    assert found["gateway ready"].remedy == f"use the URL {gateway_url}"
    with nginx(tmp_path, location(f"{gateway_url}/", UPGRADE, path="/fleet/")) as address:
        found = await examined(f"http://{address}", broker.url)
        assert found.failed == ["gateway ready"]
        assert found["gateway ready"].detail == f"http://{address}/readyz answered 404"
        assert "check the path in the URL" in found["gateway ready"].remedy
        assert (await examined(f"http://{address}/fleet", broker.url)).failed == []
    nursery.cancel_scope.cancel()


@pytest.mark.nginx
async def test_a_proxy_that_shows_the_stream_alone(
    gateway_url: str, broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    shown = location(gateway_url, UPGRADE, path="= /api/v1/stream")
    with nginx(tmp_path, shown) as address:
        found = await examined(f"http://{address}", broker.url)
    assert found.failed == []
    assert found["gateway ready"].detail.endswith("the gateway is there: a proxy hides that path")
    nursery.cancel_scope.cancel()


@pytest.mark.nginx
async def test_a_proxy_without_a_gateway_behind_it(broker: Mosquitto, tmp_path: Path) -> None:
    with nginx(tmp_path, location(f"http://127.0.0.1:{free_port()}", UPGRADE)) as address:
        found = await examined(f"http://{address}", broker.url, wait_s=0.1)
    assert found.failed == ["topic", "gateway ready"]
    assert found["gateway ready"].detail == (
        f"http://{address}/readyz answered 502: a proxy is there, but no gateway behind it"
    )
    assert "`tracker serve` runs" in found["gateway ready"].remedy


@pytest.mark.nginx
async def test_a_proxy_that_redirects(broker: Mosquitto, tmp_path: Path) -> None:
    with nginx(tmp_path, "location / { return 301 https://fleet.example$request_uri; }") as address:
        found = await examined(f"http://{address}", broker.url, wait_s=0.1)
    assert found.failed == ["topic", "gateway ready"]
    assert found["gateway ready"].remedy == (
        "use the URL that it points to: https://fleet.example/readyz"
    )


@pytest.mark.nginx
async def test_a_proxy_that_asks_for_a_password(
    gateway_url: str, broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    (tmp_path / "htpasswd").write_text("me:{PLAIN}secret\n")
    auth = f"auth_basic fleet; auth_basic_user_file {tmp_path / 'htpasswd'};"
    with nginx(tmp_path, location(gateway_url, UPGRADE, auth)) as address:
        found = await examined(f"http://{address}", broker.url)
        assert found.failed == ["gateway ready"]
        assert "https://user:password@host" in found["gateway ready"].remedy
        found = await examined(f"http://me:secret@{address}", broker.url)
        assert found.failed == []
        assert all("secret" not in finding.detail for finding in found.all)
    nursery.cancel_scope.cancel()


@pytest.mark.nginx
async def test_tls(
    gateway_url: str,
    broker: Mosquitto,
    tmp_path: Path,
    certificates: Certificates,
    nursery: trio.Nursery,
) -> None:
    keys = f"ssl_certificate {certificates.server}; ssl_certificate_key {certificates.server_key};"
    ca_file = str(certificates.ca)
    with nginx(tmp_path, keys, location(gateway_url, UPGRADE), listen="ssl http2") as address:
        found = await examined(f"https://{address}", broker.url)
        assert found.failed == ["URL"]
        assert found["URL"].detail.startswith("the certificate of 127.0.0.1 is not trusted: ")
        assert "--ca-file FILE" in found["URL"].remedy
        found = await examined(f"https://{address}", broker.url, ca_file=ca_file)
        assert found.failed == []
        assert ", certificate valid until " in found["URL"].detail
        assert found["HTTP/2"].outcome is Outcome.PASSED
        found = await examined(f"http://{address}", broker.url)
        assert found.failed == ["gateway ready"]
    with nginx(tmp_path, keys, location(gateway_url, UPGRADE), listen="ssl") as address:
        found = await examined(f"https://{address}", broker.url, ca_file=ca_file)
        assert found.failed == ["HTTP/2"]
        assert "listen 443 ssl http2" in found["HTTP/2"].remedy
    nursery.cancel_scope.cancel()


async def test_https_where_there_is_none(
    gateway_url: str, broker: Mosquitto, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as servers:
        listeners = await servers.start(
            partial(trio.serve_tcp, _answer_in_the_clear, 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        found = await examined(f"https://127.0.0.1:{port}", broker.url)
        servers.cancel_scope.cancel()
    assert found.failed == ["URL"]
    assert found["URL"].detail.startswith(f"no TLS on port {port} of 127.0.0.1 (")
    assert "use http://" in found["URL"].remedy
    nursery.cancel_scope.cancel()


async def _answer_in_the_clear(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def test_something_that_speaks_no_http(broker: Mosquitto) -> None:
    url = f"http://127.0.0.1:{broker.port}"
    found = await examined(url, broker.url, wait_s=0.1)
    assert found.failed == ["topic", "gateway ready"]
    assert found["gateway ready"].detail == (
        f"{url}/readyz: the connection was closed without an answer"
    )


# Idle connections


async def cutting_proxy(target: str, idle_s: float, *, task_status: trio.TaskStatus[str]) -> None:
    """A TCP proxy that cuts what is idle."""
    host, _, port = target.removeprefix("http://").partition(":")

    async def pump(
        source: trio.SocketStream, sink: trio.SocketStream, ends: trio.CancelScope
    ) -> None:
        while True:
            with trio.move_on_after(idle_s) as waiting:
                data = await source.receive_some()
            if waiting.cancelled_caught or not data:
                ends.cancel()
                return
            await sink.send_all(data)

    async def handle(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream(host, int(port))
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(pump, server, client, nursery.cancel_scope)
            while data := await client.receive_some():
                await server.send_all(data)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        task_status.started(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")


async def test_a_proxy_that_cuts_idle_connections(broker: Mosquitto, nursery: trio.Nursery) -> None:
    nursery.start_soon(run_device, broker.port)
    stream = {"ping_s": 2.0, "heartbeat_s": 100.0}
    url = await started_gateway(nursery, broker.url, stream=stream)
    proxy_url = await nursery.start(cutting_proxy, url, 1.0)
    found = await examined(proxy_url, broker.url, hold_s=5.0)
    assert found.failed == ["idle WebSocket", "idle SSE"]
    for check in found.failed:
        assert found[check].detail.startswith("cut after ")
        assert "proxy_read_timeout" in found[check].remedy
    found = await examined(url, broker.url, hold_s=5.0)
    assert found.failed == []
    assert found["idle SSE"].detail.startswith("held for 5 s; keep-alives came (")
    nursery.cancel_scope.cancel()


async def test_a_connection_on_which_no_keep_alive_comes(
    gateway_url: str, broker: Mosquitto, nursery: trio.Nursery
) -> None:
    found = await examined(gateway_url, broker.url, hold_s=0.5)
    assert found.failed == ["idle WebSocket", "idle SSE"]
    assert found["idle SSE"].detail == "held for 0.5 s, but no keep-alive of the gateway came"
    nursery.cancel_scope.cancel()
