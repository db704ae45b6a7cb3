"""The history over a planned restart: written on stop, read at start.

The file is one line of JSON that says what it is, one line for each message, and one line
with the sum over all of them. It is written beside its name and then renamed, so a crash
leaves the old one or the new one. What cannot be read is one warning, and an empty history.

Law: a file is read for one life only. Another life that began with it would give ids a
second time, for other messages; so the file is removed before the first new message.
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from tracker.domain.history import Losses
from tracker.domain.hub import Hub
from tracker.domain.message import Message
from tracker.domain.position import Position

log = logging.getLogger("tracker.history")

_FORMAT = "tracker-history-1"
#: Of a line: a payload and its envelope are far below, what is lost of 100,000 devices too.
_LINE_LIMIT_BYTES = 64 * 1024 * 1024
_NS_PER_S = 1_000_000_000


class _Head(Struct):
    format: str
    epoch: str
    sequence: int
    #: Wall clock, for the messages' ages: the monotonic clock does not outlive the machine.
    written_utc_s: float
    messages: int
    losses: Losses


class _Line(Struct, array_like=True):
    sequence: int
    device_id: str
    age_ns: int
    data: msgspec.Raw


class _Foot(Struct):
    crc32: int


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_line = msgspec.json.Decoder(_Line).decode
_decode_foot = msgspec.json.Decoder(_Foot).decode


@dataclass(frozen=True, slots=True)
class Past:
    """What a life of the gateway left behind: where it ended, and its history."""

    position: Position
    messages: list[Message]
    losses: Losses


def write_history(path: Path, hub: Hub) -> None:
    """Write the history of `hub`. Blocks. Logs, and does not raise, what goes wrong."""
    beside = path.with_name(f"{path.name}.new")
    try:
        with beside.open("wb") as file:
            checksum = 0
            for line in _lines(hub):
                checksum = zlib.crc32(line, checksum)
                file.write(line)
            file.write(msgspec.json.encode(_Foot(checksum)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        log.error("the history was not written to %s: %s", path, error)


def _lines(hub: Hub) -> Iterator[bytes]:
    now_ns = time.monotonic_ns()
    messages = hub.history.all_messages()
    head = _Head(_FORMAT, hub.epoch, hub.sequence, time.time(), len(messages), hub.history.losses)
    yield msgspec.json.encode(head) + b"\n"
    for message in messages:
        line = _Line(
            message.sequence,
            message.device_id,
            now_ns - message.received_ns,
            msgspec.Raw(message.data),
        )
        yield msgspec.json.encode(line) + b"\n"


def read_history(path: Path) -> Past | None:
    """What the last life left behind, or None: there is nothing to read.

    Blocks. Logs one warning, and does not raise, when the file is damaged or foreign.
    """
    try:
        with path.open("rb") as file:
            past = _read(file)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError("it cannot be removed, and it may be read once only")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        log.warning("the history in %s cannot be used, starting without: %s", path, error)
        return None
    return past


def _read(file: BinaryIO) -> Past:
    first = file.readline(_LINE_LIMIT_BYTES)
    head = _decode_head(first)
    position = Position.parse(f"{head.epoch}-{head.sequence}")
    if head.format != _FORMAT or position is None:
        raise ValueError(f"expected {_FORMAT}, got {head.format!r}")
    # A clock that was set back must not make messages younger than they are.
    away_ns = max(0, int((time.time() - head.written_utc_s) * _NS_PER_S))
    ended_ns = time.monotonic_ns() - away_ns
    epoch = position.epoch.encode()
    checksum = zlib.crc32(first)
    messages = []
    for _ in range(head.messages):
        text = file.readline(_LINE_LIMIT_BYTES)
        checksum = zlib.crc32(text, checksum)
        line = _decode_line(text)
        received_ns = ended_ns - line.age_ns
        messages.append(
            Message(line.sequence, line.device_id, bytes(line.data), received_ns, epoch=epoch)
        )
    if _decode_foot(file.readline(_LINE_LIMIT_BYTES)).crc32 != checksum:
        raise ValueError("its sum is wrong")
    return Past(position, messages, head.losses)
