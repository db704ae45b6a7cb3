"""When gathering pays."""

from __future__ import annotations

import pytest

from tracker.mqtt.pace import BUSY_RATE_HZ, RATE_WINDOW_S, Pace


def test_the_pace_is_busy_above_its_rate_and_not_after_a_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("tracker.mqtt.pace.time.monotonic", lambda: now)
    pace = Pace()
    pace.count(int(BUSY_RATE_HZ * RATE_WINDOW_S) + 1)
    assert not pace.is_busy()
    now += RATE_WINDOW_S
    assert pace.is_busy()
    pace.count(1)
    now += 10
    assert not pace.is_busy()
