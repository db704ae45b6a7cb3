"""`tracker.watch.roster`: the devices over connections, operations and refusals."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tracker.watch.roster import Op, Operation, Roster, Wish


def opened(*device_ids: str) -> Roster:
    roster = Roster(device_ids)
    assert roster.connect() == device_ids
    roster.open(takes_operations=True)
    return roster


def test_what_is_covered_resumes_and_the_rest_is_asked_for() -> None:
    roster = opened("A", "B")
    roster.want(["C"])
    roster.disconnect()
    roster.want(["D"])
    roster.unwant(["A"])
    assert roster.connect() == ("B",)
    assert roster.covered == {"B"}
    assert roster.settle() == []
    roster.open(takes_operations=True)
    assert roster.settle() == [Operation(Op.SUBSCRIBE, ("C", "D"), 1)]
    assert roster.settle() == []


def test_where_nothing_is_covered_all_is_asked_for_at_once() -> None:
    roster = Roster(["A"])
    roster.connect()
    roster.want(["B"])
    roster.disconnect()
    assert roster.connect() == ("A", "B")
    assert roster.covered == set()


def test_a_wish_is_done_when_the_gateway_says_so() -> None:
    roster = opened("A")
    more, less = roster.want(["A", "B"]), roster.unwant(["A"])
    assert roster.settle() == [
        Operation(Op.UNSUBSCRIBE, ("A",), 1),
        Operation(Op.SUBSCRIBE, ("B",), 2),
    ]
    assert roster.answer(1)
    assert (more.done.is_set(), less.done.is_set()) == (False, True)
    assert roster.answer(2)
    assert (more.done.is_set(), more.refusal) == (True, None)
    assert not roster.answer(2)
    assert not roster.answer(None)


def test_a_device_that_leaves_and_comes_back_is_covered_when_it_is_confirmed_again() -> None:
    roster = opened("A", "B")
    less = roster.unwant(["A"])
    assert [each.op for each in roster.settle()] == [Op.UNSUBSCRIBE]
    back = roster.want(["A"])
    assert less.done.is_set()  # it is wanted again
    assert [each.op for each in roster.settle()] == [Op.SUBSCRIBE]
    roster.answer(1)
    assert (roster.covered, back.done.is_set()) == ({"B"}, False)
    roster.answer(2)
    assert (roster.covered, back.done.is_set()) == ({"A", "B"}, True)


def test_a_change_of_mind_before_anything_was_said_says_nothing() -> None:
    roster = opened("A")
    roster.unwant(["A"])
    assert roster.want(["A"]).done.is_set()
    assert roster.settle() == []


def test_a_refusal_is_told_to_who_waits() -> None:
    roster = opened("A")
    refused, other = roster.want(["B"]), roster.want(["A"])
    roster.settle()
    roster.answer(1, "too many")
    assert (refused.refusal, other.refusal) == ("too many", None)
    assert roster.wanted == ("A",)
    assert roster.settle() == []


def test_a_gateway_that_takes_no_operations() -> None:
    roster = Roster(["A"])
    roster.connect()
    roster.open(takes_operations=False)
    wishes = roster.want(["B"]), roster.unwant(["A"])
    assert roster.settle() == []
    assert [wish.refusal for wish in wishes] == ["the gateway takes no operations"] * 2
    assert roster.wanted == ()


def test_without_a_connection_nothing_comes_of_a_device() -> None:
    roster = opened("A")
    roster.disconnect()
    assert roster.unwant(["A"]).done.is_set()
    assert not roster.want(["A"]).done.is_set()


def test_many_devices_are_asked_for_in_parts() -> None:
    roster = opened("A")
    roster.want([str(number) for number in range(250)])
    assert [len(each.device_ids) for each in roster.settle()] == [100, 100, 50]


@pytest.mark.parametrize("is_forgotten", [True, False])
def test_at_the_end_nobody_waits(is_forgotten: bool) -> None:
    roster = Roster(["A"])
    wish = roster.want(["B"])
    if is_forgotten:
        roster.forget(wish)
        roster.forget(wish)
    roster.end()
    assert wish.done.is_set() is not is_forgotten


class RosterMachine(RuleBasedStateMachine):
    """Against a gateway that carries out operations in order, and answers later."""

    def __init__(self) -> None:
        super().__init__()
        self.roster = Roster(["A"])
        #: What the gateway has; None without a connection.
        self.served: set[str] | None = None
        self.is_open = False
        self.sent: deque[Operation] = deque()
        self.answers: deque[tuple[Operation, str | None]] = deque()
        self.wishes: list[Wish] = []

    @rule(device_ids=st.sets(st.sampled_from("ABCD"), min_size=1))
    def want(self, device_ids: set[str]) -> None:
        self.wishes.append(self.roster.want(sorted(device_ids)))

    @rule(device_ids=st.sets(st.sampled_from("ABCD"), min_size=1))
    def unwant(self, device_ids: set[str]) -> None:
        self.wishes.append(self.roster.unwant(sorted(device_ids)))

    @precondition(lambda self: self.served is None and self.roster.wanted)
    @rule()
    def connect(self) -> None:
        covered = self.roster.covered & set(self.roster.wanted)
        device_ids = set(self.roster.connect())
        assert device_ids == (covered or set(self.roster.wanted))
        self.served = device_ids

    @precondition(lambda self: self.served is not None and not self.is_open)
    @rule()
    def open(self) -> None:
        self.is_open = True
        self.roster.open(takes_operations=True)

    @precondition(lambda self: self.served is not None)
    @rule()
    def disconnect(self) -> None:
        self.roster.disconnect()
        self.served = None
        self.is_open = False
        self.sent.clear()
        self.answers.clear()

    @rule()
    def settle(self) -> None:
        self.sent += self.roster.settle()

    @precondition(lambda self: self.sent)
    @rule(may_refuse=st.booleans())
    def serve(self, may_refuse: bool) -> None:
        assert self.served is not None
        operation = self.sent.popleft()
        device_ids = set(operation.device_ids)
        if operation.op is Op.UNSUBSCRIBE:
            self.served -= device_ids
        elif may_refuse:
            self.answers.append((operation, "no"))
            return
        else:
            assert not device_ids & self.served
            self.served |= device_ids
        self.answers.append((operation, None))

    @precondition(lambda self: self.answers)
    @rule()
    def answer(self) -> None:
        operation, refusal = self.answers.popleft()
        assert self.roster.answer(operation.ref, refusal)

    @invariant()
    def who_is_covered_is_served(self) -> None:
        """Or was, until an operation whose answer has not come yet."""
        if self.served is not None and self.is_open:
            ended = {
                each
                for operation, refusal in self.answers
                for each in operation.device_ids
                if operation.op is Op.UNSUBSCRIBE
            }
            assert self.roster.covered <= self.served | ended

    def teardown(self) -> None:
        """In the end everything is as it is wanted."""
        if self.served is None and self.roster.wanted:
            self.connect()
        if self.served is None:
            return
        if not self.is_open:
            self.open()
        self.settle()
        while self.sent:
            self.serve(may_refuse=False)
        while self.answers:
            self.answer()
        self.settle()
        assert not self.sent
        assert self.served == set(self.roster.wanted) == self.roster.covered
        assert all(wish.done.is_set() for wish in self.wishes)


TestRoster = RosterMachine.TestCase
TestRoster.settings = settings(max_examples=50, deadline=None)
