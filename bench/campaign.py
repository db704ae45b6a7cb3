"""The runs of one scenario: several rounds, the servers in turn within each.

Interleaved, so that what disturbs the machine for a while disturbs all servers alike. A ratio is
the median of the rounds' ratios, each of two runs that followed each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.contenders import Contender
from bench.latency import median
from bench.runs import run
from bench.sample import Sample
from bench.workload import Workload

Say = Callable[[str], None]


class Campaign:
    """Runs workloads for a number of rounds, and keeps what was said of doubtful runs.

    `seconds` is how long each run is measured, unless its workload needs longer.
    """

    def __init__(self, *, rounds: int, seconds: float, say: Say) -> None:
        self.rounds = rounds
        self.seconds = seconds
        self.say = say
        self.doubts: list[str] = []

    def compare(
        self, scenario: str, workload: Workload, contenders: Sequence[Contender]
    ) -> dict[str, Samples]:
        """The samples of each contender, by its name. Raises: RunError."""
        found: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
        for number in range(1, self.rounds + 1):
            for contender in contenders:
                sample = run(contender, workload)
                found[contender.name].append(sample)
                self.tell(f"{scenario} {contender.name} {number}/{self.rounds}", sample)
        return {name: Samples(samples) for name, samples in found.items()}

    def tell(self, what: str, sample: Sample) -> None:
        """Say what one run showed, and remember what makes it doubtful."""
        self.say(f"{what}: {sample.summary}")
        self.doubts += [f"{what}: {warning}" for warning in sample.warnings]


class Samples:
    """The runs of one contender, one for each round."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.all = tuple(samples)

    def median(self, of: Callable[[Sample], float]) -> float:
        """The median over the rounds."""
        return median([of(sample) for sample in self.all])

    def worst(self, of: Callable[[Sample], float]) -> float:
        """The largest of the rounds."""
        return max(of(sample) for sample in self.all)

    def ratio(self, other: Samples, of: Callable[[Sample], float]) -> float:
        """The median over the rounds of this contender's figure by the other's."""
        return median(
            [
                of(mine) / of(theirs) if of(theirs) else float("nan")
                for mine, theirs in zip(self.all, other.all, strict=True)
            ]
        )
