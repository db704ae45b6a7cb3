"""`tracker.domain.decode`: PROTOCOL A2, against `json` as the judge.

The law: on any bytes it raises nothing but MalformedPayloadError, and what it passes on is
the device's own text, byte for byte, but for the line breaks of its layout.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracker.domain.decode import (
    DEVICE_ID_LIMIT_CHARS,
    NESTING_LIMIT_LEVELS,
    PAYLOAD_LIMIT_BYTES,
    decode,
)
from tracker.domain.errors import Malformed, MalformedPayloadError

modest = settings(max_examples=100, deadline=None)

NOW_UTC_S = 1733913000.0479
NOW = b"2024-12-11T10:30:00.047Z"

# What comes out


def wrapped(payload: bytes) -> bytes:
    return b'{"timestamp":"%b","data":%b}' % (NOW, payload)


@pytest.mark.parametrize(
    ("payload", "device_id", "data"),
    [
        (
            b'{"timestamp":"2024-12-11T10:30:00Z","data":{"DEVICE_ID":"0848086072","LAT":-33.4567,'
            b'"LON":-70.6789,"SPEED":45}}',
            "0848086072",
            b'{"timestamp":"2024-12-11T10:30:00Z","data":{"DEVICE_ID":"0848086072","LAT":-33.4567,'
            b'"LON":-70.6789,"SPEED":45}}',
        ),
        (b'{"DEVICE_ID":"A","SPEED":1.10}', "A", wrapped(b'{"DEVICE_ID":"A","SPEED":1.10}')),
        (b' {"DEVICE_ID":"A"}\n', "A", wrapped(b'{"DEVICE_ID":"A"}')),
        (
            b'{"data":{"DEVICE_ID":"A"},"extra":[1]}',
            "A",
            b'{"timestamp":"%b","data":{"DEVICE_ID":"A"},"extra":[1]}' % NOW,
        ),
        (
            b'\t{ "data":{"DEVICE_ID":"A"}}',
            "A",
            b'{"timestamp":"%b", "data":{"DEVICE_ID":"A"}}' % NOW,
        ),
        # Both ids stand: the nested one wins.
        (
            b'{"timestamp":1,"DEVICE_ID":"flat","data":{"DEVICE_ID":"nested"}}',
            "nested",
            b'{"timestamp":1,"DEVICE_ID":"flat","data":{"DEVICE_ID":"nested"}}',
        ),
        # `data` without an id, or no object at all, is a field of a flat payload.
        (
            b'{"timestamp":1,"DEVICE_ID":"flat","data":{"device":"x"}}',
            "flat",
            wrapped(b'{"timestamp":1,"DEVICE_ID":"flat","data":{"device":"x"}}'),
        ),
        (b'{"DEVICE_ID":"flat","data":[1]}', "flat", wrapped(b'{"DEVICE_ID":"flat","data":[1]}')),
        (b'{"DEVICE_ID":"flat","data":null}', "flat", wrapped(b'{"DEVICE_ID":"flat","data":null}')),
        # A timestamp is the device's own affair.
        (
            b'{"timestamp":null,"data":{"DEVICE_ID":"A"}}',
            "A",
            b'{"timestamp":null,"data":{"DEVICE_ID":"A"}}',
        ),
        (
            b'{"data":{"DEVICE_ID":7},"timestamp":17}',
            "7",
            b'{"data":{"DEVICE_ID":7},"timestamp":17}',
        ),
        # Layout goes, and nothing else.
        (
            b'{\r\n\t"timestamp": 1,\r\n\t"data": {\n\t\t"DEVICE_ID": "A", "X": "a\\r\\nb"\r\t}\n'
            b"}\n",
            "A",
            b'{\t"timestamp": 1,\t"data": {\t\t"DEVICE_ID": "A", "X": "a\\r\\nb"\t}}',
        ),
        (
            b'\r{"timestamp":1,"data":{"DEVICE_ID":1}}',
            "1",
            b'{"timestamp":1,"data":{"DEVICE_ID":1}}',
        ),
        # What JSON writers disagree about stays as it was written.
        (
            b'{"timestamp":1e5,"data":{"DEVICE_ID":"A","n":123456789012345678901234567890,"m":1.10,'
            b'"e":1E+400,"z":-0,"u":"\\u00f1\xc3\xb1\\/","\\u0061":{},"a":[]}}',
            "A",
            b'{"timestamp":1e5,"data":{"DEVICE_ID":"A","n":123456789012345678901234567890,"m":1.10,'
            b'"e":1E+400,"z":-0,"u":"\\u00f1\xc3\xb1\\/","\\u0061":{},"a":[]}}',
        ),
    ],
)
def test_shapes(payload: bytes, device_id: str, data: bytes) -> None:
    assert decode(payload, NOW_UTC_S) == (device_id, data)


@pytest.mark.parametrize(
    ("written", "device_id"),
    [
        (b"848", "848"),
        (b'"848"', "848"),
        (b'"0848"', "0848"),
        (b"-5", "-5"),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b'"\\u0041"', "A"),
        (b'"\\ud83d\\ude8c \xf0\x9f\x9a\x8c"', "🚌 🚌"),
        (b'"%b"' % (b"x" * DEVICE_ID_LIMIT_CHARS), "x" * DEVICE_ID_LIMIT_CHARS),
        ('"{}"'.format("ñ" * DEVICE_ID_LIMIT_CHARS).encode(), "ñ" * DEVICE_ID_LIMIT_CHARS),
        (b"9" * DEVICE_ID_LIMIT_CHARS, "9" * DEVICE_ID_LIMIT_CHARS),
    ],
)
def test_device_ids(written: bytes, device_id: str) -> None:
    """`848` and `"848"` are the same device."""
    for shape in (b'{"timestamp":1,"data":{"DEVICE_ID":%b}}', b'{"data":{"DEVICE_ID":%b}}'):
        assert decode(shape % written, NOW_UTC_S)[0] == device_id
    assert decode(b'{"DEVICE_ID":%b}' % written, NOW_UTC_S)[0] == device_id


@pytest.mark.parametrize(
    ("utc_s", "written"),
    [
        (0.0, b"1970-01-01T00:00:00.000Z"),
        (1733913000.9999, b"2024-12-11T10:30:00.999Z"),  # never rounded into the future
        (951782400.5, b"2000-02-29T00:00:00.500Z"),
    ],
)
def test_the_time_received(utc_s: float, written: bytes) -> None:
    assert decode(b'{"DEVICE_ID":1}', utc_s) == (
        "1",
        b'{"timestamp":"%b","data":{"DEVICE_ID":1}}' % written,
    )


# What is refused, and why


def reason_of(payload: bytes) -> Malformed:
    with pytest.raises(MalformedPayloadError) as caught:
        decode(payload, NOW_UTC_S)
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    "written",
    [
        b"true",
        b"false",
        b"null",
        b"1.0",
        b"848.5",
        b"1e3",
        b"[]",
        b'["848"]',
        b"{}",
        b'""',
        b'"\\u0000"',
        b'"a\\nb"',
        b'"\\u001b[31m"',
        b'"\\u007f"',
        b'"\x7f"',
        b'"\\u0085"',
        b'"\xc2\x9f"',
        b'"%b"' % (b"x" * (DEVICE_ID_LIMIT_CHARS + 1)),
        b"9" * (DEVICE_ID_LIMIT_CHARS + 1),
        b"9" * 5000,
        b"-" + b"9" * 60_000,
    ],
)
def test_bad_device_ids(written: bytes) -> None:
    for shape in (
        b'{"timestamp":1,"data":{"DEVICE_ID":%b}}',
        b'{"data":{"DEVICE_ID":%b}}',
        b'{"DEVICE_ID":%b}',
        # The nested id wins, even where only the flat one is good.
        b'{"timestamp":1,"DEVICE_ID":"good","data":{"DEVICE_ID":%b}}',
    ):
        assert reason_of(shape % written) is Malformed.BAD_DEVICE_ID


NESTED = b'{"timestamp":1,"data":{"DEVICE_ID":"A","v":%b}}'


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Malformed.EMPTY),
        (b" \t\r\n", Malformed.EMPTY),
        (b"\x00", Malformed.BAD_JSON),
        (b"\x0b", Malformed.BAD_JSON),
        (b"{", Malformed.BAD_JSON),
        (b'{"DEVICE_ID":"A"', Malformed.BAD_JSON),
        (b'{"DEVICE_ID":"A"}}', Malformed.BAD_JSON),
        (b'{"DEVICE_ID":"A"}\x00', Malformed.BAD_JSON),
        (b'{"DEVICE_ID":"A"}{"DEVICE_ID":"A"}', Malformed.BAD_JSON),
        (b'\xef\xbb\xbf{"DEVICE_ID":"A"}', Malformed.BAD_JSON),
        (b"{'DEVICE_ID':'A'}", Malformed.BAD_JSON),
        (b'{"DEVICE_ID":"\\ud800"}', Malformed.BAD_JSON),
        (b"[]", Malformed.NOT_AN_OBJECT),
        (b'[{"DEVICE_ID":"A"}]', Malformed.NOT_AN_OBJECT),
        (b'"DEVICE_ID"', Malformed.NOT_AN_OBJECT),
        (b"848", Malformed.NOT_AN_OBJECT),
        (b"null", Malformed.NOT_AN_OBJECT),
        (b"{}", Malformed.NO_DEVICE_ID),
        (b'{"device_id":"A"}', Malformed.NO_DEVICE_ID),
        (b'{"timestamp":1,"data":{"LAT":1}}', Malformed.NO_DEVICE_ID),
        (b'{"data":{"data":{"DEVICE_ID":"A"}}}', Malformed.NO_DEVICE_ID),
        (b'{"DEVICE_ID":"\xff"}', Malformed.BAD_UTF8),
        # Bad UTF-8 in what nobody here reads: it would break every client.
        (NESTED % b'"\xc3("', Malformed.BAD_UTF8),
        (NESTED % b'"\xed\xa0\x80"', Malformed.BAD_UTF8),
        (NESTED % b'"\xc0\xaf"', Malformed.BAD_UTF8),
        (b'{"DEVICE_ID":"A","x":"caf\xe9"}', Malformed.BAD_UTF8),
        # Broken JSON in what nobody here reads. A raw line break would break SSE.
        (NESTED % b'"a\nb"', Malformed.BAD_JSON),
        (NESTED % b'"a\rb"', Malformed.BAD_JSON),
        (NESTED % b'"a\tb"', Malformed.BAD_JSON),
        (NESTED % b'"a\x00b"', Malformed.BAD_JSON),
        (NESTED % b"NaN", Malformed.BAD_JSON),
        (NESTED % b"-Infinity", Malformed.BAD_JSON),
        (NESTED % b"01", Malformed.BAD_JSON),
        (NESTED % b"1.", Malformed.BAD_JSON),
        (NESTED % b"+1", Malformed.BAD_JSON),
        (NESTED % b'"\\x41"', Malformed.BAD_JSON),
        (NESTED % b"[1,]", Malformed.BAD_JSON),
        (NESTED % b"{1:2}", Malformed.BAD_JSON),
        (NESTED % b"tru", Malformed.BAD_JSON),
        (b'{"DEVICE_ID":"A","a\nb":1}', Malformed.BAD_JSON),
    ],
)
def test_what_is_malformed(payload: bytes, reason: Malformed) -> None:
    assert reason_of(payload) is reason


def test_a_payload_may_have_64_kib_and_no_byte_more() -> None:
    start = b'{"timestamp":1,"data":{"DEVICE_ID":"A","v":"'
    largest = start + b"x" * (PAYLOAD_LIMIT_BYTES - len(start) - 3) + b'"}}'
    assert decode(largest, NOW_UTC_S) == ("A", largest)
    assert reason_of(largest + b" ") is Malformed.TOO_LARGE
    assert reason_of(b"\xff" * 1_000_000) is Malformed.TOO_LARGE


def nest(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * levels + b"0" + closing * levels


@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'{"a":[{"b":', b"}]}")]
)
@pytest.mark.parametrize("shape", [b'{"timestamp":1,"data":{"DEVICE_ID":1,"v":%b}}', NESTED])
def test_nesting_ends_at_a_limit_of_our_own(shape: bytes, opening: bytes, closing: bytes) -> None:
    levels_each = opening.count(b"[") + opening.count(b"{")
    fit = (NESTING_LIMIT_LEVELS - 2) // levels_each
    payload = shape % nest(fit, opening, closing)
    assert decode(payload, NOW_UTC_S)[1] == payload
    for levels in (fit + 1, 1000, 10_000 // levels_each):
        assert reason_of(shape % nest(levels, opening, closing)) is Malformed.TOO_DEEP


@pytest.mark.parametrize("levels", [10_000, 30_000])
def test_ten_thousand_levels_are_no_end_of_the_process(levels: int) -> None:
    assert reason_of(b'{"DEVICE_ID":1,"v":%b}' % nest(levels)) is Malformed.TOO_DEEP
    assert reason_of(nest(levels)) is Malformed.NOT_AN_OBJECT
    assert reason_of(b"[" * levels) is Malformed.NOT_AN_OBJECT
    assert reason_of(b'{"DEVICE_ID":%b}' % nest(levels)) is Malformed.TOO_DEEP
    # Nested too deeply or cut off: either is true.
    assert reason_of(b'{"a":' * (levels // 3)) in (Malformed.TOO_DEEP, Malformed.BAD_JSON)


def test_brackets_that_do_not_nest_are_no_nesting() -> None:
    wide = b'{"timestamp":1,"data":{"DEVICE_ID":1,"v":[%b]}}' % b",".join([b"[1]"] * 5000)
    in_strings = NESTED % (b'"%b\\"%b\\\\"' % (b"[{" * 1000, b"[" * 1000))
    assert [decode(payload, NOW_UTC_S)[1] for payload in (wide, in_strings)] == [wide, in_strings]


def test_the_text_of_an_error_carries_no_control_characters() -> None:
    with pytest.raises(MalformedPayloadError) as caught:
        decode(b'{"DEVICE_ID":"\\u001b[31m\\n"}', NOW_UTC_S)
    assert str(caught.value) == (
        "expected DEVICE_ID of 1 to 128 characters, none a control character, got '\\x1b[31m\\n'"
    )


# The laws


class Number(str):
    """A number as it was written: `1.10` is not `1.1`."""


Tree = Any  # JSON with objects as lists of pairs: order and repeated keys count


def parse(text: str) -> Tree:
    """As strict as RFC 8259, and without losing anything. Raises: ValueError."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(
        text,
        parse_int=Number,
        parse_float=Number,
        parse_constant=refuse,
        object_pairs_hook=lambda pairs: tuple(pairs),
    )


def is_unicode(tree: Tree) -> bool:
    """Whether no string of it holds half a surrogate pair, which `json` lets pass."""
    if isinstance(tree, str):
        return re.search("[\ud800-\udfff]", tree) is None
    return not isinstance(tree, list | tuple) or all(map(is_unicode, tree))


def judge(payload: bytes) -> tuple[str, bytes, Tree] | set[Malformed]:
    """What `decode` must make of a shallow payload: id, bytes and value; or a reason."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return {Malformed.BAD_UTF8}
    text = text.strip(" \t\r\n")
    if not text:
        return {Malformed.EMPTY}
    try:
        tree = parse(text)
    except ValueError:
        # The first look ends where the wrong type begins.
        return {Malformed.BAD_JSON} if text[0] == "{" else {Malformed.BAD_JSON, NOT_AN_OBJECT}
    if not isinstance(tree, tuple):
        return {NOT_AN_OBJECT} if is_unicode(tree) else {NOT_AN_OBJECT, Malformed.BAD_JSON}
    if not is_unicode(tree):
        return {Malformed.BAD_JSON}
    outer = dict(tree)
    inner = outer.get("data")
    nested = dict(inner) if isinstance(inner, tuple) else {}
    if "DEVICE_ID" not in nested and "DEVICE_ID" not in outer:
        return {Malformed.NO_DEVICE_ID}
    device_id: Tree = nested.get("DEVICE_ID", outer.get("DEVICE_ID"))
    if not is_device_id(device_id):
        return {Malformed.BAD_DEVICE_ID}
    if "DEVICE_ID" not in nested:
        data = b'{"timestamp":"%b","data":%b}' % (NOW, text.encode())
        tree = (("timestamp", NOW.decode()), ("data", tree))
    elif "timestamp" in outer:
        data = payload
    else:
        data = b'{"timestamp":"%b",%b' % (NOW, payload.lstrip(b" \t\r\n")[1:])
        tree = (("timestamp", NOW.decode()), *tree)
    written = int(device_id) if isinstance(device_id, Number) else device_id
    return str(written), data.replace(b"\r", b"").replace(b"\n", b""), tree


NOT_AN_OBJECT = Malformed.NOT_AN_OBJECT


def is_device_id(value: Tree) -> bool:
    if isinstance(value, Number):
        return re.fullmatch("-?[0-9]{1,127}", value) is not None
    return (
        isinstance(value, str)
        and 1 <= len(value) <= DEVICE_ID_LIMIT_CHARS
        and re.search("[\x00-\x1f\x7f-\x9f]", value) is None
    )


def check(payload: bytes) -> None:
    """`decode` and the judge agree, to the byte."""
    verdict = judge(payload)
    if isinstance(verdict, set):
        assert reason_of(payload) in verdict
        return
    device_id, data = decode(payload, NOW_UTC_S)
    assert (device_id, data) == verdict[:2]
    assert parse(data.decode()) == verdict[2]
    assert b"\n" not in data
    assert b"\r" not in data


layout = st.sampled_from([b"", b" ", b"\t", b"\n", b"\r", b"\r\n  "])
numbers = st.sampled_from(
    ["0", "-0", "848", "-5", "1.10", "1e5", "1E-7", "1.5e+300", "123456789012345678901234567890"]
)
strings = st.builds(json.dumps, st.text(max_size=8), ensure_ascii=st.booleans())
keys = st.sampled_from(["DEVICE_ID", "data", "timestamp", "LAT", "\\u0044EVICE_ID"]).map(
    '"{}"'.format
)


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[bytes]) -> bytes:
    members = draw(st.lists(st.tuples(keys | strings, values), max_size=4))
    return b"{%b}" % b",".join(
        draw(layout) + key.encode() + draw(layout) + b":" + draw(layout) + value + draw(layout)
        for key, value in members
    )


def join_items(items: list[bytes]) -> bytes:
    return b"[%b]" % b" ,".join(items)


scalars = (st.sampled_from(["true", "false", "null"]) | numbers | strings).map(str.encode)
texts = st.recursive(
    scalars,
    lambda values: objects(values) | st.lists(values, max_size=3).map(join_items),
    max_leaves=8,
)
payloads = st.builds(lambda before, text, after: before + text + after, layout, texts, layout)
trackers = st.builds(
    lambda payload, extra: payload % extra,
    st.sampled_from(
        [
            b'{"timestamp":"t","data":{"DEVICE_ID":"A","x":%b}}',
            b'{ "data" :\r\n{"DEVICE_ID":848,"x":%b},\n"y":1.10}',
            b'{"x":%b,"DEVICE_ID":"A"}',
            b'{"timestamp":1,"data":%b,"DEVICE_ID":"flat"}',
            b'{"timestamp":1,"data":{"DEVICE_ID":%b}}',
            b'{"DEVICE_ID":%b}',
        ]
    ),
    texts,
)


@modest
@given(payloads | trackers)
def test_any_json_comes_out_as_it_went_in(payload: bytes) -> None:
    check(payload)


@modest
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@example(b"-")
@example(b'"')
def test_any_bytes_raise_nothing_else(payload: bytes) -> None:
    check(payload)


@modest
@given(trackers, st.data())
def test_any_damage_is_noticed(payload: bytes, data: st.DataObject) -> None:
    """A payload with a piece replaced: nearly JSON, the hardest to tell from it."""
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, min(len(payload), start + 3)))
    piece = data.draw(
        st.sampled_from([b'"', b"\\", b"{", b"}", b"[", b",", b":", b"\n", b"\x00", b"\\ud800"])
        | st.binary(max_size=3)
    )
    check(payload[:start] + piece + payload[end:])
