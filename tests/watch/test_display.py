"""`tracker.watch.display`: lines for people and for programs."""

from __future__ import annotations

import pytest

from tracker.watch.display import format_line, format_raw
from tracker.watch.message import decode

INNER = '{"timestamp":"t\\u001b","data":{"DEVICE_ID":"A","SPEED":3,"X":1.10}}'


@pytest.mark.parametrize(
    ("text", "raw", "line"),
    [
        (f'{{"event":"message","id":"e-1","data":{INNER}}}', INNER, r"t\x1b  A  speed 3.0"),
        (
            f'{{"event":"snapshot","data":{INNER}}}',
            f'{{"event":"snapshot","data":{INNER}}}',
            r"t\x1b  A  speed 3.0  (snapshot)",
        ),
        (
            f'{{"event":"track","data":{INNER}}}',
            f'{{"event":"track","data":{INNER}}}',
            r"t\x1b  A  speed 3.0  (track)",
        ),
        (
            '{"event":"gap","data":{"device_id":"A","dropped":2}}',
            '{"event":"gap","data":{"device_id":"A","dropped":2}}',
            "",
        ),
        (
            '{"event":"upstream","data":{"connected":false}}',
            '{"event":"upstream","data":{"connected":false}}',
            "",
        ),
        ('{"event":"reconnect","data":{"after_ms":2}}', "", ""),
    ],
)
def test_a_line_for_each(text: str, raw: str, line: str) -> None:
    item = decode(text)
    assert format_raw(item) == raw
    assert format_line(item) == line
