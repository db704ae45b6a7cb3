"""`python -m bench`: run the scenarios, print the table, end with 1 where a must is missed.

Progress goes to standard error, the table to standard output.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

from bench import machine
from bench.campaign import Campaign
from bench.processes import RunError
from bench.report import Figure, fails, table
from bench.scenarios import QUICK, Scenario

_QUICK_DECIDES = {"A7"}


def main() -> int:
    """Run what the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes: A7 and S2b")
    options = parser.parse_args()
    assert options
    _raise_file_limit()
    started = time.monotonic()
    for line in machine.describe():
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    steal = machine.core_times()["cpu"]
    figures: list[Figure] = []
    campaign = Campaign(rounds=3, seconds=4, say=_say)
    for name, scenario in QUICK.items():
        figures += _figures(name, scenario, campaign)
    stolen = machine.core_times()["cpu"].since(steal)
    sys.stdout.write(f"\n{table(figures)}\n\n")
    for doubt in campaign.doubts:
        sys.stdout.write(f"doubtful: {doubt}\n")
    sys.stdout.write(
        f"CPU steal {stolen.steal / stolen.total:.2%}; took {time.monotonic() - started:.0f} s\n"
    )
    return int(fails(figure for figure in figures if figure.scenario in _QUICK_DECIDES))


def _figures(name: str, scenario: Scenario, campaign: Campaign) -> list[Figure]:
    try:
        return scenario(campaign)
    except RunError as error:
        _say(f"{name}: {error}")
        return [Figure(scenario=name, name="did not run", beside=str(error)[:120])]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _raise_file_limit() -> None:
    """Ten thousand clients are as many open files, in the server and in the load."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
