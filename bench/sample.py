"""What one run showed, and what makes it doubtful."""

from __future__ import annotations

from dataclasses import dataclass, field

STEAL_LIMIT = 0.02
_SATURATED = 0.9
_FULL = 0.98
_STRANGERS_LIMIT = 0.05
_LATE_LIMIT_MS = 5
#: Events that a correct server may send whatever the load.
_KEEP_ALIVE = frozenset({"ping", "comment"})


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one run showed.

    `deliveries` and `offered` are those of the measured `seconds`; so are the CPU times, and the
    parts (of a core, 0 to 1) that the load took, that were taken of the load's core, that
    `strangers` took of the server's, and that the host stole of all. `alone` is how many clients
    received something else than the first one of their devices, `events` what came but messages.
    `window_ms` are medians of one-second windows, `all_ms` percentiles of all deliveries, both by
    the names `p50` to `max`.
    """

    deliveries: int = 0
    offered: int = 0
    seconds: float = 0.0
    server_cpu_s: float = 0.0
    load_cpu: float = 0.0
    load_core_busy: float = 0.0
    publisher_late_ms: float = 0.0
    strangers: float = 0.0
    steal: float = 0.0
    lost: int = 0
    misplaced: int = 0
    cut: int = 0
    alone: int = 0
    events: dict[str, int] = field(default_factory=dict)
    window_ms: dict[str, float] = field(default_factory=dict)
    all_ms: dict[str, float] = field(default_factory=dict)
    connect_s: float = 0.0
    clients: int = 0
    rss_start_kib: int = 0
    rss_connected_kib: int = 0
    rss_end_kib: int = 0

    @property
    def deliveries_per_cpu_s(self) -> float:
        """Deliveries for each second of the server's CPU."""
        return self.deliveries / self.server_cpu_s if self.server_cpu_s else 0.0

    @property
    def summary(self) -> str:
        """The run in half a line."""
        parts = [f"{self.clients} clients"]
        if self.seconds:
            parts += [
                f"{self.deliveries / self.seconds:,.0f} of {self.offered / self.seconds:,.0f} "
                "deliveries/s",
                f"{self.deliveries_per_cpu_s:,.0f} per CPU-second",
                f"p99 {self.window_ms['p99']:.2f} ms",
                f"lost {self.lost:,}",
                f"load {self.load_cpu:.0%} of a core",
            ]
            notices = {name: n for name, n in self.events.items() if name not in _KEEP_ALIVE}
            parts += [f"{notices}"] if notices else []
        else:
            parts.append(f"open in {self.connect_s:.2f} s")
        return ", ".join(parts)

    @property
    def kib_per_client(self) -> float:
        """Growth of the server's memory from before the first client to the end, for each."""
        return (max(self.rss_connected_kib, self.rss_end_kib) - self.rss_start_kib) / self.clients

    @property
    def broken(self) -> int:
        """Deliveries lost, doubled or out of order, and clients cut."""
        return self.lost + self.misplaced + self.cut

    @property
    def warnings(self) -> list[str]:
        """What makes this run doubtful."""
        found = []
        if self.steal > STEAL_LIMIT:
            found.append(f"{self.steal:.1%} CPU steal")
        if self.load_cpu > _SATURATED:
            found.append(f"the load was saturated: {self.load_cpu:.0%} of a core")
        elif self.load_core_busy > _FULL:
            found.append(f"the load's core was full: {self.load_cpu:.0%} was the load's own")
        if self.strangers > _STRANGERS_LIMIT:
            found.append(f"others took {self.strangers:.0%} of the server's core")
        if self.publisher_late_ms > _LATE_LIMIT_MS:
            found.append(f"the publisher was {self.publisher_late_ms:.1f} ms late")
        return found
