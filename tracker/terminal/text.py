"""Text from elsewhere, made fit for a terminal.

Law: what `printable` returns moves no cursor, sends no command to the terminal, and reads in
the order in which it stands, whatever a device was called.
"""

from __future__ import annotations

import unicodedata

ELLIPSIS = "…"


def printable(text: str) -> str:
    r"""`text` with all that is not to be seen escaped: controls, bidirectional marks, surrogates.

    >>> printable("A\x1b[2J\u202e")
    'A\\x1b[2J\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def cells(text: str) -> int:
    """How many columns of a terminal `text` takes; it is printable."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(text: str, limit: int) -> str:
    """`text`, in at most `limit` columns; what is cut off leaves an ellipsis."""
    if cells(text) <= limit:
        return text
    kept, used = [], 0
    for one in text:
        used += _cells(one)
        if used > limit - 1:
            break
        kept.append(one)
    return "".join(kept) + ELLIPSIS[: max(0, limit)]


def left(text: str, width: int) -> str:
    """`text` at the left of exactly `width` columns."""
    text = cut(text, width)
    return text + " " * (width - cells(text))


def right(text: str, width: int) -> str:
    """`text` at the right of exactly `width` columns."""
    text = cut(text, width)
    return " " * (width - cells(text)) + text


def _cells(one: str) -> int:
    if unicodedata.category(one) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(one) in ("W", "F") else 1
