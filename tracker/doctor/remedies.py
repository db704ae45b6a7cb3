"""What to do about a way to the gateway that fails."""

from __future__ import annotations

import socket
import ssl

from tracker.watch.address import GatewayAddress
from tracker.watch.errors import UnreachableError

# X509_V_ERR_… of OpenSSL
_EXPIRED = 10
_HOST_NAME, _IP_ADDRESS = 62, 64
_UNKNOWN_ISSUER = (18, 19, 20, 21)

UPGRADE = (
    "let the proxy pass WebSockets on; nginx: `proxy_http_version 1.1; proxy_set_header Upgrade "
    '$http_upgrade; proxy_set_header Connection "upgrade";`'
)
BUFFERING = (
    "let the proxy pass on what comes at once; nginx: `proxy_buffering off; gzip off;` in this "
    "location, and no `proxy_ignore_headers X-Accel-Buffering`"
)
IDLE = (
    "let the proxy wait longer than the gateway's heartbeat (stream.heartbeat_s, 20 s); nginx: "
    "`proxy_read_timeout 1h;`"
)
PATH = (
    "check the path in the URL: it is the one below which the proxy serves the gateway (nginx: "
    "`location /fleet/ { proxy_pass http://127.0.0.1:8000/; }` is http://host/fleet)"
)
UPSTREAM = (
    "check that `tracker serve` runs, and that the proxy has its address (nginx: `proxy_pass`)"
)


def remedy_for_unreachable(error: UnreachableError, address: GatewayAddress) -> str:
    """What to do, by the failure beneath."""
    cause = error.__cause__
    if isinstance(cause, socket.gaierror):
        return "check the host in the URL, and the resolver"
    if isinstance(cause, ConnectionRefusedError):
        return (
            "check host and port, and that the gateway, or the proxy before it, runs; a gateway "
            "bound to 127.0.0.1 is reached from its own machine only"
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code == _EXPIRED:
            return "renew the certificate"
        if cause.verify_code in (_HOST_NAME, _IP_ADDRESS):
            return f"use the name that the certificate is for, or get one for {address.host}"
        if cause.verify_code in _UNKNOWN_ISSUER:
            return (
                "let the server send the whole chain (nginx: ssl_certificate has to hold it), or, "
                "where the authority is your own, name it: --ca-file FILE"
            )
        return "let the server have a certificate that browsers trust"
    if address.is_tls:
        return "check that this is the TLS port, or use http:// for a plain one"
    return "check the network between here and there: routes, firewalls"


def remedy_for_status(status: int, location: str | None) -> str:
    """What to do about an HTTP status where the gateway should have answered."""
    if location is not None and 300 <= status < 400:
        return f"use the URL that it points to: {location}"
    if status in (401, 407):
        return "give the proxy its password in the URL: https://user:password@host"
    if status in (502, 503, 504):
        return UPSTREAM
    if status == 404:
        return PATH
    return "look into the log of what answered, a proxy most likely"
