"""The parameters of a client that are more than a number or a string."""

from __future__ import annotations

import dataclasses
import enum
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PayloadType: TypeAlias = str | bytes | bytearray | int | float | None
SubscribeTopic: TypeAlias = (
    str | tuple[str, SubscribeOptions] | list[tuple[str, SubscribeOptions]] | list[tuple[str, int]]
)
WebSocketHeaders: TypeAlias = dict[str, str] | Callable[[dict[str, str]], dict[str, str]]
# See the overloads of `socket.setsockopt`.
SocketOption: TypeAlias = tuple[int, int, int | bytes] | tuple[int, int, None, int]


class ProtocolVersion(enum.IntEnum):
    """The version of MQTT that a client speaks."""

    V31 = paho.MQTTv31
    V311 = paho.MQTTv311
    V5 = paho.MQTTv5


@dataclasses.dataclass(frozen=True)
class TLSParameters:
    """What `paho.Client.tls_set` takes; verification is on unless `cert_reqs` says otherwise."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    cert_reqs: ssl.VerifyMode | None = None
    tls_version: Any | None = None
    ciphers: str | None = None
    keyfile_password: str | None = None


class ProxySettings:
    """A SOCKS or HTTP proxy on the way to the broker. Needs the package PySocks."""

    def __init__(
        self,
        *,
        proxy_type: int,
        proxy_addr: str,
        proxy_rdns: bool | None = True,
        proxy_username: str | None = None,
        proxy_password: str | None = None,
        proxy_port: int | None = None,
    ) -> None:
        self.proxy_args = {
            "proxy_type": proxy_type,
            "proxy_addr": proxy_addr,
            "proxy_rdns": proxy_rdns,
            "proxy_username": proxy_username,
            "proxy_password": proxy_password,
            "proxy_port": proxy_port,
        }


@dataclasses.dataclass(frozen=True)
class Will:
    """What the broker publishes when this client goes without a goodbye."""

    topic: str
    payload: PayloadType = None
    qos: int = 0
    retain: bool = False
    properties: Properties | None = None


class ConnectionState(enum.Enum):
    """Where a client stands with its broker."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
