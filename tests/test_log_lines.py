"""One record, one line: as text and as JSON."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.log_lines import TEXT_LIMIT_CHARS, JsonFormatter, TextFormatter

CREATED = 1_733_913_000.123
STARTED = "✅ MQTT → WebSocket Broker bridge iniciado"


def make_record(message: object, *args: object, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("tracker.mqtt", logging.WARNING, "/x.py", 7, message, args, None)
    record.created = CREATED
    vars(record).update(fields)
    return record


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def text_of(message: object, *args: object, **fields: object) -> str:
    return TextFormatter().format(make_record(message, *args, **fields))


def json_of(message: object, *args: object, **fields: object) -> dict[str, object]:
    line = JsonFormatter().format(make_record(message, *args, **fields))
    assert "\n" not in line
    decoded: dict[str, object] = json.loads(line)
    return decoded


PREFIX = "2024-12-11T10:30:00.123Z WARNING tracker.mqtt: "


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (STARTED, STARTED),
        ("one\ntwo", "one\n    two"),
        (f"\n{PREFIX}fake", f"\n    {PREFIX}fake"),
        ("a\r\nb\n\n", "a\\x0d\n    b"),
        ("\x1b[2J\x00\x85\u2028\udc80\t.", "\\x1b[2J\\x00\\x85\\u2028\\udc80\t."),
        ("100 %", "100 %"),
    ],
)
def test_text(message: str, line: str) -> None:
    assert text_of(message) == PREFIX + line


def test_json() -> None:
    assert json_of("%s of %d", "one", 2, topic="trackers/ñ", attempt=3) == {
        "time": "2024-12-11T10:30:00.123Z",
        "level": "warning",
        "logger": "tracker.mqtt",
        "message": "one of 2",
        "topic": "trackers/ñ",
        "attempt": 3,
    }
    assert STARTED in JsonFormatter().format(make_record(STARTED))


def test_a_traceback_is_part_of_the_record() -> None:
    try:
        raise ExceptionGroup("both", [ValueError("one\ntwo")])
    except ExceptionGroup:
        exc_info = sys.exc_info()
    text = text_of("it fell", exc_info=exc_info)
    first, *rest = text.split("\n")
    assert first == f"{PREFIX}it fell"
    assert rest[0] == "      + Exception Group Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)
    decoded = json_of("it fell", exc_info=exc_info)
    assert list(decoded) == ["time", "level", "logger", "message", "exception"]
    assert "ValueError: one" in str(decoded["exception"])
    assert "exception" not in json_of("nothing fell", exc_info=(None, None, None))


def test_extra_fields_that_json_cannot_hold() -> None:
    decoded = json_of(
        "m",
        time="now",
        exception="none",
        thing=Unprintable(),
        half="\udc80",
        number=10**30,
        mixed={1: {2, 3}},
        long="x" * (2 * TEXT_LIMIT_CHARS),
    )
    assert decoded.pop("time_") == "now"
    assert decoded.pop("exception_") == "none"
    assert decoded.pop("thing") == "<a Unprintable, whose repr failed with RuntimeError>"
    assert decoded.pop("half") == "'\\udc80'"
    assert decoded.pop("number") == 10**30
    assert decoded.pop("mixed") == {"1": [2, 3]}
    assert len(str(decoded.pop("long"))) < TEXT_LIMIT_CHARS + 100
    assert list(decoded) == ["time", "level", "logger", "message"]


@pytest.mark.parametrize(
    ("message", "args", "line"),
    [
        (
            "%d of them",
            ("two",),
            "'%d of them' (badly logged at /x.py:7: "
            "TypeError('%d format: a real number is required, not str'))",
        ),
        (
            "%s",
            (Unprintable(),),
            "'%s' (badly logged at /x.py:7: RuntimeError('no repr'))",
        ),
    ],
)
def test_a_badly_logged_record_is_shown_all_the_same(
    message: str, args: tuple[object, ...], line: str
) -> None:
    assert text_of(message, *args) == PREFIX + line
    assert json_of(message, *args)["message"] == line


def test_the_middle_of_a_long_message_is_cut() -> None:
    half = TEXT_LIMIT_CHARS // 2
    message = "a" * half + "b" * 5 + "c" * half
    assert text_of(message) == f"{PREFIX}{'a' * half} … 5 characters cut … {'c' * half}"


@given(st.text(st.characters()))
def test_no_message_looks_like_two_records(message: str) -> None:
    first, *rest = text_of(message).split("\n")
    assert first.startswith(PREFIX)
    assert all(line.startswith("    ") for line in rest)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text_of(message))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters()))
def test_any_text_comes_back_from_json(message: str, extra: str) -> None:
    decoded = json_of(message, extra=extra)
    assert decoded["message"] == message.rstrip("\n")
    assert isinstance(decoded["extra"], str)
