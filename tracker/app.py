"""The composition root: what starts, in which order, and how it stops.

Start: hub, HTTP, MQTT last, so that whoever is told "ready" finds a gateway that is.
Stop: `/readyz` fails, MQTT stops, the clients are told to come back, spread over
`drain_s`; then every connection ends, whatever its peer does.

A fault in a part that cannot be restarted ends the process: never a half-dead server
that still answers. The MQTT side restarts itself (see `mqtt.link`).
"""

from __future__ import annotations

import logging
import random
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import trio
from hypercorn.config import Config

from tracker.collector import run_collector
from tracker.domain import event
from tracker.domain.errors import leaves
from tracker.domain.history import HistoryLimits
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.queue import Overflow, QueueLimits
from tracker.domain.reasons import CloseReason
from tracker.history_file import read_history, write_history
from tracker.logs import configure_logging
from tracker.metrics import Metrics
from tracker.mqtt.ingest import Ingest
from tracker.mqtt.link import Link
from tracker.readiness import Readiness
from tracker.server.serve import Server
from tracker.server.sockets import BindError
from tracker.settings import Settings, StreamSettings
from tracker.ticker import run_ticker
from tracker.upstream import consume_and_tell
from tracker.web.app import create_app
from tracker.web.view import GatewayView

log = logging.getLogger("tracker")

_OK = 0
_FAILED = 1

#: Beyond `drain_s`, and together below the 5 s that operators are told: what MQTT may take
#: to end, the peers to read our last words, and the history to be written.
_MQTT_END_S = 1.0
_LAST_WORDS_S = 1.5
_HISTORY_S = 1.5
#: Descriptors that are not for clients: listeners, broker, logs, the interpreter's own.
_RESERVED_FILES = 64
#: How far the clients of a planned stop are spread when they come back.
_RECONNECT_MS = (500, 5000)
_NOTICE_INTERVAL_S = 1.0


class StartError(Exception):
    """The gateway cannot start as its settings have it; the text names the one at fault."""


class Parts:
    """The parts of one gateway, wired; nothing runs yet.

    Raises: ValueError that names the setting at fault.
    """

    def __init__(self, settings: Settings) -> None:
        stream = settings.stream
        self.settings = settings
        self.hub = Hub(
            HubSettings(
                queue=QueueLimits(messages=stream.buffer_messages, total_bytes=stream.buffer_bytes),
                history=HistoryLimits(
                    messages=stream.history_messages,
                    age_s=stream.history_age_s,
                    total_bytes=stream.history_bytes,
                ),
                devices_limit=settings.api.devices_limit,
                overflow=Overflow(stream.overflow),
                latest_after=stream.latest_after_overflows,
                ping_s=stream.ping_s,
                version=version("tracker"),
            ),
            # Later lives have greater ones, which helps whoever reads logs.
            epoch=f"{time.time_ns() // 1_000_000:x}",
        )
        path = stream.history_file
        self._history_path = None if path is None else Path(path)
        self._is_whole = False
        self._restore_history()
        self.link = Link(settings.mqtt)
        self.ingest = Ingest(self.hub, coalesce_ms=stream.coalesce_ms)
        self.readiness = Readiness(self.link.state, grace_s=settings.api.ready_grace_s)
        self.metrics = Metrics(self.hub, self.ingest, self.link)
        self.web = create_app(
            GatewayView(
                hub=self.hub,
                api=settings.api,
                stream=stream,
                not_ready_reason=self.readiness.reason,
                is_draining=lambda: self.readiness.is_stopping,
                is_upstream_connected=lambda: self.link.state.value.is_subscribed,
                render_metrics=self.metrics.render,
                reconnect_after_ms=reconnect_after_ms,
            )
        )

    def _restore_history(self) -> None:
        if self._history_path is None:
            return
        restored = read_history(self._history_path)
        if restored is not None:
            mqtt = self.settings.mqtt
            # Only a broker that keeps our session keeps what came while we were away.
            self._is_whole = not mqtt.clean_session and mqtt.qos > 0
            self.hub.restore(
                restored.position, restored.messages, restored.losses, is_whole=self._is_whole
            )

    def messages_received(self) -> int:
        """MQTT messages taken in since the start."""
        return self.ingest.received

    def expect_broker(self) -> None:
        """Tell whoever comes that messages may be missing, until the broker is there.

        Not after a restart that the broker is to bridge. Idempotent.
        """
        if not self._is_whole:
            self.hub.note_upstream(is_lost=True)

    def keep_history(self) -> None:
        """Write the history, where the settings ask for it. Blocks."""
        if self._history_path is not None:
            write_history(self._history_path, self.hub)

    async def run_beside_http(self) -> None:
        """Run all but the HTTP side, until cancelled. Cancellation: says goodbye to MQTT."""
        stream = self.settings.stream
        self.expect_broker()
        if self._history_path is not None:
            # Before the first message: see `history_file`.
            self._history_path.unlink(missing_ok=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.readiness.watch)
            nursery.start_soon(self._tell_drops)
            nursery.start_soon(
                partial(run_ticker, self.hub, ping_s=stream.ping_s, heartbeat_s=stream.heartbeat_s)
            )
            nursery.start_soon(
                self.link.run, partial(consume_and_tell, self.hub, self.ingest.consume)
            )

    async def _tell_drops(self) -> None:
        """Tell the drops that were left over when the messages stopped."""
        while True:
            await trio.sleep(_NOTICE_INTERVAL_S)
            self.ingest.log_drops()


class Gateway:
    """A gateway that runs: where it listens, and how to stop it."""

    def __init__(self, urls: tuple[str, ...], stop: trio.Event) -> None:
        #: `http://127.0.0.1:8000` for each address.
        self.urls = urls
        self._stop = stop

    def stop(self) -> None:
        """Ask for the orderly end. Idempotent."""
        self._stop.set()


async def serve_gateway(
    settings: Settings, *, task_status: trio.TaskStatus[Gateway] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a gateway; return when it was stopped in order. Started with the Gateway.

    Raises: BindError; StartError; whatever a part dies of.
    Cancellation: ends at once, clients see a bare end.
    """
    try:
        parts = Parts(settings)
    except ValueError as error:
        raise StartError(str(error)) from error
    stop = trio.Event()
    files = raise_file_limit()
    server = Server(
        parts.web,
        hypercorn_config(settings),
        stall_s=settings.stream.stall_s,
        head_s=settings.http.read_head_timeout,
    )
    parts.metrics.server = server
    parts.expect_broker()
    async with trio.open_nursery() as nursery:
        urls: tuple[str, ...] = await nursery.start(server.serve)
        log.info(
            "tracker %s listens on %s, for up to %d connections (%d open files); MQTT from %s, %s",
            version("tracker"),
            ", ".join(urls),
            max(0, files - _RESERVED_FILES),
            files,
            parts.link.address,
            ", ".join(settings.mqtt.topics),
        )
        nursery.start_soon(run_collector, parts.messages_received, server.connection_changes)
        mqtt_scope, mqtt_ended = trio.CancelScope(), trio.Event()
        nursery.start_soon(_run_in, mqtt_scope, parts.run_beside_http, mqtt_ended)
        task_status.started(Gateway(urls, stop))
        await stop.wait()
        log.info("stopping: %d streams to end within %g s", *_drain_plan(parts))
        parts.readiness.stop()
        mqtt_scope.cancel()
        with trio.move_on_after(_MQTT_END_S) as ending:
            await mqtt_ended.wait()
            await parts.ingest.drain(parts.link.client)
        if ending.cancelled_caught:
            # What the broker has handed over will not come again, for a resume either.
            parts.hub.history.mark(parts.hub.sequence)
        await _drain(parts.hub, server, settings.stream)
        with trio.move_on_after(_HISTORY_S) as writing:
            await trio.to_thread.run_sync(parts.keep_history, abandon_on_cancel=True)
        if writing.cancelled_caught:
            log.error("the history was not written within %g s", _HISTORY_S)
        nursery.cancel_scope.cancel()
    log.info("stopped")


async def _run_in(
    scope: trio.CancelScope, run: Callable[[], Awaitable[None]], ended: trio.Event
) -> None:
    with scope:
        await run()
    ended.set()


def _drain_plan(parts: Parts) -> tuple[int, float]:
    return len(parts.hub.streams()), parts.settings.stream.drain_s


async def _drain(hub: Hub, server: Server, stream_settings: StreamSettings) -> None:
    """Send the clients away, spread over `drain_s`, and see the connections end."""
    begun_s = trio.current_time()
    streams = hub.streams()
    for index, stream in enumerate(streams):
        await trio.sleep_until(begun_s + stream_settings.drain_s * index / len(streams))
        stream.post(event.reconnect(reconnect_after_ms(), "shutdown"))
        stream.close(CloseReason.SHUTDOWN)
    await server.stop_keepalive()
    with trio.move_on_after(_LAST_WORDS_S):
        await server.wait_empty()


def reconnect_after_ms() -> int:
    """When a client that is sent away should come back: not all at once."""
    return random.randint(*_RECONNECT_MS)


def hypercorn_config(settings: Settings) -> Config:
    """Hypercorn's configuration for these settings."""
    http = settings.http
    config = Config()
    config.bind = list(http.bind)
    config.backlog = http.backlog
    config.certfile = http.certfile
    config.keyfile = http.keyfile
    config.keyfile_password = http.keyfile_password
    config.ca_certs = http.ca_certs
    config.ciphers = http.ciphers
    config.alpn_protocols = list(http.alpn_protocols)
    config.root_path = http.root_path
    config.keep_alive_timeout = http.keep_alive_timeout
    config.keep_alive_max_requests = http.keep_alive_max_requests
    config.ssl_handshake_timeout = http.ssl_handshake_timeout
    config.h11_max_incomplete_size = http.h11_max_incomplete_size
    config.h2_max_header_list_size = http.h11_max_incomplete_size
    config.websocket_max_message_size = settings.stream.client_message_bytes
    config.websocket_ping_interval = None  # the ticker's: one shared frame, no task each
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("tracker.server")
    return config


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def wait_for_stop_signal(
    *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Wait for SIGTERM or SIGINT; a second one ends the process at once.

    Started once a signal does nothing else any more.
    Cancellation: atomic; the signals are as they were.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            break
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


async def _serve_until_signal(settings: Settings) -> None:
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        # First: whoever reads that we listen may send a signal.
        await nursery.start(_set_on_signal, stopping)
        gateway: Gateway = await nursery.start(partial(serve_gateway, settings))
        await stopping.wait()
        gateway.stop()


async def _set_on_signal(stopping: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
    await wait_for_stop_signal(task_status=task_status)
    stopping.set()


def run(settings: Settings) -> int:
    """Run a gateway until a signal. Blocks. Returns the exit code: 0, or 1 after a fault."""
    exit_code = _OK
    with configure_logging(settings.log):
        try:
            trio.run(_serve_until_signal, settings)
        except* (BindError, StartError) as group:
            exit_code = _FAILED
            for error in leaves(group):
                log.critical("%s", error)
        except* Exception:
            exit_code = _FAILED
            log.critical("the gateway died", exc_info=True)
    return exit_code
