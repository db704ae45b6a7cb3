"""The Python client against a real gateway: real sockets, TLS, a restart."""

from __future__ import annotations

import random
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from tests.chaos.proxy import CuttingProxy
from tests.gateway import DEADLINE_S, start_gateway
from tests.mosquitto import Mosquitto
from tests.publisher import Publisher
from tests.serving import Serving
from tracker.watch import (
    Event,
    GaveUpError,
    HandshakeError,
    InvalidRequestError,
    Message,
    Resume,
    ResumeStatus,
    State,
    Stream,
    Timing,
    UnreachableError,
    open_stream,
)

PAYLOAD = (
    b'{"timestamp":"2024-12-11T10:30:00Z","data":{"DEVICE_ID":"A","N":1.10,'
    b'"BIG":123456789012345678901234567890}}'
)


async def test_messages_come_as_the_device_sent_them(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    with trio.fail_after(DEADLINE_S):
        async with open_stream(gateway.url, ["A", "ü"]) as stream:
            await gateway.wait_streams(1)
            await gateway.publish_payloads([PAYLOAD])
            message = await anext(stream)
            assert message == Message(
                id=stream.position,
                device_id="A",
                timestamp="2024-12-11T10:30:00Z",
                data={"DEVICE_ID": "A", "N": 1.1, "BIG": 123456789012345678901234567890},
                text=PAYLOAD.decode(),
            )
        await gateway.wait_streams(0)
    nursery.cancel_scope.cancel()


async def test_a_pasted_stream_url_names_its_devices(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    with trio.fail_after(DEADLINE_S):
        async with open_stream(f"{gateway.url}/api/v1/stream?device_ids=A", ["B"]) as stream:
            await gateway.wait_streams(1)
            await gateway.publish("B")
            await gateway.publish("A")
            assert [(await anext(stream)).device_id for _ in range(2)] == ["B", "A"]
    nursery.cancel_scope.cancel()


async def test_a_burst_through_a_small_buffer_comes_whole(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    with trio.fail_after(DEADLINE_S):
        async with open_stream(gateway.url, ["A"], buffer_messages=1) as stream:
            await gateway.wait_streams(1)
            for first in range(0, 2000, 50):
                numbers = list(range(first, first + 50))
                await gateway.publish_payloads(
                    [b'{"DEVICE_ID":"A","N":%d}' % number for number in numbers]
                )
                assert [(await anext(stream)).data["N"] for _ in numbers] == numbers
    nursery.cancel_scope.cancel()


async def test_the_gateway_says_what_it_refuses(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    with trio.fail_after(DEADLINE_S):
        async with open_stream(gateway.url, ["A"], mode="latest", max_rate=-1) as stream:
            with pytest.raises(InvalidRequestError) as caught:
                await anext(stream)
    assert caught.value.code == 1008
    assert caught.value.message == "max_rate: -1, expected 0.001 to 1000 messages a second"
    nursery.cancel_scope.cancel()


async def test_a_path_below_which_there_is_no_gateway(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    with trio.fail_after(DEADLINE_S):
        async with open_stream(f"{gateway.url}/elsewhere", ["A"]) as stream:
            with pytest.raises(HandshakeError) as caught:
                await anext(stream)
    assert caught.value.status == 404
    nursery.cancel_scope.cancel()


async def test_tls(nursery: trio.Nursery, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(certfile)
    certificate.private_key_pem.write_to_path(keyfile)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    gateway = await start_gateway(
        nursery, http={"certfile": str(certfile), "keyfile": str(keyfile)}
    )
    url = f"wss://127.0.0.1:{gateway.port}"
    with trio.fail_after(DEADLINE_S):
        async with open_stream(url, ["A"], ssl_context=trusting) as stream:
            await gateway.wait_streams(1)
            await gateway.publish("A")
            assert (await anext(stream)).device_id == "A"
        async with open_stream(url, ["A"], timing=Timing(give_up_first_s=0)) as stream:
            with pytest.raises(GaveUpError, match="is not trusted: ") as caught:
                await anext(stream)
    assert isinstance(caught.value.__cause__, UnreachableError)
    nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_cut_again_and_again_it_has_everything_once(nursery: trio.Nursery) -> None:
    """Everything was in the history, so nothing may be missing; and a device is added meanwhile."""
    gateway = await start_gateway(nursery, stream={"history_messages": 1000})
    proxy = CuttingProxy(gateway.port, random.Random(1), (0.05, 0.4))
    await nursery.start(proxy.run)
    numbers: dict[str, list[int]] = {"A": [], "B": [], "C": []}
    resumes: list[ResumeStatus] = []
    added_at = 0

    async def take(stream: Stream) -> None:
        async for item in stream.events():
            if isinstance(item, Message):
                numbers[item.device_id].append(item.data["N"])
            elif isinstance(item, Resume):
                resumes.append(item.status)

    timing = Timing(backoff_min_s=0.02, backoff_max_s=0.05)
    with trio.fail_after(DEADLINE_S):
        async with (
            open_stream(f"http://127.0.0.1:{proxy.port}", ["A", "B"], timing=timing) as stream,
            trio.open_nursery() as tasks,
        ):
            await stream.state.wait_value(State.LIVE)
            await gateway.wait_streams(1)
            tasks.start_soon(take, stream)
            for number in range(600):
                for device_id in numbers:
                    await gateway.publish(device_id, N=number)
                if number == 300:
                    await stream.subscribe(["C"])
                    added_at = number
                await trio.sleep(0.005)
            proxy.is_restless = False
            while any(got[-1:] != [599] for got in numbers.values()):  # noqa: ASYNC110 no event
                await trio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert numbers == {
        "A": list(range(600)),
        "B": list(range(600)),
        "C": list(range(added_at + 1, 600)),
    }
    assert len(resumes) > 5
    assert set(resumes) == {ResumeStatus.CONTINUED}
    nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.mosquitto
async def test_a_restarted_gateway_has_its_clients_back(
    broker: Mosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """A planned stop tells when to come back; the stream goes on with the new process."""
    with Serving(tmp_path, broker.url) as first, Publisher(broker.port) as device:
        first.wait_ready()
        bind = f"127.0.0.1:{first.port}"
        async with open_stream(f"http://{bind}", ["A"]) as stream:
            await trio.to_thread.run_sync(first.wait_subscribers, 1)
            device.publish("trackers/A", b'{"DEVICE_ID":"A","N":1}')
            with trio.fail_after(DEADLINE_S):
                assert (await anext(stream)).data == {"DEVICE_ID": "A", "N": 1}
            assert await trio.to_thread.run_sync(first.stop) == 0
            with trio.fail_after(DEADLINE_S):
                event = await anext(stream.events())
            assert isinstance(event, Event)
            assert event.name == "reconnect"
            with Serving(tmp_path, broker.url, "--bind", bind) as second:
                await trio.to_thread.run_sync(second.wait_ready)
                await trio.to_thread.run_sync(second.wait_subscribers, 1)
                device.publish("trackers/A", b'{"DEVICE_ID":"A","N":2}')
                with trio.fail_after(DEADLINE_S):
                    assert (await anext(stream)).data == {"DEVICE_ID": "A", "N": 2}
            assert stream.statistics().reconnects == 1
