"""A Python client for the gateway's stream, on Trio."""

import logging

from tracker.watch.errors import (
    ClosedError,
    ForbiddenError,
    GaveUpError,
    HandshakeError,
    InvalidRequestError,
    StalledError,
    StreamError,
    TokenError,
    UnreachableError,
)
from tracker.watch.message import Event, Message
from tracker.watch.stream import Events, State, Stream, StreamStatistics, open_stream
from tracker.watch.timing import Timing

__all__ = [
    "ClosedError",
    "Event",
    "Events",
    "ForbiddenError",
    "GaveUpError",
    "HandshakeError",
    "InvalidRequestError",
    "Message",
    "StalledError",
    "State",
    "Stream",
    "StreamError",
    "StreamStatistics",
    "Timing",
    "TokenError",
    "UnreachableError",
    "open_stream",
]

logging.getLogger("tracker.watch").addHandler(logging.NullHandler())
