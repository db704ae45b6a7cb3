"""The commands: parse, load the settings, run, exit code.

Exit codes: what the gateway ends with; 2 where the command line or the settings are wrong.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tracker.config import (
    BRANCHES,
    LoadedSettings,
    SettingsError,
    load_settings,
    shown,
    value_of,
)
from tracker.logs import configure_logging
from tracker.rules import bind_problem
from tracker.settings import Settings

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


logger = logging.getLogger(__name__)

Command = TypeVar("Command", bound=Callable[..., None])


class WrongSettings(click.ClickException):
    """Settings that cannot be used: the message is complete, the usage would not help."""

    exit_code = 2


def positive(
    context: click.Context, parameter: click.Parameter, value: float | None
) -> float | None:
    """Callback of an option: a finite number above 0, if any."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"{value:g} is no number above 0.")
    return value


def duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Callback of an option: `15m`, `90s`, `1h`, or seconds; in seconds, if any."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)(s|m|h|)", value.strip(), re.ASCII)
    if match is None or not float(match[1]):
        raise click.BadParameter(f"{value!r} is no duration; expected one such as 15m, 90s or 1h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


mqtt_url_option = click.option(
    "--mqtt-url",
    metavar="URL",
    help="The broker: mqtt://user:pw@host:1883, mqtts:// with TLS, ws:// or wss://.",
)
topics_option = click.option(
    "--topic",
    metavar="FILTER",
    multiple=True,
    help="What to subscribe to; may be repeated.  [default: trackers/#]",
)


ca_file_option = click.option(
    "--ca-file",
    metavar="FILE",
    help="For https: trust the authorities in this PEM file, and not the system's.",
)


def settings_options(command: Command) -> Command:
    """The flags that scripts rely on; `command` gets the `LoadedSettings` they lead to."""
    for option in reversed(
        (
            mqtt_url_option,
            topics_option,
            click.option(
                "--qos",
                type=click.Choice(["0", "1", "2"]),
                help="The QoS to subscribe with.  [default: 0]",
            ),
            click.option(
                "--bind",
                metavar="ADDRESS",
                multiple=True,
                help="Where to listen: "
                "host:port, [ipv6]:port or unix:path; may be repeated.  "
                "[default: 127.0.0.1:8000]",
            ),
            click.option(
                "--config",
                metavar="FILE",
                type=click.Path(path_type=Path),
                help="Settings.  [default: tracker.toml, if there is one]",
            ),
            click.option(
                "--hypercorn-config",
                metavar="FILE",
                type=click.Path(path_type=Path),
                help="Settings of the HTTP side under Hypercorn's names.  "
                "[default: hypercorn.toml, if there is one]",
            ),
            click.option(
                "--log-level",
                type=click.Choice(LEVELS),
                help="What to log to stderr.  [default: info]",
            ),
            click.option(
                "--log-format", type=click.Choice(FORMATS), help="How to log it.  [default: text]"
            ),
        )
    ):
        command = option(command)
    return command


def broker_options(command: Command) -> Command:
    """The flags of the tools that go to the gateway's broker."""
    for option in (
        click.option(
            "--config",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="The gateway's settings.  [default: tracker.toml, if there is one]",
        ),
        mqtt_url_option,
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tracker", message="%(prog)s %(version)s")
def main() -> None:
    """A live gateway for GPS fleets: MQTT in, WebSocket, SSE and statistics out."""


@main.command()
@settings_options
@click.pass_context
def serve(context: click.Context, /, **options: Any) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Each setting comes from the last of these that has it: the defaults, tracker.toml,
    hypercorn.toml, the environment (TRACKER_MQTT__URL), the flags below. `tracker check-config`
    shows what they come to.
    """
    loaded = _load(**options)
    if loaded.warnings:
        with configure_logging(loaded.settings.log):
            for warning in loaded.warnings:
                logger.warning(warning)
    from tracker.app import run  # here: the other commands start without the server

    context.exit(run(loaded.settings))


@main.command()
@settings_options
def check_config(**options: Any) -> None:
    """Show the effective settings, and where each came from, as TOML.

    Takes the same flags as `tracker serve`. Secrets are masked. Exit code 0, or 2 with everything
    that is wrong on stderr.
    """
    loaded = _load(**options)
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)
    click.echo(render(loaded))


@main.command()
@click.option(
    "--speed",
    type=float,
    default=20.0,
    show_default=True,
    metavar="FACTOR",
    help="How many times faster than recorded.",
)
@click.option(
    "--bind",
    default="127.0.0.1:8000",
    show_default=True,
    metavar="ADDRESS",
    help="Where to listen.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="warning",
    show_default=True,
    help="What to log to stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="How to log it.",
)
@click.pass_context
def demo(context: click.Context, speed: float, bind: str, log_level: str, log_format: str) -> None:
    """Watch recorded vehicles move: a broker, a replay and a gateway in one. Ctrl-C ends it."""
    if not (math.isfinite(speed) and speed > 0):
        raise click.BadParameter(
            f"{speed} is no factor; expected a number above 0.", param_hint="--speed"
        )
    problem = bind_problem(bind)
    if problem is not None:
        raise click.BadParameter(f"{problem}.", param_hint="--bind")
    from tracker.demo import run  # here: only the demo needs a broker

    context.exit(run(speed=speed, bind=bind, log_level=log_level, log_format=log_format))


@main.command()
@click.argument("url")
@click.option(
    "--devices",
    metavar="A,B",
    multiple=True,
    help="Which devices, by their ids; may be repeated.",
)
@click.option("--raw", is_flag=True, help="Print each message as a line of JSON, as it was sent.")
@click.option("--last", is_flag=True, help="First the last known message of each device.")
@click.option(
    "--track",
    callback=duration,
    metavar="15m",
    help="First the messages of that time of each device.",
)
@click.option(
    "--resume",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Go on from the position in FILE, if there is one, and keep it there.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help="End after N messages.",
)
@click.option("--seconds", type=float, callback=positive, metavar="S", help="End after S seconds.")
@click.option(
    "--give-up",
    type=float,
    callback=positive,
    metavar="S",
    help="End after S seconds without a connection.  "
    "[default: if the first attempt fails; later never]",
)
@ca_file_option
@click.pass_context
def watch(
    context: click.Context,
    url: str,
    devices: tuple[str, ...],
    raw: bool,
    last: bool,
    track: float | None,
    resume: Path | None,
    count: int | None,
    seconds: float | None,
    give_up: float | None,
    ca_file: str | None,
) -> None:
    """Follow devices live, as a table in the terminal.

    URL is that of the gateway, or of its stream. Where stdout is no terminal, there is a line
    for each message; what is missing, and what happens to the connection, is told on stderr.
    After a cut it goes on where it was. With --raw, all that is no live message (gap, resume,
    upstream, mode, snapshot, track) is a line {"event":…,"data":…}.

    With --resume FILE it goes on where an earlier run of the same devices ended. --last and
    --track count where there is nothing to go on from. A run that is killed may be followed by
    one that repeats its last second.

    Exit code: 0 when it ended as asked, 1 without a connection or when the gateway refused, 2
    for what cannot be asked, 130 after Ctrl-C.
    """
    from tracker.watch.command import WatchOptions, run  # here: it needs trio-websocket

    options = WatchOptions(
        url=url,
        device_ids=_split(devices),
        raw=raw,
        count=count,
        seconds_s=seconds,
        bookmark_file=resume,
        has_snapshot=last,
        track_s=track or 0.0,
        give_up_s=give_up,
        ca_file=ca_file,
    )
    context.exit(run(options))


@main.command()
@click.argument("url")
@click.option("--once", is_flag=True, help="Show it once, after a second for the rates, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON each second.")
@ca_file_option
@click.pass_context
def top(context: click.Context, url: str, once: bool, as_json: bool, ca_file: str | None) -> None:
    """Show who is connected to a gateway, the slowest first.

    URL is that of the gateway, which has to have `api.connections = true`. The table is renewed
    each second; where stdout is no terminal, one follows the other.

    LAG is how long the oldest message that waits for a client has waited, WAITING how many do,
    DROPPED how many it lost, RATE what it gets.

    Exit code: 0 after --once, 1 when the gateway does not tell, 2 for what cannot be asked, 130
    after Ctrl-C.
    """
    from tracker.top.command import TopOptions, run

    context.exit(run(TopOptions(url=url, is_once=once, as_json=as_json, ca_file=ca_file)))


@main.command()
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@broker_options
@click.option(
    "--topic",
    default="trackers/{device_id}",
    show_default=True,
    metavar="TOPIC",
    help="Where to publish.",
)
@click.option(
    "--speed",
    type=float,
    callback=positive,
    default=1.0,
    show_default=True,
    metavar="FACTOR",
    help="How many times faster than recorded.",
)
@click.option("--loop", is_flag=True, help="Begin anew at the end, until Ctrl-C.")
@click.option(
    "--qos",
    type=click.Choice(["0", "1", "2"]),
    default="0",
    show_default=True,
    help="The QoS to publish with.",
)
@click.pass_context
def replay(
    context: click.Context,
    files: tuple[Path, ...],
    config: Path | None,
    mqtt_url: str | None,
    topic: str,
    speed: float,
    loop: bool,
    qos: str,
) -> None:
    """Publish recorded vehicles, as if they drove now.

    A FILE has a JSON object a line, plain or gzip, as `tracker record` writes it: {"t": seconds,
    "id": …, "lat": …, "lon": …, "speed": …, "heading": …}; `-` is standard input. Several are
    played side by side.

    Exit code: 0 at the end, 1 without a broker to begin with, 2 for what cannot be asked, 130
    after Ctrl-C.
    """
    from tracker.replay import Repeat
    from tracker.replay_command import ReplayOptions, run

    options = ReplayOptions(
        files=files,
        mqtt=_broker_settings(config, mqtt_url).mqtt,
        topic=topic,
        speed=speed,
        repeat=Repeat.FOREVER if loop else Repeat.ONCE,
        qos=int(qos),
    )
    context.exit(run(options))


@main.command()
@broker_options
@topics_option
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N reports.")
@click.option("--seconds", type=float, callback=positive, metavar="S", help="End after S seconds.")
@click.pass_context
def record(
    context: click.Context,
    config: Path | None,
    mqtt_url: str | None,
    topic: tuple[str, ...],
    count: int | None,
    seconds: float | None,
) -> None:
    """Record what devices publish now, to stdout.

    The recording is one that `tracker replay` reads. A report without a position is left out.

    Exit code: 0 when it ended as asked, Ctrl-C included; 1 without a broker to begin with, or
    when it refused; 2 for what cannot be asked.
    """
    from tracker.record_command import RecordOptions, run

    mqtt = _broker_settings(config, mqtt_url, topic).mqtt
    context.exit(run(RecordOptions(mqtt=mqtt, count=count, seconds_s=seconds)))


@main.command()
@click.argument("url")
@broker_options
@topics_option
@click.option(
    "--wait",
    type=float,
    callback=positive,
    default=10.0,
    show_default=True,
    metavar="S",
    help="How long to wait for a message of any device.",
)
@click.option(
    "--publish-topic",
    metavar="TOPIC",
    help="Where to publish the doctor's own message.  "
    "[default: the first --topic, with tracker-doctor for its wildcards]",
)
@click.option("--no-publish", is_flag=True, help="Publish nothing; leave the deliveries out.")
@click.option("--long", is_flag=True, help="Also hold idle connections, for two minutes.")
@ca_file_option
@click.pass_context
def doctor(
    context: click.Context,
    url: str,
    config: Path | None,
    mqtt_url: str | None,
    topic: tuple[str, ...],
    wait: float,
    publish_topic: str | None,
    no_publish: bool,
    long: bool,
    ca_file: str | None,
) -> None:
    """Check a deployment from end to end, and say what to mend.

    URL is the one that clients use, with the proxy in between. The broker and its topics are the
    gateway's: from the same tracker.toml and environment, or the flags. A message of a device
    called tracker-doctor is published to the broker, and has to come out at URL.

    Exit code: 0 when no check failed, 1 when one did, 2 for what cannot be asked, 130 after
    Ctrl-C.
    """
    from tracker.doctor.command import run
    from tracker.doctor.examination import HOLD_S, DoctorOptions

    options = DoctorOptions(
        url=url,
        mqtt=_broker_settings(config, mqtt_url, topic).mqtt,
        publish_topic=publish_topic,
        may_publish=not no_publish,
        wait_s=wait,
        hold_s=HOLD_S if long else None,
        ca_file=ca_file,
    )
    context.exit(run(options))


def render(loaded: LoadedSettings) -> str:
    """The settings as a `tracker.toml`, with the source of each behind it. Secrets are masked."""
    lines = {
        key: f"# {name}" if value is None else f"{name} = {shown(key, value)}"
        for key in loaded.sources
        for name, value in [(key.partition(".")[2], value_of(loaded.settings, key))]
    }
    # A long value pushes only its own source to the right.
    width = max(len(line) for line in lines.values() if len(line) <= 60)
    blocks = []
    for branch in BRANCHES:
        block = [f"[{branch}]"]
        for key, line in lines.items():
            if key.startswith(f"{branch}."):
                unset = "not set, " if line.startswith("#") else ""
                block.append(f"{line:<{width}}  # {unset}{loaded.sources[key]}")
        blocks.append("\n".join(block))
    return "\n\n".join(blocks)


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    """The items of comma-separated lists."""
    return tuple(item.strip() for value in values for item in value.split(",") if item.strip())


def _broker_settings(
    config: Path | None, mqtt_url: str | None, topic: tuple[str, ...] = ()
) -> Settings:
    """The settings of the gateway beside which a tool runs, its broker above all."""
    return _load(
        config=config,
        hypercorn_config=None,
        qos=None,
        mqtt_url=mqtt_url,
        topic=topic,
        bind=(),
        log_level=None,
        log_format=None,
    ).settings


def _load(
    *,
    config: Path | None,
    hypercorn_config: Path | None,
    qos: str | None,
    mqtt_url: str | None,
    topic: tuple[str, ...],
    bind: tuple[str, ...],
    log_level: str | None,
    log_format: str | None,
) -> LoadedSettings:
    flags = {
        "--mqtt-url": mqtt_url,
        "--topic": topic,
        "--qos": None if qos is None else int(qos),
        "--bind": bind,
        "--log-level": log_level,
        "--log-format": log_format,
    }
    try:
        return load_settings(
            environ=os.environ, config_file=config, hypercorn_file=hypercorn_config, flags=flags
        )
    except SettingsError as error:
        raise WrongSettings(str(error)) from None
