"""One run: a broker, a server, its clients and a publisher, started, measured and ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from bench import machine, processes
from bench.contenders import Contender
from bench.sample import STEAL_LIMIT, Sample
from bench.workload import Group, Workload

#: Between the command to publish and the first message: the publisher must start meanwhile.
_LEAD_S = 0.7
#: How long clients must be idle before their memory counts.
_IDLE_S = 2.0
_SETTLE_LIMIT_S = 10.0
_QUIET_S = 1.0


@dataclass(frozen=True)
class Network:
    """Where the clients find the server, and the command that starts them where they are."""

    host: str
    load_prefix: tuple[str, ...] = ()


LOCAL = Network("127.0.0.1")


def run(contender: Contender, workload: Workload, network: Network = LOCAL) -> Sample:
    """One run; repeated once when the machine's host took more than 2 % of its time.

    Raises: RunError.
    """

    def once() -> Sample:
        with bed(contender, network) as ready:
            return ready.publish(workload, ready.connect(workload))

    return _repeated_if_stolen(once)


def run_connects(contender: Contender, groups: tuple[Group, ...]) -> Sample:
    """One run that opens clients and publishes nothing; repeated as `run`. Raises: RunError."""

    def once() -> Sample:
        workload = Workload(groups=groups, rate=0, seconds=0)
        with bed(contender) as ready:
            return ready.idle(workload, ready.connect(workload))

    return _repeated_if_stolen(once)


def _repeated_if_stolen(once: Callable[[], Sample]) -> Sample:
    sample = once()
    return once() if sample.steal > STEAL_LIMIT else sample


@contextlib.contextmanager
def bed(contender: Contender, network: Network = LOCAL) -> Iterator[Bed]:
    """Start all that a run needs. Raises: RunError."""
    core, others = machine.cores()
    with (
        processes.scratch_directory() as directory,
        processes.broker(on_cores=others, directory=directory) as mqtt_port,
    ):
        port = processes.free_port()
        with (
            processes.server(
                contender.command(port=port, mqtt_port=mqtt_port),
                port=port,
                mqtt_port=mqtt_port,
                on_core=core,
                directory=directory,
                env=contender.env,
            ) as pid,
            # The last to start: its clients leave before the server is asked to stop.
            processes.load(
                on_cores=others, directory=directory, prefix=network.load_prefix
            ) as load,
        ):
            yield Bed(pid=pid, host=network.host, port=port, mqtt_port=mqtt_port, load=load)


class Bed:
    """A server with a broker and a load process around it, for one run."""

    def __init__(
        self,
        *,
        pid: int,
        host: str,
        port: int,
        mqtt_port: int,
        load: processes.LoadProcess,
    ) -> None:
        self.pid = pid
        self._host = host
        self._port = port
        self._mqtt_port = mqtt_port
        self._load = load
        self._published = 0
        self._lost = 0
        self._misplaced = 0

    def connect(self, workload: Workload) -> Sample:
        """Open all clients of a workload, and measure that alone."""
        rss_start_kib = machine.rss_kib(self.pid)
        before = self._snapshot()
        answer = self._load.do(
            "connect",
            host=self._host,
            port=self._port,
            transport=workload.transport,
            groups=[(group.devices, group.clients, group.reads) for group in workload.groups],
        )
        return replace(
            self._snapshot().since(before),
            seconds=0,
            clients=answer["opened"],
            connect_s=answer["took_s"],
            rss_start_kib=rss_start_kib,
            rss_connected_kib=machine.rss_kib(self.pid),
        )

    def publish(self, workload: Workload, connected: Sample) -> Sample:
        """Publish to the clients that `connect` opened, and measure.

        May be called again: the numbers of the messages go on, losses count for each call.
        """
        devices = workload.devices
        # Whole rounds over the devices, so that each has as many messages as the others.
        rounds = round(workload.rate * (workload.warmup_s + workload.seconds) / len(devices))
        count = max(1, rounds) * len(devices)
        start_ns = time.monotonic_ns() + round(_LEAD_S * 1e9)
        from_ns = start_ns + round(workload.warmup_s * 1e9)
        to_ns = start_ns + round(count / workload.rate * 1e9)
        self._load.do("measure", start_ns=from_ns, end_ns=to_ns)
        plan = {
            "port": self._mqtt_port,
            "devices": devices,
            "rate": workload.rate,
            "count": count,
            "start_ns": start_ns,
            "first": self._published,
        }
        with processes.publisher(plan, on_cores=machine.cores()[1]) as source:
            _sleep_until(from_ns)
            before = self._snapshot()
            _sleep_until(to_ns)
            after = self._snapshot()
            published = source.wait(_SETTLE_LIMIT_S)
        self._published += count
        settled = self._settle(devices)
        lost, self._lost = settled["lost"] - self._lost, settled["lost"]
        misplaced, self._misplaced = settled["misplaced"] - self._misplaced, settled["misplaced"]
        return replace(
            after.since(before),
            deliveries=settled["in_windows"],
            offered=round(
                workload.deliveries_per_message * workload.rate * (to_ns - from_ns) / 1e9
            ),
            publisher_late_ms=published["late_p99_ms"],
            lost=lost,
            misplaced=misplaced,
            cut=settled["cut"],
            alone=settled["alone"],
            events=settled["events"],
            window_ms=settled["window_ms"],
            all_ms=settled["all_ms"],
            clients=connected.clients,
            connect_s=connected.connect_s,
            rss_start_kib=connected.rss_start_kib,
            rss_connected_kib=connected.rss_connected_kib,
            rss_end_kib=machine.rss_kib(self.pid),
        )

    def idle(self, workload: Workload, connected: Sample) -> Sample:
        """Leave the clients that `connect` opened alone for a while; see who is still there."""
        time.sleep(_IDLE_S)
        return replace(
            connected,
            cut=self._settle(workload.devices)["cut"],
            rss_end_kib=machine.rss_kib(self.pid),
        )

    def _settle(self, devices: list[str]) -> dict[str, Any]:
        return self._load.do(
            "settle",
            published=dict.fromkeys(devices, self._published // len(devices)),
            quiet_s=_QUIET_S,
            deadline_s=_SETTLE_LIMIT_S,
        )

    def _snapshot(self) -> _Snapshot:
        return _Snapshot(
            time.monotonic(),
            machine.cpu_s(self.pid),
            machine.cpu_s(self._load.pid),
            machine.core_times(),
        )


def _sleep_until(at_ns: int) -> None:
    time.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)


@dataclass(frozen=True)
class _Snapshot:
    at_s: float
    server_cpu_s: float
    load_cpu_s: float
    cores: dict[str, machine.CoreTimes]

    def since(self, before: _Snapshot) -> Sample:
        """What the machine did between two snapshots."""
        times = {name: core.since(before.cores[name]) for name, core in self.cores.items()}
        seconds = self.at_s - before.at_s
        server_cpu_s = self.server_cpu_s - before.server_cpu_s
        server_core, other_cores = machine.cores()
        return Sample(
            seconds=seconds,
            server_cpu_s=server_cpu_s,
            load_cpu=(self.load_cpu_s - before.load_cpu_s) / seconds,
            load_core_busy=min(times[f"cpu{core}"].busy_part for core in other_cores),
            strangers=max(0.0, times[f"cpu{server_core}"].work - server_cpu_s) / seconds,
            steal=times["cpu"].steal_part,
        )
