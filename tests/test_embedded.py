"""`tracker.embedded`, against the real iotcore."""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest
import trio
from paho.mqtt.enums import CallbackAPIVersion

from tracker.embedded import BrokerError, EmbeddedBroker, open_broker

LIMIT_S = 20.0


@contextmanager
def paho_client(broker: EmbeddedBroker) -> Iterator[paho.Client]:
    """A plain client, connected, with its own thread."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def round_trip(
    broker: EmbeddedBroker, messages: list[tuple[str, bytes]]
) -> list[tuple[str, bytes]]:
    """Subscribe to everything, publish at QoS 1, and return what came back."""
    subscribed: queue.Queue[None] = queue.Queue()
    received: queue.Queue[tuple[str, bytes]] = queue.Queue()
    with paho_client(broker) as client:
        client.on_subscribe = lambda *_: subscribed.put(None)
        client.on_message = lambda _client, _data, message: received.put(
            (message.topic, bytes(message.payload))
        )
        client.subscribe("#", qos=1)
        subscribed.get(timeout=LIMIT_S)
        for topic, payload in messages:
            client.publish(topic, payload, qos=1)
        return [received.get(timeout=LIMIT_S) for _ in messages]


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_ended(pid: int, port: int) -> None:
    """Until the process and its listening socket are gone.

    Both: an orphan that nobody reaps is a zombie while its other threads still hold the port.
    """
    deadline = time.monotonic() + LIMIT_S
    while is_alive(pid) or listening_on(port):
        assert time.monotonic() < deadline, f"process {pid} is still there after {LIMIT_S} s"
        time.sleep(0.01)


def listening_on(port: int) -> set[tuple[str, str]]:
    """The kernel's table and its form of each address on which somebody listens."""
    found: set[tuple[str, str]] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if local.endswith(f":{port:04X}") and state == "0A":
                found.add((table, local))
    return found


def assert_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        probe.listen(1)


async def test_messages_pass_and_nothing_stays_behind() -> None:
    # 100,000 bytes: five times the payload at which iotcore cuts a client by default
    messages = [("trackers/1", b"{}"), ("trackers/2", b"x" * 100_000)]
    with trio.fail_after(LIMIT_S):
        async with open_broker() as broker:
            assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
            assert await trio.to_thread.run_sync(round_trip, broker, messages) == messages
        assert not is_alive(broker.pid)
        assert_free(broker.port)


async def test_listens_on_the_loopback_interface_only() -> None:
    with trio.fail_after(LIMIT_S):
        async with open_broker() as broker:
            listening = listening_on(broker.port)
    # 0100007F is 127.0.0.1 in the kernel's byte order
    assert listening == {("tcp", f"0100007F:{broker.port:04X}")}


async def test_the_port_can_be_used_again_at_once() -> None:
    """A broker that is killed under its clients and started again, as the tests of others do."""
    with trio.fail_after(LIMIT_S):
        async with open_broker() as first:
            messages = [("a", b"1")]
            await trio.to_thread.run_sync(round_trip, first, messages)
            stream = await trio.open_tcp_stream(first.host, first.port)
        async with stream, open_broker(port=first.port) as second:
            assert second.port == first.port
            assert await trio.to_thread.run_sync(round_trip, second, messages) == messages


async def test_port_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerError) as caught:
            async with open_broker(port=port):
                raise AssertionError("it opened on a port that is taken")
    assert str(caught.value) == (
        f"127.0.0.1:{port} is taken by another program; the embedded MQTT broker needs a free port"
    )


async def test_iotcore_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BrokerError) as caught:
        async with open_broker():
            raise AssertionError("it opened without iotcore")
    assert str(caught.value) == (
        "the embedded MQTT broker needs iotcore, which is not installed: "
        "pip install 'tracker[demo]'"
    )


async def test_a_broker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracker.embedded.CONFIGURATION", "nonsense = {port}")
    with trio.fail_after(LIMIT_S), pytest.raises(BrokerError) as caught:
        async with open_broker():
            raise AssertionError("it opened with a configuration of nonsense")
    assert "did not start (exit status 1)" in str(caught.value)
    assert "missing configuration field" in str(caught.value)


async def test_watch_tells_when_the_broker_died() -> None:
    with trio.fail_after(LIMIT_S):
        async with open_broker() as broker:
            os.kill(broker.pid, signal.SIGKILL)
            with pytest.raises(BrokerError, match=r"ended by itself \(exit status -9\)"):
                await broker.watch()
        assert_free(broker.port)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
async def test_an_error_in_the_block_travels_unwrapped(error: BaseException) -> None:
    with trio.fail_after(LIMIT_S), pytest.raises(type(error)) as caught:
        async with open_broker() as broker:
            raise error
    assert caught.value is error
    assert not is_alive(broker.pid)


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.05])
async def test_cancelled_while_starting_or_open_leaves_no_child(delay_s: float) -> None:
    before = children()
    with trio.fail_after(LIMIT_S):
        with trio.move_on_after(delay_s):
            async with open_broker():
                await trio.sleep_forever()
    assert children() == before


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (task / "children").read_text().split()}
        except FileNotFoundError:  # an idle thread that ended meanwhile
            continue
    return found


PARENT = """
import trio
from tracker.embedded import open_broker

async def main():
    async with open_broker() as broker:
        print(broker.pid, broker.port, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def test_the_child_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            pid, port = map(int, parent.stdout.readline().split())
            assert is_alive(pid)
        finally:
            parent.kill()
    wait_ended(pid, port)


async def test_its_chatter_goes_to_the_log_at_debug(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(LIMIT_S), caplog.at_level(logging.DEBUG, logger="tracker.embedded"):
        async with open_broker() as broker:
            await trio.to_thread.run_sync(round_trip, broker, [("a", b"1")])
        assert capfd.readouterr() == ("", "")
    mine = [record for record in caplog.records if record.name == "tracker.embedded"]
    assert {record.levelno for record in mine} == {logging.DEBUG}
    assert [
        record.getMessage() for record in mine if "broker listening" in record.getMessage()
    ] == [f"INFO iotcore.broker: broker listening on 127.0.0.1:{broker.port}"]
