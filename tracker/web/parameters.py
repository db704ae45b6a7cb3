"""The query parameters of the stream, parsed at the edge."""

from __future__ import annotations

from collections.abc import Iterable

from tracker.domain.decode import DEVICE_ID_LIMIT_CHARS
from tracker.domain.errors import BadRequestError

#: PROTOCOL A3, to the letter: clients compare it.
NO_DEVICE_IDS = "Debe especificar al menos un device_id en los query params"


def parse_device_ids(values: Iterable[str], limit: int) -> tuple[str, ...]:
    """The device ids of all `device_ids` parameters, each once, in their order.

    Comma-separated; items are trimmed and empty ones ignored.
    Raises: BadRequestError when none is left, too many are, or one cannot be an id.
    Source: PROTOCOL A1.
    """
    items = (item.strip() for value in values for item in value.split(","))
    device_ids = tuple(dict.fromkeys(item for item in items if item))
    if not device_ids:
        raise BadRequestError(NO_DEVICE_IDS)
    if len(device_ids) > limit:
        raise BadRequestError(f"device_ids: {len(device_ids)} ids, expected at most {limit}")
    for device_id in device_ids:
        if len(device_id) > DEVICE_ID_LIMIT_CHARS:
            raise BadRequestError(
                f"device_ids: an id of {len(device_id)} characters, expected at most"
                f" {DEVICE_ID_LIMIT_CHARS}"
            )
    return device_ids
