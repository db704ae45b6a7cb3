"""The checks in their order, and what each waits for."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Callable

from tracker.broker import ToolBroker
from tracker.doctor.finding import Report, not_applicable
from tracker.doctor.gateway_checks import (
    CLOCK,
    HTTP2,
    READY,
    Answer,
    check_clock,
    check_http2,
    check_ready,
    check_url,
)
from tracker.doctor.mqtt_checks import check_broker
from tracker.doctor.stream_checks import (
    check_idle,
    check_streams,
    skip_idle,
    skip_streams,
    topic_to_publish,
)
from tracker.settings import MqttSettings
from tracker.watch.address import GatewayAddress

#: Longer than what Cloudflare (100 s), nginx and ALB (60 s) leave an idle connection.
HOLD_S = 110.0
WAIT_S = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """What to examine.

    `url`: as clients use it. `mqtt`: the gateway's own settings. `publish_topic`: None derives
    it from the topics. `may_publish`: False leaves the deliveries out. `wait_s`: for a message
    on the topic. `hold_s`: how long to hold idle connections, None not at all. `ca_file`: a PEM
    file of authorities to trust for https instead of the system's.
    """

    url: str
    mqtt: MqttSettings
    publish_topic: str | None = None
    may_publish: bool = True
    wait_s: float = WAIT_S
    hold_s: float | None = None
    ca_file: str | None = None


async def examine(
    options: DoctorOptions,
    address: GatewayAddress,
    broker: ToolBroker,
    context: ssl.SSLContext | None,
    *,
    report: Report,
    doing: Callable[[str], None],
) -> None:
    """Make every check, and report each.

    `context`: for https, None trusts the system's authorities. `doing` is told what takes time.
    Cancellation: all connections are cut; a message may have been published.
    """
    topics = options.mqtt.topics
    doing(f"asking the broker, and waiting up to {options.wait_s:g} s for a message")
    has_broker = await check_broker(broker, topics, wait_s=options.wait_s, report=report)

    doing("asking the gateway")
    if not await check_url(address, context, report):
        for check in (READY, CLOCK, HTTP2):
            report(not_applicable(check, "not checked yet: needs the URL"))
        skip_streams("not checked yet: needs the URL", report)
        return
    answer = await check_ready(address, context, report)
    if answer is None:
        report(not_applicable(CLOCK, "not checked yet: needs the gateway"))
    else:
        check_clock(answer, report)
    await check_http2(address, options.ca_file, report)
    if answer is None:
        skip_streams("not checked yet: needs the gateway", report)
        return

    doing("opening streams, and waiting for a message that is published to the broker")
    await check_streams(
        address,
        context,
        broker=broker,
        publish_topic=options.publish_topic or topic_to_publish(topics[0]),
        blocked_by=_blocked_by(options, answer, has_broker=has_broker),
        report=report,
    )
    if options.hold_s is None:
        skip_idle(report)
    else:
        doing(f"holding idle connections for {options.hold_s:g} s")
        await check_idle(address, context, hold_s=options.hold_s, report=report)


def _blocked_by(options: DoctorOptions, answer: Answer, *, has_broker: bool) -> str | None:
    """Why no message can be sent through, or None."""
    if not has_broker:
        return "not checked yet: needs the broker"
    if not options.may_publish:
        return "--no-publish leaves it out"
    if answer.json.get("ready") is False:
        return "not checked yet: needs the gateway to be ready"
    return None
