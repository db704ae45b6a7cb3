"""Brokers and certificates for the tests of the doctor."""

from __future__ import annotations

from tests.mosquitto import broker, start_mosquitto
from tests.mqtt.conftest import certificates

__all__ = ["broker", "certificates", "start_mosquitto"]
