"""The scenarios, and what each must show."""

from __future__ import annotations

from collections.abc import Callable

from bench.campaign import Campaign, Samples
from bench.contenders import FLOOR, PLAIN, TRACKER
from bench.report import Figure, Sense
from bench.runs import Sample, Workload, one_each, shared_devices

Scenario = Callable[[Campaign], list[Figure]]


def per_cpu_s(sample: Sample) -> float:
    """Deliveries for each second of the server's CPU."""
    return sample.deliveries_per_cpu_s


def p99_ms(sample: Sample) -> float:
    """The 99th percentile of the latency, the median of one-second windows."""
    return sample.window_ms["p99"]


def headline(campaign: Campaign) -> list[Figure]:
    """PROTOCOL A7: 100 clients, one device each, 1000 msg/s for 10 s."""
    name = "A7"
    workload = Workload(groups=one_each(100), rate=1000, seconds=10)
    ours = campaign.compare(name, workload, [TRACKER])["tracker"]
    percentiles = ", ".join(
        f"{key} {ours.median(lambda sample, key=key: sample.all_ms[key]):.2f}"  # type: ignore[misc]
        for key in ("p50", "p90", "p99", "p99.9", "max")
    )
    connected = ours.median(lambda sample: sample.clients - sample.cut)
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
            measured=connected,
            sense=Sense.AT_LEAST,
            must=100,
        ),
        Figure(
            scenario=name,
            name="messages delivered a second",
            measured=ours.median(lambda sample: sample.deliveries / sample.seconds),
            sense=Sense.AT_LEAST,
            # All of what a second offers; its clock reads a few messages more or less.
            must=1000 * 0.999,
        ),
        Figure(
            scenario=name,
            name="memory for each WebSocket",
            measured=ours.median(lambda sample: sample.kib_per_client),
            unit=" KiB",
            must=1024,
        ),
        Figure(
            scenario=name,
            name="messages for a CPU-second",
            measured=ours.median(per_cpu_s),
            sense=Sense.AT_LEAST,
        ),
    ]


def fan_out(campaign: Campaign) -> list[Figure]:
    """S2b: 100 clients × the same 10 devices, 1000 msg/s."""
    name = "S2b"
    workload = Workload(groups=(shared_devices(10, 100),), rate=1000, seconds=campaign.seconds)
    found = campaign.compare(name, workload, [TRACKER, PLAIN, FLOOR])
    ours, plain, floor = found["tracker"], found["plain"], found["floor"]
    return [
        Figure(
            scenario=name,
            name="deliveries for a CPU-second",
            measured=ours.median(per_cpu_s),
            beside=f"plain {plain.median(per_cpu_s):,.0f}, floor {floor.median(per_cpu_s):,.0f}",
        ),
        Figure(
            scenario=name,
            name="… against plain",
            measured=ours.ratio(plain, per_cpu_s),
            unit=" ×",
            sense=Sense.AT_LEAST,
            must=2.5,
            aim=3.5,
        ),
        Figure(
            scenario=name,
            name="… against floor",
            measured=ours.ratio(floor, per_cpu_s),
            unit=" ×",
            sense=Sense.AT_LEAST,
            must=0.55,
            aim=0.8,
        ),
        Figure(
            scenario=name,
            name="p99",
            measured=ours.median(p99_ms),
            unit=" ms",
            must=max(3.0, 3 * floor.median(p99_ms)),
            aim=1,
            beside=f"plain {plain.median(p99_ms):.2f}, floor {floor.median(p99_ms):.2f} ms",
        ),
        _loss(name, ours),
    ]


def _loss(name: str, ours: Samples) -> Figure:
    return Figure(
        scenario=name,
        name="lost, doubled, late or cut",
        measured=ours.worst(lambda sample: sample.broken),
        must=0,
        beside=f"of {sum(sample.deliveries for sample in ours.all):,}",
    )


QUICK: dict[str, Scenario] = {"A7": headline, "S2b": fan_out}
