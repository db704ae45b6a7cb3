"""What can be wrong with what others send us, as types."""

from __future__ import annotations

from enum import Enum


class Malformed(Enum):
    """Why a payload is not a tracker message. The value is the metric's label."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    BAD_UTF8 = "bad_utf8"
    BAD_JSON = "bad_json"
    TOO_DEEP = "too_deep"
    NOT_AN_OBJECT = "not_an_object"
    NO_DEVICE_ID = "no_device_id"
    BAD_DEVICE_ID = "bad_device_id"


class MalformedPayloadError(ValueError):
    """A payload that is no tracker message; `reason` says why, the text says where."""

    def __init__(self, reason: Malformed, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class BadRequestError(ValueError):
    """Parameters that a client must mend; the text is for the client's eyes."""


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors in a group of groups, without the groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
