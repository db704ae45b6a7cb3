"""docs/schema is what the gateway's own types say, and what the gateway says fits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.docs.schemas import FOLDER, main, make_schemas, text_of
from tracker.domain import event, event_data
from tracker.domain.event import Event, Gap
from tracker.domain.message import Message
from tracker.domain.position import Position

POSITION = Position("e", 7)


def sealed(gap: Gap) -> Event:
    gap.seal()
    return gap


#: One of each event, as the gateway makes them.
EVENTS: list[Event] = [
    Message(1, "A", b'{"timestamp":1,"data":{"DEVICE_ID":"A","x":1.10}}', 0, epoch=b"e"),
    Message(1, "8", b'{"timestamp":"t","data":{"DEVICE_ID":8},"fw":7}', 0).as_snapshot(),
    Message(1, "A", b'{"timestamp":1,"data":{"DEVICE_ID":"A"}}', 0).as_track(),
    event.PING,
    event.error("wrong"),
    event.error("wrong", "ref"),
    event.hello("1.0", 60.0, 100, POSITION),
    event.resume("partial", None, POSITION),
    sealed(Gap(None, "ingest", 3)),
    event.UPSTREAM_LOST,
    event.mode_changed("latest", "too slow"),
    event.ack("ping", None, None),
    event.ack("subscribe", 5, POSITION),
    event.reconnect(500, "shutdown"),
    event.closed(4408, "too slow"),
]


@pytest.mark.parametrize("name", make_schemas())
def test_it_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text() == text_of(make_schemas()[name]), (
        "run: python -m tests.docs.schemas"
    )


def test_there_is_nothing_else(tmp_path: Path) -> None:
    main(tmp_path)
    assert {path.name for path in FOLDER.iterdir()} == {path.name for path in tmp_path.iterdir()}


def test_every_event_has_its_schema() -> None:
    variants = make_schemas()["events.json"]["oneOf"]
    assert [variant["properties"]["event"]["const"] for variant in variants] == list(
        event_data.TYPES
    )
    assert {each.name.decode() for each in EVENTS} == set(event_data.TYPES)


@pytest.mark.parametrize("told", EVENTS, ids=[each.name.decode() for each in EVENTS])
def test_what_is_sent_is_what_is_written_down(told: Event) -> None:
    text = json.loads(told.text())
    kind = event_data.TYPES[text["event"]]
    value: Any = msgspec.convert(text["data"], kind)
    if kind is not event_data.MessageData:
        assert msgspec.json.encode(value) == told.data
    schema = make_schemas()["events.json"]
    (variant,) = [
        each for each in schema["oneOf"] if each["properties"]["event"]["const"] == text["event"]
    ]
    assert set(text) <= set(variant["properties"])
    definition = schema["$defs"][variant["properties"]["data"]["$ref"].rpartition("/")[2]]
    assert set(definition["required"]) <= set(text["data"])
    for name, rule in definition["properties"].items():
        if "enum" in rule and name in text["data"]:
            assert text["data"][name] in rule["enum"]
