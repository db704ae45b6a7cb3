"""Rows in columns, on a terminal of any width. Pure: the same arguments give the same lines.

On a narrow terminal columns go, the least needed first, before any is cut; one column gives way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from tracker.terminal.text import cells, cut, left, right

Row = TypeVar("Row")

_GAP = "  "


@dataclasses.dataclass(frozen=True, eq=False)
class Column(Generic[Row]):
    """A column, of printable text. `rank`: the lowest goes first; None stays."""

    title: str
    text: Callable[[Row], str]
    rank: int | None = None
    min_cells: int = 1
    is_left: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Elastic:
    """How wide the column may be that gives way: what it has to have, wants, and may have."""

    min_cells: int
    wanted_cells: int
    max_cells: int


def lay_out(
    rows: Sequence[Row],
    columns: Sequence[Column[Row]],
    *,
    elastic: tuple[Column[Row], Elastic],
    width: int,
    lines: int,
) -> tuple[str, list[str], str]:
    """(The header, a line for each row that is shown, what says how many are not; or "").

    At most `lines` lines of at most `width` cells. The elastic column is one of `columns`.
    """
    giving, limits = elastic
    shown = list(columns)
    texts = {column: [column.text(row) for row in rows] for column in shown}
    widths = {
        column: max([column.min_cells, cells(column.title), *map(cells, texts[column])])
        for column in shown
    }
    longest = max([limits.min_cells, cells(giving.title), *map(cells, texts[giving])])

    def room() -> int:
        others = sum(widths[column] for column in shown if column is not giving)
        return width - others - len(_GAP) * (len(shown) - 1)

    while room() < min(longest, limits.wanted_cells):
        ranked = [column for column in shown if column.rank is not None]
        if not ranked:
            break
        shown.remove(min(ranked, key=lambda column: column.rank or 0))
    widths[giving] = max(1, min(longest, limits.max_cells, room()))

    def line(parts: Iterable[str]) -> str:
        placed = (
            left(part, widths[column]) if column.is_left else right(part, widths[column])
            for part, column in zip(parts, shown, strict=True)
        )
        return cut(_GAP.join(placed), width)

    count = len(rows) if len(rows) <= lines - 1 else max(0, lines - 2)
    header = line(column.title for column in shown)
    table = [line(texts[column][at] for column in shown) for at in range(count)]
    hidden = len(rows) - count
    return header, table, cut(f"… and {hidden} more", width) if hidden else ""
