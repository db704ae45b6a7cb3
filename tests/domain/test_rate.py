"""`tracker.domain.rate`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.domain.rate import TokenBucket


def test_a_burst_then_the_rate() -> None:
    bucket = TokenBucket(rate_per_s=2, burst=3, now_s=100.0)
    times_s = [100.0, 100.0, 100.0, 100.0, 100.25, 100.5, 100.5, 101.0, 101.0]
    assert [bucket.take(now_s) for now_s in times_s] == [
        *(True, True, True, False),  # the burst
        *(False, True, False, True, False),  # two a second
    ]


def test_no_more_than_a_burst_is_saved_up() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=2, now_s=0.0)
    assert [bucket.take(1e9) for _ in range(4)] == [True, True, False, False]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.integers(0, 30).map(lambda tenths: tenths / 8), max_size=60),
)
def test_in_any_time_no_more_than_the_burst_and_the_rate(
    rate_per_s: int, burst: int, pauses_s: list[float]
) -> None:
    bucket = TokenBucket(rate_per_s=rate_per_s, burst=burst, now_s=0.0)
    now_s, taken_s = 0.0, []
    for pause_s in pauses_s:
        now_s += pause_s
        if bucket.take(now_s):
            taken_s.append(now_s)
    for i, first_s in enumerate(taken_s):
        for count, last_s in enumerate(taken_s[i:], 1):
            assert count <= burst + rate_per_s * (last_s - first_s)
