"""The JSON answers that all routes share."""

from __future__ import annotations

import msgspec
from quart import Response

from tracker.domain import event

_JSON = "application/json"


def json_response(value: object, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(msgspec.json.encode(value), status, content_type=_JSON)


def error_response(status: int, message: str) -> Response:
    """The error envelope of PROTOCOL A2: `{"event":"error","data":{"message":…}}`."""
    return Response(event.error(message).text(), status, content_type=_JSON)
