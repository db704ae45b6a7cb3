"""A message, and its topic that is checked only when it is asked for."""

from __future__ import annotations

import pytest

from tracker.mqtt import Message, Topic


def test_the_topic_is_made_when_it_is_asked_for() -> None:
    message = Message("a/b", b"", 0, False, 0, None)
    assert message.topic == Topic("a/b")
    assert message.topic is message.topic
    assert Message(Topic("t"), b"", 0, False, 0, None).topic == Topic("t")


def test_an_invalid_topic_raises_then_and_not_before() -> None:
    message = Message("a/#", b"", 0, False, 0, None)
    with pytest.raises(ValueError, match="Invalid topic: a/#"):
        _ = message.topic


def test_messages_are_ordered_by_their_id() -> None:
    messages = [Message("t", b"", 1, False, mid, None) for mid in (3, 1, 2)]
    assert [message.mid for message in sorted(messages)] == [1, 2, 3]


def test_the_text_shows_what_matters() -> None:
    assert repr(Message("t", b"p", 1, True, 7, None)) == (
        "Message(topic='t', payload=b'p', qos=1, retain=True, mid=7)"
    )
