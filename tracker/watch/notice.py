"""What a gateway tells of losses, in words, and how long it matters."""

from __future__ import annotations

from tracker.watch.message import Event, Gap, ModeChanged, Resume, ResumeStatus, Upstream

#: A notice is shown for so long.
_SHOWN_S = 60.0
_NO_BROKER = "the gateway has lost its broker: no message can come"


def describe(event: Event) -> str:
    """What it means, in a line that may hold anything; "" for what needs no words."""
    if isinstance(event, Gap):
        messages = "1 message" if event.dropped == 1 else f"{event.dropped} messages"
        of = "devices that nobody knows" if event.device_id is None else event.device_id
        return f"lost: {messages} of {of}" + (f" ({event.reason})" if event.reason else "")
    if isinstance(event, Resume):
        return _describe_resume(event)
    if isinstance(event, Upstream):
        if not event.connected:
            return _NO_BROKER
        return "the gateway has its broker again; what was sent meanwhile may be missing"
    if isinstance(event, ModeChanged):
        return f"the gateway has changed the mode to {event.mode}" + (
            f": {event.reason}" if event.reason else ""
        )
    return ""


def _describe_resume(resume: Resume) -> str:
    if resume.status is ResumeStatus.CONTINUED:
        return f"resumed: nothing is missing, {resume.missed or 0} came meanwhile"
    if resume.status is ResumeStatus.PARTIAL:
        return "resumed: a part of what came meanwhile is missing"
    return "begun anew: what came meanwhile is missing"


class NoticeBoard:
    """The last notice, for as long as it matters."""

    def __init__(self) -> None:
        self._text = ""
        self._since_s = 0.0
        self._is_lasting = False

    def note(self, event: Event, now_s: float) -> None:
        """An event came."""
        text = describe(event)
        if text and (not self._is_lasting or isinstance(event, Upstream | Resume)):
            self._text = text
            self._since_s = now_s
            self._is_lasting = text == _NO_BROKER

    def text(self, now_s: float) -> str:
        """What is to be shown now, if anything."""
        if self._is_lasting:
            return self._text
        ago_s = now_s - self._since_s
        return f"{self._text}, {ago_s:.0f} s ago" if self._text and ago_s <= _SHOWN_S else ""
