"""`tracker.watch.table`: the frame, on wide and narrow terminals."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.terminal.text import cells
from tracker.watch.fleet import Row
from tracker.watch.keeper import State, StreamStatistics
from tracker.watch.table import age, rate, render

LIVE = StreamStatistics(
    state=State.LIVE,
    connects=3,
    reconnects=2,
    failed_attempts=1,
    messages=10,
    past=0,
    events=0,
    lost=0,
    pings=0,
    undecodable=0,
    unread=0,
    problem="",
    next_attempt_in_s=None,
)
AWAY = dataclasses.replace(
    LIVE, state=State.WAITING, problem="connection refused\x1b[2J", next_attempt_in_s=3.4
)
ROWS = [
    Row("0848086072", age_s=0.42, speed=45.0, position=(-33.4567, -70.6789), per_s=1.0),
    Row("bus\x1b[31m", age_s=61.0, position=(53.0, -2.9), per_s=0.05),
    Row("nobody"),
]


def frame(
    rows: list[Row] = ROWS,
    statistics: StreamStatistics = LIVE,
    columns: int = 80,
    lines: int = 24,
    colours: bool = False,
    notice: str = "",
) -> list[str]:
    return render(
        rows,
        title="http://gateway",
        statistics=statistics,
        per_s=1.05,
        notice=notice,
        columns=columns,
        lines=lines,
        colours=colours,
    )


def test_wide() -> None:
    assert frame() == [
        "live  1.1/s  2 reconnects  3 devices  http://gateway",
        "",
        "DEVICE          AGE   SPEED              POSITION      RATE",
        "0848086072    0.4 s    45.0   -33.45670 -70.67890     1.0/s",
        r"bus\x1b[31m    61 s       -     53.00000 -2.90000   3.0/min",
        "nobody        never       -                     -         -",
    ]


def test_away() -> None:
    assert frame(statistics=AWAY)[:2] == [
        "NO CONNECTION, again in 3 s  1.1/s  2 reconnects  3 devices  http://gateway",
        r"connection refused\x1b[2J",
    ]


def test_losses() -> None:
    rows = [dataclasses.replace(ROWS[0], lost=12), *ROWS[1:]]
    shown = frame(rows, dataclasses.replace(LIVE, lost=12), notice="lost: 12 of A\x1b[2J, 3 s ago")
    assert shown == [
        "live  1.1/s  2 reconnects  12 lost  3 devices  http://gateway",
        r"lost: 12 of A\x1b[2J, 3 s ago",
        "",
        "DEVICE          AGE   SPEED              POSITION      RATE    LOST",
        "0848086072    0.4 s    45.0   -33.45670 -70.67890     1.0/s      12",
        r"bus\x1b[31m    61 s       -     53.00000 -2.90000   3.0/min       -",
        "nobody        never       -                     -         -       -",
    ]


def test_columns_go_before_they_are_cut() -> None:
    headers = {" ".join(frame(columns=width)[2].split()) for width in range(10, 100)}
    assert headers >= {
        "DEVICE AGE SPEED POSITION RATE",
        "DEVICE AGE SPEED POSITION",
        "DEVICE AGE SPEED",
        "DEVICE AGE",
    }


def test_a_long_id_takes_no_room_from_the_others() -> None:
    rows = [Row("x" * 128, age_s=1.0), *ROWS]
    assert frame(rows)[3].startswith("x" * 31 + "…")
    assert cells(frame(rows, columns=200)[3].split()[0]) == 32


def test_what_does_not_fit_below_is_counted() -> None:
    rows = [Row(str(number)) for number in range(100)]
    lines = frame(rows, lines=10)
    assert len(lines) == 10
    assert [line.split()[0] for line in lines[3:9]] == ["0", "1", "2", "3", "4", "5"]
    assert lines[9] == "… and 94 more"
    assert len(frame(rows[:7], lines=10)) == 10
    assert frame(rows[:7], lines=10)[9].split()[0] == "6"


@given(
    st.lists(
        st.builds(
            Row,
            st.text(),
            age_s=st.none() | st.floats(0, 1e7),
            speed=st.none() | st.floats(-1e9, 1e9),
            position=st.none() | st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
            per_s=st.floats(0, 1e6),
        ),
        max_size=20,
    ),
    st.sampled_from([LIVE, AWAY]),
    st.integers(1, 120),
    st.integers(1, 40),
)
def test_whatever_the_size_it_fits_and_holds_no_control_character(
    rows: list[Row], statistics: StreamStatistics, columns: int, lines: int
) -> None:
    plain = frame(rows, statistics, columns, lines)
    assert len(plain) <= lines
    for line in plain:
        assert line.isprintable()
        assert cells(line) <= columns
    painted = frame(rows, statistics, columns, lines, colours=True)
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in painted] == plain


@pytest.mark.parametrize(
    ("age_s", "text"),
    [
        (None, "never"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (5969, "99 min"),
        (5971, "1.7 h"),
        (200_000, "2.3 d"),
    ],
)
def test_age(age_s: float | None, text: str) -> None:
    assert age(age_s) == text


@pytest.mark.parametrize(
    ("per_s", "text"),
    [
        (0, "-"),
        (0.001, "0.1/min"),
        (0.99, "59.4/min"),
        (1, "1.0/s"),
        (99.9, "99.9/s"),
        (100, "100/s"),
    ],
)
def test_rate(per_s: float, text: str) -> None:
    assert rate(per_s) == text
