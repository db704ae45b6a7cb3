"""How fast messages come, what they bring about, and whether gathering them pays."""

from __future__ import annotations

import time

# Above this rate a wake-up of Trio for each message costs more than the message does.
BUSY_RATE_HZ = 1000
GATHER_S = 0.0005

# From this rate on, more than half of the messages find another to leave with when they
# wait that long, and halve the system calls: worth it where these take a quarter of a core.
FAN_OUT_RATE_HZ = 500
FAN_OUT_DELIVERIES_HZ = 50_000
FAN_OUT_GATHER_S = 0.001

RATE_WINDOW_S = 0.05


class Pace:
    """Knows how long messages should be gathered before they are handed over.

    The network thread asks, and counts messages; whoever fans them out, in whichever thread,
    counts deliveries.
    """

    def __init__(self) -> None:
        self._messages = 0
        self._deliveries = 0
        self._seen_deliveries = 0
        self._since = time.monotonic()
        self._gather_s = 0.0

    def count(self, messages: int) -> None:
        """Note messages that have come."""
        self._messages += messages

    def count_deliveries(self, deliveries: int) -> None:
        """Note what messages have brought about, each of them once for each receiver."""
        self._deliveries += deliveries

    def gather_s(self) -> float:
        """For how long to gather, going by what came of late; 0.0: hand over at once."""
        now = time.monotonic()
        elapsed_s = now - self._since
        if elapsed_s >= RATE_WINDOW_S:
            deliveries = self._deliveries
            self._gather_s = self._judge(
                self._messages / elapsed_s, (deliveries - self._seen_deliveries) / elapsed_s
            )
            self._messages = 0
            self._seen_deliveries = deliveries
            self._since = now
        return self._gather_s

    @staticmethod
    def _judge(messages_hz: float, deliveries_hz: float) -> float:
        if messages_hz >= FAN_OUT_RATE_HZ and deliveries_hz >= FAN_OUT_DELIVERIES_HZ:
            return FAN_OUT_GATHER_S
        return GATHER_S if messages_hz > BUSY_RATE_HZ else 0.0
