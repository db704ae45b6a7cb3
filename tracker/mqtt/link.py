"""The gateway's connection to its broker: made, subscribed, watched, and made again."""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Awaitable, Callable

import trio
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from trio_util import AsyncValue

from tracker.mqtt.address import parse_address
from tracker.mqtt.client import Client, MqttError, ProtocolVersion, TLSParameters
from tracker.mqtt.diagnosis import (
    SubscriptionRefusedError,
    explain_connect,
    explain_loss,
    is_taken_over,
)
from tracker.settings import MqttSettings

LOGGER = logging.getLogger("tracker.mqtt")

# PROTOCOL A6: operators grep for these very characters.
STARTED = "✅ MQTT → WebSocket Broker bridge iniciado"

# A connection that held for this long starts the backoff anew.
STABLE_S = 1.0
# So many losses in a row, each mended by the very next attempt, look like two clients with
# one identifier that evict each other. A connection that held for longer than our longest
# pause and theirs together is none of these.
DUEL_LOSSES = 3
DUEL_HOLD_S = 60.0

NEVER_EXPIRES = 0xFFFFFFFF  # MQTT 5 §3.1.2.11.2


@dataclasses.dataclass(frozen=True, slots=True)
class LinkState:
    """Where the gateway stands with its broker.

    `since_s` is `time.monotonic()` of the last change of `is_subscribed`; `reason` is a
    sentence for operators; `reconnects` counts connections after the first.
    """

    is_connected: bool
    is_subscribed: bool
    since_s: float
    reason: str
    reconnects: int


class Backoff:
    """Pauses that grow by half, with jitter, between two bounds in seconds."""

    def __init__(self, min_s: float, max_s: float, *, rng: random.Random | None = None) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._floor_s = min_s
        self._rng = rng or random.Random()

    def next_s(self) -> float:
        """Return the next pause."""
        ceiling_s = min(self._max_s, self._floor_s * 1.5)
        pause_s = self._rng.uniform(min(self._floor_s, ceiling_s), ceiling_s)
        self._floor_s = ceiling_s
        return pause_s

    def reset(self) -> None:
        """Start small again."""
        self._floor_s = self._min_s


class Link:
    """A supervised connection to the broker of `settings`.

    `client` is the one client that it uses for all its connections.

    Raises: ValueError that names the setting at fault.
    """

    def __init__(self, settings: MqttSettings) -> None:
        self._settings = settings
        self._address = parse_address(settings.url)
        self.client = make_client(settings)
        self.state: AsyncValue[LinkState] = AsyncValue(
            LinkState(
                is_connected=False,
                is_subscribed=False,
                since_s=time.monotonic(),
                reason=f"not connected to {self._address} yet",
                reconnects=0,
            )
        )
        self._backoff = Backoff(settings.reconnect_min_s, settings.reconnect_max_s)
        self._connects = 0
        self._has_started = False
        self._told = ""
        self._failures = 0
        self._away_since_s: float | None = None
        self._quick_losses = 0
        self._is_in_duel = False

    @property
    def address(self) -> str:
        """The broker's address, without secrets."""
        return str(self._address)

    async def run(
        self,
        consume: Callable[[Client], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Connect, subscribe and `await consume(client)`, for ever and ever again.

        `consume` is to take messages until that raises MqttError, which means that the
        connection is gone; what else it raises ends this call, and so does its return.
        `started()` is called at once: the broker may be away for ever.

        Cancellation: says goodbye to the broker and leaves no thread; the messages that
        wait stay in the client.
        """
        task_status.started()
        while True:
            try:
                if await self._live(consume):
                    return
            except MqttError as error:
                self._note_failure(explain_connect(error, self._address))
            await trio.sleep(self._backoff.next_s())

    async def _live(self, consume: Callable[[Client], Awaitable[None]]) -> bool:
        """Live one connection; return whether `consume` returned.

        Raises: MqttError when it did not come to a subscription.
        """
        async with self.client:
            self._connects += 1
            # The broker let us in before: until it grants the subscription too, what it
            # refused then is still what an operator wants to know.
            reason = self.state.value.reason if self._failures else "connected, not subscribed yet"
            self._set_state(is_connected=True, is_subscribed=False, reason=reason)
            await self._subscribe()
            held_since_s = time.monotonic()
            try:
                await consume(self.client)
                return True
            except MqttError as error:
                self._note_loss(error, held_s=time.monotonic() - held_since_s)
                return False

    async def _subscribe(self) -> None:
        topics = list(self._settings.topics)
        qos: int = self._settings.qos
        granted = await self.client.subscribe([(topic, qos) for topic in topics])
        refused = [
            f"{topic!r} ({code})"
            for topic, code in zip(topics, map(refusal, granted), strict=True)
            if code
        ]
        remedy = f"check mqtt.topics and the rights of {self._user()}"
        if len(refused) == len(topics):
            raise SubscriptionRefusedError(
                f"the broker refused the subscription to {', '.join(refused)}; {remedy}"
            )
        self._note_success(len(topics) - len(refused))
        if refused:
            self._tell(
                logging.ERROR,
                f"MQTT: the broker refused a part of the subscription, {', '.join(refused)}; "
                + remedy,
            )

    def _user(self) -> str:
        username = self._address.username or self._settings.username
        return "the anonymous user" if username is None else f"the user {username!r}"

    def _note_success(self, subscriptions: int) -> None:
        self._set_state(
            is_connected=True,
            is_subscribed=True,
            reason=f"subscribed to {subscriptions} topic filter(s) at {self._address}",
        )
        if not self._has_started:
            self._has_started = True
            LOGGER.info(STARTED)
        if self._failures:
            self._quick_losses = 0
        if not self._is_in_duel:
            self._told = ""
            if self._away_since_s is not None:
                LOGGER.info(
                    "MQTT: connected to %s, after %.1f s and %d failed attempt(s)",
                    self._address,
                    time.monotonic() - self._away_since_s,
                    self._failures,
                )
        self._away_since_s = None
        self._failures = 0

    def _note_loss(self, error: MqttError, *, held_s: float) -> None:
        self._away_since_s = time.monotonic()
        self._quick_losses = self._quick_losses + 1 if held_s <= DUEL_HOLD_S else 1
        is_told = is_taken_over(error)
        self._is_in_duel = is_told or (
            self._settings.client_id is not None and self._quick_losses >= DUEL_LOSSES
        )
        if held_s >= STABLE_S and not self._is_in_duel:
            self._backoff.reset()
        reason = explain_loss(error)
        if self._is_in_duel and not is_told:
            reason = (
                f"the broker closed it, {DUEL_LOSSES} times in a row or more; another client "
                f"seems to use the client id {self._settings.client_id!r}, give each gateway its "
                "own mqtt.client_id"
            )
        self._set_state(
            is_connected=False, is_subscribed=False, reason=f"connection to broker lost: {reason}"
        )
        self._tell(logging.WARNING, f"MQTT: connection to {self._address} lost: {reason}")

    def _note_failure(self, reason: str) -> None:
        self._failures += 1
        if self._away_since_s is None:
            self._away_since_s = time.monotonic()
        self._set_state(is_connected=False, is_subscribed=False, reason=reason)
        self._tell(logging.ERROR, f"MQTT: cannot use {self._address}: {reason}; trying on")

    def _tell(self, level: int, text: str) -> None:
        """Log a text, unless it is what was logged last."""
        if text != self._told:
            self._told = text
            LOGGER.log(level, text)

    def _set_state(self, *, is_connected: bool, is_subscribed: bool, reason: str) -> None:
        old = self.state.value
        self.state.value = LinkState(
            is_connected=is_connected,
            is_subscribed=is_subscribed,
            since_s=old.since_s if is_subscribed == old.is_subscribed else time.monotonic(),
            reason=reason,
            reconnects=max(0, self._connects - 1),
        )


def refusal(granted: int | ReasonCode) -> str | None:
    """Return how a refusal is called, or None for a grant."""
    if isinstance(granted, ReasonCode):
        return str(granted) if granted.is_failure else None
    return f"0x{granted:02X}" if granted >= 0x80 else None


def make_client(settings: MqttSettings) -> Client:
    """A client of the broker of `settings`, not yet connected.

    Raises: ValueError that names the setting at fault.
    """
    address = parse_address(settings.url)
    is_v5 = settings.protocol == "5"
    if not settings.clean_session and not settings.client_id:
        raise ValueError(
            "mqtt.clean_session: a session that outlives the connection needs an identifier; "
            "expected mqtt.client_id beside it"
        )
    properties = None
    if is_v5 and not settings.clean_session:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's own gap
        properties.SessionExpiryInterval = NEVER_EXPIRES
    client = Client(
        address.host,
        address.port,
        username=address.username or settings.username,
        password=_password(settings, address.password),
        logger=logging.getLogger("tracker.mqtt.client"),
        identifier=settings.client_id,
        protocol=ProtocolVersion.V5 if is_v5 else ProtocolVersion.V311,
        clean_session=None if is_v5 else settings.clean_session,
        clean_start=settings.clean_session,
        transport=address.transport,
        timeout=settings.connect_timeout_s,
        keepalive=settings.keepalive_s,
        max_queued_incoming_messages=settings.incoming_limit_messages,
        max_queued_incoming_bytes=settings.incoming_limit_bytes,
        properties=properties,
        tls_params=TLSParameters(
            ca_certs=settings.ca_file,
            certfile=settings.cert_file,
            keyfile=settings.key_file,
            # Never None: OpenSSL would ask the terminal.
            keyfile_password="",
        )
        if address.is_tls
        else None,
        websocket_path=address.path or None,
    )
    # What paho says of a connection that fails, it says at every attempt; we say it once.
    client._client.disable_logger()
    return client


def _password(settings: MqttSettings, in_url: str | None) -> str | None:
    if settings.password_file is not None:
        try:
            with open(settings.password_file, encoding="utf-8") as file:
                return file.read().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeError) as error:
            raise ValueError(
                f"mqtt.password_file: cannot read {settings.password_file!r} ({error}); "
                "expected a file that holds the password in UTF-8"
            ) from None
    return in_url if settings.password is None else settings.password
