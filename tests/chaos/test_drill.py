"""The drill in its short form, with a seed of its own each time: the failure names it."""

from __future__ import annotations

import random

import pytest

from tests.chaos.drill import drill
from tests.chaos.ledger import DiscrepancyError


@pytest.mark.slow
@pytest.mark.mosquitto
@pytest.mark.browser
async def test_the_books_of_every_client_balance() -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    happened: list[str] = []
    try:
        outcome = await drill(length_s=20.0, clients=50, seed=seed, say=happened.append)
    except DiscrepancyError as error:
        pytest.fail(f"python -m tests.chaos --seconds 20 --seed {seed}\n{happened}\n{error}")
    assert len(outcome.balances) == 50
    assert outcome.cuts >= 50
    assert all(balance.delivered for balance in outcome.balances.values())
