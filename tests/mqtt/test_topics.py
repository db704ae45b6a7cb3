"""Topics, wildcards, and which matches which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.mqtt import Topic, Wildcard


@pytest.mark.parametrize("kind", [Topic, Wildcard])
@pytest.mark.parametrize("value", [True, 1.0, None, [], b"a"])
def test_a_value_that_is_no_text_is_refused(kind: type[Wildcard], value: object) -> None:
    with pytest.raises(TypeError, match=f"{kind.__name__} must be of type str"):
        kind(value)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("value", ["", "#", "a/b/#", "a/+/c", "a+", "x" * 65536])
def test_invalid_topics_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="Invalid topic: "):
        Topic(value)


@pytest.mark.parametrize("value", ["", "a/#/c", "a/b+/c", "a/b/#c", "a/##", "x" * 65536])
def test_invalid_wildcards_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="Invalid wildcard: "):
        Wildcard(value)


@pytest.mark.parametrize(
    ("wildcard", "matches"),
    [
        ("a/b/c", True),
        ("a/+/c", True),
        ("+/+/+", True),
        ("+/#", True),
        ("#", True),
        ("a/b/c/#", True),
        ("$share/group/a/b/c", True),
        ("$share/group/a/b/+", True),
        ("$share/group/#", True),
        ("abc", False),
        ("a/b", False),
        ("a/b/c/d", False),
        ("a/b/c/d/#", False),
        ("a/b/z", False),
        ("a/b/c/+", False),
        ("$share/a/b/c", False),
        ("$test/group/a/b/c", False),
    ],
)
def test_a_topic_matches_its_wildcards_only(wildcard: str, matches: bool) -> None:
    assert Topic("a/b/c").matches(wildcard) is matches
    assert Topic("a/b/c").matches(Wildcard(wildcard)) is matches


def test_text_and_value_are_the_topic() -> None:
    assert (str(Topic("a/b")), Topic("a/b").value, Topic("a/b")) == ("a/b", "a/b", Topic("a/b"))


LEVELS = st.lists(st.text("abc", max_size=3), min_size=1, max_size=6)


@given(levels=LEVELS, data=st.data())
def test_replacing_levels_by_wildcards_keeps_the_match(
    levels: list[str], data: st.DataObject
) -> None:
    if levels == [""]:
        levels = ["a"]
    topic = Topic("/".join(levels))
    kept = data.draw(st.integers(0, len(levels)))
    pattern = [data.draw(st.sampled_from([level, "+"])) for level in levels[:kept]]
    assert topic.matches("/".join([*pattern, "#"]))
    whole = [data.draw(st.sampled_from([level, "+"])) for level in levels]
    assert topic.matches("/".join(whole) or "#")
    assert not topic.matches("/".join([*whole, "x"]))
