"""`tracker replay`: publish recorded vehicles, as if they drove now.

Exit codes: 0 at the end of the recording, 1 when there is no broker to begin with, 2 for what
cannot be asked, 130 after Ctrl-C (128 + n after signal n).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import click
import trio

from tracker.broker import NoBrokerError, ToolBroker
from tracker.domain.errors import leaves
from tracker.mqtt.client import Client, MqttError
from tracker.replay import (
    Recording,
    RecordingError,
    Repeat,
    parse_recording,
    read_recording,
    run_replay,
    schedule,
)
from tracker.replay_progress import ReplayProgress
from tracker.settings import MqttSettings
from tracker.terminal.signals import run_until_signal
from tracker.terminal.status import StatusLine, notes_from
from tracker.terminal.text import printable

FAILED = 1
WRONG_USAGE = 2

_NAME = "tracker replay"
_STDIN = Path("-")
_SHOW_S = 0.5
#: Where stderr is no terminal: a line, not a bar.
_TELL_S = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """What was asked for. `-` among the files is standard input, plain."""

    files: tuple[Path, ...]
    mqtt: MqttSettings
    topic: str
    speed: float
    repeat: Repeat
    qos: int


def run(options: ReplayOptions) -> int:
    """Run `tracker replay`. Blocks. Returns the exit code."""
    try:
        check_topic(options.topic)
        broker = ToolBroker(options.mqtt, "replay")
        client = broker.make_client()
        recordings = [_read(file) for file in options.files]
    except (RecordingError, ValueError, OSError) as error:
        return _complain(error, WRONG_USAGE)
    progress = ReplayProgress(recordings, speed=options.speed, repeat=options.repeat)
    status = StatusLine()
    code = 0
    try:
        with notes_from(logging.getLogger("tracker.replay"), status, "tracker "):
            code = trio.run(
                run_until_signal,
                functools.partial(
                    _replay, options, _Publisher(client, broker, progress), recordings, status
                ),
            )
    except* NoBrokerError as group:
        code = max(_complain(error, FAILED) for error in leaves(group))
    else:
        status.close()
        status.note(f"{_NAME}: {progress.summary()}")
    return code


def check_topic(topic: str) -> None:
    """Raises: ValueError when nothing can be published there."""
    rest = topic.replace("{device_id}", "")
    if not topic or any(sign in rest for sign in "+#\0{}"):
        raise ValueError(
            f"--topic {topic!r} is nothing to publish to; expected a topic without + and #, in "
            "which {device_id} stands for the device, as in 'trackers/{device_id}'"
        )


class _Publisher:
    """A client that is counted, and that has to connect at its first attempt."""

    def __init__(self, client: Client, broker: ToolBroker, progress: ReplayProgress) -> None:
        self._client = client
        self._broker = broker
        self._was_connected = False
        self.progress = progress

    async def __aenter__(self) -> Self:
        try:
            await self._client.__aenter__()
        except MqttError as error:
            if self._was_connected:
                raise
            raise NoBrokerError(self._broker.explain(error)) from error
        self._was_connected = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
        /,
    ) -> None:
        await self._client.__aexit__(exc_type, exc, tb)  # noqa: ASYNC102 it has its own deadline

    async def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        await self._client.publish(topic, payload, qos=qos)
        self.progress.note_published(trio.current_time())


async def _replay(
    options: ReplayOptions,
    publisher: _Publisher,
    recordings: list[Recording],
    status: StatusLine,
) -> int:
    due = schedule(recordings, speed=options.speed, repeat=options.repeat)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_show, publisher.progress, status)
        await run_replay(
            publisher, publisher.progress.follow(due), topic=options.topic, qos=options.qos
        )
        nursery.cancel_scope.cancel()
    return 0


async def _show(progress: ReplayProgress, status: StatusLine) -> None:
    while True:
        line = progress.line(trio.current_time())
        if status.is_live:
            status.show(line)
        elif progress.published:
            status.note(f"{_NAME}: {line}")
        await trio.sleep(_SHOW_S if status.is_live else _TELL_S)


def _read(file: Path) -> Recording:
    if file == _STDIN:
        return parse_recording("standard input", sys.stdin.buffer.read())
    return read_recording(file)


def _complain(error: BaseException, code: int) -> int:
    click.echo(f"{_NAME}: {printable(str(error))}", err=True)
    return code
