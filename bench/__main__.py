"""`python -m bench`: run the scenarios, print the table, end with 1 where a must is missed.

Progress goes to standard error, the table to standard output.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time

from bench import machine
from bench.campaign import Campaign
from bench.processes import RunError
from bench.report import Figure, fails, table
from bench.scenarios import FULL, QUICK, Scenario


def main() -> int:
    """Run what the command line says; the exit code."""
    options = _parse()
    chosen = {name: FULL[name] for name in options.only or (QUICK if options.quick else FULL)}
    # The short form decides by PROTOCOL A7 alone: its few seconds say little of the rest.
    decides = {"A7"} if options.quick else set(chosen)
    _raise_file_limit()
    for line in machine.describe():
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    started_s, before = time.monotonic(), machine.core_times()["cpu"]
    campaign = Campaign(rounds=options.rounds, seconds=options.seconds, say=_say)
    figures: list[Figure] = []
    decided: list[Figure] = []
    for name, scenario in chosen.items():
        found = _figures(name, scenario, campaign)
        figures += found
        decided += found if name in decides else []
    spent = machine.core_times()["cpu"].since(before)
    sys.stdout.write(f"\n{table(figures)}\n\n")
    for doubt in campaign.doubts:
        sys.stdout.write(f"doubtful: {doubt}\n")
    sys.stdout.write(
        f"{options.rounds} rounds, {time.monotonic() - started_s:.0f} s, "
        f"CPU steal {spent.steal_part:.2%}\n"
    )
    return int(fails(decided))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    parser.add_argument("--only", nargs="+", choices=FULL, help="only these scenarios")
    parser.add_argument("--rounds", type=int, default=3, help="of each scenario (3)")
    parser.add_argument("--seconds", type=float, help="measured in most runs (5; quick: 4)")
    options = parser.parse_args()
    if options.seconds is None:
        options.seconds = 4 if options.quick else 5
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds: expected 1 or more")
    return options


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
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
