"""`python -m tests.chaos`: two minutes of chaos, or as many seconds as are asked for."""

from __future__ import annotations

import argparse
import random
import sys
import time
from functools import partial

import trio

from tests.chaos.drill import drill
from tests.chaos.ledger import DiscrepancyError


def main() -> int:
    """Run one drill; 0 when the books balance."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (120)")
    parser.add_argument("--clients", type=int, default=50, help="how many clients (50)")
    parser.add_argument("--seed", type=int, help="of a run that is to be made again")
    options = parser.parse_args()
    seed: int = random.randrange(1_000_000) if options.seed is None else options.seed
    begun_s = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - begun_s:6.1f} s  {text}\n")
        sys.stdout.flush()

    say(f"chaos for {options.seconds:g} s, --seed {seed}")
    run = partial(drill, length_s=options.seconds, clients=options.clients, seed=seed, say=say)
    try:
        outcome = trio.run(run)
    except DiscrepancyError as error:
        sys.stderr.write(f"\nthe books do not balance, --seed {seed}:\n{error}\n")
        return 1
    say(str(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
