"""An MQTT broker of our own, for the demo and for tests: iotcore behind a small seam.

    async with open_broker() as broker:
        ...  # any MQTT 3.1.1 client: broker.host, broker.port

iotcore is a broker in Rust without a way to stop it, so it runs in a child process. Three
promises are kept here, whatever happens to us:

- It listens on 127.0.0.1 and nowhere else. It knows no passwords.
- It is bounded: the log that it keeps for each topic filter is capped, oldest out first.
- It never outlives us. Leaving the block kills the child (it holds nothing worth saving).
  Should we die without leaving, by SIGKILL even, the kernel closes our end of the pipe that
  is the child's standard input, and the child ends on that. PR_SET_PDEATHSIG would not do: it
  follows the *thread* that started the child, and Trio starts processes from threads that
  come and go.

The child leads a session of its own: Ctrl-C in a terminal must reach it through us, or the
broker would be gone before those who use it.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import trio

__all__ = ["BrokerError", "EmbeddedBroker", "open_broker"]

HOST = "127.0.0.1"
START_LIMIT_S = 15.0  # it takes 0.1 s; a loaded machine gets a hundred times that
POLL_S = 0.02
REAP_LIMIT_S = 5.0
LAST_LINES = 20  # of its output are kept, to be quoted when it dies

log = logging.getLogger(__name__)

# Each topic filter has a commit log of its own, so this is what one of them may hold. The
# default of 100 MiB a segment makes the broker grow for as long as the demo runs.
SEGMENT_BYTES = 1024 * 1024
SEGMENTS = 8
# Above the gateway's own limit of 64 KiB: it must be the gateway that refuses what is too
# large. At its default of 20 KiB the broker would cut the device off.
PAYLOAD_LIMIT_BYTES = 1024 * 1024

CONFIGURATION = """\
id = 0

[router]
id = 0
max_connections = 10000
max_outgoing_packet_count = 200
max_segment_size = {segment_bytes}
max_segment_count = {segments}

[v4.1]
name = "embedded"
listen = "{host}:{port}"
next_connection_delay_ms = 0

[v4.1.connections]
connection_timeout_ms = 10000
max_payload_size = {payload_limit_bytes}
max_inflight_count = 200
dynamic_filters = true
"""

# What runs in the child: argument 1 is the configuration. iotcore reads it from a file, which
# the child removes before it serves, so that nothing stays behind however it ends.
# The end of standard input is read with `os.read`, not through a buffered file, whose lock
# would abort the interpreter's own shutdown after an error.
# rumqttd's trace spans arrive as records, several for every packet, some of them as ERROR.
CHILD = """\
import logging, os, sys, tempfile, threading

def end_with_parent():
    while os.read(0, 512):
        pass
    os._exit(0)

threading.Thread(target=end_with_parent, daemon=True).start()
logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
for name in ("rumqttd", "tracing"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

from iotcore import IotCoreBroker

with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
    file.write(sys.argv[1])
    file.flush()
    broker = IotCoreBroker(config_path=file.name)
broker.run_forever()
"""


class BrokerError(Exception):
    """The embedded broker cannot start, or ended by itself."""


class EmbeddedBroker:
    """A running broker. Made by `open_broker`."""

    def __init__(self, process: trio.Process, port: int, chatter: _Chatter) -> None:
        self.host = HOST
        self.port = port
        self._process = process
        self._chatter = chatter

    @property
    def url(self) -> str:
        """Where clients connect, for example `mqtt://127.0.0.1:40123`."""
        return f"mqtt://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    async def watch(self) -> NoReturn:
        """Wait until the broker ends by itself.

        Raises: BrokerError, when it has.
        Cancellation: atomic; the broker goes on.
        """
        await self._process.wait()
        raise self._obituary("ended by itself")

    async def _wait_ready(self) -> None:
        """Return once it accepts a connection.

        Raises: BrokerError, when it ended instead, or took too long.
        Cancellation: atomic.
        """
        with trio.move_on_after(START_LIMIT_S):
            while self._process.returncode is None:
                try:
                    stream = await trio.open_tcp_stream(self.host, self.port)
                except OSError:
                    await trio.sleep(POLL_S)
                else:
                    await stream.aclose()
                    return
            raise self._obituary("did not start")
        raise BrokerError(
            f"the embedded MQTT broker did not listen on {self.host}:{self.port} "
            f"within {START_LIMIT_S:g} s"
        )

    def _obituary(self, what: str) -> BrokerError:
        # The pipe ends with the child, so its last words are all there.
        self._chatter.join()
        said = "; ".join(self._chatter.last) or "it said nothing"
        return BrokerError(
            f"the embedded MQTT broker on {self.host}:{self.port} {what} "
            f"(exit status {self._process.returncode}): {said}"
        )


@asynccontextmanager
async def open_broker(*, port: int = 0) -> AsyncIterator[EmbeddedBroker]:
    """Run an MQTT broker on 127.0.0.1 for as long as the block lasts.

    `port` 0 takes a free one. In the block the broker accepts connections; after it the child
    is gone and its port is free.

    Raises: BrokerError, when iotcore is not installed, the port is taken, or it does not start.
    Cancellation: ends the block; the child is gone all the same, within moments.
    """
    if importlib.util.find_spec("iotcore") is None:
        raise BrokerError(
            "the embedded MQTT broker needs iotcore, which is not installed: "
            "pip install 'tracker[demo]'"
        )
    port = _reserve(port)
    configuration = CONFIGURATION.format(
        host=HOST,
        port=port,
        segment_bytes=SEGMENT_BYTES,
        segments=SEGMENTS,
        payload_limit_bytes=PAYLOAD_LIMIT_BYTES,
    )
    leash_read, leash_write = os.pipe()
    chatter_read, chatter_write = os.pipe()
    chatter = _Chatter(chatter_read)
    try:
        try:
            process = await trio.lowlevel.open_process(
                # -P: a folder named iotcore where the user stands is not the package
                [sys.executable, "-P", "-c", CHILD, configuration],
                stdin=leash_read,
                stdout=chatter_write,
                stderr=chatter_write,
                start_new_session=True,
            )
        finally:
            os.close(leash_read)
            os.close(chatter_write)
        try:
            broker = EmbeddedBroker(process, port, chatter)
            await broker._wait_ready()
            log.debug("embedded MQTT broker on %s:%d, process %d", HOST, port, process.pid)
            yield broker
        finally:
            process.kill()
            with trio.move_on_after(REAP_LIMIT_S, shield=True):
                await process.wait()
    finally:
        os.close(leash_write)


def _reserve(port: int) -> int:
    """Check that a port is free, or find one. Raises: BrokerError."""
    with socket.socket() as probe:
        # as the broker does: what lingers in TIME_WAIT is no obstacle
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "is taken by another program"
            else:
                reason = f"cannot be used: {error.strerror}"
            raise BrokerError(
                f"{HOST}:{port} {reason}; the embedded MQTT broker needs a free port"
            ) from None
        found: int = probe.getsockname()[1]
        return found


class _Chatter:
    """A thread that moves what the child prints to the log, at debug. It ends with the pipe.

    A thread, and not a task: the block would need a nursery, which wraps what its body raises.
    """

    def __init__(self, descriptor: int) -> None:
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self._descriptor = descriptor
        self._thread = threading.Thread(target=self._read, name="broker chatter", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with os.fdopen(self._descriptor, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                text = line.rstrip()
                self.last.append(text)
                log.debug("%s", text)

    def join(self) -> None:
        """Wait until it has read all; only after the child's end."""
        self._thread.join(REAP_LIMIT_S)
