"""How a stream can fail, as types.

`is_final` says whether the same request would only fail again: then the stream ends with the
error. After all others it connects again. Source: PROTOCOL B5.
"""

from __future__ import annotations


class StreamError(Exception):
    """The stream, or the way to it, failed. The text says what happened."""

    is_final = False


class UnreachableError(StreamError):
    """There is no way to the gateway: name, network, TLS. `__cause__` is the failure beneath."""


class HandshakeError(StreamError):
    """Something answered, but not with a WebSocket.

    `status` is that of the HTTP answer, None when it was not HTTP, or none. `location` is where
    a redirect points, `retry_after_s` what the answer asked for.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        location: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.location = location
        self.retry_after_s = retry_after_s
        # 5xx is a gateway that is away behind its proxy; 408, 425 and 429 pass by themselves.
        self.is_final = status is not None and status < 500 and status not in (408, 425, 429)


_MEANINGS = {
    1000: "normal",
    1001: "going away",
    1006: "without a goodbye",
    1008: "bad request",
    1009: "message too large",
    1011: "internal error",
    1012: "service restart",
    4401: "token missing, invalid or expired",
    4403: "device not allowed",
    4408: "too slow",
    4429: "too many connections",
}


class ClosedError(StreamError):
    """The WebSocket was closed: `code` is RFC 6455's or PROTOCOL B5's, 1006 for a bare end.

    `message` is what the gateway said, if anything.
    """

    def __init__(self, code: int, message: str) -> None:
        meaning = f" ({_MEANINGS[code]})" if code in _MEANINGS else ""
        super().__init__(f"closed with {code}{meaning}" + (f": {message}" if message else ""))
        self.code = code
        self.message = message


class InvalidRequestError(ClosedError):
    """The gateway will not serve this request (1008, 1009)."""

    is_final = True


class TokenError(ClosedError):
    """The token is missing, invalid or expired (4401): get a new one."""

    is_final = True


class ForbiddenError(ClosedError):
    """A device is not allowed (4403)."""

    is_final = True


class StalledError(StreamError):
    """The connection is silent for longer than keep-alives allow: taken for dead."""


class RefusedError(StreamError):
    """The gateway refused to add or take away devices. The text says why; the stream goes on."""


class GaveUpError(StreamError):
    """There was no connection for as long as the caller wanted to wait for one.

    `__cause__` is the last failure.
    """

    is_final = True


_KINDS: dict[int, type[ClosedError]] = {
    1008: InvalidRequestError,
    1009: InvalidRequestError,
    4401: TokenError,
    4403: ForbiddenError,
}


def closed_error(code: int, message: str) -> ClosedError:
    """The error for a close code."""
    return _KINDS.get(code, ClosedError)(code, message)
