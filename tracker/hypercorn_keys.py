"""What the gateway does with the keys of a `hypercorn.toml` that are not settings of its own.

A stock `hypercorn -c hypercorn.toml -k trio tracker.asgi:app` reads the same file, so a key of
Hypercorn's is never unknown. Three kinds:

- refused: without it the gateway would do less than the file asks for, and somebody may rely on
  it (an address that is not listened on, a client certificate that is not demanded);
- idle: the gateway sees to it itself, and one warning says so;
- silent: a value that says what the gateway does anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_ONE_PROCESS = "the gateway is one process; start one more for each, with another bind"
_CLIENT_CERTIFICATES = "client certificates are not asked for; let a proxy in front do it"
_USER = "the gateway does not change its user; let what starts it do that"

REFUSED_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "workers": _ONE_PROCESS,
        "insecure_bind": "all addresses are served alike; put it into bind",
        "quic_bind": "HTTP/3 is not served",
        "verify_mode": _CLIENT_CERTIFICATES,
        "verify_flags": _CLIENT_CERTIFICATES,
        "cert_reqs": _CLIENT_CERTIFICATES,
        "server_names": "every Host is served; let a proxy in front choose",
        "user": _USER,
        "group": _USER,
        "umask": _USER,
    }
)

IDLE_KEYS: Final = frozenset(
    {
        "access_log_format",
        "accesslog",
        "alt_svc_headers",
        "application_path",
        "daemon",
        "debug",
        "dogstatsd_tags",
        "errorlog",
        "graceful_timeout",
        "h11_pass_raw_headers",
        "h2_max_concurrent_streams",
        "h2_max_header_list_size",
        "h2_max_inbound_frame_size",
        "include_date_header",
        "include_server_header",
        "logconfig",
        "logconfig_dict",
        "logger_class",
        "loglevel",
        "max_app_queue_size",
        "max_requests",
        "max_requests_jitter",
        "pid_path",
        "read_timeout",
        "shutdown_timeout",
        "startup_timeout",
        "statsd_host",
        "statsd_prefix",
        "use_reloader",
        "websocket_max_message_size",
        "websocket_ping_interval",
        "worker_class",
        "wsgi_max_body_size",
    }
)

SILENT_VALUES: Final[Mapping[str, object]] = MappingProxyType(
    {"workers": 1, "worker_class": "trio", "use_reloader": False, "debug": False}
)
