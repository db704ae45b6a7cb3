"""The history over a planned restart: written on stop, read at start.

The file is one line of JSON that says what it is, and one line for each message. It is
written beside its name and then renamed, so a crash leaves the old one or the new one.
What cannot be read is one warning, and an empty history.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from tracker.domain.hub import Hub
from tracker.domain.message import Message
from tracker.domain.position import Position

log = logging.getLogger("tracker.history")

_FORMAT = "tracker-history-1"


class _Head(Struct):
    format: str
    epoch: str
    sequence: int
    #: Wall clock, for the messages' ages: the monotonic clock does not outlive the machine.
    written_utc_s: float
    messages: int


class _Line(Struct, array_like=True):
    sequence: int
    device_id: str
    age_s: float
    data: msgspec.Raw


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_line = msgspec.json.Decoder(_Line).decode


def write_history(path: Path, hub: Hub) -> None:
    """Write the history of `hub`. Blocks. Logs, and does not raise, what goes wrong."""
    now_ns = time.monotonic_ns()
    messages = hub.history.all_messages()
    head = _Head(_FORMAT, hub.epoch, hub.sequence, time.time(), len(messages))
    beside = path.with_name(f"{path.name}.new")
    try:
        with beside.open("wb") as file:
            file.write(msgspec.json.encode(head) + b"\n")
            for message in messages:
                age_s = (now_ns - message.received_ns) / 1e9
                line = _Line(message.sequence, message.device_id, age_s, msgspec.Raw(message.data))
                file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        log.error("the history was not written to %s: %s", path, error)


def read_history(path: Path) -> tuple[Position, list[Message]] | None:
    """(Where the last life ended, its messages), or None: there is nothing to read.

    Blocks. Logs one warning, and does not raise, when the file is damaged or foreign.
    """
    try:
        with path.open("rb") as file:
            head = _decode_head(file.readline())
            position = Position.parse(f"{head.epoch}-{head.sequence}")
            if head.format != _FORMAT or position is None:
                raise ValueError(f"expected {_FORMAT}, got {head.format!r}")
            away_s = max(0.0, time.time() - head.written_utc_s)
            messages = [_to_message(_decode_line(line), head.epoch, away_s) for line in file]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        log.warning("the history in %s cannot be used, starting without: %s", path, error)
        return None
    sequences = [message.sequence for message in messages]
    if len(messages) != head.messages or sequences != sorted(set(sequences)):
        log.warning("the history in %s is damaged, starting without", path)
        return None
    return position, messages


def _to_message(line: _Line, epoch: str, away_s: float) -> Message:
    received_ns = time.monotonic_ns() - int((line.age_s + away_s) * 1e9)
    return Message(
        line.sequence, line.device_id, bytes(line.data), received_ns, epoch=epoch.encode()
    )
