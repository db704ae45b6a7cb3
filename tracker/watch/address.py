"""Where a gateway is, as a URL says it."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

STREAM_PATH = "/api/v1/stream"
DEVICE_ID_LIMIT_CHARS = 128  # the gateway refuses a longer one

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_TLS_SCHEMES = ("https", "wss")
# RFC 3986 §3.3, and "%": what is encoded already stays as it is.
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclasses.dataclass(frozen=True, slots=True)
class GatewayAddress:
    """The parts of a gateway's URL.

    `host` is without brackets, `prefix` the path that the gateway is served below ("" or
    "/fleet"), `query` what a pasted stream URL held. `str()` is for people: no secrets.
    """

    is_tls: bool
    host: str
    port: int
    prefix: str = ""
    query: str = ""
    #: The value of the `Authorization` header, for a proxy that asks for a password.
    authorization: str | None = dataclasses.field(default=None, repr=False)

    @property
    def host_header(self) -> str:
        """The host as `Host:` and URLs have it, with the port unless it is the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_usual = self.port == _PORTS["https" if self.is_tls else "http"]
        return host if is_usual else f"{host}:{self.port}"

    def stream_target(
        self,
        device_ids: Iterable[str] = (),
        parameters: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """The request target of the stream of these devices, beside what stands in `query`."""
        ids = ",".join(quote(device_id, safe="") for device_id in device_ids)
        more = urlencode(parameters, quote_via=quote)
        queries = (self.query, more, f"device_ids={ids}" if ids else "")
        query = "&".join(filter(None, queries))
        return f"{self.prefix}{STREAM_PATH}" + (f"?{query}" if query else "")

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.host_header}{self.prefix}"


def parse_gateway(url: str) -> GatewayAddress:
    """Parse `http://`, `https://`, `ws://` or `wss://`, the gateway's own URL or its stream's.

    Raises: ValueError that names what stood there, without a password, and what was expected.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("ascii" if ":" in (parts.hostname or "") else "idna")
    except ValueError:
        raise _refusal(url) from None
    if (
        parts.scheme not in _PORTS
        or not host
        or port == 0
        or parts.fragment
        or any(character.isspace() or not character.isprintable() for character in url)
    ):
        raise _refusal(url)
    prefix = quote(parts.path, safe=_PATH_SAFE).rstrip("/").removesuffix(STREAM_PATH)
    authorization = None
    if parts.username is not None:
        # RFC 7617 §2
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return GatewayAddress(
        is_tls=parts.scheme in _TLS_SCHEMES,
        host=host.decode(),
        port=port or _PORTS[parts.scheme],
        prefix=prefix.rstrip("/"),
        query=parts.query,
        authorization=authorization,
    )


def split_query(query: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The device ids in the query of a stream's URL, and its other parameters.

    Of a parameter that comes twice the first counts, as it does for the gateway.
    """
    device_ids: list[str] = []
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "device_ids":
            device_ids += filter(None, (item.strip() for item in value.split(",")))
        else:
            parameters.setdefault(name, value)
    return tuple(dict.fromkeys(device_ids)), parameters


def check_device_ids(device_ids: Iterable[str]) -> tuple[str, ...]:
    """The ids, each once, in their order.

    Raises: ValueError for one that cannot be asked for; TypeError for a str instead of several.
    """
    if isinstance(device_ids, str):
        raise TypeError(f"device_ids is the str {device_ids!r}; expected several, [{device_ids!r}]")
    wanted = tuple(dict.fromkeys(device_ids))
    for device_id in wanted:
        if (
            not device_id
            or len(device_id) > DEVICE_ID_LIMIT_CHARS
            or device_id != device_id.strip()
            or "," in device_id
            or _CONTROL.search(device_id)
        ):
            raise ValueError(
                f"{device_id[: DEVICE_ID_LIMIT_CHARS + 1]!r} is no device id; expected 1 to "
                f"{DEVICE_ID_LIMIT_CHARS} characters without comma, control character, or space "
                "at an end"
            )
    return wanted


def _refusal(url: str) -> ValueError:
    shown = url
    if "@" in url:  # what stands before it may hold a password
        scheme, separator, rest = url.rpartition("@")[0].partition("://")
        shown = f"{scheme if separator or rest else ''}{separator}***@{url.rpartition('@')[2]}"
    hint = "" if "://" in url or not url.strip() else f" (perhaps http://{shown}?)"
    return ValueError(
        f"{shown!r} is no gateway's address{hint}; expected http://, https://, ws:// or wss://, "
        "then host[:port] and the path that it is served below, if any"
    )
