"""Which drops are worth a log line now: the warning of PROTOCOL A4, rate-limited.

At most one line a second for a device, and 20 in any second in all; what is not told at
once is summed and told later.
"""

from __future__ import annotations

from collections import deque

_WINDOW_S = 1.0
_LINES_PER_WINDOW = 20


class DropNotices:
    """Counts drops by device and hands out the lines that are due."""

    def __init__(self) -> None:
        self._untold: dict[str, int] = {}
        #: (when, device id) of the lines of the last second.
        self._told: deque[tuple[float, str]] = deque()

    def __bool__(self) -> bool:
        """Whether a drop waits to be told."""
        return bool(self._untold)

    def count(self, device_id: str) -> None:
        """Note one dropped message."""
        self._untold[device_id] = self._untold.get(device_id, 0) + 1

    def due(self, now_s: float) -> list[str]:
        """The lines to log now; `now_s` is in seconds, of any clock that never goes back."""
        while self._told and now_s - self._told[0][0] >= _WINDOW_S:
            self._told.popleft()
        room = _LINES_PER_WINDOW - len(self._told)
        if room == 0:
            return []
        told = {device_id for _, device_id in self._told}
        due = [device_id for device_id in self._untold if device_id not in told][:room]
        self._told.extend((now_s, device_id) for device_id in due)
        return [_line(device_id, self._untold.pop(device_id)) for device_id in due]


def _line(device_id: str, dropped: int) -> str:
    line = f"Cola llena para device_id {device_id}. Aplicando backpressure (mensaje descartado)"
    return line if dropped == 1 else f"{line} ({dropped} desde el último aviso)"
