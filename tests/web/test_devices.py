"""The list of live devices."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway import start_gateway
from tests.peer import Peer
from tracker.domain.decode import decode
from tracker.domain.errors import MalformedPayloadError
from tracker.domain.message import Message
from tracker.web import devices
from tracker.web.devices import Device, to_device

PATH = "/api/v1/devices"
SECOND_NS = 1_000_000_000


def message(data: str, *, received_ns: int = 0, is_retained: bool = False) -> Message:
    return Message(1, "7", data.encode(), received_ns, is_retained=is_retained)


async def listed(peer: Peer) -> Any:
    response = await peer.request(PATH)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    return json.loads(response.body)


def test_a_device_is_where_its_last_message_put_it() -> None:
    last = message(
        '{"timestamp":"2024-12-11T10:30:00Z","data":{"DEVICE_ID":"7","LAT":-33.45,"LON":-70,'
        '"SPEED":45,"HEADING":90.5}}',
        received_ns=3 * SECOND_NS,
    )
    assert to_device(last, 5 * SECOND_NS) == Device(
        "7", -33.45, -70.0, 45.0, 90.5, "2024-12-11T10:30:00Z", 2.0
    )


@pytest.mark.parametrize("value", ["null", '"12.5"', "true", "[1]", "{}"])
def test_what_is_no_number_is_no_position(value: str) -> None:
    last = message(f'{{"timestamp":null,"data":{{"LAT":{value},"SPEED":{value}}}}}')
    assert to_device(last, 0) == Device("7", None, None, None, None, None, 0.0)


def test_a_retained_message_tells_where_and_not_how_long_ago() -> None:
    last = message('{"timestamp":"t","data":{"LAT":1,"LON":2}}', is_retained=True)
    assert to_device(last, 9 * SECOND_NS) == Device("7", 1.0, 2.0, None, None, "t", None)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    lat=_JSON,
    timestamp=_JSON,
    nested=st.booleans(),
)
def test_whatever_decode_lets_pass_can_be_listed(lat: Any, timestamp: Any, nested: bool) -> None:
    fields = {"DEVICE_ID": "7", "LAT": lat, "HEADING": lat}
    payload = {"timestamp": timestamp, "data": fields} if nested else fields
    try:
        device_id, data = decode(json.dumps(payload).encode(), 0.0)
    except MalformedPayloadError:
        return
    device = to_device(Message(1, device_id, data, 0), 0)
    assert device.lat is None or device.lat == float(lat)


async def test_the_list_is_off_unless_a_setting_says_so(nursery: trio.Nursery) -> None:
    peer = await (await start_gateway(nursery)).connect()
    response = await peer.request(PATH)
    assert response.status == 404
    assert json.loads(response.body) == {
        "event": "error",
        "data": {"message": "the list of devices is off here: set `api.devices = true` to have it"},
    }


async def test_the_list_holds_each_device_once_the_latest_last(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, api={"devices": True}, stream={"max_device_ids": 77})
    peer = await gateway.connect()
    assert await listed(peer) == {"devices": [], "total": 0, "max_device_ids": 77}
    for device_id in ("a", "b", "a"):
        await gateway.publish(device_id, LAT=1, LON=2)
    answer = await listed(peer)
    assert [device["device_id"] for device in answer["devices"]] == ["b", "a"]
    assert answer["total"] == 2
    assert 0 <= answer["devices"][1]["age_s"] <= answer["devices"][0]["age_s"]


async def test_a_long_list_is_cut_and_lets_others_have_their_turn(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_LISTED_LIMIT", 500)
    gateway = await start_gateway(nursery, api={"devices": True})
    await gateway.publish_payloads([f'{{"DEVICE_ID":{n}}}'.encode() for n in range(1000)])
    answer = await listed(await gateway.connect())
    assert answer["total"] == 1000
    assert [device["device_id"] for device in answer["devices"]] == [
        str(number) for number in range(500, 1000)
    ]
