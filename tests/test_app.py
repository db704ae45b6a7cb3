"""The composition root: what starts, in which order, and how it stops, whatever anybody does."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import trio
from hypercorn.config import Config
from trio.testing import MockClock

from tests.event_stream import EventStream
from tests.fakes import FakeOutbox
from tests.gateway import make_settings
from tests.mosquitto import Mosquitto
from tests.peer import DEADLINE_S, connect, handshake, request_head
from tests.publisher import Publisher
from tests.serving import Serving
from tracker import app as app_module
from tracker.app import (
    Gateway,
    Parts,
    StartError,
    hypercorn_config,
    raise_file_limit,
    reconnect_after_ms,
    serve_gateway,
)
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.queue import QueueLimits
from tracker.domain.reasons import CloseReason
from tracker.domain.stream import Stream
from tracker.domain.transport import WEBSOCKET
from tracker.mqtt.link import Link
from tracker.readiness import Readiness
from tracker.server.serve import Server
from tracker.settings import StreamSettings

STREAM = "/api/v1/stream"
NO_BROKER = "mqtt://127.0.0.1:1"
#: What the issue promises beyond `drain_s`, whatever any client does.
STOP_S = 5.0


# The order


async def test_http_is_up_before_mqtt_and_goes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    record: list[str] = []
    link_runs = trio.Event()

    async def run_link(self: Link, consume: object) -> None:
        record.append("MQTT runs")
        link_runs.set()
        try:
            await trio.sleep_forever()
        finally:
            record.append("MQTT has stopped")

    serve, stop, stop_keepalive = Server.serve, Readiness.stop, Server.stop_keepalive

    async def serve_and_note(self: Server, *, task_status: trio.TaskStatus[object]) -> None:
        async with trio.open_nursery() as nursery:
            urls = await nursery.start(partial(serve, self))
            record.append("HTTP listens")
            task_status.started(urls)
            try:
                await trio.sleep_forever()
            finally:
                record.append("HTTP ends")

    def stop_and_note(self: Readiness) -> None:
        record.append("not ready")
        stop(self)

    async def stop_keepalive_and_note(self: Server) -> None:
        record.append("connections end")
        await stop_keepalive(self)

    close = Stream.close

    def close_and_note(self: Stream, reason: CloseReason) -> None:
        record.append(f"a stream is closed: {reason.value}")
        close(self, reason)

    monkeypatch.setattr(Link, "run", run_link)
    monkeypatch.setattr(Server, "serve", serve_and_note)
    monkeypatch.setattr(Readiness, "stop", stop_and_note)
    monkeypatch.setattr(Server, "stop_keepalive", stop_keepalive_and_note)
    monkeypatch.setattr(Stream, "close", close_and_note)
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            gateway: Gateway = await nursery.start(
                partial(serve_gateway, make_settings(stream={"drain_s": 0.2}))
            )
            await link_runs.wait()
            peer = await connect(int(gateway.urls[0].rpartition(":")[2]))
            await peer.open_websocket("a")
            gateway.stop()
            gateway.stop()
            frames = await peer.read_frames_to_end()
            await peer.close()
    # It came before the broker was there, and is told so.
    events = [json.loads(frame.payload)["event"] for frame in frames[:-1]]
    assert events == ["upstream", "reconnect"]
    assert frames[-1].code == 1012
    # MQTT's goodbye to its broker is not waited for, but no client is told before it has begun.
    assert record.index("not ready") < record.index("MQTT has stopped")
    record.remove("MQTT has stopped")
    assert record == [
        "HTTP listens",
        "MQTT runs",
        "not ready",
        "a stream is closed: shutdown",
        "connections end",
        "HTTP ends",
    ]


class _NoServer:
    """A server without connections."""

    async def stop_keepalive(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_empty(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_the_clients_are_sent_away_spread_over_the_drain(
    autojump_clock: MockClock,
) -> None:
    hub = Hub(HubSettings(queue=QueueLimits(), devices_limit=1))
    begun_s = trio.current_time()
    closed_s: list[float] = []
    outboxes = [FakeOutbox() for _ in range(8)]
    streams = [hub.open_stream(["a"], outbox, WEBSOCKET) for outbox in outboxes]
    for stream in streams:
        stream.on_close = lambda: closed_s.append(trio.current_time() - begun_s)
    streams[3].leave()  # it has left by itself meanwhile
    await app_module._drain(hub, _NoServer(), StreamSettings(drain_s=7.0))  # type: ignore[arg-type]
    assert closed_s == pytest.approx([0, 1, 2, 3, 4, 5, 6])
    hints = set()
    for number, outbox in enumerate(outboxes):
        if number == 3:
            assert outbox.written == b""
            continue
        event = json.loads(outbox.written[outbox.written.index(b"{") :])
        assert event["event"] == "reconnect"
        assert event["data"]["reason"] == "shutdown"
        hints.add(event["data"]["after_ms"])
    assert len(hints) > 1, "they would all come back at once"


def test_the_hint_is_within_bounds() -> None:
    hints = [reconnect_after_ms() for _ in range(500)]
    assert 500 <= min(hints) < 1500
    assert 4000 < max(hints) <= 5000


# Settings


def test_the_file_limit_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        assert raise_file_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_hypercorn_is_told_what_the_settings_say() -> None:
    http = {
        "bind": ("127.0.0.1:1", "[::1]:2"),
        "backlog": 7,
        "ciphers": "ECDHE+CHACHA20",
        "alpn_protocols": ("http/1.1",),
        "root_path": "/fleet",
        "keep_alive_timeout": 3.0,
        "keep_alive_max_requests": 4,
        "ssl_handshake_timeout": 5.0,
        "h11_max_incomplete_size": 2048,
    }
    config = hypercorn_config(make_settings(http=http, stream={"client_message_bytes": 99}))
    for name, value in http.items():
        assert getattr(config, name) == (list(value) if isinstance(value, tuple) else value)
    assert (config.websocket_max_message_size, config.websocket_ping_interval) == (99, None)
    assert (config.accesslog, config.include_server_header) == (None, False)
    assert config.h2_max_header_list_size == 2048
    assert isinstance(config, Config)


async def test_a_setting_that_a_part_refuses_is_named() -> None:
    settings = make_settings(mqtt={"clean_session": False})
    with pytest.raises(ValueError, match=r"^mqtt\.clean_session: "):
        Parts(settings)
    with pytest.raises(StartError, match=r"^mqtt\.clean_session: "):
        await serve_gateway(settings)


# As a process


def fault_of(patch: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run a gateway in which `patch` was done; its end."""
    script = f"""
import trio, sys
from tests.gateway import make_settings
from tracker import app
from tracker.mqtt.link import Link
from tracker.server import serve
{patch}
sys.exit(app.run(make_settings({", ".join(settings)})))
"""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE_S
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("app.run_ticker = fail", "RuntimeError('told to')"),
        ("Link.run = fail", "OSError('told to')"),
        ("serve.accept = fail", "ValueError('told to')"),
    ],
)
def test_a_part_that_dies_ends_the_process_with_its_traceback(part: str, error: str) -> None:
    """Never a half-dead server that still answers."""
    patch = f"""
async def fail(*_, **__):
    await trio.sleep(0.01)
    raise {error}
{part}
"""
    ended = fault_of(patch)
    assert ended.returncode == 1, ended.stderr
    assert "the gateway died" in ended.stderr
    assert "Traceback (most recent call last):" in ended.stderr
    assert error.replace("'", "").replace("(", ": ").replace(")", "") in ended.stderr


@pytest.mark.slow
def test_an_address_that_is_taken_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = fault_of("", f"http={{'bind': ('{address}',)}}")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.endswith(f"cannot listen on {address}: Address already in use")


@pytest.mark.slow
def test_a_setting_that_a_part_refuses_is_one_line_and_exit_code_1() -> None:
    ended = fault_of("", "mqtt={'clean_session': False}")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "mqtt.clean_session: " in line


@pytest.mark.slow
def test_one_line_says_what_listens_where_and_for_how_many(tmp_path: Path) -> None:
    with Serving(tmp_path, NO_BROKER, "--topic", "a/#", "--topic", "b/#") as serving:
        (line,) = serving.lines(" listens on http")
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert re.search(
            rf"tracker {re.escape(version('tracker'))} listens on"
            rf" http://127\.0\.0\.1:{serving.port}, for up to {hard - 64} connections"
            rf" \({hard} open files\); MQTT from {NO_BROKER}, a/#, b/#$",
            line,
        )
        limits = Path(f"/proc/{serving.pid}/limits").read_text()
        (limit,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
        assert limit.split()[3] == limit.split()[4] == str(hard)
        assert serving.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    with Serving(tmp_path, NO_BROKER) as serving:
        serving.process.send_signal(number)
        assert serving.wait_stopped() == 0
        assert len(serving.lines("stopping: 0 streams to end within 2 s")) == 1
        assert serving.lines("stopped")


def _open(
    stack: ExitStack, port: int, data: bytes, *, receive_buffer: int | None = None
) -> socket.socket:
    sock = stack.enter_context(socket.socket())
    sock.settimeout(DEADLINE_S)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    sock.sendall(data)
    return sock


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with (
        Serving(tmp_path, NO_BROKER, environment={"TRACKER_STREAM__DRAIN_S": "600"}) as serving,
        ExitStack() as stack,
    ):
        for _ in range(2):
            _open(stack, serving.port, handshake(f"{STREAM}?device_ids=a")).recv(4096)
        serving.wait_subscribers(2)
        serving.ask_to_stop()
        serving.wait_line("stopping: 2 streams")
        serving.ask_to_stop()
        assert serving.wait_stopped() == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.mosquitto
def test_it_stops_in_time_whatever_its_clients_do(tmp_path: Path) -> None:
    """Stalled, slow, idle, silent, half a head, half a handshake; and those who behave are told."""
    drain_s = 1.0
    websocket, sse = handshake(f"{STREAM}?device_ids=a"), request_head(f"{STREAM}?device_ids=a")
    with (
        Mosquitto(tmp_path) as broker,
        Serving(
            tmp_path, broker.url, environment={"TRACKER_STREAM__DRAIN_S": str(drain_s)}
        ) as serving,
        ExitStack() as stack,
    ):
        serving.wait_ready()
        rude = [
            _open(stack, serving.port, data, receive_buffer=4096)
            for data in (websocket, sse, b"", b"GET / HT", websocket[:-2], request_head("/"))
        ]
        serving.wait_subscribers(2)
        # More than the kernel and the queue hold: the first two are stalled.
        with Publisher(broker.port) as device:
            for number in range(300):
                device.publish(
                    "trackers/a", b'{"DEVICE_ID":"a","N":%d,"X":"%b"}' % (number, b"x" * 9000)
                )
        serving.wait_processed(300)
        serving.wait_until(
            lambda: serving.metric("tracker_messages_waiting") > 0, "messages wait for the stalled"
        )
        behaved = [_open(stack, serving.port, data) for data in (websocket, sse)]
        serving.wait_subscribers(4)
        begun_s = time.monotonic()
        serving.ask_to_stop()
        serving.wait_line("stopping: 4 streams to end within 1 s")
        status, body = serving.get("/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "the gateway is stopping")
        # who comes now is sent away at once
        late = _read_to_end(_open(stack, serving.port, sse))
        assert b"event: reconnect\n" in late
        for sock, data in zip(behaved, map(_read_to_end, behaved), strict=True):
            if sock is behaved[0]:
                assert b'{"event":"reconnect"' in data
                assert data.endswith(b"\x88\x02" + (1012).to_bytes(2, "big"))
            else:
                stream = EventStream()
                stream.feed(data.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n"))
                assert stream.retry_ms is not None
                assert data.endswith(b"\r\n0\r\n\r\n")
        assert serving.wait_stopped() == 0
        assert time.monotonic() - begun_s < drain_s + STOP_S
        assert "Traceback" not in serving.log
        assert len(rude) == 6


def _read_to_end(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data
