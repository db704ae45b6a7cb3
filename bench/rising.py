"""How much a server sustains: the same clients, at rates that rise until one is too much."""

from __future__ import annotations

from dataclasses import dataclass

from bench.campaign import Campaign, Samples
from bench.contenders import Contender
from bench.processes import RunError
from bench.runs import Bed, bed
from bench.sample import Sample
from bench.workload import Workload, shared_devices

RATES = (250, 500, 1000, 1500, 2000, 2500, 3000, 4000, 5000)
_STEP_S = 2.0
_WARMUP_S = 0.5
_P99_LIMIT_MS = 100
#: The least part of what is offered that must arrive within the step.
_ARRIVED = 0.98


@dataclass(frozen=True)
class _Step:
    sample: Sample

    @property
    def is_sustained(self) -> bool:
        return (
            self.sample.broken == 0
            and self.sample.window_ms["p99"] <= _P99_LIMIT_MS
            and self.sample.deliveries >= _ARRIVED * self.sample.offered
        )


def most_sustained(
    scenario: str, campaign: Campaign, contender: Contender, *, clients: int
) -> Samples:
    """The highest step of each round that was sustained. Raises: RunError when none was."""
    best = []
    for number in range(1, campaign.rounds + 1):
        with bed(contender) as ready:
            what = f"{scenario} {contender.name} {number}/{campaign.rounds}"
            best.append(_climb(what, campaign, ready, clients))
    return Samples(best)


def _climb(what: str, campaign: Campaign, ready: Bed, clients: int) -> Sample:
    group = shared_devices(1, clients)
    best: Sample | None = None
    connected: Sample | None = None
    for rate in RATES:
        workload = Workload(groups=(group,), rate=rate, seconds=_STEP_S, warmup_s=_WARMUP_S)
        connected = connected or ready.connect(workload)
        # A step is tried twice: what fails by a pause of the machine does not fail again.
        for _ in range(2):
            step = _Step(ready.publish(workload, connected))
            campaign.tell(f"{what} at {rate} msg/s", step.sample)
            if step.is_sustained:
                break
        if not step.is_sustained:
            break
        best = step.sample
    if best is None:
        raise RunError(f"not even {RATES[0]} msg/s to {clients} clients were sustained")
    return best
