"""The auditor finds every kind of fault, and accepts what was told."""

from __future__ import annotations

import pytest

from tests.chaos.ledger import Account, Balance, DiscrepancyError, Entry, Published, audit

#: Numbers 1 to 9 of device A, sent at 1 s to 9 s; the broker died over the 5.
PUBLISHED = Published(
    {"A": {1, 2, 3, 4, 6, 7, 8, 9}},
    {"A": {5}},
    {("A", number): float(number) for number in range(1, 10)},
)
CUT = Entry("cut")


def message(number: int) -> Entry:
    return Entry("message", "A", number, f"e-{number}", heard_s=float(number))


def messages(*numbers: int) -> list[Entry]:
    return [message(number) for number in numbers]


def gap(dropped: int) -> Entry:
    return Entry("gap", "A", dropped)


def resume(word: str, heard_s: float = 0.0) -> Entry:
    return Entry("resume", id="e-0", word=word, heard_s=heard_s)


def upstream(word: str, heard_s: float) -> Entry:
    return Entry("upstream", word=word, heard_s=heard_s)


def balance_of(*entries: Entry, knows_positions: bool = True) -> Balance:
    account = Account("a client", ("A",), knows_positions, entries=[CUT, *entries])
    return audit(account, PUBLISHED)


BALANCED = {
    "all of them": messages(*range(1, 10)),
    "without the one that nobody acknowledged": messages(1, 2, 3, 4, 6, 7, 8, 9),
    "a gap": [*messages(1, 2), gap(2), *messages(5, 6, 7, 8, 9)],
    "a gap with the one that nobody acknowledged": [*messages(1, 2), gap(3), *messages(6, 7, 8, 9)],
    "a gap at the end": [*messages(1, 2, 3, 4, 5, 6, 7), gap(2)],
    "over a cut": [*messages(1, 2), CUT, resume("continued"), *messages(3, 4, 5, 6, 7, 8, 9)],
    "partial": [*messages(1, 2), CUT, resume("partial", 4.5), *messages(6, 7, 8, 9)],
    "partial, missing in the replay": [
        *messages(1),
        CUT,
        resume("partial", 7.0),
        *messages(2, 3, 7, 8, 9),
    ],
    "an outage": [*messages(1, 2), upstream("lost", 3), upstream("back", 7), *messages(8, 9)],
    "an outage over a cut": [
        *messages(1),
        upstream("lost", 3),
        *messages(2),
        CUT,
        resume("partial", 5),
        upstream("lost", 5),
        upstream("back", 7),
        *messages(8, 9),
    ],
    "a gap that was healed": [
        *messages(1, 2),
        gap(2),
        CUT,
        resume("continued"),
        *messages(3, 4, 5, 6, 7, 8, 9),
    ],
}

FAULTS = {
    "2 → 4": (messages(1, 2, 4, 6, 7, 8, 9), "1 undeclared"),
    "a gap too small": ([*messages(1), gap(1), *messages(4, 6, 7, 8, 9)], "1 undeclared"),
    "a gap too large": ([*messages(1), gap(2), *messages(3, 4, 6, 7, 8, 9)], "but gaps tell 2"),
    "twice": (messages(1, 2, 2), "the id e-2 after e-2"),
    "out of order": (
        [*messages(1, 2), Entry("message", "A", 1, "e-3")],
        "A 1 after 2: twice, or out",
    ),
    "a stranger": ([Entry("message", "B", 1, "e-1")], "'B', not subscribed"),
    "an invention": ([Entry("message", "A", 77, "e-1")], "A 77, never published"),
    "the end is missing": (
        messages(1, 2, 3, 4),
        "A 4 → the end: 4 messages missing, .*1 never acknowledged; gaps tell 0: 4 undeclared",
    ),
    "nothing at all": ([], "A 0 → the end: 8 messages missing"),
    "a continued resume that was none": (
        [*messages(1, 2), CUT, resume("continued"), *messages(4, 6, 7, 8, 9)],
        "1 undeclared",
    ),
    "missing after a partial resume": (
        [*messages(1, 2), CUT, resume("partial", 4.5), *messages(6, 8, 9)],
        "1 undeclared",
    ),
    "missing after an outage": (
        [*messages(1), upstream("lost", 2), upstream("back", 3), *messages(4, 6, 8, 9)],
        "1 undeclared",
    ),
    "an outage that was over before the client came back": (
        [*messages(1, 2), upstream("lost", 2), CUT, resume("continued"), *messages(4, 6, 7, 8, 9)],
        "1 undeclared",
    ),
    "a gap that the position had not passed": (
        [*messages(1, 2), gap(2), CUT, resume("continued"), *messages(6, 7, 8, 9)],
        "2 undeclared",
    ),
}


@pytest.mark.parametrize("entries", BALANCED.values(), ids=BALANCED)
def test_what_adds_up(entries: list[Entry]) -> None:
    balance = balance_of(*entries)
    assert balance.delivered == sum(entry.kind == "message" for entry in entries)


@pytest.mark.parametrize(("entries", "what"), FAULTS.values(), ids=FAULTS)
def test_what_does_not(entries: list[Entry], what: str) -> None:
    with pytest.raises(DiscrepancyError, match=what):
        balance_of(*entries)


def test_a_browser_does_not_show_all_its_positions() -> None:
    entries = [*messages(1, 2), gap(2), CUT, resume("continued"), *messages(6, 7, 8, 9)]
    assert balance_of(*entries, knows_positions=False).in_gaps == 2


def test_a_discrepancy_shows_what_was_heard() -> None:
    with pytest.raises(DiscrepancyError) as caught:
        balance_of(*messages(1, 3))
    assert str(caught.value) == (
        "a client: A 1 → 3: 1 messages missing; gaps tell 0: 1 undeclared\n"
        "  0: cut\n"
        "  1: 1.000 s message A 1 e-1\n"
        "→ 2: 3.000 s message A 3 e-3"
    )
