"""What the tools share on their way to the gateway's broker.

They use the gateway's own settings, but never its identity: a second client with its id would
evict the gateway.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from tracker.mqtt.address import Address, parse_address
from tracker.mqtt.client import Client, MqttError
from tracker.mqtt.diagnosis import explain_connect
from tracker.mqtt.link import make_client, refusal
from tracker.settings import MqttSettings

_SHARE = "$share/"


class NoBrokerError(Exception):
    """There is no way to the broker, or it refuses us. The text says why, and what to do."""


class ToolBroker:
    """The broker of `settings`, for the tool called `tool` ("replay").

    Raises: ValueError that names the setting at fault.
    """

    def __init__(self, settings: MqttSettings, tool: str) -> None:
        client_id = f"tracker-{tool}-{secrets.token_hex(4)}"
        self.settings = msgspec.structs.replace(settings, client_id=client_id, clean_session=True)
        self.address: Address = parse_address(settings.url)

    def make_client(self) -> Client:
        """A new client, not yet connected. Raises: ValueError, as above."""
        return make_client(self.settings)

    def explain(self, error: MqttError) -> str:
        """Why it could not be connected to, in one sentence, and what to do."""
        return f"cannot use {self.address}: {explain_connect(error, self.address)}"

    async def subscribe(self, client: Client, topics: Sequence[str]) -> None:
        """Subscribe, with the QoS of the settings, to each of these.

        Raises: NoBrokerError when one is refused; MqttError.
        Cancellation: the subscriptions may come into being or not.
        """
        qos: int = self.settings.qos
        granted = await client.subscribe([(topic, qos) for topic in topics])
        refused = [
            repr(topic)
            for topic, reason in zip(topics, map(refusal, granted), strict=True)
            if reason is not None
        ]
        if refused:
            raise NoBrokerError(
                f"{self.address} refused the subscription to {', '.join(refused)}; check --topic "
                f"and the rights of {self.user}"
            )

    @property
    def user(self) -> str:
        """Who we are to the broker."""
        username = self.address.username or self.settings.username
        return "the anonymous user" if username is None else f"the user {username!r}"


def without_share(topic_filter: str) -> str:
    """The filter itself: in the gateway's own group, a tool would take its messages away.

    >>> without_share("$share/gateways/trackers/#")
    'trackers/#'
    """
    if topic_filter.startswith(_SHARE):
        return topic_filter.removeprefix(_SHARE).partition("/")[2]
    return topic_filter
