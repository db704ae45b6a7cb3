"""What the kernel says of processes and of the machine (proc(5)), and what runs on it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PACKAGES = (
    "tracker",
    "trio",
    "hypercorn",
    "quart",
    "quart-trio",
    "paho-mqtt",
    "msgspec",
    "fastapi",
    "uvicorn",
    "uvloop",
)


def cpu_s(pid: int) -> float:
    """User and system time of a process with all its threads, seconds."""
    return parse_cpu_s(Path(f"/proc/{pid}/stat").read_text())


def parse_cpu_s(stat: str) -> float:
    """`cpu_s`, given the content of `/proc/<pid>/stat`."""
    # The name, second, may hold spaces and brackets: what counts begins behind the last one.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_kib(pid: int) -> int:
    """Resident memory of a process, KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has no memory left: it has ended")


@dataclass(frozen=True)
class CoreTimes:
    """What a core, or all of them, did since the machine started, seconds.

    `work` is the time of processes; `interrupts` the kernel's in nobody's name, much of the
    network's among it; `steal` what the host gave to other machines.
    """

    work: float
    interrupts: float
    idle: float
    steal: float

    @property
    def busy_part(self) -> float:
        """How much of its time it was not idle, 0 to 1."""
        return 1 - self._part(self.idle)

    @property
    def steal_part(self) -> float:
        """How much of its time the host took, 0 to 1."""
        return self._part(self.steal)

    def _part(self, of: float) -> float:
        total = self.work + self.interrupts + self.idle + self.steal
        # Nothing, between two looks within one of the kernel's ticks.
        return of / total if total else 0.0

    def since(self, before: CoreTimes) -> CoreTimes:
        """The difference."""
        return CoreTimes(
            self.work - before.work,
            self.interrupts - before.interrupts,
            self.idle - before.idle,
            self.steal - before.steal,
        )


def core_times() -> dict[str, CoreTimes]:
    """The times by core, under `cpu0`, …, and of all under `cpu`."""
    return parse_core_times(Path("/proc/stat").read_text())


def parse_core_times(stat: str) -> dict[str, CoreTimes]:
    """`core_times`, given the content of `/proc/stat`."""
    times = {}
    for line in stat.splitlines():
        name, *rest = line.split()
        if name.startswith("cpu"):
            user, nice, system, idle, iowait, irq, softirq, steal = (
                int(field) / _TICKS_PER_S for field in rest[:8]
            )
            times[name] = CoreTimes(user + nice + system, irq + softirq, idle + iowait, steal)
    return times


def cores() -> tuple[int, frozenset[int]]:
    """The core for the server under test, and those for all else.

    Raises: RuntimeError on a machine with one core.
    """
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise RuntimeError("the bench needs two cores, one of them for the server alone")
    return available[0], frozenset(available[1:])


def describe() -> list[str]:
    """The machine and the versions of what the bench runs, a few lines."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, load average {load}",
        f"Python {platform.python_version()}, mosquitto {_mosquitto_version()}, "
        + ", ".join(f"{name} {_package_version(name)}" for name in _PACKAGES),
    ]


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def find_program(name: str) -> str | None:
    """The path of a program, also where Debian keeps daemons; None when it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")


def _mosquitto_version() -> str:
    path = find_program("mosquitto")
    if path is None:
        return "missing"
    # It prints its help, the version first, and ends with 3.
    shown = subprocess.run([path, "-h"], capture_output=True, text=True, check=False).stdout
    return shown.split("\n")[0].removeprefix("mosquitto version ")
