"""What a check found."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import TypeAlias


class Outcome(enum.Enum):
    """How a check ended. The value is what is printed."""

    PASSED = "passed"
    FAILED = "FAILED"
    NOT_APPLICABLE = "not applicable"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. A failed one has a remedy; others may have a hint there."""

    check: str
    outcome: Outcome
    detail: str
    remedy: str = ""


#: Takes a finding as soon as it is made.
Report: TypeAlias = Callable[[Finding], None]


def passed(check: str, detail: str, remedy: str = "") -> Finding:
    """A check that passed."""
    return Finding(check, Outcome.PASSED, detail, remedy)


def failed(check: str, detail: str, remedy: str) -> Finding:
    """A check that failed, and what to do."""
    return Finding(check, Outcome.FAILED, detail, remedy)


def not_applicable(check: str, why: str, remedy: str = "") -> Finding:
    """A check that could not, or need not, be made."""
    return Finding(check, Outcome.NOT_APPLICABLE, why, remedy)
