"""Where a stream stands: an id, opaque to clients, in the one order of one gateway's life.

PROTOCOL B1: an id is `<epoch>-<sequence>`; ids of one epoch are totally ordered, and an
id of another epoch is recognised as one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_POSITION = re.compile(r"([0-9a-z]{1,32})-(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Position:
    """`epoch`: lower-case letters and digits; `sequence`: that of the last message reached."""

    epoch: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """The position that `text` names, or None: it is none of ours."""
        match = _POSITION.fullmatch(text)
        return match and cls(match[1], int(match[2]))
