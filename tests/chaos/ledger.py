"""The books: what was published, what each client heard, and whether the two add up.

A message of a subscribed device is delivered exactly once, or stands in a gap, or lies in a
span of which the client was told: a resume that was `partial` or `reset`, a loss of which
nobody knows the device, or an outage of the broker.

Laws that are checked of each client, over all its connections:
- Ids rise strictly within a life of the gateway, and so do each device's numbers.
- What is missing between two messages of a device was told between them. On one connection,
  and in no such span, the gaps tell the very number; across a cut at least it, since
  what was dropped and told may come again from the history.
- The end is like a message that comes after the last one of each device.

A gap counts only if the client's position has passed it: one that resumes from before it
is sent the messages after all, or told again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Literal

#: A browser's clock shows milliseconds.
_CLOCK_S = 0.005

#: `cut` begins a connection.
Kind = Literal["cut", "message", "position", "gap", "resume", "upstream", "other"]


class DiscrepancyError(AssertionError):
    """The books do not balance; the text says for whom, where, and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a client heard.

    `device_id`, `number`: of a message; or the device of a gap, empty where nobody knows it,
    and how many it dropped. `id`: where the client stands with it, empty where it tells
    nothing. `word`: the outcome of a resume, or `lost` and `back` of the broker. `heard_s`:
    the time of day.
    """

    kind: Kind
    device_id: str = ""
    number: int = 0
    id: str = ""
    word: str = ""
    heard_s: float = 0.0


@dataclass(slots=True)
class Account:
    """What one client heard. `knows_positions`: whether `id` tells all that it resumes with;
    a browser does not show the positions that come without an event; `begun_s`: the time of
    day from which its log is told."""

    name: str
    device_ids: tuple[str, ...]
    knows_positions: bool = True
    begun_s: float = 0.0
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class Published:
    """The numbers that were published of each device: `acknowledged` by the broker, or
    `unknown` when it was killed; and when each was sent."""

    acknowledged: dict[str, set[int]]
    unknown: dict[str, set[int]]
    sent_s: dict[tuple[str, int], float] = field(default_factory=dict)

    def last(self, device_id: str) -> int:
        """The last number of a device that the broker has acknowledged."""
        return max(self.acknowledged[device_id])

    def has(self, device_id: str, number: int) -> bool:
        """Whether that message was ever sent to the broker."""
        return (device_id, number) in self.sent_s

    def between(self, device_id: str, low: int, high: int) -> Missing:
        """What lies between two numbers of a device."""
        numbers = range(low + 1, high)
        acknowledged, unknown = self.acknowledged[device_id], self.unknown[device_id]
        return Missing(
            [self.sent_s[device_id, number] for number in numbers if number in acknowledged],
            sum(number in unknown for number in numbers),
        )


@dataclass(frozen=True, slots=True)
class Missing:
    """`acknowledged`: when each was sent that the gateway must have got; `unknown`: how many
    it may have got."""

    acknowledged: list[float]
    unknown: int


@dataclass(slots=True)
class Balance:
    """How many of each an account holds."""

    delivered: int = 0
    in_gaps: int = 0
    in_spans: int = 0
    resumes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Place:
    """Where a device's last message stands in the log."""

    number: int = 0
    at: int = -1


@dataclass(frozen=True, slots=True)
class _Hole:
    """Between two messages of a device, or behind the last one."""

    device_id: str
    before: _Place
    after: _Place


def audit(account: Account, published: Published) -> Balance:
    """Check one client's log. Raises: DiscrepancyError."""
    balance = Balance()
    for entry in account.entries:
        if entry.kind == "resume":
            balance.resumes[entry.word] = balance.resumes.get(entry.word, 0) + 1
    _check_ids(account)
    void = set(_void_gaps(account)) if account.knows_positions else set()
    spans = _told_spans(account)
    places = {device_id: _Place() for device_id in account.device_ids}
    has_gap: set[str] = set()
    for at, entry in enumerate(account.entries):
        if entry.kind == "gap":
            has_gap.add(entry.device_id)
        if entry.kind != "message":
            continue
        place = places.get(entry.device_id)
        if place is None:
            raise _discrepancy(account, at, f"a message of {entry.device_id!r}, not subscribed")
        if not published.has(entry.device_id, entry.number):
            raise _discrepancy(account, at, f"{entry.device_id} {entry.number}, never published")
        if entry.number <= place.number:
            raise _discrepancy(
                account,
                at,
                f"{entry.device_id} {entry.number} after {place.number}: twice, or out of order",
            )
        if entry.number > place.number + 1 or entry.device_id in has_gap:
            hole = _Hole(entry.device_id, place, _Place(entry.number, at))
            _check_hole(account, published, hole, void, spans, balance)
            has_gap.discard(entry.device_id)
        places[entry.device_id] = _Place(entry.number, at)
        balance.delivered += 1
    for device_id, place in places.items():
        end = _Place(published.last(device_id) + 1, len(account.entries))
        _check_hole(account, published, _Hole(device_id, place, end), void, spans, balance)
    return balance


def _check_hole(
    account: Account,
    published: Published,
    hole: _Hole,
    void: set[int],
    spans: list[_Span],
    balance: Balance,
) -> None:
    before, after = hole.before, hole.after
    between = range(before.at + 1, after.at)
    told = sum(
        each.number
        for index in between
        if (each := account.entries[index]).kind == "gap"
        and each.device_id == hole.device_id
        and index not in void
    )
    over = [span for span in spans if span.first <= after.at and span.last > before.at]
    until_s = max((span.until_s for span in over), default=-inf)
    missing = published.between(hole.device_id, before.number, after.number)
    must = sum(sent_s > until_s for sent_s in missing.acknowledged)
    excused = len(missing.acknowledged) - must
    is_exact = not over and not any(account.entries[index].kind == "cut" for index in between)
    balance.in_gaps += min(told, must)
    balance.in_spans += excused
    where = "the end" if after.at == len(account.entries) else str(after.number)
    what = f"{hole.device_id} {before.number} → {where}: {must} messages missing"
    if excused or missing.unknown:
        what += f", {excused} more in spans that were told, {missing.unknown} never acknowledged"
    if told < must:
        raise _discrepancy(account, after.at, f"{what}; gaps tell {told}: {must - told} undeclared")
    if is_exact and told > must + missing.unknown:
        raise _discrepancy(account, after.at, f"{what}; but gaps tell {told}")


@dataclass(frozen=True, slots=True)
class _Span:
    """Between these entries, messages that were sent before `until_s` may be missing."""

    first: int
    last: int
    until_s: float


def _told_spans(account: Account) -> list[_Span]:
    spans: list[_Span] = []
    lost_at: int | None = None
    end = len(account.entries)
    for at in reversed(range(end)):
        entry = account.entries[at]
        if entry.kind == "cut":
            end = at
        elif entry.kind == "resume" and entry.word in ("partial", "reset"):
            # What is sent from now on is live; what was, may be replayed until the next cut.
            spans.append(_Span(at, end, entry.heard_s + _CLOCK_S))
        elif entry.kind == "gap" and not entry.device_id:
            spans.append(_Span(at, at, entry.heard_s + _CLOCK_S))
    for at, entry in enumerate(account.entries):
        if entry.kind == "upstream" and entry.word == "lost":
            lost_at = at if lost_at is None else lost_at
        elif entry.kind == "cut" and lost_at is not None:
            # Who comes back is told again, or that its resume is partial.
            spans.append(_Span(lost_at, at, entry.heard_s + _CLOCK_S))
            lost_at = None
        elif entry.kind == "upstream":
            first = at if lost_at is None else lost_at
            spans.append(_Span(first, at, entry.heard_s + _CLOCK_S))
            lost_at = None
    if lost_at is not None:
        spans.append(_Span(lost_at, len(account.entries), inf))
    return spans


def _void_gaps(account: Account) -> Iterator[int]:
    """The gaps that a client's position had not passed when it was cut."""
    pending: list[int] = []
    for at, entry in enumerate(account.entries):
        if entry.kind == "cut":
            yield from pending
            pending = []
        elif entry.kind == "gap":
            pending.append(at)
        elif entry.id:
            pending = []


def _check_ids(account: Account) -> None:
    before: tuple[str, int] | None = None
    for at, entry in enumerate(account.entries):
        if entry.kind != "message" or not entry.id:
            continue
        epoch, _, sequence = entry.id.rpartition("-")
        now = (epoch, int(sequence))
        if before is not None and before[0] == epoch and before[1] >= now[1]:
            raise _discrepancy(account, at, f"the id {entry.id} after {before[0]}-{before[1]}")
        before = now


def _discrepancy(account: Account, at: int, what: str) -> DiscrepancyError:
    first = max(0, at - 25)
    lines = [
        f"{'→' if index == at else ' '} {index}: {_shown(account.entries[index], account.begun_s)}"
        for index in range(first, min(len(account.entries), at + 6))
    ]
    return DiscrepancyError(f"{account.name}: {what}\n" + "\n".join(lines))


def _shown(entry: Entry, begun_s: float) -> str:
    number = str(entry.number) if entry.number else ""
    heard = f"{entry.heard_s - begun_s:.3f} s" if entry.heard_s else ""
    words = (heard, entry.kind, entry.device_id, number, entry.word, entry.id)
    return " ".join(filter(None, words))
