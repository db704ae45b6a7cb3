"""`tracker.domain.histogram`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.domain.histogram import Histogram


def test_a_bound_belongs_to_its_bucket() -> None:
    """Prometheus: `le` is less or equal."""
    histogram = Histogram([0.5, 1, 2])
    for value in (0.25, 0.5, 0.75, 2, 4):
        histogram.observe(value)
    assert histogram.buckets() == [("0.5", 2.0), ("1", 3.0), ("2", 4.0), ("+Inf", 5.0)]
    assert histogram.total == 7.5


def test_an_empty_histogram_is_all_zero() -> None:
    histogram = Histogram([1])
    assert (histogram.buckets(), histogram.total) == ([("1", 0.0), ("+Inf", 0.0)], 0.0)


def test_many_at_once_are_as_many_one_by_one() -> None:
    at_once, one_by_one = Histogram([1, 10]), Histogram([1, 10])
    at_once.observe(3, 5)
    at_once.observe(7, 0)
    for _ in range(5):
        one_by_one.observe(3)
    assert at_once.buckets() == one_by_one.buckets() == [("1", 0.0), ("10", 5.0), ("+Inf", 5.0)]
    assert at_once.total == one_by_one.total == 15


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-100, 100), unique=True).map(sorted),
    st.lists(st.tuples(st.integers(-120, 120), st.integers(0, 3))),
)
def test_every_observation_is_counted_once(
    bounds: list[int], observations: list[tuple[int, int]]
) -> None:
    histogram = Histogram(bounds)
    for value, times in observations:
        histogram.observe(value, times)
    assert histogram.buckets() == [
        *(
            (str(bound), float(sum(times for value, times in observations if value <= bound)))
            for bound in bounds
        ),
        ("+Inf", float(sum(times for _, times in observations))),
    ]
    assert histogram.total == sum(value * times for value, times in observations)
