"""What a gateway says, put where it belongs: the inbox, the roster, or the counters. Sync.

Law: the position never runs ahead of what was put into the inbox.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from tracker.watch.inbox import Inbox
from tracker.watch.message import (
    Event,
    Gap,
    Message,
    Report,
    Resume,
    ResumeStatus,
    UndecodableError,
    decode,
)
from tracker.watch.roster import Roster
from tracker.watch.timing import KEEPALIVE_S

LOGGER = logging.getLogger("tracker.watch")

#: No hint of a server is obeyed beyond this.
LONGEST_HINT_S = 300.0
#: Where a stream stands behind a message without an id: it resumes as a reset.
NOWHERE = "-"


class Intake:
    """Takes the texts of all connections of one stream.

    `reached`: the position behind all that was received, "" when there is none; `keepalive_s`:
    how often the gateway says something, at least; `hint_s`, `error_message`: what it said last
    of the end of this connection. The counters are those of `StreamStatistics`.
    """

    def __init__(self, inbox: Inbox[Report | Event], roster: Roster) -> None:
        self._inbox = inbox
        self._roster = roster
        self._is_resuming = False
        self.reached = inbox.position
        self.keepalive_s = KEEPALIVE_S
        self.hint_s: float | None = None
        self.error_message = ""
        self.messages = self.past = self.events = self.lost = 0
        self.pings = self.undecodable = 0

    def begin(self) -> str:
        """A connection is tried; return the position to resume from, "" to begin anew."""
        self.hint_s, self.error_message = None, ""
        if not self._roster.covered:
            self.reached = ""
        self._is_resuming = bool(self.reached)
        return self.reached

    def take(self, text: str | bytes) -> None:
        """Take one message of the WebSocket."""
        try:
            if isinstance(text, bytes):
                raise UndecodableError("a binary message")
            item = decode(text)
        except UndecodableError as error:
            self.undecodable += 1
            if self.undecodable == 1:
                LOGGER.warning("skipping what is not of the contract: %s", error)
            return
        if not self._roster.is_open and (isinstance(item, Report) or item.name == "ping"):
            self._go_on_without_hello()
        if isinstance(item, Report):
            self._take_report(item)
        else:
            self._take_event(item)

    def _take_report(self, report: Report) -> None:
        if isinstance(report, Message):
            self.messages += 1
            self.reached = report.id or NOWHERE
        else:
            self.past += 1
        self._inbox.put(report, self.reached)

    def _take_event(self, event: Event) -> None:
        data = event.data if isinstance(event.data, dict) else {}
        position = data.get("position")
        if isinstance(position, str) and position:
            self.reached = position
        if event.name == "ping":
            self.pings += 1
        elif event.name == "hello":
            self._greet(data)
        elif not self._is_answer(event.name, data):
            self.events += 1
            self.lost += event.dropped if isinstance(event, Gap) else 0
            self._note(event.name, data)
            self._inbox.put(event, self.reached)
        self._inbox.reach(self.reached)

    def _greet(self, hello: Mapping[str, object]) -> None:
        ping_s = hello.get("ping_s")
        if isinstance(ping_s, int | float) and ping_s > 0:
            self.keepalive_s = ping_s
        self._roster.open(takes_operations=True)

    def _is_answer(self, name: str, data: Mapping[str, object]) -> bool:
        if name == "ack":
            return self._roster.answer(data.get("ref"))
        return name == "error" and self._roster.answer(
            data.get("ref"), str(data.get("message", ""))
        )

    def _go_on_without_hello(self) -> None:
        """It is a gateway of old, which knows no ids: what was missed is lost."""
        self._roster.open(takes_operations=False)
        self.reached = NOWHERE
        if self._is_resuming:
            data = {"status": "reset", "missed": None, "position": ""}
            text = msgspec.json.encode(data).decode()
            self.events += 1
            self._inbox.put(
                Resume(name="resume", data=data, text=text, status=ResumeStatus.RESET),
                self.reached,
            )

    def _note(self, name: str, data: Mapping[str, object]) -> None:
        """Remember what an event says of the end of this connection."""
        if name == "reconnect":
            after_ms = data.get("after_ms")
            if isinstance(after_ms, int | float) and after_ms >= 0:
                self.hint_s = min(after_ms / 1000, LONGEST_HINT_S)
        elif name == "error":
            self.error_message = str(data.get("message", ""))
