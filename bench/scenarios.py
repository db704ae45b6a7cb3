"""The scenarios, and what each must show.

A bound on a latency is never below three times the floor's: what the machine itself makes late is
no fault of a server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from bench import faraway
from bench.campaign import Campaign, Samples
from bench.contenders import FLOOR, PLAIN, TRACKER, tracker
from bench.history import MESSAGES, PAIRS, SINKS, extra_cost
from bench.report import Figure, Sense, Verdict
from bench.rising import most_sustained
from bench.runs import run, run_connects
from bench.sample import Sample
from bench.workload import Workload, one_each, shared_devices
from tracker.settings import Settings

Scenario = Callable[[Campaign], list[Figure]]


def per_cpu_s(sample: Sample) -> float:
    """Deliveries for each second of the server's CPU."""
    return sample.deliveries_per_cpu_s


def p99_ms(sample: Sample) -> float:
    """The 99th percentile of the latency, the median of one-second windows."""
    return sample.window_ms["p99"]


# -- PROTOCOL A7


def headline(campaign: Campaign) -> list[Figure]:
    """PROTOCOL A7: 100 clients, one device each, 1000 msg/s for 10 s."""
    name = "A7"
    workload = Workload(groups=one_each(100), rate=1000, seconds=10)
    ours = campaign.compare(name, workload, [TRACKER])["tracker"]
    percentiles = ", ".join(
        f"{key} {ours.median(lambda sample, key=key: sample.all_ms[key]):.2f}"  # type: ignore[misc]
        for key in ("p50", "p90", "p99", "p99.9", "max")
    )
    return [
        Figure(
            scenario=name,
            name="latency, p99",
            measured=ours.median(p99_ms),
            unit=" ms",
            must=10,
            beside=f"of all, ms: {percentiles}",
        ),
        _loss(name, ours),
        Figure(
            scenario=name,
            name="clients connected",
            measured=ours.median(lambda sample: sample.clients - sample.cut),
            sense=Sense.AT_LEAST,
            must=100,
        ),
        Figure(
            scenario=name,
            name="messages delivered a second",
            measured=ours.median(lambda sample: sample.deliveries / sample.seconds),
            sense=Sense.AT_LEAST,
            # All that is offered: at its edges, a second holds one message more or less.
            must=999,
        ),
        Figure(
            scenario=name,
            name="memory for each WebSocket",
            measured=ours.median(lambda sample: sample.kib_per_client),
            unit=" KiB",
            must=1024,
        ),
        Figure(scenario=name, name="deliveries for a CPU-second", measured=ours.median(per_cpu_s)),
    ]


# -- issue figures: fan-out


def fan_out(campaign: Campaign) -> list[Figure]:
    """S2b: 100 clients × the same 10 devices, 1000 msg/s."""
    name = "S2b"
    found = campaign.compare(name, _fan_out(campaign), [TRACKER, PLAIN, FLOOR])
    ours, floor = found["tracker"], found["floor"]
    return [
        *_for_cpu(name, found, plain=(2.5, 3.5), floor=(0.55, 0.8)),
        _latency(name, "p99", ours, floor, must_ms=3, aim_ms=1),
        _loss(name, ours),
    ]


def slow_fan_out(campaign: Campaign) -> list[Figure]:
    """S2a: 100 clients × the same 10 devices, 200 msg/s."""
    name = "S2a"
    workload = Workload(groups=(shared_devices(10, 100),), rate=200, seconds=campaign.seconds)
    found = campaign.compare(name, workload, [TRACKER, PLAIN, FLOOR])
    return [*_for_cpu(name, found, plain=(2.5, 3.5)), _loss(name, found["tracker"])]


def coalesced_fan_out(campaign: Campaign) -> list[Figure]:
    """S2b with writes held for 5 ms, which only some versions of the gateway can."""
    name = "S2b, coalesce_ms 5"
    variable = setting_variable("coalesce_ms")
    if variable is None:
        return [skipped(name, "this version of the gateway has no setting coalesce_ms")]
    contender = tracker(**{variable: "5"})
    found = campaign.compare(name, _fan_out(campaign), [contender, PLAIN])
    return [
        *_for_cpu(name, found, plain=(5, 8)),
        Figure(
            scenario=name,
            name="p99",
            measured=found["tracker"].median(p99_ms),
            unit=" ms",
            must=10,
        ),
        _loss(name, found["tracker"]),
    ]


def sse_fan_out(campaign: Campaign) -> list[Figure]:
    """S2b over Server-Sent Events, which the floor does not speak."""
    name = "S2b, SSE"
    workload = Workload(
        groups=(shared_devices(10, 100),), rate=1000, seconds=campaign.seconds, transport="sse"
    )
    found = campaign.compare(name, workload, [TRACKER, PLAIN])
    return [*_for_cpu(name, found, plain=(3, 4)), _loss(name, found["tracker"])]


def far_fan_out(campaign: Campaign) -> list[Figure]:
    """S2b with the clients at 50 ms round trip, beside the floor without."""
    name = "S2b, 50 ms away"
    problem = faraway.obstacle()
    if problem is not None:
        return [skipped(name, problem)]
    near, far = [], []
    for number in range(1, campaign.rounds + 1):
        far.append(faraway.run_faraway(campaign.seconds))
        campaign.tell(f"{name} tracker {number}/{campaign.rounds}", far[-1])
        near.append(run(FLOOR, _fan_out(campaign)))
        campaign.tell(f"S2b floor {number}/{campaign.rounds}", near[-1])
    ours, floor_ms = Samples(far), Samples(near).median(p99_ms)
    return [
        Figure(
            scenario=name,
            name="p99",
            measured=ours.median(p99_ms),
            unit=" ms",
            must=50 + max(3.0, 3 * floor_ms),
            beside=f"p50 {ours.median(lambda s: s.window_ms['p50']):.1f} ms; "
            f"floor without the distance {floor_ms:.2f} ms",
        ),
        _loss(name, ours),
    ]


def one_device(campaign: Campaign) -> list[Figure]:
    """S4: 1000 clients on one device, at a rate that rises until it is too much."""
    name = "S4"
    best = most_sustained(name, campaign, TRACKER, clients=1000)
    return [
        Figure(
            scenario=name,
            name="most deliveries a second",
            measured=best.median(lambda sample: sample.deliveries / sample.seconds),
            sense=Sense.AT_LEAST,
            must=1e6,
            aim=3e6,
            beside=f"there: p99 {best.median(p99_ms):.1f} ms, "
            f"{best.median(per_cpu_s):,.0f} for a CPU-second",
        )
    ]


# -- issue figures: many devices, one client each


def many_devices(campaign: Campaign) -> list[Figure]:
    """S6b: 10,000 msg/s, 100 devices, one client each."""
    name = "S6b"
    workload = Workload(groups=one_each(100), rate=10_000, seconds=campaign.seconds)
    found = campaign.compare(name, workload, [TRACKER, PLAIN, FLOOR])
    ours, floor = found["tracker"], found["floor"]
    return [
        *_for_cpu(name, found, plain=(1.6, 2.5)),
        _latency(name, "p50", ours, floor, must_ms=1),
        _latency(name, "p99", ours, floor, must_ms=2),
        _latency(name, "p99.9", ours, floor, must_ms=5),
        _loss(name, ours),
    ]


def twice_the_messages(campaign: Campaign) -> list[Figure]:
    """S6c: 20,000 msg/s, 100 devices, one client each."""
    name = "S6c"
    workload = Workload(groups=one_each(100), rate=20_000, seconds=campaign.seconds)
    ours = campaign.compare(name, workload, [TRACKER])["tracker"]
    return [_loss(name, ours)]


def few_messages(campaign: Campaign) -> list[Figure]:
    """S1: 1000 msg/s, 100 devices, one client each."""
    name = "S1"
    workload = Workload(groups=one_each(100), rate=1000, seconds=campaign.seconds)
    found = campaign.compare(name, workload, [TRACKER, FLOOR])
    return [
        _latency(name, "p99", found["tracker"], found["floor"], must_ms=1),
        _loss(name, found["tracker"]),
    ]


# -- issue figures: connections


def idle_connections(campaign: Campaign) -> list[Figure]:
    """S3: 10,000 idle connections, one device each."""
    name = "S3"
    samples = []
    for number in range(1, campaign.rounds + 1):
        sample = run_connects(TRACKER, one_each(10_000))
        campaign.tell(f"{name} tracker {number}/{campaign.rounds}", sample)
        samples.append(sample)
    ours = Samples(samples)
    return [
        Figure(
            scenario=name,
            name="memory for each connection",
            measured=ours.median(lambda sample: sample.kib_per_client),
            unit=" KiB",
            must=40,
            aim=24,
        ),
        Figure(
            scenario=name,
            name="connects a second",
            measured=ours.median(lambda sample: sample.clients / sample.connect_s),
            sense=Sense.AT_LEAST,
            must=1000,
            aim=2500,
        ),
        Figure(
            scenario=name,
            name="cut",
            measured=ours.worst(lambda sample: sample.cut),
            must=0,
        ),
    ]


def stuck_clients(campaign: Campaign) -> list[Figure]:
    """S5b: 100 clients, 20 of which never read; 80,000 deliveries/s to the others."""
    name = "S5b"
    workload = Workload(
        groups=(shared_devices(10, 80), shared_devices(10, 20, reads=False)),
        rate=1000,
        # Longer than the 10 s after which the gateway closes who takes nothing.
        seconds=11,
    )
    found = campaign.compare(name, workload, [TRACKER, FLOOR])
    ours = found["tracker"]
    return [
        _latency(name, "p99", ours, found["floor"], must_ms=5),
        Figure(
            scenario=name,
            name="growth of memory",
            measured=ours.median(lambda s: (s.rss_end_kib - s.rss_connected_kib) * 1024 / 1e6),
            unit=" MB",
            must=15,
        ),
        _loss(name, ours),
    ]


# -- what they share


def setting_variable(name: str) -> str | None:
    """The environment's variable for a setting of the gateway; None when it has no such one."""
    for branch in msgspec.structs.fields(Settings):
        if any(field.name == name for field in msgspec.structs.fields(branch.type)):
            return f"TRACKER_{branch.name}__{name}".upper()
    return None


def skipped(name: str, why: str) -> Figure:
    """The line of a scenario that this machine, or this gateway, cannot show."""
    return Figure(
        scenario=name,
        name="skipped",
        beside=why,
        verdict_without_figure=Verdict.SKIPPED,
    )


def _fan_out(campaign: Campaign) -> Workload:
    return Workload(groups=(shared_devices(10, 100),), rate=1000, seconds=campaign.seconds)


def _for_cpu(
    name: str, found: Mapping[str, Samples], **bounds: tuple[float, float]
) -> list[Figure]:
    """Deliveries for a CPU-second, and the ratio to each baseline with its must and aim."""
    ours = found["tracker"]
    others = [
        f"{other} {samples.median(per_cpu_s):,.0f}"
        for other, samples in found.items()
        if samples is not ours
    ]
    figures = [
        Figure(
            scenario=name,
            name="deliveries for a CPU-second",
            measured=ours.median(per_cpu_s),
            beside=", ".join(others),
        )
    ]
    for other, (must, aim) in bounds.items():
        figures.append(
            Figure(
                scenario=name,
                name=f"… against {other}",
                measured=ours.ratio(found[other], per_cpu_s),
                unit=" ×",
                sense=Sense.AT_LEAST,
                must=must,
                aim=aim,
            )
        )
    return figures


def _latency(
    name: str,
    key: str,
    ours: Samples,
    floor: Samples,
    *,
    must_ms: float,
    aim_ms: float | None = None,
) -> Figure:
    """A percentile, which must be at most `must_ms`, or three times the floor's."""
    floor_ms = floor.median(lambda sample: sample.window_ms[key])
    return Figure(
        scenario=name,
        name=key,
        measured=ours.median(lambda sample: sample.window_ms[key]),
        unit=" ms",
        must=max(must_ms, 3 * floor_ms),
        aim=aim_ms,
        beside=f"floor {floor_ms:.2f} ms; the worst of all "
        f"{ours.worst(lambda sample: sample.all_ms['max']):.1f} ms",
    )


def _loss(name: str, ours: Samples) -> Figure:
    return Figure(
        scenario=name,
        name="lost, doubled, late or cut",
        measured=ours.worst(lambda sample: sample.broken),
        must=0,
        beside=f"of {sum(sample.deliveries for sample in ours.all):,} deliveries",
    )


def ids_and_history(campaign: Campaign) -> list[Figure]:
    """What ids and the history add to publishing into null sinks, in this process."""
    name = "history"
    campaign.say(f"{name}: {PAIRS} pairs of {MESSAGES:,} messages into {SINKS} null sinks, twice")
    return [
        Figure(
            scenario=name,
            name="ids and history, 100 sinks on one device",
            measured=100 * extra_cost(devices=1),
            unit=" %",
            must=10,
            beside="of publishing without",
        ),
        Figure(
            scenario=name,
            name="ids and history, one sink a device",
            measured=100 * extra_cost(devices=SINKS),
            unit=" %",
            beside="of publishing without, before decoding, hand-over and system calls",
        ),
    ]


QUICK: dict[str, Scenario] = {"A7": headline, "S2b": fan_out}
FULL: dict[str, Scenario] = {
    "A7": headline,
    "S2b": fan_out,
    "S2a": slow_fan_out,
    "coalesce": coalesced_fan_out,
    "SSE": sse_fan_out,
    "far": far_fan_out,
    "S4": one_device,
    "S6b": many_devices,
    "S6c": twice_the_messages,
    "S1": few_messages,
    "S3": idle_connections,
    "S5b": stuck_clients,
    "history": ids_and_history,
}
