"""One run: a broker, a server, its clients and a publisher, started, measured and ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from bench import machine, processes
from bench.contenders import Contender
from bench.handshake import Transport
from bench.mark import device_id

STEAL_LIMIT = 0.02
SATURATED = 0.9
FULL = 0.98
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


@dataclass(frozen=True)
class Group:
    """Clients that ask for the same devices; `reads` is false for those that never read."""

    devices: tuple[str, ...]
    clients: int = 1
    reads: bool = True


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a server is given to do: messages at a rate, over all devices in turn, to clients."""

    groups: tuple[Group, ...]
    rate: float
    seconds: float
    warmup_s: float = 1.0
    transport: Transport = "websocket"

    @property
    def devices(self) -> list[str]:
        """All devices, each once."""
        return sorted({device for group in self.groups for device in group.devices})


def shared_devices(devices: int, clients: int, *, reads: bool = True) -> Group:
    """Clients that all ask for the same so many devices."""
    return Group(tuple(device_id(index) for index in range(devices)), clients, reads)


def one_each(clients: int) -> tuple[Group, ...]:
    """Clients with a device of its own each."""
    return tuple(Group((device_id(index),)) for index in range(clients))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one run showed.

    Times are in seconds or ms as named; `window_ms` are medians of one-second windows,
    `all_ms` percentiles of all deliveries, both by the names `p50` to `max`.
    """

    deliveries: int = 0
    offered: int = 0
    messages: int = 0
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
        if self.load_cpu > SATURATED:
            found.append(f"the load was saturated: {self.load_cpu:.0%} of a core")
        elif self.load_core_busy > FULL:
            found.append(f"the load's core was full: {self.load_cpu:.0%} was the load's own")
        if self.strangers > 0.05:
            found.append(f"others took {self.strangers:.0%} of the server's core")
        if self.publisher_late_ms > 5:
            found.append(f"the publisher was {self.publisher_late_ms:.1f} ms late")
        return found


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
        self._server_core, self._other_cores = machine.cores()
        self._workload: Workload | None = None
        self._published = 0
        self._lost = 0
        self._misplaced = 0

    def connect(self, workload: Workload) -> Sample:
        """Open all clients of a workload, and measure that alone."""
        rss_start_kib = machine.rss_kib(self.pid)
        cpu_s = machine.cpu_s(self.pid)
        answer = self._load.do(
            "connect",
            host=self._host,
            port=self._port,
            transport=workload.transport,
            groups=[(group.devices, group.clients, group.reads) for group in workload.groups],
        )
        return Sample(
            clients=answer["opened"],
            connect_s=answer["took_s"],
            server_cpu_s=machine.cpu_s(self.pid) - cpu_s,
            rss_start_kib=rss_start_kib,
            rss_connected_kib=machine.rss_kib(self.pid),
        )

    def publish(self, workload: Workload, connected: Sample) -> Sample:
        """Publish to the clients that `connect` opened, and measure."""
        devices = workload.devices
        # Whole rounds over the devices, so that each has as many messages as the others.
        count = round(workload.rate * (workload.warmup_s + workload.seconds) / len(devices))
        count = max(1, count) * len(devices)
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
        with processes.publisher(plan, on_cores=self._other_cores) as source:
            before = self._snapshot(from_ns)
            after = self._snapshot(to_ns)
            published = source.wait(_SETTLE_LIMIT_S)
        self._published += count
        settled = self._load.do(
            "settle",
            published=dict.fromkeys(devices, self._published // len(devices)),
            quiet_s=_QUIET_S,
            deadline_s=_SETTLE_LIMIT_S,
        )
        seconds = after.at_s - before.at_s
        server_cpu_s = after.server_cpu_s - before.server_cpu_s
        server_core = after.cores[f"cpu{self._server_core}"].since(
            before.cores[f"cpu{self._server_core}"]
        )
        others = [
            after.cores[f"cpu{core}"].since(before.cores[f"cpu{core}"])
            for core in self._other_cores
        ]
        every = after.cores["cpu"].since(before.cores["cpu"])
        lost, self._lost = settled["lost"] - self._lost, settled["lost"]
        misplaced, self._misplaced = settled["misplaced"] - self._misplaced, settled["misplaced"]
        fanout = sum(len(group.devices) * group.clients for group in workload.groups if group.reads)
        return replace(
            connected,
            deliveries=settled["in_windows"],
            offered=round(fanout * workload.rate / len(devices) * (to_ns - from_ns) / 1e9),
            messages=round(workload.rate * (to_ns - from_ns) / 1e9),
            seconds=seconds,
            server_cpu_s=server_cpu_s,
            load_cpu=(after.load_cpu_s - before.load_cpu_s) / seconds,
            load_core_busy=1 - min(core.idle / core.total for core in others),
            publisher_late_ms=published["late_p99_ms"],
            strangers=max(0.0, server_core.work - server_cpu_s) / seconds,
            steal=every.steal / every.total,
            lost=lost,
            misplaced=misplaced,
            cut=settled["cut"],
            alone=settled["alone"],
            events=settled["events"],
            window_ms=settled["window_ms"],
            all_ms=settled["all_ms"],
            rss_end_kib=machine.rss_kib(self.pid),
        )

    def _snapshot(self, at_ns: int) -> _Snapshot:
        time.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)
        return _Snapshot(
            time.monotonic(),
            machine.cpu_s(self.pid),
            machine.cpu_s(self._load.pid),
            machine.core_times(),
        )


@dataclass(frozen=True)
class _Snapshot:
    at_s: float
    server_cpu_s: float
    load_cpu_s: float
    cores: dict[str, machine.CoreTimes]


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


def run(contender: Contender, workload: Workload, network: Network = LOCAL) -> Sample:
    """One run; repeated once when the machine's host took more than 2 % of its time.

    Raises: RunError.
    """
    sample = _run(contender, workload, network)
    return _run(contender, workload, network) if sample.steal > STEAL_LIMIT else sample


def _run(contender: Contender, workload: Workload, network: Network) -> Sample:
    with bed(contender, network) as ready:
        connected = ready.connect(workload)
        return ready.publish(workload, connected)


def run_connects(contender: Contender, groups: tuple[Group, ...]) -> Sample:
    """One run that opens clients and publishes nothing. Raises: RunError."""
    with bed(contender) as ready:
        sample = ready.connect(Workload(groups=groups, rate=0, seconds=0))
        time.sleep(_IDLE_S)
        return replace(sample, rss_end_kib=machine.rss_kib(ready.pid))
