"""Server-sent events out of pieces of text. WHATWG HTML, "Interpreting an event stream"."""

from __future__ import annotations

import dataclasses
import re

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclasses.dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event as a browser dispatches it."""

    name: str
    data: str


class EventStreamParser:
    """Fed with bytes as they come; a line that is not complete waits."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        #: Lines that begin with a colon: heartbeats.
        self.comments = 0

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that are complete with these bytes."""
        events = []
        *lines, self._rest = _LINE_END.split(self._rest + data)
        for line in lines:
            event = self._take(line.decode("utf-8", "replace"))
            if event is not None:
                events.append(event)
        return events

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            event = ServerEvent(self._name or "message", "\n".join(self._data))
            is_dispatched = bool(self._data)
            self._name, self._data = "", []
            return event if is_dispatched else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not field:
            self.comments += 1
        elif field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None
