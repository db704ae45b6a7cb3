"""A Python client for the gateway's stream, on Trio."""

import logging

from tracker.watch.errors import (
    ClosedError,
    ForbiddenError,
    GaveUpError,
    HandshakeError,
    InvalidRequestError,
    RefusedError,
    StalledError,
    StreamError,
    TokenError,
    UnreachableError,
)
from tracker.watch.keeper import State, StreamStatistics
from tracker.watch.message import (
    Event,
    Gap,
    Message,
    ModeChanged,
    Report,
    Resume,
    ResumeStatus,
    Snapshot,
    Track,
    Upstream,
)
from tracker.watch.stream import Events, Stream, open_stream
from tracker.watch.timing import Timing

__all__ = [
    "ClosedError",
    "Event",
    "Events",
    "ForbiddenError",
    "Gap",
    "GaveUpError",
    "HandshakeError",
    "InvalidRequestError",
    "Message",
    "ModeChanged",
    "RefusedError",
    "Report",
    "Resume",
    "ResumeStatus",
    "Snapshot",
    "StalledError",
    "State",
    "Stream",
    "StreamError",
    "StreamStatistics",
    "Timing",
    "TokenError",
    "Track",
    "UnreachableError",
    "Upstream",
    "open_stream",
]

logging.getLogger("tracker.watch").addHandler(logging.NullHandler())
