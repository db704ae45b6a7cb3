"""The query parameters of the stream. PROTOCOL A1, A3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.errors import BadRequestError
from tracker.web.parameters import NO_DEVICE_IDS, parse_device_ids


@pytest.mark.parametrize(
    ("values", "device_ids"),
    [
        (["A"], ("A",)),
        (["A,B"], ("A", "B")),
        (["A", "B,C"], ("A", "B", "C")),
        ([" A , ,B,, "], ("A", "B")),
        (["A,B,A", "B"], ("A", "B")),
        (["0848086072"], ("0848086072",)),
        (["B,A"], ("B", "A")),
        (["ñandú,日本"], ("ñandú", "日本")),
        (["x" * 128], ("x" * 128,)),
        (["a b"], ("a b",)),
    ],
)
def test_ids_are_merged_trimmed_and_folded_in_their_order(
    values: list[str], device_ids: tuple[str, ...]
) -> None:
    assert parse_device_ids(values, 1000) == device_ids


@pytest.mark.parametrize("values", [[], [""], [","], [" ", "\t,\n"]])
def test_none_at_all_is_the_error_of_the_contract_to_the_letter(values: list[str]) -> None:
    with pytest.raises(BadRequestError) as raised:
        parse_device_ids(values, 1000)
    assert str(raised.value) == NO_DEVICE_IDS
    assert NO_DEVICE_IDS == "Debe especificar al menos un device_id en los query params"


def test_too_many_are_an_error_that_counts_them() -> None:
    assert len(parse_device_ids(["a,b,c,a"], 3)) == 3
    with pytest.raises(BadRequestError, match=r"^device_ids: 4 ids, expected at most 3$"):
        parse_device_ids(["a,b,c,d"], 3)


def test_one_that_can_be_no_id_is_an_error_that_measures_it() -> None:
    with pytest.raises(
        BadRequestError, match=r"^device_ids: an id of 129 characters, expected 1 to 128$"
    ):
        parse_device_ids(["a", "x" * 129], 1000)


@given(st.lists(st.text(max_size=30), max_size=8))
def test_whatever_is_asked_for_each_id_stands_once_and_trimmed(values: list[str]) -> None:
    try:
        device_ids = parse_device_ids(values, 1000)
    except BadRequestError:
        assert not "".join(values).replace(",", "").strip()
        return
    assert len(set(device_ids)) == len(device_ids)
    assert all(device_id == device_id.strip() != "" for device_id in device_ids)
    assert parse_device_ids([",".join(device_ids)], 1000) == device_ids
