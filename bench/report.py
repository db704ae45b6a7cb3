"""What the bench prints: must, aim and measured side by side, and whether it is enough."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

TOLERANCE = 0.1
"""A must that is missed by no more than this part of it does not fail the bench."""


class Sense(Enum):
    """Which side of a bound is good."""

    AT_LEAST = "≥"
    AT_MOST = "≤"


class Verdict(Enum):
    """How a figure compares with what it must and should be."""

    AIM = "aim"
    MUST = "ok"
    CLOSE = "close"
    MISSED = "MISSED"
    SHOWN = ""
    SKIPPED = "skipped"
    FAILED = "FAILED"

    @property
    def fails(self) -> bool:
        """Whether the bench must end with an error."""
        return self in (Verdict.MISSED, Verdict.FAILED)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    `must` and `aim` are in the figure's unit; None where none is set. `beside` says what was
    measured with it, or why nothing was.
    """

    scenario: str
    name: str
    measured: float = math.nan
    unit: str = ""
    sense: Sense = Sense.AT_MOST
    must: float | None = None
    aim: float | None = None
    beside: str = ""
    verdict_without_figure: Verdict = Verdict.FAILED

    @property
    def verdict(self) -> Verdict:
        """How it compares. What could not be measured has the verdict given for that."""
        if math.isnan(self.measured):
            return self.verdict_without_figure
        if self.must is None:
            return Verdict.SHOWN
        if self.aim is not None and self._holds(self.aim):
            return Verdict.AIM
        if self._holds(self.must):
            return Verdict.MUST
        slack = TOLERANCE if self.sense is Sense.AT_MOST else -TOLERANCE
        return Verdict.CLOSE if self._holds(self.must * (1 + slack)) else Verdict.MISSED

    def _holds(self, bound: float) -> bool:
        return self.measured >= bound if self.sense is Sense.AT_LEAST else self.measured <= bound

    def cells(self) -> tuple[str, ...]:
        """The line as the table shows it."""
        return (
            self.scenario,
            self.name,
            self._bound(self.must),
            self._bound(self.aim),
            "" if math.isnan(self.measured) else f"{number(self.measured)}{self.unit}",
            self.verdict.value,
            self.beside,
        )

    def _bound(self, bound: float | None) -> str:
        return "" if bound is None else f"{self.sense.value} {number(bound)}{self.unit}"


def number(value: float) -> str:
    """A figure to three digits, with k and M above ten thousand: `4.32`, `296 k`, `3 M`."""
    for scale, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= scale * (10 if letter == " k" else 1):
            return _three_digits(value / scale) + letter
    return _three_digits(value)


def _three_digits(value: float) -> str:
    if value == round(value):
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def table(figures: Sequence[Figure]) -> str:
    """All figures, in columns."""
    header = ("scenario", "figure", "must", "aim", "measured", "", "beside it")
    rows = [header, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def fails(figures: Iterable[Figure]) -> bool:
    """Whether a must is missed by more than the tolerance, or a figure could not be had."""
    return any(figure.verdict.fails for figure in figures)
