"""`tracker.watch.fleet`: age, rate and what devices send in place of numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.watch.fleet import Fleet, Rate, Row, number
from tracker.watch.message import Message, Snapshot


def said(device_id: str, **data: object) -> Message:
    return Message(device_id=device_id, timestamp="", data=data, text="")


def past(device_id: str, **data: object) -> Snapshot:
    return Snapshot(device_id=device_id, timestamp="", data=data, text="")


def test_rows_come_in_the_order_asked_for_then_in_that_of_their_coming() -> None:
    fleet = Fleet(["B", "A"])
    fleet.note(said("C"), 0)
    fleet.note(said("A", LAT=1, LON=-2.5, SPEED=3), 2)
    assert fleet.rows(4) == [
        Row("B"),
        Row("A", age_s=2, speed=3.0, position=(1.0, -2.5), per_s=0.5),
        Row("C", age_s=4, per_s=0.25),
    ]
    assert fleet.per_s(4) == 0.5


def test_the_past_is_shown_until_there_is_news() -> None:
    fleet = Fleet(["A"])
    fleet.note_past(past("A", SPEED=1), -50)
    fleet.note_past(past("A", SPEED=2), -60)  # older
    assert fleet.rows(0) == [Row("A", age_s=50, speed=1.0)]
    fleet.note(said("A", SPEED=3), 10)
    fleet.note_past(past("A", SPEED=4), 5)
    assert fleet.rows(10) == [Row("A", age_s=0, speed=3.0, per_s=1.0)]


def test_losses_are_summed() -> None:
    fleet = Fleet(["A"])
    fleet.note_lost("A", 2)
    fleet.note_lost("A", 3)
    fleet.note_lost("B", 1)
    assert fleet.rows(0) == [Row("A", lost=5), Row("B", lost=1)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (-0.5, -0.5),
        (10**400, None),
        (True, None),
        ("45", None),
        (None, None),
        ([], None),
        (float("inf"), None),
    ],
)
def test_number(value: object, expected: float | None) -> None:
    assert number(value) == expected


def test_a_half_told_position_is_none() -> None:
    fleet = Fleet([])
    fleet.note(said("A", LAT=1, SPEED="fast"), 0)
    assert fleet.rows(0) == [Row("A", age_s=0, per_s=1.0)]


def test_a_rate_is_that_of_the_last_minute() -> None:
    rate = Rate()
    assert rate.per_s(0) == 0
    for second in range(600):
        rate.note(second)
        rate.note(second + 0.5)
    assert rate.per_s(600) == pytest.approx(2, rel=0.05)
    assert rate.per_s(629) == pytest.approx(1, rel=0.05)
    assert rate.per_s(700) == 0


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=300).map(sorted))
def test_a_rate_keeps_few_numbers_and_is_never_above_what_came(times_s: list[float]) -> None:
    rate = Rate()
    for time_s in times_s:
        rate.note(time_s)
        assert len(rate._slots) <= 62
    assert 0 < rate.per_s(times_s[-1]) <= len(times_s)
