"""`tracker demo`: a broker, a fleet and the gateway in one command, for a first look.

The embedded broker, the replay of the bundled recordings and the gateway run in one process
(but for the broker's child). They talk through real MQTT on 127.0.0.1, so whoever watches sees
the system that will serve a real fleet, and may publish and subscribe to the broker as well.

On a signal the gateway stops first, in its own orderly way, while broker and replay still run:
it shall not report a lost broker on its way out. Only then do those two end.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

import click
import msgspec
import trio

from tracker.app import Gateway, serve_gateway, wait_for_stop_signal
from tracker.domain.errors import leaves
from tracker.embedded import BrokerError, EmbeddedBroker, open_broker
from tracker.logs import configure_logging
from tracker.mqtt import Client
from tracker.replay import (
    DEFAULT_TOPIC,
    Record,
    Recording,
    Repeat,
    bundled_recordings,
    run_replay,
    schedule,
)
from tracker.settings import (
    ApiSettings,
    HttpSettings,
    LogSettings,
    MqttSettings,
    Settings,
    StreamSettings,
)

__all__ = ["run"]

OK = 0
FAILED = 1

# Whoever ends a demo is at the keyboard: clients get a moment, not the two seconds of a server.
DRAIN_S = 0.2

# Which vehicles to name: those that moved most often early in their recording. At the usual
# speed each of them is seen within seconds, and moving.
VESSELS_NAMED = 3
BUSES_NAMED = 1
EARLY_S = 900.0
MOVE_M = 50.0  # more than a moored vessel swings, or a standing receiver jitters
METRES_A_DEGREE = 111_195.0


def run(*, speed: float, bind: str, log_level: str, log_format: str) -> int:
    """Run the demo until SIGINT or SIGTERM. Blocks.

    Args:
        speed: how many times faster than recorded; finite, above 0.
        bind: where the gateway listens, `host:port`.
        log_level, log_format: as in `LogSettings`.

    Returns: the exit code: 0 after a signal; 1, with a line on stderr, when it could not run.
    """
    if bind.startswith("unix:"):
        click.echo(
            f"tracker demo: bind is {bind}, which no browser opens; expected host:port", err=True
        )
        return FAILED
    log = msgspec.convert({"level": log_level, "format": log_format}, LogSettings)
    reasons: list[BaseException] = []
    with configure_logging(log):
        try:
            trio.run(run_demo, speed, bind, log)
        except* (BrokerError, OSError) as group:
            reasons = leaves(group)
    for reason in reasons:
        click.echo(f"tracker demo: {reason}", err=True)
    return FAILED if reasons else OK


async def run_demo(speed: float, bind: str, log: LogSettings) -> None:
    """Run broker, gateway and replay until a signal comes.

    Raises: BrokerError, OSError, alone or in groups: a part of it could not start, or died.
    Cancellation: no child and no listener stays behind; clients see a bare end.
    """
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_on_signal, stopping)
        async with open_broker() as broker:
            await _run_fleet(broker, speed, bind, log, stopping)
        nursery.cancel_scope.cancel()


async def _set_on_signal(stopping: trio.Event) -> None:
    await wait_for_stop_signal()
    stopping.set()


async def _run_fleet(
    broker: EmbeddedBroker, speed: float, bind: str, log: LogSettings, stopping: trio.Event
) -> None:
    settings = Settings(
        mqtt=MqttSettings(url=broker.url),
        http=HttpSettings(bind=(bind,)),
        api=ApiSettings(devices=True),
        stream=StreamSettings(drain_s=DRAIN_S),
        log=log,
    )
    recordings = bundled_recordings()
    due = schedule(recordings, speed=speed, repeat=Repeat.FOREVER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.watch)
        gateway: Gateway = await nursery.start(_serve_gateway, settings, nursery.cancel_scope)
        if not stopping.is_set():
            click.echo(introduction(gateway.urls[0], broker, recordings, speed))
            nursery.start_soon(run_replay, Client(broker.host, broker.port), due)
        await stopping.wait()
        gateway.stop()
        await trio.sleep_forever()


async def _serve_gateway(
    settings: Settings,
    ended: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[Gateway],
) -> None:
    await serve_gateway(settings, task_status=task_status)
    ended.cancel()


def introduction(
    url: str, broker: EmbeddedBroker, recordings: Sequence[Recording], speed: float
) -> str:
    """What a newcomer reads: where to look, and lines to copy, with vehicles that soon report."""
    vessels, buses = recordings
    # what listens on every address is reached on this machine's own
    url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    ids = (*liveliest(vessels, VESSELS_NAMED), *liveliest(buses, BUSES_NAMED))
    stream = f"{url}/api/v1/stream?device_ids={quote(','.join(ids), safe=',')}"
    topics = " ".join(f"-t {DEFAULT_TOPIC.format(device_id=device_id)}" for device_id in ids)
    return f"""\

  {_vehicles(vessels)} vessels in New York harbour and {_vehicles(buses)} buses in Liverpool, \
{speed:g} times as fast as they were

  On a map            {url}/
  As they come        curl -N '{stream}'
  Behind the gateway  mosquitto_sub -h {broker.host} -p {broker.port} {topics} -v

  Positions: US Coast Guard, MarineCadastre.gov; UK Bus Open Data Service. Contains public
  sector information licensed under the Open Government Licence v3.0.

  Ctrl-C ends all of it.
"""


def liveliest(recording: Recording, count: int) -> tuple[str, ...]:
    """The ids of the vehicles that moved most often early in a recording, first the most."""
    last: dict[str, Record] = {}
    moves: Counter[str] = Counter()
    for record in recording.records:
        if record.t_s > EARLY_S:
            break
        before = last.setdefault(record.device_id, record)
        if _distance_m(before, record) > MOVE_M:
            moves[record.device_id] += 1
            last[record.device_id] = record
    return tuple(device_id for device_id, _ in moves.most_common(count))


def _distance_m(one: Record, other: Record) -> float:
    """Near enough for a harbour: the earth is flat there."""
    shrink = math.cos(math.radians(one.lat_deg))
    north = other.lat_deg - one.lat_deg
    east = (other.lon_deg - one.lon_deg) * shrink
    return METRES_A_DEGREE * math.hypot(north, east)


def _vehicles(recording: Recording) -> int:
    return len({record.device_id for record in recording.records})
