"""The parameters of the stream, parsed at the edge: query parameters and operations alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from tracker.domain.decode import DEVICE_ID_LIMIT_CHARS
from tracker.domain.errors import BadRequestError
from tracker.domain.options import StreamOptions
from tracker.domain.queue import Overflow

#: PROTOCOL A3, to the letter: clients compare it.
NO_DEVICE_IDS = "Debe especificar al menos un device_id en los query params"

#: What a client may choose; to be cut is the operator's choice.
_MODES = {
    overflow.value: overflow for overflow in (Overflow.LATEST, Overflow.DROP_OLD, Overflow.DROP_NEW)
}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|m|h|)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_FLAGS = {"1": True, "0": False}
_SHOWN_CHARS = 40
#: The settings know no longer age of a message.
_TRACK_S = (0.0, 1_000_000.0)
_PING_S = (5.0, 300.0)
_MAX_RATE_PER_S = (0.001, 1000.0)

#: Gets one query parameter by its name, or None.
Get = Callable[[str], str | None]


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
    check_device_ids(device_ids, limit)
    return device_ids


def check_device_ids(device_ids: Iterable[str], limit: int) -> None:
    """Raises: BadRequestError when there are more than `limit`, or one cannot be an id."""
    device_ids = list(device_ids)
    if len(device_ids) > limit:
        raise BadRequestError(f"device_ids: {len(device_ids)} ids, expected at most {limit}")
    for device_id in device_ids:
        if not 0 < len(device_id) <= DEVICE_ID_LIMIT_CHARS:
            raise BadRequestError(
                f"device_ids: an id of {len(device_id)} characters, expected 1 to"
                f" {DEVICE_ID_LIMIT_CHARS}"
            )


def parse_options(get: Get, last_event_id_header: str | None) -> StreamOptions:
    """What a client asks of its stream in the query. Source: PROTOCOL B1, B2.

    The header wins over `last_event_id`: an `EventSource` keeps its old URL.
    Raises: BadRequestError that names the parameter, what stood there and what was expected.
    """
    mode, max_rate, ping = get("mode"), get("max_rate"), get("ping")
    return StreamOptions(
        last_event_id=last_event_id_header or get("last_event_id"),
        has_snapshot=_flag("last", get("last")),
        track_s=parse_track(get("track") or "0"),
        overflow=None if mode is None else parse_mode(mode),
        max_rate_per_s=None if max_rate is None else parse_max_rate(_number("max_rate", max_rate)),
        has_hello=_flag("hello", get("hello")),
        ping_s=None if ping is None else parse_ping(_number("ping", ping)),
    )


def parse_track(text: str) -> float:
    """Seconds of `15m`, `90s`, `1h`, `900`. Raises: BadRequestError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise BadRequestError(f"track: {shown(text)}, expected a duration such as 15m, 90s or 1h")
    return check_track(float(match[1]) * _SECONDS[match[2]])


def check_track(length_s: float) -> float:
    """Raises: BadRequestError."""
    return _within("track", length_s, *_TRACK_S, "seconds")


def parse_mode(text: str) -> Overflow:
    """Raises: BadRequestError."""
    if text not in _MODES:
        raise BadRequestError(f"mode: {shown(text)}, expected {' or '.join(_MODES)}")
    return _MODES[text]


def parse_max_rate(per_s: float) -> float:
    """Raises: BadRequestError."""
    return _within("max_rate", per_s, *_MAX_RATE_PER_S, "messages a second")


def parse_ping(interval_s: float) -> float:
    """Raises: BadRequestError."""
    return _within("ping", interval_s, *_PING_S, "seconds")


def _within(name: str, value: float, low: float, high: float, unit: str) -> float:
    if not low <= value <= high:
        raise BadRequestError(f"{name}: {value:g}, expected {low:g} to {high:g} {unit}")
    return value


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRequestError(f"{name}: {shown(text)}, expected a number") from None


def _flag(name: str, text: str | None) -> bool:
    if text is None:
        return False
    if text not in _FLAGS:
        raise BadRequestError(f"{name}: {shown(text)}, expected 1 or 0")
    return _FLAGS[text]


def shown(value: object) -> str:
    """What a client sent, short enough to be told to it."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
