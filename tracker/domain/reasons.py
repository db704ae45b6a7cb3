"""Why a message was dropped, and why a stream ended. The values are the metrics' labels."""

from __future__ import annotations

from enum import Enum


class Drop(Enum):
    """Why a message did not reach a connection."""

    BUFFER_FULL = "buffer_full"
    CONFLATED = "conflated"
    EVICTED = "evicted"  # it left the history before a stream that was catching up came to it
    CLOSED = "closed"


class CloseReason(Enum):
    """Why a stream ended."""

    CLIENT = "client"  # the client closed, or its connection broke
    STALLED = "stalled"  # the kernel took not a byte of it for `stall_s`
    SLOW = "slow"  # it was too slow, and the operator chose to cut such clients
    SHUTDOWN = "shutdown"
    FLOOD = "flood"  # it sent more than a client may
    ERROR = "error"
