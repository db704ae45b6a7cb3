"""How fast each connection gets its messages, from two observations. Pure.

A connection is known by its seat and by the moment in which it began, which is reckoned from its
age: a seat is taken again when its connection has ended.
"""

from __future__ import annotations

import dataclasses

from tracker.top.observation import Connection, Observation

#: By so much the reckoned beginnings of one connection may differ: the answers take their time.
_TOLERANCE_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """Messages a second, between two observations; None where that is not known.

    `delivered`: of each connection, in the order of the later observation; `published` and
    `delivered_in_all` of the gateway.
    """

    delivered: list[float | None]
    published: float | None = None
    delivered_in_all: float | None = None


def rates(before: Observation | None, after: Observation) -> Rates:
    """What happened between the two."""
    unknown = Rates([None] * len(after.connections))
    if before is None:
        return unknown
    elapsed_s = after.at_s - before.at_s
    if elapsed_s <= 0:
        return unknown
    known = {connection.seat: connection for connection in before.connections}
    delivered: list[float | None] = []
    for connection in after.connections:
        earlier = known.get(connection.seat)
        if earlier is not None and _is_same(earlier, connection, elapsed_s):
            delivered.append(_rate(earlier.delivered, connection.delivered, elapsed_s))
        elif connection.age_s < elapsed_s:
            delivered.append(_rate(0, connection.delivered, elapsed_s))
        else:  # it was not listed then
            delivered.append(None)
    return Rates(
        delivered,
        _rate(
            before.totals.total_messages_processed, after.totals.total_messages_processed, elapsed_s
        ),
        _rate(before.totals.messages_delivered, after.totals.messages_delivered, elapsed_s),
    )


def _is_same(earlier: Connection, later: Connection, elapsed_s: float) -> bool:
    return abs(earlier.age_s + elapsed_s - later.age_s) <= _TOLERANCE_S


def _rate(before: int, after: int, elapsed_s: float) -> float | None:
    if after < before:  # another life of the gateway
        return None
    return (after - before) / elapsed_s
