"""`tracker.metrics`: the exposition parses, and says what the parts' statistics say."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import FakeOutbox
from tracker.domain.event import PING
from tracker.domain.history import HistoryLimits
from tracker.domain.hub import Hub, HubSettings
from tracker.domain.options import StreamOptions
from tracker.domain.queue import Overflow, QueueLimits
from tracker.domain.reasons import CloseReason
from tracker.domain.transport import SSE_CHUNKED, WEBSOCKET
from tracker.logs import LogStatistics, StderrHandler
from tracker.metrics import Metrics
from tracker.mqtt.ingest import Ingest
from tracker.mqtt.link import Link, LinkState
from tracker.mqtt.message import Message as MqttMessage
from tracker.server.serve import Server, ServerStatistics
from tracker.settings import MqttSettings

#: Samples by name and labels.
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Parts:
    """The parts that are measured; nothing runs."""

    def __init__(self) -> None:
        self.hub = Hub(
            HubSettings(
                queue=QueueLimits(messages=2, events=1),
                history=HistoryLimits(messages=4),
                devices_limit=10,
            ),
            epoch="e",
        )
        self.ingest = Ingest(self.hub)
        self.link = Link(MqttSettings())
        self.metrics = Metrics(self.hub, self.ingest, self.link)

    def samples(self) -> Samples:
        """Every sample of one scrape of ours; no sample stands twice."""
        body, content_type = self.metrics.render()
        assert content_type.startswith("text/plain; version=")
        samples: Samples = {}
        for family in text_string_to_metric_families(body.decode("utf-8")):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in samples
                samples[key] = sample.value
        return {key: value for key, value in samples.items() if key[0].startswith("tracker_")}


class FakeServer:
    def statistics(self) -> ServerStatistics:
        return ServerStatistics(open=3, accepted=17, refused=2)


def labelled(name: str, label: str, values: dict[str, float]) -> Samples:
    return {(name, ((label, key),)): value for key, value in values.items()}


def plain(values: dict[str, float]) -> Samples:
    return {(name, ()): value for name, value in values.items()}


def histogram(name: str, buckets: list[tuple[str, float]], total: float) -> Samples:
    return {
        **labelled(f"{name}_bucket", "le", dict(buckets)),
        **plain({f"{name}_count": buckets[-1][1], f"{name}_sum": total}),
    }


def mqtt(payload: bytes, *, retain: bool = False) -> MqttMessage:
    return MqttMessage("trackers/1", payload, 0, retain, 0, None)


async def test_a_scrape_says_what_the_statistics_say() -> None:
    parts = Parts()
    parts.metrics.server = cast(Server, FakeServer())
    hub, ingest, link = parts.hub, parts.ingest, parts.link
    link.state.value = LinkState(
        is_connected=True, is_subscribed=False, since_s=0.0, reason="subscribing", reconnects=4
    )
    with (
        hub.open_stream(["1", "2"], FakeOutbox(), WEBSOCKET),
        hub.open_stream(["1"], FakeOutbox(appetite=0), SSE_CHUNKED) as slow,
        hub.open_stream(
            ["1"], FakeOutbox(appetite=0), WEBSOCKET, StreamOptions(overflow=Overflow.LATEST)
        ),
    ):
        slow.flush()  # its first position, which the kernel refuses
        gone = hub.open_stream(["1"], FakeOutbox(), SSE_CHUNKED)
        gone.close(CloseReason.STALLED)
        gone.leave()
        await ingest.publish([mqtt(b'{"DEVICE_ID":1}')] * 2)
        await ingest.publish([mqtt(b'{"DEVICE_ID":1}')] * 3)
        await ingest.publish([mqtt(b'{"DEVICE_ID":9}', retain=True), mqtt(b""), mqtt(b"[]")])
        for _ in range(3):
            slow.post(PING)
        for last_event_id in ("e-5", "e-0", "another life's"):
            options = StreamOptions(last_event_id=last_event_id)
            with hub.open_stream(["1"], FakeOutbox(), SSE_CHUNKED, options) as resumed:
                resumed.flush()
        samples = parts.samples()
        # Of five messages two wait for the slow one; the one that wants the latest was sent
        # two before its kernel refused, and one waits.
        assert samples == {
            **plain(
                {
                    "tracker_mqtt_messages_total": 8,
                    "tracker_mqtt_retained_total": 1,
                    "tracker_mqtt_discarded_total": 0,
                    "tracker_mqtt_waiting": 0,
                    "tracker_mqtt_connected": 1,
                    "tracker_mqtt_subscribed": 0,
                    "tracker_mqtt_reconnects_total": 4,
                    "tracker_messages_published_total": 5,
                    "tracker_messages_delivered_total": 7,
                    "tracker_messages_waiting": 3,
                    "tracker_messages_replayed_total": 4,
                    "tracker_gaps_total": 1,
                    "tracker_history_messages": 4,
                    "tracker_history_bytes": hub.history.size_bytes,
                    "tracker_history_devices": 1,
                    "tracker_history_evicted_total": 1,
                    "tracker_events_left_out_total": 2,
                    "tracker_subscriptions": 4,
                    "tracker_devices_watched": 2,
                    "tracker_devices_known": 2,
                    "tracker_devices_forgotten_total": 0,
                    "tracker_http_connections": 3,
                    "tracker_http_accepted_total": 17,
                    "tracker_http_accept_failures_total": 2,
                    "tracker_log_records_dropped_total": 0,
                }
            ),
            **labelled(
                "tracker_mqtt_malformed_total",
                "reason",
                {
                    "empty": 1,
                    "too_large": 0,
                    "bad_utf8": 0,
                    "bad_json": 0,
                    "too_deep": 0,
                    "not_an_object": 1,
                    "no_device_id": 0,
                    "bad_device_id": 0,
                },
            ),
            **labelled(
                "tracker_messages_dropped_total",
                "reason",
                {"buffer_full": 3, "conflated": 2, "evicted": 0, "closed": 0},
            ),
            **labelled(
                "tracker_resumes_total", "outcome", {"continued": 1, "partial": 1, "reset": 1}
            ),
            **labelled("tracker_connections", "transport", {"websocket": 2, "sse": 1}),
            **labelled("tracker_opened_total", "transport", {"websocket": 2, "sse": 5}),
            **labelled(
                "tracker_closed_total",
                "reason",
                {"client": 3, "stalled": 1, "slow": 0, "shutdown": 0, "flood": 0, "error": 0},
            ),
            **histogram(
                "tracker_mqtt_batch_messages",
                ingest.batch_messages.buckets(),
                ingest.batch_messages.total,
            ),
            **histogram(
                "tracker_delivery_seconds", ingest.latency_s.buckets(), ingest.latency_s.total
            ),
        }
    statistics = hub.statistics()
    assert (statistics.published, statistics.delivered, statistics.events_left_out) == (5, 7, 2)
    assert ingest.batch_messages.total == 8


async def test_nothing_has_happened_yet() -> None:
    """A rate needs its zero: what can be counted is there from the start."""
    samples = Parts().samples()
    assert set(samples.values()) == {0.0}
    assert ("tracker_messages_dropped_total", (("reason", "buffer_full"),)) in samples
    assert ("tracker_closed_total", (("reason", "stalled"),)) in samples
    assert ("tracker_opened_total", (("transport", "sse"),)) in samples
    # A server that is not our own does not tell.
    assert not [name for name, _ in samples if name.startswith("tracker_http_")]


async def test_the_process_is_measured_too() -> None:
    body, _ = Parts().metrics.render()
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info"} <= names


class FullHandler(StderrHandler):
    """A handler of ours whose queue is full."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # no thread, no descriptor

    def statistics(self) -> LogStatistics:
        return LogStatistics(offered=20, written=2, dropped=17, waiting=1)

    def close(self) -> None:
        logging.Handler.close(self)


@pytest.fixture
def full_handlers() -> Iterator[None]:
    """Two of them, beside whatever handlers the tests have."""
    root, handlers = logging.getLogger(), [FullHandler(), FullHandler()]
    for handler in handlers:
        root.addHandler(handler)
    yield
    for handler in handlers:
        root.removeHandler(handler)


@pytest.mark.usefixtures("full_handlers")
async def test_log_records_that_did_not_fit_are_counted() -> None:
    assert Parts().samples()["tracker_log_records_dropped_total", ()] == 34
