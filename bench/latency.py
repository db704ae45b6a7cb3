"""Latencies, counted by the microsecond in windows of one second; and medians.

A percentile of a run is the median of its windows': one pause of the machine spoils one window,
not the figure. What a single window says is kept beside it, as the percentile of all.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate

WINDOW_NS = 1_000_000_000


class LatencyWindows:
    """How often each latency occurred, for each whole second from `start_ns` to `end_ns`."""

    def __init__(self, start_ns: int, end_ns: int) -> None:
        self.start_ns = start_ns
        self.end_ns = end_ns
        count = max(1, (end_ns - start_ns) // WINDOW_NS)
        self._windows: list[dict[int, int]] = [defaultdict(int) for _ in range(count)]

    def span(self, now_ns: int) -> tuple[dict[int, int] | None, int]:
        """Where a reading at `now_ns` counts (latency in µs → how often), and until when.

        None outside of start and end.
        """
        if now_ns < self.start_ns:
            return None, self.start_ns
        if now_ns >= self.end_ns:
            return None, sys.maxsize
        index = min((now_ns - self.start_ns) // WINDOW_NS, len(self._windows) - 1)
        is_last = index == len(self._windows) - 1
        return self._windows[index], (
            self.end_ns if is_last else self.start_ns + (index + 1) * WINDOW_NS
        )

    @property
    def count(self) -> int:
        """All that was counted."""
        return sum(sum(window.values()) for window in self._windows)

    def of_windows_ms(self, fraction: float) -> float:
        """The median over the windows of each one's percentile, ms; NaN when all are empty."""
        return median([percentile(window, fraction) for window in self._windows if window]) / 1000

    def of_all_ms(self, fraction: float) -> float:
        """The percentile of everything counted, ms; NaN when nothing was."""
        merged: dict[int, int] = defaultdict(int)
        for window in self._windows:
            for value, count in window.items():
                merged[value] += count
        return percentile(merged, fraction) / 1000


def percentile(counts: Mapping[int, int], fraction: float) -> float:
    """The smallest value that at least `fraction` of what was counted does not exceed.

    NaN when nothing was counted.
    """
    if not counts:
        return math.nan
    values = sorted(counts)
    needed = max(1, math.ceil(fraction * sum(counts.values())))
    sums = accumulate(counts[value] for value in values)
    return next(value for value, total in zip(values, sums, strict=True) if total >= needed)


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two; NaN of nothing, or where one is NaN."""
    ordered = sorted(values)
    if not ordered or any(math.isnan(value) for value in ordered):
        return math.nan
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
