"""Brokers that are broken on purpose, and what the doctor says of each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.doctor.deployment import CHECKS, examined, run_device, started_gateway
from tests.mosquitto import Mosquitto, StartMosquitto, free_port, write_password
from tests.mqtt.conftest import Certificates
from tests.publisher import Publisher
from tracker.doctor.finding import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]

#: Where no gateway is: these tests are not about it.
NOWHERE = "http://127.0.0.1:1"


async def test_all_is_well(broker: Mosquitto, nursery: trio.Nursery) -> None:
    nursery.start_soon(run_device, broker.port)
    url = await started_gateway(nursery, broker.url)
    found = await examined(url, broker.url)
    assert found.failed == []
    assert found.of(Outcome.NOT_APPLICABLE) == ["HTTP/2", "idle WebSocket", "idle SSE"]
    assert found["topic"].detail == (
        '\'trackers/#\' lives: device A on \'trackers/A\', {"DEVICE_ID":"A","LAT":1,"LON":2}'
    )
    nursery.cancel_scope.cancel()


async def test_the_broker_is_down() -> None:
    port = free_port()
    found = await examined(NOWHERE, f"mqtt://127.0.0.1:{port}")
    assert found.failed == ["broker", "URL"]
    assert found["broker"].detail.endswith(f"nothing listens on port {port} of 127.0.0.1")
    assert found["broker"].remedy == "check mqtt.url (--mqtt-url) and that the broker runs"
    for check in ("credentials", "topic"):
        assert found[check].detail == "not checked yet: needs the broker"


async def test_something_else_than_a_broker(nursery: trio.Nursery) -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH\r\n")
        await stream.receive_some()

    listeners = await nursery.start(partial(trio.serve_tcp, greet, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    found = await examined(NOWHERE, f"mqtt://127.0.0.1:{port}")
    assert found.failed == ["broker", "URL"]
    assert "check that it is an MQTT port" in found["broker"].remedy
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("credentials", ["me:wrong@", ""])
async def test_wrong_credentials(
    start_mosquitto: StartMosquitto, tmp_path: Path, credentials: str
) -> None:
    write_password(tmp_path / "passwords", "me", "right")
    broker = start_mosquitto(anonymous=False, extra=f"password_file {tmp_path / 'passwords'}")
    found = await examined(NOWHERE, f"mqtt://{credentials}127.0.0.1:{broker.port}")
    assert found["broker"].outcome is Outcome.PASSED
    assert found.failed == ["credentials", "URL"]
    assert "wrong credentials" in found["credentials"].detail
    assert "--mqtt-url mqtt://user:password@host" in found["credentials"].remedy
    assert all("wrong@" not in finding.detail + finding.remedy for finding in found.all)


async def test_a_certificate_of_an_unknown_authority(
    start_mosquitto: StartMosquitto, certificates: Certificates
) -> None:
    broker = start_mosquitto(listener=certificates.listener)
    mqtt_url = f"mqtts://127.0.0.1:{broker.port}"
    found = await examined(NOWHERE, mqtt_url)
    assert found.failed == ["broker", "URL"]
    assert "certificate is not trusted" in found["broker"].detail
    assert "mqtt.ca_file" in found["broker"].remedy
    found = await examined(NOWHERE, mqtt_url, mqtt={"ca_file": str(certificates.ca)})
    assert found.failed == ["topic", "URL"]


async def test_a_silent_topic(broker: Mosquitto) -> None:
    found = await examined(NOWHERE, broker.url, wait_s=0.1)
    assert found["topic"].detail == "no message on 'trackers/#' within 0.1 s"
    assert "the rights (ACL) of the anonymous user" in found["topic"].remedy


async def test_a_topic_with_old_messages_only(broker: Mosquitto) -> None:
    with Publisher(broker.port) as device:
        device.publish("trackers/A", b'{"DEVICE_ID":"A"}', retain=True)
        device.flush()
    found = await examined(NOWHERE, broker.url, wait_s=0.2)
    assert found["topic"].detail == (
        "no message on 'trackers/#' within 0.2 s but for retained, old ones"
    )


async def test_a_user_who_may_not_read_the_topic(
    start_mosquitto: StartMosquitto, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """mosquitto grants the subscription and delivers nothing."""
    write_password(tmp_path / "passwords", "doc", "pw")
    (tmp_path / "acl").write_text("topic readwrite trackers/#\nuser doc\ntopic write trackers/#\n")
    broker = start_mosquitto(
        extra=f"password_file {tmp_path / 'passwords'}\nacl_file {tmp_path / 'acl'}"
    )
    nursery.start_soon(run_device, broker.port)
    found = await examined(NOWHERE, f"mqtt://doc:pw@127.0.0.1:{broker.port}", wait_s=0.3)
    assert found.failed == ["topic", "URL"]
    assert "the rights (ACL) of the user 'doc'" in found["topic"].remedy
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("payload", "detail", "remedy"),
    [
        (b"\x01\x02\xff", "0xff", "JSON in UTF-8"),
        (b"$GPRMC,1", "malformed", "needs a converter"),
        (b"", "empty payload", "the device sends nothing"),
        (b"[1]", "expected a JSON object", "has to be a JSON object"),
        (b'{"deviceId":"A"}', "expected DEVICE_ID in `data` or at the top", "needs its id"),
        (b'{"DEVICE_ID":1.5}', "as a string or an integer", "a string of 1 to 128 characters"),
        (
            b'{"DEVICE_ID":"A","a":' + b"[" * 5000 + b"]" * 5000 + b"}",
            "levels of nesting",
            "flatter JSON",
        ),
        (b'"' + b"x" * 70_000 + b'"', "70002 bytes", "the gateway takes 64 KiB"),
    ],
)
async def test_payloads_that_cannot_be_decoded(
    broker: Mosquitto, nursery: trio.Nursery, payload: bytes, detail: str, remedy: str
) -> None:
    nursery.start_soon(run_device, broker.port, payload)
    found = await examined(NOWHERE, broker.url, wait_s=2.0)
    assert found.failed == ["topic", "URL"]
    topic = found["topic"]
    assert topic.detail.startswith("none of ")
    assert detail in topic.detail
    assert "topic 'trackers/A'" in topic.detail
    assert remedy in topic.remedy
    assert topic.detail.isprintable()
    nursery.cancel_scope.cancel()


async def test_some_payloads_that_cannot_be_decoded_are_a_remark(
    broker: Mosquitto, nursery: trio.Nursery
) -> None:
    nursery.start_soon(run_device, broker.port)
    nursery.start_soon(run_device, broker.port, b"online", "trackers/A/status")
    found = await examined(NOWHERE, broker.url)
    assert found["topic"].outcome is Outcome.PASSED
    assert "cannot be decoded: " in found["topic"].detail
    assert "(topic 'trackers/A/status', payload online)" in found["topic"].detail
    nursery.cancel_scope.cancel()


async def test_a_device_whose_clock_is_wrong(broker: Mosquitto, nursery: trio.Nursery) -> None:
    ahead = (datetime.now(UTC) + timedelta(hours=3)).isoformat()
    payload = f'{{"timestamp":"{ahead}","data":{{"DEVICE_ID":"A"}}}}'.encode()
    nursery.start_soon(run_device, broker.port, payload)
    found = await examined(NOWHERE, broker.url)
    assert found["topic"].outcome is Outcome.PASSED
    assert found["topic"].detail.endswith(
        "(its timestamp is 180 min ahead: its clock, or its time zone)"
    )
    nursery.cancel_scope.cancel()


async def test_a_shared_subscription_takes_nothing_from_the_gateway(
    broker: Mosquitto, nursery: trio.Nursery
) -> None:
    topics = ("$share/gateways/trackers/#",)
    nursery.start_soon(run_device, broker.port)
    url = await started_gateway(nursery, broker.url, mqtt={"topics": topics})
    found = await examined(url, broker.url, mqtt={"topics": topics})
    assert found.failed == []
    assert found["topic"].detail.startswith("'trackers/#' lives: ")
    assert "$share" not in "".join(
        line for line in broker.log.splitlines() if "tracker-doctor" in line
    )
    nursery.cancel_scope.cancel()


def test_the_names_of_the_checks_are_what_scripts_search_for() -> None:
    assert len(set(CHECKS)) == len(CHECKS)
