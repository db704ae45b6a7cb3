"""`tracker.domain.notices`: the warning of PROTOCOL A4, its text and its rate."""

from __future__ import annotations

import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tracker.domain.notices import DropNotices

TEXT = "Cola llena para device_id {}. Aplicando backpressure (mensaje descartado)"


def drop(notices: DropNotices, *device_ids: str) -> None:
    for device_id in device_ids:
        notices.count(device_id)


def test_the_first_drop_alone_is_told_without_a_number() -> None:
    notices = DropNotices()
    drop(notices, "848")
    assert notices.due(0.0) == [
        "Cola llena para device_id 848. Aplicando backpressure (mensaje descartado)"
    ]


def test_more_than_one_are_summed() -> None:
    notices = DropNotices()
    drop(notices, *["848"] * 17)
    assert notices.due(0.0) == [
        "Cola llena para device_id 848. Aplicando backpressure (mensaje descartado)"
        " (17 desde el último aviso)"
    ]


def test_a_second_later_the_rest_is_told() -> None:
    notices = DropNotices()
    drop(notices, "848")
    assert notices.due(100.0) == [TEXT.format("848")]
    drop(notices, "848", "848")
    assert [notices.due(now_s) for now_s in (100.0, 100.5, 100.999, 101.0, 102.0)] == [
        *([], [], []),
        [TEXT.format("848") + " (2 desde el último aviso)"],
        [],
    ]
    drop(notices, "848")
    assert notices.due(103.0) == [TEXT.format("848")]


def test_one_device_does_not_silence_another() -> None:
    notices = DropNotices()
    drop(notices, "1")
    assert notices.due(0.0) == [TEXT.format("1")]
    drop(notices, "1", "2")
    assert notices.due(0.5) == [TEXT.format("2")]
    assert notices.due(1.0) == [TEXT.format("1")]


def test_twenty_lines_a_second_in_all() -> None:
    notices = DropNotices()
    device_ids = [str(number) for number in range(50)]
    drop(notices, *device_ids)
    told = [notices.due(now_s) for now_s in (0.0, 0.9, 1.0, 1.9, 2.0, 3.0)]
    lines = [TEXT.format(device_id) for device_id in device_ids]
    assert told == [lines[:20], [], lines[20:40], [], lines[40:], []]


def test_whether_anything_is_untold() -> None:
    notices = DropNotices()
    assert not notices
    drop(notices, "848", "849")
    assert notices
    notices.due(0.0)
    assert not notices
    drop(notices, "848")
    notices.due(0.5)
    assert notices


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 40).map(str), max_size=60), st.integers(0, 12)),
        max_size=20,
    )
)
def test_rate_and_sums(turns: list[tuple[list[str], int]]) -> None:
    """At most a line a second for a device, 20 in any second, and every drop in one line."""
    notices = DropNotices()
    now_s = 0.0
    told: list[tuple[float, str, int]] = []
    for device_ids, eighths in [*turns, *[([], 8)] * 4]:
        now_s += eighths / 8
        drop(notices, *device_ids)
        for line in notices.due(now_s):
            found = re.fullmatch(
                r"Cola llena para device_id (\d+)\. Aplicando backpressure \(mensaje descartado\)"
                r"(?: \((\d+) desde el último aviso\))?",
                line,
            )
            assert found is not None
            assert found[2] != "1"
            told.append((now_s, found[1], int(found[2] or 1)))
    for first_s, device_id, _ in told:
        second = [(when_s, who) for when_s, who, _ in told if first_s <= when_s < first_s + 1]
        assert len(second) <= 20
        assert [who for _, who in second].count(device_id) == 1
    sums: Counter[str] = Counter()
    for _, device_id, dropped in told:
        sums[device_id] += dropped
    assert sums == Counter(device_id for device_ids, _ in turns for device_id in device_ids)
    assert not notices
