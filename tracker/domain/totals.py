"""Sums over all streams that ever were, kept as they change: reading them costs nothing."""

from __future__ import annotations

from tracker.domain.reasons import Drop


class Totals:
    """`delivered`, `dropped`: messages; `replayed`: messages sent from the history beside
    them; `overflows`: runs of drops for want of room; `events_left_out`: events of no device
    for which there was no room."""

    __slots__ = ("delivered", "dropped", "events_left_out", "overflows", "replayed")

    def __init__(self) -> None:
        self.delivered = 0
        self.dropped = dict.fromkeys(Drop, 0)
        self.replayed = 0
        self.overflows = 0
        self.events_left_out = 0
