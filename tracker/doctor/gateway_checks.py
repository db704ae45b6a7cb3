"""The gateway's side: reachable, ready, clocks, HTTP/2."""

from __future__ import annotations

import dataclasses
import email.utils
import ssl
import time
from typing import Any

import msgspec
import trio

from tracker.doctor.finding import Report, failed, not_applicable, passed
from tracker.doctor.remedies import UPSTREAM, remedy_for_status, remedy_for_unreachable
from tracker.doctor.subscriptions import DEVICE_ID
from tracker.terminal.text import printable
from tracker.watch.address import STREAM_PATH, GatewayAddress
from tracker.watch.dial import default_ssl_context, open_stream_to
from tracker.watch.errors import UnreachableError
from tracker.watch.http import HttpError, open_response

URL = "URL"
READY = "gateway ready"
CLOCK = "clock"
HTTP2 = "HTTP/2"

#: How long anything may take to connect, or to answer.
ANSWER_S = 10.0
#: The Date header has whole seconds, and an answer takes a moment.
_SKEW_LIMIT_S = 5.0

_H2 = "h2"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What an URL answered; `sent_s` and `received_s` are `time.time()`."""

    status: int
    headers: dict[str, str]
    body: bytes
    sent_s: float
    received_s: float

    @property
    def json(self) -> dict[str, Any]:
        """The body, where it is a JSON object; else an empty one."""
        try:
            value = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


async def fetch(address: GatewayAddress, path: str, context: ssl.SSLContext | None) -> Answer:
    """GET `path` below the gateway's own.

    Raises: UnreachableError, HttpError. Cancellation: the connection is cut.
    """
    sent_s = time.time()
    try:
        with trio.fail_after(ANSWER_S):
            opening = open_response(
                address, address.prefix + path, user_agent=DEVICE_ID, ssl_context=context
            )
            async with opening as got:
                received_s = time.time()
                body = await got.read()
                return Answer(got.status, dict(got.headers), body, sent_s, received_s)
    except trio.TooSlowError:
        raise HttpError(f"no answer within {ANSWER_S:g} s") from None


async def check_url(
    address: GatewayAddress, context: ssl.SSLContext | None, report: Report
) -> bool:
    """Check the way to the URL, TLS included; return whether there is one."""
    began_s = time.monotonic()
    try:
        with trio.fail_after(ANSWER_S):
            stream = await open_stream_to(address, context)
    except trio.TooSlowError:
        detail = f"no connection to {address.host_header} within {ANSWER_S:g} s"
        remedy = "check the network between here and there: routes, firewalls"
        if address.is_tls:
            remedy += "; and that this is the TLS port"
        report(failed(URL, detail, remedy))
        return False
    except UnreachableError as error:
        report(failed(URL, str(error), remedy_for_unreachable(error, address)))
        return False
    took_ms = (time.monotonic() - began_s) * 1000
    tls = ""
    if isinstance(stream, trio.SSLStream):
        until = (stream.getpeercert() or {}).get("notAfter", "")
        tls = f", {stream.version()}, certificate valid until {until}"
    await trio.aclose_forcefully(stream)
    report(passed(URL, f"{address} is reached ({took_ms:.0f} ms{tls})"))
    return True


async def check_ready(
    address: GatewayAddress, context: ssl.SSLContext | None, report: Report
) -> Answer | None:
    """Check that a gateway answers there, and is ready; return its answer, if it does."""
    try:
        answer = await fetch(address, "/readyz", context)
    except HttpError as error:
        remedy = "check that the port is the gateway's, or its proxy's, and its log"
        report(failed(READY, f"{address}/readyz: {error}", remedy))
        return None
    except UnreachableError as error:
        report(failed(READY, str(error), remedy_for_unreachable(error, address)))
        return None
    if answer.json.get("ready") is True:
        report(passed(READY, "it says that it is ready"))
        return answer
    if answer.json.get("ready") is False:
        reason = printable(str(answer.json.get("reason", "it does not say why")))
        remedy = (
            "mend what it names: its broker, its credentials, its topics (mqtt.url, "
            "mqtt.username, mqtt.topics of the gateway, not of this doctor)"
        )
        report(failed(READY, f"it says: {reason}", remedy))
        return answer
    return await _check_elsewhere(address, context, answer, report)


async def _check_elsewhere(
    address: GatewayAddress, context: ssl.SSLContext | None, answer: Answer, report: Report
) -> Answer | None:
    """`/readyz` is not the gateway's: is only that path hidden, or is it the wrong URL?"""
    what = f"{address}/readyz answered {answer.status}"
    if answer.status in (502, 503, 504):
        report(failed(READY, f"{what}: a proxy is there, but no gateway behind it", UPSTREAM))
        return None
    hidden = f"{what}, but the gateway is there: a proxy hides that path"
    statistics = await _try_fetch(address, f"{STREAM_PATH}/stats", context)
    if statistics is not None and "total_messages_processed" in statistics.json:
        if statistics.json.get("mqtt_connected") is False:
            report(
                failed(
                    READY,
                    "its statistics say that it has no broker",
                    "see /readyz on the gateway itself, which says why",
                )
            )
        else:
            report(not_applicable(READY, hidden))
        return statistics
    stream = await _try_fetch(address, STREAM_PATH, context)
    if stream is not None and stream.status == 400 and stream.json.get("event") == "error":
        # PROTOCOL A3: asked for no device
        report(not_applicable(READY, hidden))
        return stream
    bare = dataclasses.replace(address, prefix="")
    if address.prefix and await _is_gateway(bare, context):
        report(failed(READY, f"{what}; the gateway is at {bare}", f"use the URL {bare}"))
        return None
    location = answer.headers.get("location")
    report(failed(READY, what, remedy_for_status(answer.status, location)))
    return None


async def _is_gateway(address: GatewayAddress, context: ssl.SSLContext | None) -> bool:
    answer = await _try_fetch(address, "/readyz", context)
    return answer is not None and "ready" in answer.json


async def _try_fetch(
    address: GatewayAddress, path: str, context: ssl.SSLContext | None
) -> Answer | None:
    try:
        return await fetch(address, path, context)
    except (UnreachableError, HttpError):
        return None


def check_clock(answer: Answer, report: Report) -> None:
    """Check that the clock of who answered, and ours, agree."""
    try:
        date_s = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        report(not_applicable(CLOCK, "the answer has no Date"))
        return
    # the answer was made between the two, in the second that begins with its Date
    if date_s > answer.received_s:
        skew_s = date_s - answer.received_s
    else:
        skew_s = min(0.0, date_s + 1 - answer.sent_s)
    if abs(skew_s) <= _SKEW_LIMIT_S:
        report(passed(CLOCK, "that of the answer and ours agree to the second"))
        return
    side = "ahead of" if skew_s > 0 else "behind"
    report(
        failed(
            CLOCK,
            f"that of the answer is {abs(skew_s):.0f} s {side} ours",
            "let both machines synchronise their clocks (timedatectl set-ntp true)",
        )
    )


async def check_http2(address: GatewayAddress, ca_file: str | None, report: Report) -> None:
    """Check that browsers get HTTP/2: over HTTP/1.1 the seventh stream of a browser hangs."""
    if not address.is_tls:
        report(not_applicable(HTTP2, "browsers speak it over https:// only"))
        return
    context = default_ssl_context(ca_file)
    context.set_alpn_protocols([_H2, "http/1.1"])
    with trio.move_on_after(ANSWER_S):
        try:
            stream = await open_stream_to(address, context)
        except UnreachableError as error:
            report(failed(HTTP2, str(error), remedy_for_unreachable(error, address)))
            return
        assert isinstance(stream, trio.SSLStream)
        chosen = stream.selected_alpn_protocol()
        await trio.aclose_forcefully(stream)
        if chosen == _H2:
            report(passed(HTTP2, "spoken"))
            return
    report(
        failed(
            HTTP2,
            "not offered: a browser opens six SSE streams at most, and the seventh hangs",
            "nginx: `listen 443 ssl http2;`; the gateway itself: http.alpn_protocols",
        )
    )
