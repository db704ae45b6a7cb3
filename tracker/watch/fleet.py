"""What is known of each watched device. Pure: time is an argument."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable

from tracker.watch.message import Message, Report

#: Rates are those of the last minute.
RATE_WINDOW_S = 60.0
_SLOT_S = 1.0


class Rate:
    """How often something happens, over the last minute, in memory for 60 numbers."""

    def __init__(self) -> None:
        self._slots: deque[tuple[int, int]] = deque()
        self._first_s: float | None = None

    def note(self, now_s: float) -> None:
        """It happened."""
        if self._first_s is None:
            self._first_s = now_s
        slot = math.floor(now_s / _SLOT_S)
        count = 1
        if self._slots and self._slots[-1][0] == slot:
            count += self._slots.pop()[1]
        self._slots.append((slot, count))
        self._forget(now_s)

    def per_s(self, now_s: float) -> float:
        """How many a second; over what there was, while that is less than a minute."""
        if self._first_s is None:
            return 0.0
        self._forget(now_s)
        watched_s = min(RATE_WINDOW_S, max(_SLOT_S, now_s - self._first_s))
        return sum(count for _, count in self._slots) / watched_s

    def _forget(self, now_s: float) -> None:
        oldest = math.floor((now_s - RATE_WINDOW_S) / _SLOT_S)
        while self._slots and self._slots[0][0] <= oldest:
            self._slots.popleft()


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A device at one moment; what it did not tell is None. `speed` is in the device's unit.

    `lost`: messages that gaps told of.
    """

    device_id: str
    age_s: float | None = None
    speed: float | None = None
    position: tuple[float, float] | None = None
    per_s: float = 0.0
    lost: int = 0


class _Device:
    def __init__(self) -> None:
        self.last: Report | None = None
        self.lost = 0
        self.received_s = 0.0
        self.rate = Rate()


class Fleet:
    """The watched devices, those asked for first, in their order."""

    def __init__(self, device_ids: Iterable[str]) -> None:
        self._devices = {device_id: _Device() for device_id in device_ids}
        self._rate = Rate()

    def note(self, message: Message, now_s: float) -> None:
        """A message came."""
        device = self._devices.setdefault(message.device_id, _Device())
        device.last = message
        device.received_s = now_s
        device.rate.note(now_s)
        self._rate.note(now_s)

    def note_past(self, report: Report, received_s: float) -> None:
        """What a device said before we came, at about `received_s`."""
        device = self._devices.setdefault(report.device_id, _Device())
        if device.last is None or received_s >= device.received_s:
            device.last = report
            device.received_s = received_s

    def note_lost(self, device_id: str, messages: int) -> None:
        """Messages of a device were lost."""
        self._devices.setdefault(device_id, _Device()).lost += messages

    def per_s(self, now_s: float) -> float:
        """Messages a second, of all devices."""
        return self._rate.per_s(now_s)

    def rows(self, now_s: float) -> list[Row]:
        """All devices, at one moment."""
        return [_row(device_id, device, now_s) for device_id, device in self._devices.items()]


def _row(device_id: str, device: _Device, now_s: float) -> Row:
    message = device.last
    if message is None:
        return Row(device_id, lost=device.lost)
    lat, lon = number(message.data.get("LAT")), number(message.data.get("LON"))
    return Row(
        device_id=device_id,
        age_s=now_s - device.received_s,
        speed=number(message.data.get("SPEED")),
        position=None if lat is None or lon is None else (lat, lon),
        per_s=device.rate.per_s(now_s),
        lost=device.lost,
    )


def number(value: object) -> float | None:
    """`value` if it is a finite JSON number, else None: devices send what they like."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None
