"""What can go wrong between a client and its broker.

The names, their order and their texts are those of aiomqtt 2.5.
"""

from __future__ import annotations

import paho.mqtt.client as paho
from paho.mqtt.reasoncodes import ReasonCode

DISCONNECTED = "Disconnected during message iteration"

# MQTT 3.1.1 §3.2.2.3
_CONNACK_REFUSALS = {
    1: "Incorrect protocol version",
    2: "Invalid client identifier",
    3: "Server unavailable",
    4: "Bad username or password",
    5: "Not authorised",
}


class MqttError(Exception):
    """The broker, or the way to it, failed. Its `__cause__` is the failure beneath, if known."""


class MqttCodeError(MqttError):
    """A failure with a number: paho's (`int`), the broker's (`ReasonCode`), or none."""

    def __init__(self, rc: int | ReasonCode | None, *args: object) -> None:
        super().__init__(*args)
        self.rc = rc

    def __str__(self) -> str:
        if isinstance(self.rc, ReasonCode):
            return f"[code:{self.rc.value}] {self.rc!s}"
        if isinstance(self.rc, int):
            return f"[code:{self.rc}] {paho.error_string(self.rc)}"
        return f"[code:{self.rc}] {super().__str__()}"


class MqttConnectError(MqttCodeError):
    """The broker answered CONNECT with a refusal."""

    def __init__(self, rc: int | ReasonCode) -> None:
        if isinstance(rc, ReasonCode):
            super().__init__(rc)
            return
        reason = _CONNACK_REFUSALS.get(rc)
        super().__init__(rc, "Connection refused" + (f": {reason}" if reason else ""))


class MqttReentrantError(MqttError):
    """A client was entered while it was entered already."""
