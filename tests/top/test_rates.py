"""`tracker.top.rates`: how fast each client gets its messages."""

from __future__ import annotations

from tests.top.observations import observation
from tracker.top.observation import Connection, Totals
from tracker.top.rates import Rates, rates


def test_at_first_nothing_is_known() -> None:
    first = observation(Connection(seat=0), Connection(seat=1))
    assert rates(None, first) == Rates([None, None])
    assert rates(first, first) == Rates([None, None])


def test_each_in_the_order_of_the_later_one() -> None:
    before = observation(
        Connection(seat=1, age_s=10, delivered=100),
        Connection(seat=2, age_s=20, delivered=7),
        at_s=50,
        totals=Totals(total_messages_processed=1000, messages_delivered=5000),
    )
    after = observation(
        Connection(seat=2, age_s=22.1, delivered=8),
        Connection(seat=1, age_s=11.9, delivered=140),
        at_s=52,
        totals=Totals(total_messages_processed=1010, messages_delivered=5100),
    )
    assert rates(before, after) == Rates([0.5, 20.0], published=5.0, delivered_in_all=50.0)


def test_one_that_came_since_then_has_all_that_it_has() -> None:
    before = observation(Connection(seat=1, age_s=10, delivered=100), at_s=0)
    after = observation(
        Connection(seat=1, age_s=0.5, delivered=10),  # where another sat
        Connection(seat=2, age_s=1.5, delivered=20),
        Connection(seat=3, age_s=60, delivered=30),  # not among the listed before
        at_s=2,
    )
    assert rates(before, after).delivered == [5.0, 10.0, None]


def test_another_life_of_the_gateway() -> None:
    before = observation(
        Connection(seat=1, age_s=1, delivered=100),
        at_s=0,
        totals=Totals(messages_delivered=9, total_messages_processed=9),
    )
    after = observation(Connection(seat=1, age_s=2, delivered=10), at_s=1)
    assert rates(before, after) == Rates([None])
