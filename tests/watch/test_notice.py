"""`tracker.watch.notice`: what is missing, in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tracker.watch.message import Event, decode
from tracker.watch.notice import NoticeBoard, describe


def told(name: str, **data: Any) -> Event:
    event = decode(msgspec.json.encode({"event": name, "data": data}).decode())
    assert isinstance(event, Event)
    return event


LOST = told("upstream", connected=False)
BACK = told("upstream", connected=True)
CONTINUED = told("resume", status="continued", missed=3, position="p")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (told("gap", device_id="A", dropped=1), "lost: 1 message of A"),
        (
            told("gap", device_id="A", dropped=2, reason="buffer_full"),
            "lost: 2 messages of A (buffer_full)",
        ),
        (
            told("gap", device_id=None, dropped=5, reason="ingest"),
            "lost: 5 messages of devices that nobody knows (ingest)",
        ),
        (CONTINUED, "resumed: nothing is missing, 3 came meanwhile"),
        (told("resume", status="partial"), "resumed: a part of what came meanwhile is missing"),
        (told("resume", status="reset"), "begun anew: what came meanwhile is missing"),
        (LOST, "the gateway has lost its broker: no message can come"),
        (BACK, "the gateway has its broker again; what was sent meanwhile may be missing"),
        (
            told("mode", mode="latest", reason="too slow"),
            "the gateway has changed the mode to latest: too slow",
        ),
        (told("reconnect", after_ms=5), ""),
    ],
)
def test_words(event: Event, text: str) -> None:
    assert describe(event) == text


def test_the_last_notice_is_shown_for_a_minute() -> None:
    board = NoticeBoard()
    assert board.text(0) == ""
    board.note(told("resume", status="partial"), 0)
    board.note(told("gap", device_id="A", dropped=1), 10)
    board.note(told("reconnect", after_ms=5), 20)
    assert board.text(40) == "lost: 1 message of A, 30 s ago"
    assert board.text(71) == ""


def test_an_outage_is_shown_until_it_ends() -> None:
    board = NoticeBoard()
    board.note(LOST, 0)
    board.note(told("gap", device_id="A", dropped=1), 10)
    assert board.text(1000) == describe(LOST)
    board.note(BACK, 1000)
    assert board.text(1005) == f"{describe(BACK)}, 5 s ago"
    board.note(LOST, 1010)
    board.note(CONTINUED, 1020)  # of another connection: it would tell of the outage again
    assert board.text(1020) == f"{describe(CONTINUED)}, 0 s ago"
