"""`tracker.domain.limiter`: at most the rate, and the newest of a burst always arrives."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import make_message
from tracker.domain.limiter import RateLimiter
from tracker.domain.message import Message
from tracker.domain.queue import Subscription

SECOND_NS = 1_000_000_000


def at(sequence: int, second: float, device_id: str = "1") -> Message:
    return make_message(sequence, device_id, received_ns=int(second * SECOND_NS))


def test_the_first_passes_and_the_newest_of_a_burst_follows_with_its_token() -> None:
    limiter, subscription = RateLimiter(2.0), Subscription("1")
    messages = [at(1, 10.0), at(2, 10.1), at(3, 10.2), at(4, 10.3)]
    assert [limiter.admit(message, subscription) for message in messages] == [
        *(True, False, False, False),
    ]
    assert (len(limiter), subscription.held, subscription.dropped) == (1, 1, 2)
    assert limiter.due(int(10.5 * SECOND_NS) - 1) == []
    assert limiter.due(int(10.5 * SECOND_NS)) == [(messages[3], subscription)]
    assert (len(limiter), subscription.held, subscription.dropped) == (0, 0, 2)
    assert limiter.due(99 * SECOND_NS) == []


def test_tokens_are_not_saved_up() -> None:
    limiter, subscription = RateLimiter(1.0), Subscription("1")
    assert limiter.admit(at(1, 0), subscription)
    assert limiter.admit(at(2, 100), subscription)
    assert not limiter.admit(at(3, 100), subscription)


def test_what_is_held_keeps_its_turn() -> None:
    """A newer one that would find a token waits for `due`, or it would overtake."""
    limiter, subscription = RateLimiter(1.0), Subscription("1")
    messages = [at(1, 0), at(2, 0.5), at(3, 7)]
    assert [limiter.admit(message, subscription) for message in messages] == [True, False, False]
    assert limiter.due(7 * SECOND_NS) == [(messages[2], subscription)]
    assert subscription.dropped == 1


def test_a_token_that_came_late_is_no_reason_for_two() -> None:
    limiter, subscription = RateLimiter(1.0), Subscription("1")
    limiter.admit(at(1, 0), subscription)
    limiter.admit(at(2, 0), subscription)
    assert len(limiter.due(int(1.9 * SECOND_NS))) == 1
    late = at(3, 2.0)
    assert not limiter.admit(late, subscription)
    assert limiter.due(int(2.9 * SECOND_NS) - 1) == []
    assert limiter.due(int(2.9 * SECOND_NS)) == [(late, subscription)]


def test_devices_have_their_own_tokens_and_leave_in_the_order_of_these() -> None:
    limiter = RateLimiter(1.0)
    one, two = Subscription("1"), Subscription("2")
    limiter.admit(at(1, 0.5, "1"), one)
    limiter.admit(at(2, 0.2, "2"), two)
    held_one, held_two = at(3, 0.6, "1"), at(4, 0.7, "2")
    limiter.admit(held_one, one)
    limiter.admit(held_two, two)
    assert limiter.due(int(1.3 * SECOND_NS)) == [(held_two, two)]
    assert limiter.due(int(1.6 * SECOND_NS)) == [(held_one, one)]


def test_the_end_of_the_limit_lets_go_of_everything() -> None:
    limiter = RateLimiter(0.001)
    one, two = Subscription("1"), Subscription("2")
    for subscription in (one, two):
        limiter.admit(at(1, 0), subscription)
        limiter.admit(at(2, 0), subscription)
    assert [subscription for _, subscription in limiter.release()] == [one, two]
    assert (len(limiter), one.held, two.held) == (0, 0, 0)
    assert limiter.due(10**18) == []


def test_a_subscription_that_ends_is_forgotten() -> None:
    limiter, subscription = RateLimiter(1.0), Subscription("1")
    assert limiter.forget(subscription) == 0
    limiter.admit(at(1, 0), subscription)
    limiter.admit(at(2, 0), subscription)
    assert limiter.forget(subscription) == 1
    assert (len(limiter), subscription.held, subscription.dropped) == (0, 0, 1)
    assert limiter.due(10**18) == []


def test_those_who_come_and_go_leave_nothing_behind() -> None:
    """However far off their tokens are."""
    limiter = RateLimiter(0.001)
    for sequence in range(0, 20_000, 2):
        subscription = Subscription("1")
        limiter.admit(at(sequence, 0), subscription)
        limiter.admit(at(sequence + 1, 0), subscription)
        limiter.forget(subscription)
    assert (len(limiter), len(limiter._token_ns)) == (0, 0)
    assert len(limiter._due) < 100


@pytest.mark.parametrize("rate_per_s", [0.001, 0.3, 1, 3, 7.7, 1000])
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 10**10)), max_size=60),
)
def test_never_more_than_the_rate_and_always_the_newest(
    rate_per_s: float, steps: list[tuple[bool, int, int]]
) -> None:
    limiter = RateLimiter(rate_per_s)
    subscriptions = [Subscription(str(number)) for number in range(3)]
    passed: list[list[tuple[int, Message]]] = [[], [], []]
    offered = [0, 0, 0]
    newest: dict[int, Message] = {}
    now_ns = 0
    for sequence, (is_message, device, later_ns) in enumerate(steps):
        now_ns += later_ns
        if is_message:
            message = make_message(sequence, str(device), received_ns=now_ns)
            newest[device] = message
            offered[device] += 1
            if limiter.admit(message, subscriptions[device]):
                passed[device].append((now_ns, message))
        else:
            for message, subscription in limiter.due(now_ns):
                passed[int(subscription.device_id)].append((now_ns, message))
        for each, subscription in enumerate(subscriptions):
            assert offered[each] == len(passed[each]) + subscription.dropped + subscription.waiting
        assert len(limiter) == sum(subscription.held for subscription in subscriptions)
    for message, subscription in limiter.due(now_ns + 10**13):
        passed[int(subscription.device_id)].append((now_ns + 10**13, message))
    for device, message in newest.items():
        assert passed[device][-1][1] is message
    for times in ([when for when, _ in each] for each in passed):
        for first, second in pairwise(times):
            assert Fraction(second - first) * Fraction(rate_per_s) >= SECOND_NS
    for messages in ([message.sequence for _, message in each] for each in passed):
        assert messages == sorted(set(messages))
