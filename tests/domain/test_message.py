"""`tracker.domain.message`."""

from __future__ import annotations

from tests.domain.test_wire import texts
from tests.event_stream import Dispatched, parse_event_stream
from tracker.domain.message import Message

DATA = (
    '{"timestamp":"2024-12-11T10:30:00Z","data":{"DEVICE_ID":"0848086072","LAT":-33.4567,'
    '"LON":-70.6789,"SPEED":45}}'
)


def test_a_message_is_the_first_row_of_the_contract() -> None:
    """PROTOCOL A2."""
    message = Message(7, "0848086072", DATA.encode(), 17)
    assert texts(message.frame()) == [f'{{"event":"message","data":{DATA}}}']
    assert parse_event_stream(message.sse()).events == [Dispatched("message", DATA)]


def test_a_message_knows_where_it_stands() -> None:
    message = Message(7, "848", DATA.encode(), 17)
    assert (message.sequence, message.device_id, message.received_ns, message.is_retained) == (
        *(7, "848", 17, False),
    )
    assert message.size_bytes == len(DATA)
    assert Message(8, "848", b"{}", 0, is_retained=True).is_retained


def test_a_message_has_nothing_but_its_slots() -> None:
    """There are millions of them."""
    assert not hasattr(Message(1, "848", b"{}", 0), "__dict__")


def test_its_representation_tells_which_it_is() -> None:
    assert repr(Message(7, "848\n", b"{}", 0)) == "<Message 7 of '848\\n': b'{}'>"
