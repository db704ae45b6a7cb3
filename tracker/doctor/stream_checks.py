"""The way through: both transports, delivery from the broker, connections that are idle."""

from __future__ import annotations

import dataclasses
import secrets
import ssl
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from typing import TypeAlias

import msgspec
import trio

from tracker.broker import NoBrokerError, ToolBroker, without_share
from tracker.doctor.finding import Finding, Report, failed, not_applicable, passed
from tracker.doctor.remedies import BUFFERING, IDLE
from tracker.doctor.subscriptions import (
    DEVICE_ID,
    SSE,
    WEBSOCKET,
    CutError,
    OpenError,
    Subscription,
    open_sse,
    open_websocket,
)
from tracker.domain.errors import leaves
from tracker.mqtt.client import Client, MqttError
from tracker.mqtt.diagnosis import explain_connect
from tracker.watch.address import GatewayAddress

#: A message that takes longer was held back on its way.
PROMPT_S = 1.0
#: How long one that is late is waited for.
_LATE_S = 4.0

_Open: TypeAlias = Callable[
    [GatewayAddress, ssl.SSLContext | None], AbstractAsyncContextManager[Subscription]
]
_TRANSPORTS: tuple[tuple[str, _Open], ...] = ((WEBSOCKET, open_websocket), (SSE, open_sse))


def _delivery(transport: str) -> str:
    return f"delivery by {transport}"


def _idle(transport: str) -> str:
    return f"idle {transport}"


def topic_to_publish(topic_filter: str) -> str:
    """A topic of the doctor's own below a filter.

    >>> topic_to_publish("$share/gateways/trackers/+/gps")
    'trackers/tracker-doctor/gps'
    """
    levels = without_share(topic_filter).split("/")
    return "/".join(DEVICE_ID if level in ("+", "#") else level for level in levels)


async def check_streams(
    address: GatewayAddress,
    context: ssl.SSLContext | None,
    *,
    broker: ToolBroker,
    publish_topic: str,
    blocked_by: str | None,
    report: Report,
) -> None:
    """Check that both transports open, and that a message comes out of them at once.

    `blocked_by`: why nothing can, or may, be published, if so.
    Cancellation: all connections are cut.
    """
    async with AsyncExitStack() as stack:
        subscriptions = []
        for transport, open_subscription in _TRANSPORTS:
            try:
                opening = open_subscription(address, context)
                subscriptions.append(await stack.enter_async_context(opening))
                report(passed(transport, "opens through this URL"))
            except OpenError as error:
                report(failed(transport, str(error), error.remedy))
        if blocked_by is not None:
            for transport, _ in _TRANSPORTS:
                report(not_applicable(_delivery(transport), blocked_by))
            return
        probing = _Probing(broker, publish_topic, subscriptions)
        await probing.run()
        for finding in probing.findings():
            report(finding)


@dataclasses.dataclass(slots=True)
class _Arrival:
    """What is known of one transport: the shortest way of a message, or its end."""

    took_s: float | None = None
    cut: str | None = None


class _Probing:
    """Publishes up to two messages, and watches where they come out."""

    def __init__(
        self, broker: ToolBroker, topic: str, subscriptions: Iterable[Subscription]
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._subscriptions = tuple(subscriptions)
        self._arrivals = {one.transport: _Arrival() for one in self._subscriptions}
        self._sent_s: dict[str, float] = {}
        self._problem: str | None = None
        self._was_echoed = False
        self._changed = trio.Event()

    async def run(self) -> None:
        """Publish, and wait as long as it makes sense."""
        client = self._broker.make_client()
        try:
            async with client:
                await self._run(client)
        except* MqttError as group:
            if self._sent_s:
                self._problem = (
                    f"the broker cut the connection when we published to {self._topic!r}"
                )
            else:
                self._problem = "; ".join(
                    explain_connect(error, self._broker.address)
                    for error in leaves(group)
                    if isinstance(error, MqttError)
                )

    async def _run(self, client: Client) -> None:
        async with trio.open_nursery() as nursery:
            for subscription in self._subscriptions:
                nursery.start_soon(self._watch, subscription)
            await nursery.start(self._watch_echo, client)
            for patience_s in (PROMPT_S, _LATE_S):
                await self._publish(client)
                with trio.move_on_after(patience_s):
                    while not self._is_settled():
                        self._changed = trio.Event()
                        await self._changed.wait()
                if self._is_settled():
                    break
            nursery.cancel_scope.cancel()

    async def _publish(self, client: Client) -> None:
        probe = secrets.token_hex(8)
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = {"timestamp": now, "data": {"DEVICE_ID": DEVICE_ID, "PROBE": probe}}
        self._sent_s[probe] = trio.current_time()
        # QoS 1: the answer says that the broker has it, or tells us off
        await client.publish(self._topic, msgspec.json.encode(body), qos=1)

    async def _watch(self, subscription: Subscription) -> None:
        arrival = self._arrivals[subscription.transport]
        try:
            while True:
                event = await subscription.next_event()
                sent_s = self._sent_of(event.data)
                if sent_s is not None:
                    took_s = trio.current_time() - sent_s
                    arrival.took_s = min(took_s, arrival.took_s or took_s)
                    self._changed.set()
        except CutError as error:
            arrival.cut = str(error)
            self._changed.set()

    async def _watch_echo(self, client: Client, *, task_status: trio.TaskStatus[None]) -> None:
        """Notice whether the broker hands on what we publish."""
        try:
            await self._broker.subscribe(client, [self._topic])
        except NoBrokerError:
            task_status.started()
            return
        task_status.started()
        async for message in client.messages:
            if self._sent_of(message.payload.decode("utf-8", "replace")) is not None:
                self._was_echoed = True

    def _sent_of(self, text: str) -> float | None:
        return next((at_s for probe, at_s in self._sent_s.items() if probe in text), None)

    def _is_settled(self) -> bool:
        return all(
            arrival.cut is not None or (arrival.took_s or _LATE_S) <= PROMPT_S
            for arrival in self._arrivals.values()
        )

    def findings(self) -> Iterable[Finding]:
        """What came of it, for each transport."""
        for transport, _ in _TRANSPORTS:
            check = _delivery(transport)
            arrival = self._arrivals.get(transport)
            if arrival is None:
                yield not_applicable(check, f"not checked yet: needs {transport}")
            else:
                yield self._finding(check, arrival)

    def _finding(self, check: str, arrival: _Arrival) -> Finding:
        if arrival.took_s is not None:
            took = f"{arrival.took_s * 1000:.0f} ms after it was published"
            if arrival.took_s <= PROMPT_S:
                return passed(check, f"a message came through {took}")
            return failed(check, f"a message came only {took}", BUFFERING)
        if arrival.cut is not None:
            return failed(
                check,
                f"the connection was cut before a message came: {arrival.cut}",
                "look into the proxy's log, and the gateway's",
            )
        within = f"within {PROMPT_S + _LATE_S:g} s"
        if any(other.took_s is not None for other in self._arrivals.values()):
            return failed(check, f"no message came {within}, though the gateway had it", BUFFERING)
        if self._was_echoed:
            return failed(
                check,
                f"the broker handed on what we published to {self._topic!r}, but it did not come "
                f"out of the gateway {within}",
                "the gateway listens to another broker, or to other topics, or may not read there: "
                "its first log line says `MQTT from` where and what, and so does `tracker "
                "check-config` with the gateway's own flags and environment; compare that with "
                "--mqtt-url and --topic here",
            )
        problem = self._problem or (
            f"the broker did not hand on what we published to {self._topic!r}"
        )
        user = self._broker.user
        return not_applicable(
            check,
            f"{problem}: {user} may not publish there, or not read it",
            f"give {user} both rights, or name a topic where it has them, and which the gateway "
            "subscribes to: --publish-topic",
        )


async def check_idle(
    address: GatewayAddress, context: ssl.SSLContext | None, *, hold_s: float, report: Report
) -> None:
    """Check that connections on which only keep-alives pass are left alone for `hold_s`."""
    findings: dict[str, Finding] = {}

    async def hold(transport: str, open_subscription: _Open) -> None:
        findings[transport] = await _hold(transport, open_subscription(address, context), hold_s)

    async with trio.open_nursery() as nursery:
        for transport, open_subscription in _TRANSPORTS:
            nursery.start_soon(hold, transport, open_subscription)
    for transport, _ in _TRANSPORTS:
        report(findings[transport])


async def _hold(
    transport: str, opening: AbstractAsyncContextManager[Subscription], hold_s: float
) -> Finding:
    check = _idle(transport)
    pings = 0
    try:
        async with opening as subscription:
            began_s = trio.current_time()
            try:
                with trio.move_on_after(hold_s):
                    while True:
                        pings += (await subscription.next_event()).name == "ping"
            except CutError as error:
                held_s = trio.current_time() - began_s
                return failed(check, f"cut after {held_s:.1f} s: {error}", IDLE)
    except OpenError:
        return not_applicable(check, f"not checked yet: needs {transport}")
    if pings == 0:
        return failed(
            check, f"held for {hold_s:g} s, but no keep-alive of the gateway came", BUFFERING
        )
    return passed(check, f"held for {hold_s:g} s; keep-alives came ({pings})")


def skip_idle(report: Report) -> None:
    """Say that idle connections were not checked."""
    for transport, _ in _TRANSPORTS:
        report(not_applicable(_idle(transport), "takes two minutes, so only with --long"))


def skip_streams(why: str, report: Report) -> None:
    """Say that nothing of the streams could be checked."""
    for transport, _ in _TRANSPORTS:
        report(not_applicable(transport, why))
    for transport, _ in _TRANSPORTS:
        report(not_applicable(_delivery(transport), why))
    for transport, _ in _TRANSPORTS:
        report(not_applicable(_idle(transport), why))
