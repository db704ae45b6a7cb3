"""When gathering pays, and for how long."""

from __future__ import annotations

import pytest

from tracker.mqtt.pace import (
    BUSY_RATE_HZ,
    FAN_OUT_DELIVERIES_HZ,
    FAN_OUT_GATHER_S,
    FAN_OUT_RATE_HZ,
    GATHER_S,
    RATE_WINDOW_S,
    Pace,
)


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tracker.mqtt.pace.time.monotonic", lambda: clock.now)
    return clock


@pytest.mark.parametrize(
    ("messages_hz", "deliveries_hz", "gather_s"),
    [
        (BUSY_RATE_HZ, BUSY_RATE_HZ, 0.0),
        (BUSY_RATE_HZ + 20, 0, GATHER_S),
        (FAN_OUT_RATE_HZ, FAN_OUT_DELIVERIES_HZ, FAN_OUT_GATHER_S),
        (FAN_OUT_RATE_HZ, FAN_OUT_DELIVERIES_HZ - 20, 0.0),
        (FAN_OUT_RATE_HZ - 20, 10 * FAN_OUT_DELIVERIES_HZ, 0.0),
        (10 * BUSY_RATE_HZ, FAN_OUT_DELIVERIES_HZ, FAN_OUT_GATHER_S),
    ],
)
def test_what_came_of_late_decides(
    clock: Clock, messages_hz: float, deliveries_hz: float, gather_s: float
) -> None:
    pace = Pace()
    pace.count(int(messages_hz * RATE_WINDOW_S))
    pace.count_deliveries(int(deliveries_hz * RATE_WINDOW_S))
    assert pace.gather_s() == 0.0
    clock.now += RATE_WINDOW_S
    assert pace.gather_s() == gather_s
    clock.now += 10
    assert pace.gather_s() == 0.0  # after a silence
