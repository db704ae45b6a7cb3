"""Every setting of the gateway, as one frozen tree.

Sources, each overriding the one before: the defaults here, `tracker.toml`,
`hypercorn.toml` (the `http` branch only), `TRACKER_…` in the environment, flags.
`config.py` reads them; `rules.py` says what a tree must fulfil beyond its types.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

# The upper bound keeps infinity out of deadlines.
Seconds = Annotated[float, Meta(gt=0, le=1_000_000)]
Count = Annotated[int, Meta(ge=1)]

SECRET_KEYS = frozenset({"mqtt.password", "http.keyfile_password"})
"""Settings whose value is never shown. `mqtt.url` is shown through `masked_url`."""

MASK = "***"


def masked_url(url: str) -> str:
    """`mqtt://user:pw@host` as `mqtt://user:***@host`, for any text, however broken.

    Hidden are: what stands between the first colon behind the scheme and the last `@` (so an
    unescaped `/`, `#` or `@` in a password does not bring a part of it to light); without an
    `@`, what stands where the port should and is none; a query and a fragment.
    """
    scheme = re.match(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?", url)
    assert scheme is not None  # it matches the empty text too
    credentials, at, address = url[scheme.end() :].rpartition("@")
    user, colon, _ = credentials.partition(":")
    if not at:
        host, port_colon, port = address.partition(":")
        if not host.startswith("[") and not re.match(r"\d{0,5}(?![^/?#])", port):
            address = f"{host}{port_colon}{MASK}"
    address = re.sub(r"([?#]).+", rf"\1{MASK}", address, flags=re.DOTALL)
    return f"{scheme[0]}{user}{colon}{MASK if colon else ''}{at}{address}"


class _Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A branch whose `repr` shows no secret, since settings end up in tracebacks and logs."""

    def __repr__(self) -> str:
        shown = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and any(key.endswith(f".{name}") for key in SECRET_KEYS):
                value = MASK
            elif name == "url":
                value = masked_url(value)
            shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class MqttSettings(_Branch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the messages come from."""

    url: str = "mqtt://127.0.0.1:1883"
    topics: tuple[str, ...] = ("trackers/#",)
    qos: Literal[0, 1, 2] = 0
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    client_id: str | None = None
    clean_session: bool = True
    username: str | None = None
    password: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    # MQTT 3.1.1 §3.1.2.10: two bytes
    keepalive_s: Annotated[int, Meta(ge=1, le=65_535)] = 60
    connect_timeout_s: Seconds = 10.0
    reconnect_min_s: Seconds = 1.0
    reconnect_max_s: Seconds = 30.0
    incoming_limit_messages: Count = 50_000
    incoming_limit_bytes: Count = 64 * 1024 * 1024


class StreamSettings(_Branch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a client of `/api/v1/stream` may hold, and how long it may take."""

    buffer_messages: Count = 100
    buffer_bytes: Count = 1024 * 1024
    max_device_ids: Count = 1000
    ping_s: Seconds = 60.0
    heartbeat_s: Seconds = 20.0
    stall_s: Seconds = 10.0
    drain_s: Seconds = 2.0
    client_message_bytes: Count = 64 * 1024
    client_messages_per_s: Count = 50
    # 0 for off; 1 to 20: half the CPU under fan-out load for so many milliseconds
    coalesce_ms: Annotated[float, Meta(ge=0, le=20)] = 0.0
    overflow: Literal["drop_new", "drop_old", "latest", "disconnect"] = "drop_new"
    latest_after_overflows: Annotated[int, Meta(ge=0)] = 0
    history_messages: Count = 100
    history_age_s: Seconds = 15 * 60.0
    history_bytes: Count = 64 * 1024 * 1024
    history_file: str | None = None


class HttpSettings(_Branch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the gateway listens. Named as in Hypercorn, whose file this branch may come from."""

    bind: tuple[str, ...] = ("127.0.0.1:8000",)
    backlog: Count = 4096
    certfile: str | None = None
    keyfile: str | None = None
    keyfile_password: str | None = None
    ca_certs: str | None = None
    ciphers: str = "ECDHE+AESGCM"
    alpn_protocols: tuple[str, ...] = ("h2", "http/1.1")
    root_path: str = ""
    keep_alive_timeout: Seconds = 75.0
    keep_alive_max_requests: Count = 1000
    ssl_handshake_timeout: Seconds = 10.0
    read_head_timeout: Seconds = 10.0
    h11_max_incomplete_size: Annotated[int, Meta(ge=1024, le=32 * 1024)] = 32 * 1024


class ApiSettings(_Branch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the HTTP API shows, and to whom."""

    cors_origins: tuple[str, ...] = ()
    devices: bool = False
    devices_limit: Count = 100_000
    connections: bool = False
    page: bool = True
    ready_grace_s: Seconds = 30.0


class LogSettings(_Branch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is logged to stderr, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    queue_records: Count = 10_000


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The effective settings of one gateway."""

    mqtt: MqttSettings = MqttSettings()
    stream: StreamSettings = StreamSettings()
    http: HttpSettings = HttpSettings()
    api: ApiSettings = ApiSettings()
    log: LogSettings = LogSettings()
