"""Brokers for the tests of the client."""

from __future__ import annotations

from tests.mosquitto import broker, start_mosquitto

__all__ = ["broker", "start_mosquitto"]
