"""What a gateway might tell."""

from __future__ import annotations

from tracker.top.observation import Connection, Observation, Totals


def observation(
    *connections: Connection,
    at_s: float = 0.0,
    total: int | None = None,
    totals: Totals | None = None,
) -> Observation:
    """An observation of these."""
    return Observation(
        at_s=at_s,
        connections=list(connections),
        total=len(connections) if total is None else total,
        totals=totals or Totals(),
        listed=b"",
        stats=b"",
    )
