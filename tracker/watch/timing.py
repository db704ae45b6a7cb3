"""How patient a stream is, and the pauses between its attempts."""

from __future__ import annotations

import math
import random

import msgspec

#: PROTOCOL A2: a gateway says something at least this often, unless it said how often.
KEEPALIVE_S = 60.0
#: So many keep-alives may fail to come.
STALL_PERIODS = 2.5


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long a stream waits, in seconds.

    `connect_s`: for one attempt to connect.
    `ping_s`: between keep-alives, which the gateway is asked for.
    `stall_s`: for any message of the gateway, before the connection is taken for dead; None is
    2.5 of the gateway's keep-alives. Only time in which we were reading counts.
    `backoff_min_s`, `backoff_max_s`: bounds of the pauses between attempts.
    `give_up_first_s`: for the very first connection; 0 is one attempt.
    `give_up_s`: for a connection that was lost to come back.
    """

    connect_s: float = 10.0
    ping_s: float = 20.0
    stall_s: float | None = None
    backoff_min_s: float = 0.5
    backoff_max_s: float = 30.0
    give_up_first_s: float = math.inf
    give_up_s: float = math.inf


class Backoff:
    """Pauses that double between two bounds, each shortened at random by up to a half.

    The jitter is that large because the clients of a gateway that fell lose it all at once.
    """

    def __init__(self, min_s: float, max_s: float, rng: random.Random) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._ceiling_s = min_s
        self._rng = rng

    def next_s(self) -> float:
        """The next pause."""
        pause_s = self._ceiling_s * self._rng.uniform(0.5, 1.0)
        self._ceiling_s = min(self._max_s, self._ceiling_s * 2)
        return pause_s

    def reset(self) -> None:
        """Start small again."""
        self._ceiling_s = self._min_s
