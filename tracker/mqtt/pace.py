"""How fast messages come, and whether gathering them pays."""

from __future__ import annotations

import time

# Above this rate a wake-up of Trio for each message costs more than the message does.
BUSY_RATE_HZ = 1000
RATE_WINDOW_S = 0.05


class Pace:
    """Knows whether messages come so fast that gathering them pays."""

    def __init__(self) -> None:
        self._messages = 0
        self._since = time.monotonic()
        self._busy = False

    def count(self, messages: int) -> None:
        """Note messages that have come."""
        self._messages += messages

    def is_busy(self) -> bool:
        """Say whether more than `BUSY_RATE_HZ` messages a second came of late."""
        now = time.monotonic()
        elapsed_s = now - self._since
        if elapsed_s >= RATE_WINDOW_S:
            self._busy = self._messages > BUSY_RATE_HZ * elapsed_s
            self._messages = 0
            self._since = now
        return self._busy
