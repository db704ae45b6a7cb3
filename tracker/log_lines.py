"""How a log record looks as one line: as text for people, as JSON for machines.

Neither lets a record look like two, and neither fails: a record that is badly logged is still
shown.
"""

from __future__ import annotations

import logging
import re
import traceback
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

TEXT_LIMIT_CHARS: Final = 16 * 1024
"""Of a message, a traceback and an extra field each; the middle of what is longer is cut."""

_RECORD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

# What moves the cursor, or counts as a line's end somewhere. "\n" is seen to where it stands.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class TextFormatter(logging.Formatter):
    """`2024-12-11T10:30:00.123Z WARNING tracker.mqtt: message`, further lines indented.

    No message, whatever a device put into it, can look like a second record: its line breaks
    are followed by blanks, other control characters are escaped.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = _message(record)
        details = _exception(record)
        if details is not None:
            text = f"{text}\n{details}"
        text = _CONTROL.sub(_escaped, text).replace("\n", "\n    ")
        return f"{_time(record)} {record.levelname:<7} {record.name}: {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, exception, and the `extra` fields.

    An extra field that cannot be encoded goes as its `repr`; one called like a key of ours gets
    an underscore behind its name.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _encodable(_message(record)),
        }
        details = _exception(record)
        if details is not None:
            line["exception"] = _encodable(details)
        for name, value in vars(record).items():
            if name not in _RECORD_FIELDS:
                ours = name in line or name == "exception"
                line[_encodable(f"{name}_" if ours else name)] = _raw_json(value)
        return msgspec.json.encode(line).decode()


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # what is known is worth more than nothing
        where = f"{record.pathname}:{record.lineno}"
        text = f"{_repr(record.msg)} (badly logged at {where}: {_repr(error)})"
    return _cut(text.rstrip("\n"))


def _exception(record: logging.LogRecord) -> str | None:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts += traceback.format_exception(*record.exc_info)
    if record.stack_info:
        parts.append(record.stack_info)
    return _cut("".join(parts).rstrip("\n")) if parts else None


def _raw_json(value: Any) -> msgspec.Raw:
    try:
        encoded = msgspec.json.encode(value, enc_hook=repr)
        if len(encoded) <= TEXT_LIMIT_CHARS:
            return msgspec.Raw(encoded)
    except Exception:  # keys that are no strings, half characters, a failing repr
        pass
    return msgspec.Raw(msgspec.json.encode(_encodable(_cut(_repr(value)))))


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<a {type(value).__name__}, whose repr failed with {type(error).__name__}>"


def _cut(text: str) -> str:
    if len(text) <= TEXT_LIMIT_CHARS:
        return text
    half = TEXT_LIMIT_CHARS // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters cut … {text[-half:]}"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
