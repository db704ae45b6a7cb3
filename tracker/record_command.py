"""`tracker record`: write what devices publish now as a recording, to stdout.

Exit codes: 0 when it ended as asked (`--count`, `--seconds`, Ctrl-C, SIGTERM, the reader of a
pipe left), 1 when there is no broker to begin with or it refuses, 2 for what cannot be asked.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import click
import trio

from tracker.broker import NoBrokerError, ToolBroker
from tracker.domain.errors import leaves
from tracker.mqtt.client import Client, MqttError
from tracker.mqtt.diagnosis import explain_loss
from tracker.mqtt.link import Backoff
from tracker.record import Recorder
from tracker.settings import MqttSettings
from tracker.terminal.output import Output
from tracker.terminal.signals import run_until_signal
from tracker.terminal.status import StatusLine
from tracker.terminal.text import printable

OK = 0
FAILED = 1
WRONG_USAGE = 2

_NAME = "tracker record"
_STDOUT = 1
_SHOW_S = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """What was asked for: the broker and its topics, `count` reports or `seconds_s` at most."""

    mqtt: MqttSettings
    count: int | None = None
    seconds_s: float | None = None


def run(options: RecordOptions) -> int:
    """Run `tracker record`. Blocks. Returns the exit code."""
    try:
        broker = ToolBroker(options.mqtt, "record")
        client = broker.make_client()
    except ValueError as error:
        return _complain(error, WRONG_USAGE)
    recorder = Recorder()
    status = StatusLine()
    code = OK
    try:
        trio.run(
            run_until_signal,
            functools.partial(_record, options, broker, client, recorder, status),
        )
    except* NoBrokerError as group:
        code = max(_complain(error, FAILED) for error in leaves(group))
    except* BrokenPipeError:
        pass  # who read the recording has enough
    except* OSError as group:
        code = max(_complain(error, FAILED) for error in leaves(group))
    if code == OK:
        status.close()
        status.note(f"{_NAME}: {recorder.summary()}")
    return code


async def _record(
    options: RecordOptions,
    broker: ToolBroker,
    client: Client,
    recorder: Recorder,
    status: StatusLine,
) -> int:
    output = Output(_STDOUT)
    limit_s = math.inf if options.seconds_s is None else options.seconds_s
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_with_reader, output)
        if not output.is_terminal:  # the lines would come between
            nursery.start_soon(_show, recorder, status)
        with trio.move_on_after(limit_s):
            await _keep_recording(options, broker, client, recorder, output, status)
        nursery.cancel_scope.cancel()
    return OK


async def _keep_recording(
    options: RecordOptions,
    broker: ToolBroker,
    client: Client,
    recorder: Recorder,
    output: Output,
    status: StatusLine,
) -> None:
    """Record until `count` reports are written, over as many connections as that takes."""
    backoff = Backoff(options.mqtt.reconnect_min_s, options.mqtt.reconnect_max_s)
    was_subscribed = is_subscribed = False
    while True:
        try:
            async with client:
                await broker.subscribe(client, options.mqtt.topics)
                if was_subscribed:
                    status.note(f"{_NAME}: the broker is back")
                was_subscribed = is_subscribed = True
                backoff.reset()
                async for message in client.messages:
                    line = recorder.line(
                        message.payload, message.received_ns, is_retained=message.retain
                    )
                    if line is not None:
                        await output.write(line)
                        if recorder.reports == options.count:
                            return
        except MqttError as error:
            if not was_subscribed:
                raise NoBrokerError(broker.explain(error)) from error
            if is_subscribed:
                reason = explain_loss(error)
                status.note(f"{_NAME}: no broker ({reason}); trying again until it is back")
                is_subscribed = False
        await trio.sleep(backoff.next_s())


async def _end_with_reader(output: Output) -> None:
    await output.wait_reader_gone()
    raise BrokenPipeError


async def _show(recorder: Recorder, status: StatusLine) -> None:
    while True:
        status.show(recorder.summary())
        await trio.sleep(_SHOW_S)


def _complain(error: BaseException, code: int) -> int:
    click.echo(f"{_NAME}: {printable(str(error))}", err=True)
    return code
