"""Where a broker is, as a URL says it: mqtt, mqtts, ws and wss."""

from __future__ import annotations

import dataclasses
from typing import Literal
from urllib.parse import unquote, urlsplit

from tracker.settings import masked_url

EXPECTED = (
    "expected mqtt://, mqtts://, ws:// or wss://, then [user:password@]host[:port] "
    "(and a path for ws and wss only)"
)

_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """The parts of a broker's URL, percent-decoded. Its text never shows the credentials."""

    scheme: str
    host: str
    port: int
    path: str
    username: str | None = dataclasses.field(repr=False)
    password: str | None = dataclasses.field(repr=False)

    @property
    def transport(self) -> Literal["tcp", "websockets"]:
        """What carries MQTT."""
        return "websockets" if self.scheme in ("ws", "wss") else "tcp"

    @property
    def is_tls(self) -> bool:
        """Whether it is encrypted."""
        return self.scheme in ("mqtts", "wss")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_address(url: str) -> Address:
    """Parse the URL of a broker.

    Raises: ValueError that names `mqtt.url`, what stood there (without the password) and
    what was expected.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refusal(url) from None
    is_websocket = parts.scheme in ("ws", "wss")
    if (
        parts.scheme not in _DEFAULT_PORTS
        or not parts.hostname
        or port == 0
        or any(character.isspace() for character in url)
        or parts.query
        or parts.fragment
        or (parts.path not in ("", "/") and not is_websocket)
    ):
        raise _refusal(url)
    return Address(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or _DEFAULT_PORTS[parts.scheme],
        path=(parts.path or "/mqtt") if is_websocket else "",
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def _refusal(url: str) -> ValueError:
    return ValueError(f"mqtt.url: {masked_url(url)!r} is no broker's address; {EXPECTED}")
