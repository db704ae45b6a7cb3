"""Event streams as a browser reads them. WHATWG HTML §9.2.6, "Interpreting an event stream"."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Dispatched:
    """An event as it reaches the page: `type`, `data` and `lastEventId`."""

    type: str
    data: str
    last_event_id: str = ""


@dataclass(slots=True)
class EventStream:
    """A parser that is fed bytes, in whatever pieces; `events` is what was dispatched."""

    events: list[Dispatched] = field(default_factory=list)
    comments: int = 0
    retry_ms: int | None = None
    last_event_id: str = ""
    _buffer: bytes = b""
    _is_begun: bool = False
    _type: str = ""
    _data: str = ""
    _id: str = ""

    def feed(self, data: bytes) -> None:
        """Interpret what is complete of it, line by line."""
        self._buffer += data
        while (end := re.search(rb"\r\n|\n|\r(?!\Z)", self._buffer)) is not None:
            line, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
            self._interpret(line.decode("utf-8", "replace"))

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is half received: what a stream that ends here would throw away."""
        return not (self._buffer or self._type or self._data)

    def _interpret(self, line: str) -> None:
        if not self._is_begun:
            self._is_begun = True
            line = line.removeprefix("\ufeff")
        if not line:
            self._dispatch()
        elif line.startswith(":"):
            self.comments += 1
        else:
            name, _, value = line.partition(":")
            self._process(name, value.removeprefix(" "))

    def _process(self, name: str, value: str) -> None:
        if name == "event":
            self._type = value
        elif name == "data":
            self._data += value + "\n"
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            self.retry_ms = int(value)

    def _dispatch(self) -> None:
        self.last_event_id = self._id
        if self._data:
            self.events.append(
                Dispatched(
                    self._type or "message", self._data.removesuffix("\n"), self.last_event_id
                )
            )
        self._type = self._data = ""


def parse_event_stream(data: bytes) -> EventStream:
    """The whole of an event stream, interpreted."""
    stream = EventStream()
    stream.feed(data)
    return stream
