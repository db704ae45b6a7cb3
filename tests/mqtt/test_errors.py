"""The texts of the errors, which users of aiomqtt match."""

from __future__ import annotations

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from tracker.mqtt import MqttCodeError, MqttConnectError, MqttError, MqttReentrantError

REASONS = [
    ReasonCode(PacketTypes.CONNACK, "Success"),
    ReasonCode(PacketTypes.PUBACK, "Success"),
    ReasonCode(PacketTypes.SUBACK, "Granted QoS 1"),
]


@pytest.mark.parametrize("rc", [*MQTTErrorCode, -1])
def test_a_number_is_explained_by_paho(rc: int) -> None:
    error = MqttCodeError(rc)
    assert (str(error), error.rc) == (f"[code:{rc}] {paho.error_string(MQTTErrorCode(rc))}", rc)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("kind", [MqttCodeError, MqttConnectError])
def test_a_reason_code_explains_itself(kind: type[MqttCodeError], reason: ReasonCode) -> None:
    assert str(kind(reason)) == f"[code:{reason.value}] {reason!s}"


def test_without_a_number_the_text_stands() -> None:
    assert str(MqttCodeError(None)) == "[code:None] "
    assert str(MqttCodeError(None, "why")) == "[code:None] why"


@pytest.mark.parametrize(
    ("rc", "reason"),
    [
        (0, ""),
        (1, ": Incorrect protocol version"),
        (2, ": Invalid client identifier"),
        (3, ": Server unavailable"),
        (4, ": Bad username or password"),
        (5, ": Not authorised"),
        (6, ""),
    ],
)
def test_a_refusal_names_its_reason(rc: int, reason: str) -> None:
    error = MqttConnectError(rc)
    assert error.args == (f"Connection refused{reason}",)
    assert str(error) == f"[code:{rc}] {paho.error_string(MQTTErrorCode(rc))}"


def test_one_error_is_the_parent_of_all() -> None:
    assert MqttConnectError.__mro__[1:3] == (MqttCodeError, MqttError)
    assert MqttReentrantError.__base__ is MqttError
