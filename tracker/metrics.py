"""Prometheus metrics, read from the parts' own counters when somebody asks.

Nothing is counted twice and nothing is paid for on the hot path: a scrape reads the same
numbers that the statistics show.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from tracker.domain.histogram import Histogram
from tracker.domain.hub import Hub
from tracker.logs import StderrHandler
from tracker.mqtt.ingest import Ingest
from tracker.mqtt.link import Link
from tracker.server.serve import Server


class Metrics(Collector):
    """Every metric of one gateway.

    `server` stays None under a server that is not our own.
    """

    def __init__(self, hub: Hub, ingest: Ingest, link: Link) -> None:
        self._hub = hub
        self._ingest = ingest
        self._link = link
        self.server: Server | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> tuple[bytes, str]:
        """The exposition in Prometheus's text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        yield from self._mqtt()
        yield from self._streams()
        if self.server is not None:
            server = self.server.statistics()
            yield _gauge("tracker_http_connections", "Open TCP connections", server.open)
            yield _counter("tracker_http_accepted", "TCP connections accepted", server.accepted)
            yield _counter(
                "tracker_http_accept_failures",
                "Times that no descriptor was left for a connection",
                server.refused,
            )
        yield _counter(
            "tracker_log_records_dropped",
            "Log records that stderr did not take",
            sum(
                handler.statistics().dropped
                for handler in logging.getLogger().handlers
                if isinstance(handler, StderrHandler)
            ),
        )

    def _mqtt(self) -> Iterator[Metric]:
        ingest, state = self._ingest, self._link.state.value
        client = self._link.client.statistics()
        yield _counter("tracker_mqtt_messages", "MQTT messages taken in", ingest.received)
        yield _counter("tracker_mqtt_retained", "MQTT messages that were retained", ingest.retained)
        yield _labelled(
            CounterMetricFamily("tracker_mqtt_malformed", "Malformed payloads", labels=["reason"]),
            ingest.malformed,
        )
        yield _counter(
            "tracker_mqtt_discarded",
            "MQTT messages lost because the hand-over was full",
            client.discarded_messages,
        )
        yield _gauge(
            "tracker_mqtt_waiting",
            "MQTT messages that wait in the hand-over",
            client.waiting_messages,
        )
        yield _gauge("tracker_mqtt_connected", "1 while connected", state.is_connected)
        yield _gauge("tracker_mqtt_subscribed", "1 while subscribed", state.is_subscribed)
        yield _counter("tracker_mqtt_reconnects", "Connections after the first", state.reconnects)
        yield _histogram(
            "tracker_mqtt_batch_messages", "Messages in a batch", ingest.batch_messages
        )

    def _streams(self) -> Iterator[Metric]:
        hub = self._hub.statistics()
        yield _counter("tracker_messages_published", "Messages published", hub.published)
        yield _counter("tracker_messages_delivered", "Messages handed to sockets", hub.delivered)
        yield _labelled(
            CounterMetricFamily(
                "tracker_messages_dropped", "Messages not delivered", labels=["reason"]
            ),
            hub.dropped,
        )
        yield _gauge("tracker_messages_waiting", "Messages that wait for slow clients", hub.waiting)
        yield _counter("tracker_messages_replayed", "Messages from the history", hub.replayed)
        yield _counter("tracker_gaps", "Runs of drops for want of room", hub.gaps)
        yield _labelled(
            CounterMetricFamily("tracker_resumes", "Streams resumed", labels=["outcome"]),
            hub.resumes,
        )
        yield _gauge("tracker_history_messages", "Messages in the history", hub.history_messages)
        yield _gauge("tracker_history_bytes", "Bytes of the history", hub.history_bytes)
        yield _gauge("tracker_history_devices", "Devices in the history", hub.history_devices)
        yield _counter(
            "tracker_history_evicted", "Messages that left the history", hub.history_evicted
        )
        yield _counter(
            "tracker_events_left_out",
            "Events of no device that found too many waiting",
            hub.events_left_out,
        )
        yield _gauge("tracker_subscriptions", "(connection, device) pairs", hub.subscriptions)
        yield _gauge("tracker_devices_watched", "Devices with a subscription", hub.devices_watched)
        yield _gauge("tracker_devices_known", "Devices with a last message", hub.devices_known)
        yield _counter(
            "tracker_devices_forgotten",
            "Devices whose last message made room for others'",
            hub.devices_forgotten,
        )
        yield _labelled(
            GaugeMetricFamily("tracker_connections", "Open streams", labels=["transport"]),
            hub.streams,
        )
        yield _labelled(
            CounterMetricFamily("tracker_opened", "Streams opened", labels=["transport"]),
            hub.opened,
        )
        yield _labelled(
            CounterMetricFamily("tracker_closed", "Streams closed", labels=["reason"]),
            hub.closed,
        )
        yield _histogram(
            "tracker_delivery_seconds",
            "From a message's arrival to its hand-over to the socket",
            self._ingest.latency_s,
        )


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=histogram.buckets(), sum_value=histogram.total)


def _labelled(  # `Any`: a mapping's key type is invariant, and the keys are str or some Enum
    family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[Any, int]
) -> Metric:
    for key, value in values.items():
        family.add_metric([key.value if isinstance(key, Enum) else key], value)
    return family
