"""What an operator is told when the broker cannot be used: the cause, and what to do."""

from __future__ import annotations

import socket
import ssl

import paho.mqtt.client as paho
from paho.mqtt.reasoncodes import ReasonCode

from tracker.mqtt.address import Address
from tracker.mqtt.errors import DISCONNECTED, MqttCodeError, MqttConnectError, MqttError

# MQTT 5 §2.4. paho translates the refusals of MQTT 3 to these.
BAD_PROTOCOL = 0x84
BAD_IDENTIFIER = 0x85
BAD_CREDENTIALS = 0x86
NOT_AUTHORIZED = 0x87
SHUTTING_DOWN = 0x8B
KEEP_ALIVE_TIMEOUT = 0x8D
SESSION_TAKEN_OVER = 0x8E

_REFUSALS = {
    BAD_PROTOCOL: "it does not speak this version of MQTT; change mqtt.protocol",
    BAD_IDENTIFIER: "it does not accept the client id; change mqtt.client_id",
    BAD_CREDENTIALS: "wrong credentials; check mqtt.username and mqtt.password",
    NOT_AUTHORIZED: "wrong credentials, or none where it wants some; check mqtt.username and "
    "mqtt.password",
}

_DISCONNECTS = {
    NOT_AUTHORIZED: "the broker closed the connection: not authorized; check the rights of "
    "mqtt.username",
    SHUTTING_DOWN: "the broker is shutting down",
    KEEP_ALIVE_TIMEOUT: "the broker stopped answering (keep-alive)",
    SESSION_TAKEN_OVER: "another client connected with the same client id and took over the "
    "session; give each gateway its own mqtt.client_id",
}


class SubscriptionRefusedError(MqttError):
    """The broker granted none of the subscriptions."""


def explain_connect(error: MqttError, address: Address) -> str:
    """Say in one sentence why `address` could not be connected to, and what to do."""
    cause = error.__cause__
    if isinstance(error, MqttConnectError):
        code = _code(error)
        return f"the broker refused the connection: {_REFUSALS.get(code, str(error.rc))}"
    if isinstance(error, SubscriptionRefusedError):
        return str(error)
    if isinstance(cause, socket.gaierror | UnicodeError):
        return f"unknown host {address.host!r} ({_text(cause)}); check mqtt.url and the resolver"
    if isinstance(cause, ConnectionRefusedError):
        return (
            f"connection refused: nothing listens on port {address.port} of {address.host}; "
            "check mqtt.url and that the broker runs"
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not trusted: {cause.verify_message}; check "
            "mqtt.ca_file and that the certificate is for this host name"
        )
    if isinstance(cause, FileNotFoundError | PermissionError) and address.is_tls:
        return (
            f"cannot read a TLS file ({_text(cause)}); check mqtt.ca_file, mqtt.cert_file and "
            "mqtt.key_file"
        )
    if isinstance(cause, ssl.SSLError | ConnectionResetError) and address.is_tls:
        return (
            f"no TLS on port {address.port} ({_text(cause)}); check that it is the broker's TLS "
            "port, or use mqtt:// (ws://) for a plain one"
        )
    if isinstance(cause, paho.WebsocketConnectionError):
        return (
            f"no WebSocket at {address} ({_text(cause)}); check port and path in mqtt.url, or use "
            "mqtt:// for plain MQTT"
        )
    if isinstance(cause, OSError):
        return f"{_text(cause)}; check mqtt.url and the network"
    if isinstance(error, MqttCodeError):
        hint = (
            "check that it wants no client certificate (mqtt.cert_file)"
            if address.is_tls
            else "check that it is an MQTT port, and not one for TLS (mqtts://)"
        )
        return f"the broker closed the connection before it answered; {hint}"
    if cause is None:
        return "no answer in time; check the network, and that the broker is not overloaded"
    return str(error)


def explain_loss(error: MqttError) -> str:
    """Say in one sentence why a connection that worked is gone."""
    root: BaseException = error
    while isinstance(root.__cause__, MqttError):
        root = root.__cause__
    if isinstance(root, MqttCodeError):
        return _DISCONNECTS.get(_code(root), "the broker, or something on the way, closed it")
    return "the broker ended it" if str(root) == DISCONNECTED else str(root)


def is_taken_over(error: MqttError) -> bool:
    """Say whether the broker told that another client has our id (MQTT 5 only)."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MqttCodeError) and _code(cause) == SESSION_TAKEN_OVER:
            return True
        cause = cause.__cause__
    return False


def _code(error: MqttCodeError) -> int:
    return error.rc.value if isinstance(error.rc, ReasonCode) else int(error.rc or 0)


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__
