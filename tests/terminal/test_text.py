"""`tracker.terminal.text`: what a device was called cannot harm a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.terminal.text import cells, cut, left, printable, right


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("bus 14 ñ 車", "bus 14 ñ 車"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("a\r\nb\tc\x7f\x9b2J", r"a\r\nb\tc\x7f\x9b2J"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\ud800\U000e0001", r"\ud800\U000e0001"),
        ("\u2028", r"\u2028"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_nothing_unprintable_is_left(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & {unicodedata.category(one) for one in shown}


@pytest.mark.parametrize(("text", "count"), [("", 0), ("abc", 3), ("車", 2), ("e\u0301", 1)])
def test_cells(text: str, count: int) -> None:
    assert cells(text) == count


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("車車", 3, "車…"),
        ("車車", 2, "…"),
        ("ab", 1, "…"),
        ("ab", 0, ""),
    ],
)
def test_cut(text: str, limit: int, expected: str) -> None:
    assert cut(text, limit) == expected


@given(st.text().map(printable), st.integers(0, 20))
def test_padded_text_is_as_wide_as_wanted(text: str, width: int) -> None:
    assert cells(left(text, width)) == width
    assert cells(right(text, width)) == width
