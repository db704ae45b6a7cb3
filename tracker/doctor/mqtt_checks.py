"""The broker's side: reachable, credentials, a topic that lives and can be read."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime

import msgspec
import trio

from tracker.broker import NoBrokerError, ToolBroker, without_share
from tracker.doctor.finding import Report, failed, not_applicable, passed
from tracker.domain.decode import decode
from tracker.domain.errors import Malformed, MalformedPayloadError
from tracker.mqtt.client import Client, Message, MqttConnectError, MqttError
from tracker.mqtt.diagnosis import explain_connect, explain_loss
from tracker.terminal.text import cut, printable

BROKER = "broker"
CREDENTIALS = "credentials"
TOPIC = "topic"

#: After the first message that is good: how long to look at what else comes.
_LOOK_S = 1.0
_SHOWN_BYTES = 80
#: A device's clock is worth a remark beyond this; some report late, in batches.
_DEVICE_CLOCK_S = 300.0

_REMEDIES = {
    Malformed.EMPTY: "the device sends nothing; see to its firmware, or leave the topic out",
    Malformed.TOO_LARGE: "the gateway takes 64 KiB; let the device send less at once",
    Malformed.BAD_UTF8: "payloads have to be JSON in UTF-8; a binary format needs a converter "
    "between the device and the gateway",
    Malformed.BAD_JSON: "payloads have to be JSON; a device with a format of its own needs a "
    "converter between it and the gateway",
    Malformed.TOO_DEEP: "let the device send flatter JSON",
    Malformed.NOT_AN_OBJECT: 'a payload has to be a JSON object, {"DEVICE_ID": "…", …}',
    Malformed.NO_DEVICE_ID: 'a payload needs its id, as {"DEVICE_ID": …} or {"data": '
    '{"DEVICE_ID": …}}, spelt so',
    Malformed.BAD_DEVICE_ID: "DEVICE_ID has to be a string of 1 to 128 characters or an integer",
}


async def check_broker(
    broker: ToolBroker, topics: tuple[str, ...], *, wait_s: float, report: Report
) -> bool:
    """Check the broker; return whether we can be its client.

    Cancellation: the client is disconnected.
    """
    client = broker.make_client()
    began_s = time.monotonic()
    try:
        async with client:
            took_ms = (time.monotonic() - began_s) * 1000
            report(passed(BROKER, f"{broker.address} answers ({took_ms:.0f} ms)"))
            report(passed(CREDENTIALS, f"accepted {broker.user}"))
            began_s = -1.0
            await _check_topic(client, broker, topics, wait_s, report)
            return True
    except MqttError as error:
        if began_s < 0:
            report(
                failed(
                    TOPIC,
                    f"the connection to the broker was lost: {explain_loss(error)}",
                    "look into the broker's log; some brokers cut a client that may not subscribe",
                )
            )
            return False
        detail, _, remedy = explain_connect(error, broker.address).partition("; ")
        remedy = remedy.replace("mqtt.url", "mqtt.url (--mqtt-url)")
        if isinstance(error, MqttConnectError):
            report(passed(BROKER, f"{broker.address} answers"))
            remedy += "; on the command line: --mqtt-url mqtt://user:password@host"
            report(failed(CREDENTIALS, f"{detail} (we are {broker.user})", remedy))
        else:
            report(failed(BROKER, f"{broker.address}: {detail}", remedy))
            report(not_applicable(CREDENTIALS, "not checked yet: needs the broker"))
        report(not_applicable(TOPIC, "not checked yet: needs the broker"))
        return False


async def _check_topic(
    client: Client, broker: ToolBroker, topics: tuple[str, ...], wait_s: float, report: Report
) -> None:
    filters = [without_share(topic) for topic in topics]
    shown = ", ".join(map(repr, filters))
    try:
        await broker.subscribe(client, filters)
    except NoBrokerError:
        remedy = f"give {broker.user} the right to read it, or check --topic"
        report(failed(TOPIC, f"the broker refused the subscription to {shown}", remedy))
        return
    seen = await _look(client, wait_s)
    if seen.good is not None:
        bad = sum(seen.bad.values())
        remark = f"; {bad} of {seen.live} cannot be decoded: {seen.first_bad}" if bad else ""
        report(passed(TOPIC, f"{shown} lives: {_sample(seen.good)}{remark}"))
    elif seen.bad:
        (reason, _) = seen.bad.most_common(1)[0]
        report(
            failed(
                TOPIC,
                f"none of {seen.live} messages on {shown} can be decoded: {seen.first_bad}",
                _REMEDIES[reason],
            )
        )
    else:
        retained = " but for retained, old ones" if seen.retained else ""
        report(
            failed(
                TOPIC,
                f"no message on {shown} within {wait_s:g} s{retained}",
                f"check that devices publish there, and that the rights (ACL) of {broker.user} "
                "cover it: many brokers grant a subscription and then deliver nothing; devices "
                "that report less often need a longer --wait",
            )
        )


class _Seen:
    """What came on the topic."""

    def __init__(self) -> None:
        self.live = 0
        self.retained = 0
        self.good: tuple[Message, str, bytes] | None = None
        self.bad: Counter[Malformed] = Counter()
        self.first_bad = ""

    def note(self, message: Message) -> None:
        if message.retain:
            self.retained += 1
            return
        self.live += 1
        try:
            device_id, body = decode(message.payload, time.time())
        except MalformedPayloadError as error:
            self.bad[error.reason] += 1
            if not self.first_bad:
                self.first_bad = (
                    f"{error} (topic {_topic(message)}, payload {_shown(message.payload)})"
                )
            return
        if self.good is None:
            self.good = message, device_id, body


async def _look(client: Client, wait_s: float) -> _Seen:
    """Look at what comes, for `wait_s`, or for a second after the first good message."""
    seen = _Seen()
    with trio.move_on_after(wait_s) as looking:
        async for message in client.messages:
            was_good = seen.good is not None
            seen.note(message)
            if seen.good is not None and not was_good:
                looking.deadline = min(looking.deadline, trio.current_time() + _LOOK_S)
    return seen


def _sample(good: tuple[Message, str, bytes]) -> str:
    message, device_id, body = good
    text = f"device {printable(device_id)} on {_topic(message)}, {_shown(message.payload)}"
    skew_s = _clock_skew_s(body)
    if skew_s is not None and abs(skew_s) > _DEVICE_CLOCK_S:
        side = "ahead" if skew_s > 0 else "behind"
        text += (
            f" (its timestamp is {abs(skew_s) / 60:.0f} min {side}: its clock, or its time zone)"
        )
    return text


def _clock_skew_s(body: bytes) -> float | None:
    try:
        timestamp = msgspec.json.decode(body)["timestamp"]
        return (datetime.fromisoformat(timestamp) - datetime.now(UTC)).total_seconds()
    except (msgspec.DecodeError, RecursionError, KeyError, TypeError, ValueError):
        return None  # none that can be compared: not in RFC 3339, or without an offset


def _topic(message: Message) -> str:
    try:
        return repr(printable(message.topic.value))
    except ValueError:
        return "(invalid)"


def _shown(payload: bytes) -> str:
    text = payload[: _SHOWN_BYTES + 1].decode("utf-8", "backslashreplace")
    return cut(printable(text), _SHOWN_BYTES)
