"""The head of an HTTP/1 request, judged before Hypercorn sees a byte of it.

Law: what reaches Hypercorn is one whole head of a request without a body, free of what
leads its streams into a dead end, with nothing behind it.

Each rule here closes a hole that was seen in Hypercorn 0.18: bytes behind an upgrade end
the server, an upgrade on another method leaks a task, `Sec-WebSocket-Extensions` lets a
client inflate without bound, h2c has no switch, `Transfer-Encoding` beside
`Content-Length` is accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from tracker.domain import event

METHODS = (b"GET", b"HEAD", b"OPTIONS")

# As h11 finds it: a bare line feed ends a line too (RFC 9112 §2.2).
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_END_OF_HEAD_BYTES = 3
_REQUEST_LINE = re.compile(rb"([!-~]+) ([!-~]+) HTTP/(\d\.\d)")
# RFC 9110 §5.5: no control character but the tab.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
# The absolute-form, which a server must take too (RFC 9112 §3.2.2).
_ORIGIN = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)

# Hidden from Hypercorn: compression that it cannot bound, h2c, and an interim answer to a
# body that is refused anyway.
_HIDDEN = frozenset({b"sec-websocket-extensions", b"http2-settings", b"expect"})
_HOP = frozenset({b"connection", b"upgrade"})


@dataclass(frozen=True, slots=True)
class Head:
    """A head that may pass: `data` is what Hypercorn gets."""

    data: bytes
    is_websocket: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """A head that may not pass, and the answer to it."""

    status: HTTPStatus
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def response(self) -> bytes:
        """The whole answer, which also says that the connection ends."""
        body = event.error(self.message).text()
        fields = (
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            *self.headers,
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"HTTP/1.1 {self.status} {self.status.phrase}\r\n{head}\r\n".encode() + body


def split_head(data: bytes | bytearray, searched_bytes: int = 0) -> tuple[bytes, bytes] | None:
    """(the head with its empty line, what stands behind it), or None: not all is here.

    `searched_bytes`: in so many at the front no end was found before. A head that comes byte
    by byte would be searched 30,000 times over: seconds of work for 30 KB.
    """
    end = _END_OF_HEAD.search(data, max(0, searched_bytes - _END_OF_HEAD_BYTES))
    if end is None:
        return None
    return bytes(data[: end.end()]), bytes(data[end.end() :])


def judge(head: bytes) -> Head | Refusal:
    """Whether the request may pass, and as what."""
    lines = head.replace(b"\r\n", b"\n").strip(b"\n").split(b"\n")
    request_line = _REQUEST_LINE.fullmatch(lines[0])
    if request_line is None:
        return _bad("the request line is malformed, expected `GET /path HTTP/1.1`")
    method, target, version = request_line.groups()
    if version not in (b"1.0", b"1.1"):
        return Refusal(
            HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
            f"HTTP/{version.decode()} is not spoken here, expected HTTP/1.1",
        )
    if method not in METHODS:
        return Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "the method is not allowed here, expected GET, HEAD or OPTIONS",
            (("allow", b", ".join(METHODS).decode()),),
        )
    path = _path_of(method, target)
    if path is None:
        return _bad("the request target is malformed, expected a path that begins with `/`")
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        field = _FIELD.fullmatch(line)
        if field is None:
            return _bad("a header line is malformed, expected `name: value`")
        fields.append((field[1].lower(), field[2]))
    return (
        _judge_body(fields) or _judge_host(version, fields) or _admit(method, path, version, fields)
    )


def _path_of(method: bytes, target: bytes) -> bytes | None:
    """The target in the origin-form, path and query, or `*`; None when it is neither."""
    origin = _ORIGIN.match(target)
    if origin is not None:
        rest = target[origin.end() :]
        return rest if rest.startswith(b"/") else b"/" + rest
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    return None


def _judge_body(fields: list[tuple[bytes, bytes]]) -> Refusal | None:
    lengths = [value for name, value in fields if name == b"content-length"]
    if any(name == b"transfer-encoding" for name, _ in fields):
        if lengths:  # RFC 9112 §6.1: two readers may see two different requests
            return _bad("Transfer-Encoding and Content-Length stand together, expected neither")
        return _too_large()
    if not all(re.fullmatch(rb"\d{1,18}", length) for length in lengths):
        return _bad("Content-Length is malformed, expected a number")
    if any(int(length) for length in lengths):
        return _too_large()
    return None


def _judge_host(version: bytes, fields: list[tuple[bytes, bytes]]) -> Refusal | None:
    hosts = sum(name == b"host" for name, _ in fields)
    if hosts > 1 or (hosts == 0 and version == b"1.1"):  # RFC 9112 §3.2
        return _bad(f"{hosts} Host headers, expected one")
    return None


def _admit(
    method: bytes, path: bytes, version: bytes, fields: list[tuple[bytes, bytes]]
) -> Head | Refusal:
    tokens = {
        token.strip().lower()
        for name, value in fields
        if name == b"connection"
        for token in value.split(b",")
    }
    upgrades = [value.lower() for name, value in fields if name == b"upgrade"]
    is_websocket = (
        method == b"GET"
        and version == b"1.1"
        and b"upgrade" in tokens
        and upgrades == [b"websocket"]
    )
    if is_websocket and (refusal := _judge_handshake(dict(fields))):
        return refusal
    kept = [field for field in fields if field[0] not in _HIDDEN and field[0] not in _HOP]
    if is_websocket:
        kept += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    elif b"close" in tokens:
        kept.append((b"connection", b"close"))
    elif b"keep-alive" in tokens:
        kept.append((b"connection", b"keep-alive"))
    request_line = b"%b %b HTTP/%b\r\n" % (method, path, version)
    data = b"".join((request_line, *(b"%b: %b\r\n" % field for field in kept), b"\r\n"))
    return Head(data, is_websocket)


def _judge_handshake(fields: dict[bytes, bytes]) -> Refusal | None:
    if fields.get(b"sec-websocket-version") != b"13":  # RFC 6455 §4.4
        return Refusal(
            HTTPStatus.UPGRADE_REQUIRED,
            "Sec-WebSocket-Version is missing or not spoken here, expected 13",
            (("sec-websocket-version", "13"),),
        )
    if not fields.get(b"sec-websocket-key"):
        return _bad("Sec-WebSocket-Key is missing, expected 16 bytes in base64")
    return None


def _bad(message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, message)


def _too_large() -> Refusal:
    return Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no request body is taken here, expected none"
    )


HEAD_TOO_LARGE = Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "the request head is too large, expected at most 32 KiB: name fewer device ids",
)
HEAD_TOO_SLOW = Refusal(
    HTTPStatus.REQUEST_TIMEOUT, "the request head did not arrive in time, expected it at once"
)
