"""Which devices are wanted, and what is to be said to the gateway for it to be so. Sync.

Theory of operation. A connection begins with the devices in its URL; each operation then changes
what it has, and is answered in the order in which it was sent. `settle` compares what is wanted
with what the connection will have when all that was sent is answered.

Law: a device is covered when everything of it up to the position was received: since the gateway
confirmed it, and for as long as it did not confirm its end. So a resume from the position may
name covered devices alone; the others are asked for later, to begin with their past.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

import trio

#: PROTOCOL B5: no message to the gateway is larger than 64 KiB. An id has 128 characters.
_IDS_IN_ONE = 100


class Op(enum.Enum):
    """What is asked of the gateway. The value is its name on the wire."""

    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """An operation on a live connection; `ref` comes back with its answer."""

    op: Op
    device_ids: tuple[str, ...]
    ref: int


@dataclasses.dataclass(eq=False, slots=True)
class Wish:
    """Somebody waits until devices come, or no longer come.

    `done` is set when it is so, or when it was refused: `refusal` says why.
    """

    op: Op
    device_ids: frozenset[str]
    done: trio.Event = dataclasses.field(default_factory=trio.Event)
    refusal: str | None = None


class Roster:
    """The devices of one stream, over all its connections.

    `covered`: devices that the position holds for.
    """

    def __init__(self, device_ids: Iterable[str], *, covered: Iterable[str] = ()) -> None:
        self._wanted = dict.fromkeys(device_ids)
        self.covered = set(covered)
        self._wishes: list[Wish] = []
        self._changed = trio.Event()
        self._last_ref = 0
        # Of the connection: what the gateway may send, what it will have when all is answered,
        # and what is not answered yet.
        self._may_come: set[str] = set()
        self._promised: set[str] = set()
        self._asked: dict[int, Operation] = {}
        self._is_open = False
        self._takes_operations = True

    @property
    def wanted(self) -> tuple[str, ...]:
        """The devices that are wanted, in the order in which they were asked for."""
        return tuple(self._wanted)

    # What is wanted

    def want(self, device_ids: Iterable[str]) -> Wish:
        """Want these too."""
        wish = Wish(Op.SUBSCRIBE, frozenset(device_ids))
        self._wanted.update(dict.fromkeys(device_ids))
        return self._add(wish)

    def unwant(self, device_ids: Iterable[str]) -> Wish:
        """Want these no more."""
        wish = Wish(Op.UNSUBSCRIBE, frozenset(device_ids))
        for device_id in wish.device_ids:
            self._wanted.pop(device_id, None)
        return self._add(wish)

    async def wait_change(self) -> None:
        """Wait until `wanted` may be another, or `settle` may have more to say."""
        await self._changed.wait()

    def forget(self, wish: Wish) -> None:
        """Nobody waits for it any more. Idempotent."""
        if wish in self._wishes:
            self._wishes.remove(wish)

    # A connection

    def connect(self) -> tuple[str, ...]:
        """A connection is tried: with these devices. They are covered, or none is."""
        self.covered &= self._wanted.keys()
        device_ids = tuple(each for each in self._wanted if each in self.covered) or self.wanted
        self._may_come = set(device_ids)
        self._promised = set(device_ids)
        self._takes_operations = True
        return device_ids

    def open(self, *, takes_operations: bool) -> None:
        """The gateway speaks on it, so its devices come."""
        self._is_open = True
        self._takes_operations = takes_operations
        self.covered = set(self._may_come)
        self._review()

    @property
    def is_open(self) -> bool:
        """Whether the gateway has spoken on the connection."""
        return self._is_open

    def disconnect(self) -> None:
        """The connection is gone."""
        self._is_open = False
        self._asked.clear()
        self._may_come.clear()
        self._promised.clear()
        self._review()

    def settle(self) -> list[Operation]:
        """What is to be said to the gateway now."""
        if not self._is_open:
            return []
        gone = [each for each in self._promised if each not in self._wanted]
        fresh = [each for each in self._wanted if each not in self._promised]
        if not self._takes_operations:
            if gone or fresh:
                self._refuse(gone + fresh, "the gateway takes no operations")
            return []
        self._promised = set(self._wanted)
        self._may_come.update(fresh)
        return [
            self._ask(op, tuple(device_ids[first : first + _IDS_IN_ONE]))
            for op, device_ids in ((Op.UNSUBSCRIBE, gone), (Op.SUBSCRIBE, fresh))
            for first in range(0, len(device_ids), _IDS_IN_ONE)
        ]

    def answer(self, ref: object, refusal: str | None = None) -> bool:
        """The gateway answered an operation; whether it was one of ours."""
        operation = self._asked.pop(ref, None) if isinstance(ref, int) else None
        if operation is None:
            return False
        device_ids = operation.device_ids
        is_more = operation.op is Op.SUBSCRIBE
        if refusal is not None:
            if is_more:
                self._promised.difference_update(device_ids)
                self._may_come.difference_update(device_ids)
            self._refuse(device_ids, refusal)
        elif is_more:
            self.covered.update(device_ids)
        else:
            self.covered.difference_update(device_ids)
            # What was asked for again behind it comes.
            again = {each for one in self._asked.values() for each in one.device_ids}
            self._may_come.difference_update(set(device_ids) - again)
        self._review()
        return True

    def _ask(self, op: Op, device_ids: tuple[str, ...]) -> Operation:
        self._last_ref += 1
        operation = Operation(op, device_ids, self._last_ref)
        self._asked[self._last_ref] = operation
        return operation

    # Who waits

    def _add(self, wish: Wish) -> Wish:
        self._wishes.append(wish)
        self._review()
        return wish

    def _review(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        for wish in list(self._wishes):
            if self._is_fulfilled(wish):
                self._end(wish)

    def _is_fulfilled(self, wish: Wish) -> bool:
        if wish.op is Op.UNSUBSCRIBE:
            return all(
                each in self._wanted or each not in self._may_come for each in wish.device_ids
            )
        in_doubt = {each for operation in self._asked.values() for each in operation.device_ids}
        settled = (self.covered & self._promised) - in_doubt
        return self._is_open and all(
            each not in self._wanted or each in settled for each in wish.device_ids
        )

    def _refuse(self, device_ids: Iterable[str], refusal: str) -> None:
        refused = set(device_ids)
        for each in refused - self.covered:
            self._wanted.pop(each, None)
        for wish in list(self._wishes):
            if wish.device_ids & refused:
                wish.refusal = refusal
                self._end(wish)

    def _end(self, wish: Wish) -> None:
        self._wishes.remove(wish)
        wish.done.set()

    def end(self) -> None:
        """Nothing comes any more: nobody needs to wait."""
        for wish in list(self._wishes):
            self._end(wish)
