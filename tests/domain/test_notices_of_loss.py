"""What tells of a loss stands where the loss is, also in a stream that still catches up."""

from __future__ import annotations

import json

from tests.fakes import FakeOutbox
from tracker.domain.event import UPSTREAM_BACK, UPSTREAM_LOST
from tracker.domain.hub import Hub
from tracker.domain.message import Message
from tracker.domain.options import StreamOptions
from tracker.domain.stream import Stream
from tracker.domain.transport import WEBSOCKET_LINES

EPOCH = "e"


def message(sequence: int) -> Message:
    data = b'{"timestamp":%d,"data":{"DEVICE_ID":"1"}}' % sequence
    return Message(sequence, "1", data, 0, epoch=EPOCH.encode())


def told(outbox: FakeOutbox) -> list[object]:
    """Names of events, or numbers of messages."""
    lines = [json.loads(line) for line in outbox.kernel.splitlines()]
    return [
        line["data"]["timestamp"] if line["event"] == "message" else line["event"] for line in lines
    ]


def publish(hub: Hub, *sequences: int) -> None:
    for stream in hub.publish_batch([message(sequence) for sequence in sequences]):
        stream.flush()


def resume_without_appetite(hub: Hub) -> tuple[Stream, FakeOutbox]:
    """A stream that has the messages from 1 on to get, and whose kernel takes nothing."""
    outbox = FakeOutbox(appetite=0)
    stream = hub.open_stream(
        ["1"], outbox, WEBSOCKET_LINES, StreamOptions(last_event_id=f"{EPOCH}-1")
    )
    stream.flush()
    return stream, outbox


def test_an_outage_stands_between_what_came_before_and_after_it() -> None:
    hub = Hub(epoch=EPOCH)
    publish(hub, 1, 2, 3)
    stream, outbox = resume_without_appetite(hub)
    publish(hub, 4)
    stream.post(UPSTREAM_LOST)
    publish(hub, 5)
    stream.post(UPSTREAM_BACK)
    publish(hub, 6)
    outbox.feed()
    assert told(outbox) == ["resume", 2, 3, 4, "upstream", 5, "upstream", 6]


def test_so_does_a_loss_of_which_nobody_knows_the_device() -> None:
    hub = Hub(epoch=EPOCH)
    publish(hub, 1, 2)
    _, outbox = resume_without_appetite(hub)
    hub.note_lost(3)
    publish(hub, 3)
    hub.note_lost(4)
    outbox.feed()
    assert told(outbox) == ["resume", 2, "gap", 3, "gap"]


def test_at_the_end_of_a_replay_it_is_not_forgotten() -> None:
    hub = Hub(epoch=EPOCH)
    publish(hub, 1, 2)
    stream, outbox = resume_without_appetite(hub)
    stream.post(UPSTREAM_LOST)
    outbox.feed()
    assert told(outbox) == ["resume", 2, "upstream"]
    assert stream.is_live


def test_however_many_there_are_they_are_bounded_and_none_is_lost() -> None:
    hub = Hub(epoch=EPOCH)
    publish(hub, 1, 2)
    stream, outbox = resume_without_appetite(hub)
    for sequence in range(3, 2000):
        publish(hub, sequence)
        hub.note_lost(1)
        stream.post(UPSTREAM_LOST)
        stream.post(UPSTREAM_BACK)
    outbox.feed()
    lines = [json.loads(line) for line in outbox.kernel.splitlines()]
    gaps = [line["data"] for line in lines if line["event"] == "gap"]
    lost = [gap for gap in gaps if gap["device_id"] is None]
    assert sum(gap["dropped"] for gap in lost) == 1997
    states = [line["data"]["connected"] for line in lines if line["event"] == "upstream"]
    assert states[:2] == [False, True]
    assert (states[-2:], len(states) < 100, len(lost) < 100) == ([False, True], True, True)
