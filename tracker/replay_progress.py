"""How far a replay has come, and how fast it is. Pure: time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from tracker.replay import Due, Recording, Repeat

_WINDOW_S = 10.0
_BAR_CELLS = 24


class ReplayProgress:
    """What was published of `recordings`, played `speed` times as fast as they were."""

    def __init__(self, recordings: Sequence[Recording], *, speed: float, repeat: Repeat) -> None:
        self._total = sum(len(recording.records) for recording in recordings)
        self._repeat = repeat
        longest = max(recordings, key=lambda recording: recording.span_s)
        self._round_s = longest.period_s if repeat is Repeat.FOREVER else longest.span_s
        self._speed = speed
        self._current: Due | None = None
        self._devices: set[str] = set()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._recorded_s = 0.0
        #: (now, published, recorded seconds) of the last ten seconds
        self._samples: deque[tuple[float, int, float]] = deque()
        self.published = 0

    def follow(self, due: Iterable[Due]) -> Iterator[Due]:
        """`due`, watched: the last one taken is what is published next."""
        for one in due:
            self._current = one
            yield one

    def note_published(self, now_s: float) -> None:
        """The report in hand is with the broker."""
        assert self._current is not None
        if self._first_s is None:
            self._first_s = now_s
        self.published += 1
        self._last_s = now_s
        self._recorded_s = self._current.at_s * self._speed
        self._devices.add(self._current.record.device_id)

    def line(self, now_s: float) -> str:
        """The line to show now; it is to be asked for about once a second or more often."""
        self._samples.append((now_s, self.published, self._recorded_s))
        while now_s - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        began_s, published, recorded_s = self._samples[0]
        elapsed_s = max(now_s - began_s, 1e-9)
        rate = (self.published - published) / elapsed_s if now_s > began_s else 0.0
        speed = (self._recorded_s - recorded_s) / elapsed_s if now_s > began_s else 0.0
        rounds, done_s = divmod(self._recorded_s, self._round_s) if self._round_s else (0, 0.0)
        if self._repeat is Repeat.ONCE:
            share = self.published / self._total
            count = f"{self.published} of {self._total}"
            left_s = (self._round_s - self._recorded_s) / self._speed
            left = f"  {_clock(left_s)} left"
        else:
            share = done_s / self._round_s
            left = ""
            count = f"{self.published} (round {int(rounds) + 1})"
        filled = int(share * _BAR_CELLS)
        bar = "#" * filled + "." * (_BAR_CELLS - filled)
        return (
            f"[{bar}] {share:4.0%}  {count}  {rate:.1f} messages/s  "
            f"{speed:.1f}x (wanted {self._speed:g}x){left}"
        )

    def summary(self) -> str:
        """What is to be said at the end."""
        text = (
            f"published {self.published} {'report' if self.published == 1 else 'reports'} of "
            f"{len(self._devices)} {'device' if len(self._devices) == 1 else 'devices'}"
        )
        if self._first_s is None or self._last_s <= self._first_s:
            return text
        # n reports have n - 1 intervals between them
        took_s = self._last_s - self._first_s
        rate = (self.published - 1) / took_s
        return f"{text} in {took_s:.1f} s: {rate:.1f} messages/s"


def _clock(seconds: float) -> str:
    """`1:02:03`, or `2:03`."""
    minutes, rest_s = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}" if hours else f"{minutes}:{rest_s:02}"
