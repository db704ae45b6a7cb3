"""A token bucket: how often something may happen."""

from __future__ import annotations


class TokenBucket:
    """`rate_per_s` tokens a second, at most `burst` of them saved up.

    Times are seconds of any clock that never goes back.
    """

    __slots__ = ("_burst", "_rate_per_s", "_tokens", "_updated_s")

    def __init__(self, *, rate_per_s: float, burst: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._updated_s = now_s

    def take(self, now_s: float) -> bool:
        """Take one token; False when there is none."""
        earned = (now_s - self._updated_s) * self._rate_per_s
        self._tokens = min(self._burst, self._tokens + earned)
        self._updated_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
