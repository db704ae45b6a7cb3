"""`tracker.doctor.event_stream`: whatever the pieces, the events are the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracker.doctor.event_stream import EventStreamParser, ServerEvent

STREAM = (
    b'event: message\r\ndata: {"a":1}\r\n\r\n'
    b":\n\n"
    b"id: 7-1\n\n"
    b"retry: 10\nevent: ping\ndata:x\ndata: y\n\n"
    b"data\n\n"
    b"event: nothing\n\n"
    b"data: \xff\n\n"
    b"data: not complete"
)
EVENTS = [
    ServerEvent("message", '{"a":1}'),
    ServerEvent("ping", "x\ny"),
    ServerEvent("message", ""),
    ServerEvent("message", "�"),
]


@given(st.lists(st.integers(0, len(STREAM))).map(sorted))
def test_in_pieces(cuts: list[int]) -> None:
    parser = EventStreamParser()
    events = []
    for begin, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        events += parser.feed(STREAM[begin:end])
    assert events == EVENTS
    assert parser.comments == 1
