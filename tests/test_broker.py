"""`tracker.broker`: the tools use the gateway's broker, and never its identity or its share."""

from __future__ import annotations

import pytest

from tracker.broker import ToolBroker, without_share
from tracker.mqtt import MqttError
from tracker.settings import MqttSettings


def test_a_tool_is_a_client_of_its_own() -> None:
    settings = MqttSettings(
        url="mqtt://me:secret@broker.example",
        client_id="the-gateway",
        clean_session=False,
        keepalive_s=7,
    )
    one, other = ToolBroker(settings, "doctor"), ToolBroker(settings, "doctor")
    assert one.settings.client_id is not None
    assert one.settings.client_id.startswith("tracker-doctor-")
    assert one.settings.client_id != other.settings.client_id
    assert one.settings.clean_session is True
    assert one.settings.keepalive_s == 7
    assert one.make_client().identifier == one.settings.client_id


def test_what_is_said_holds_no_password() -> None:
    broker = ToolBroker(MqttSettings(url="mqtt://me:secret@broker.example"), "doctor")
    error = MqttError("x")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert broker.explain(error) == (
        "cannot use mqtt://broker.example:1883: connection refused: nothing listens on port 1883 "
        "of broker.example; check mqtt.url and that the broker runs"
    )
    assert broker.user == "the user 'me'"
    assert ToolBroker(MqttSettings(), "doctor").user == "the anonymous user"
    assert ToolBroker(MqttSettings(username="you"), "doctor").user == "the user 'you'"


@pytest.mark.parametrize(
    ("topic_filter", "expected"),
    [
        ("trackers/#", "trackers/#"),
        ("$share/group/trackers/#", "trackers/#"),
        ("$SYS/#", "$SYS/#"),
    ],
)
def test_without_share(topic_filter: str, expected: str) -> None:
    assert without_share(topic_filter) == expected
