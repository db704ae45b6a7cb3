"""Runs with the clients far away: behind a link of 25 ms each way.

`python -m bench.faraway` is started in a network namespace of its own, which ends with it. There
stand broker, server and publisher; the clients are in a second one, at the link's other end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from bench import machine
from bench.contenders import tracker
from bench.link import open_tun
from bench.processes import ROOT, RunError
from bench.runs import Network, run
from bench.sample import Sample
from bench.workload import Workload, shared_devices

DELAY_S = 0.025
# RFC 2544: addresses for benchmarks, which are routed nowhere.
_SERVER, _CLIENTS = "198.18.0.1", "198.18.0.2"
_RUN_LIMIT_S = 120.0


def obstacle() -> str | None:
    """Why this machine cannot do it; None when it can."""
    for program in ("unshare", "nsenter", "ip"):
        if machine.find_program(program) is None:
            return f"{program} is not installed"
    if not os.path.exists("/dev/net/tun"):
        return "the kernel has no TUN devices"
    tried = subprocess.run(
        ["unshare", "--net", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"no right to make a network namespace: {tried.stderr.strip()}"
    return None


def run_faraway(seconds: float) -> Sample:
    """S2b on the gateway from 50 ms away. Raises: RunError."""
    try:
        done = subprocess.run(
            ["unshare", "--net", sys.executable, "-m", "bench.faraway", str(seconds)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
            timeout=_RUN_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"the run far away did not end in {_RUN_LIMIT_S:.0f} s") from None
    if done.returncode:
        raise RunError(f"the run far away failed: {done.stderr.strip()[-2000:]}")
    return Sample(**json.loads(done.stdout))


@contextlib.contextmanager
def far_network() -> Iterator[Network]:
    """The link, with its near end in this namespace."""
    near = open_tun("bench0", _SERVER)
    relay = subprocess.Popen(
        [
            *("unshare", "--net", sys.executable, "-m", "bench.link"),
            *(str(near), _CLIENTS, str(DELAY_S)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[near],
        cwd=ROOT,
    )
    try:
        os.sched_setaffinity(relay.pid, machine.cores()[1])
        assert relay.stdout is not None
        if relay.stdout.readline() != b"ready\n":
            raise RunError("the link did not come up")
        yield Network(_SERVER, ("nsenter", f"--net=/proc/{relay.pid}/ns/net"))
    finally:
        assert relay.stdin is not None
        relay.stdin.close()
        relay.wait()
        os.close(near)


def main() -> None:
    """One run in this namespace; prints its sample as JSON."""
    seconds = float(sys.argv[1])
    workload = Workload(groups=(shared_devices(10, 100),), rate=1000, seconds=seconds)
    with far_network() as network:
        sample = run(tracker(bind="0.0.0.0"), workload, network)
    sys.stdout.write(json.dumps(dataclasses.asdict(sample)))


if __name__ == "__main__":
    main()
