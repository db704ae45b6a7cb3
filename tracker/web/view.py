"""What the HTTP side is given by the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracker.domain.hub import Hub
from tracker.settings import ApiSettings, StreamSettings


@dataclass(frozen=True, slots=True)
class GatewayView:
    """The gateway as the HTTP side sees it.

    `not_ready_reason`: why `/readyz` fails, or None; `is_draining`: whether a planned stop
    is under way; `is_upstream_connected`: whether messages can arrive; `render_metrics`:
    the Prometheus exposition, as (body, content type).
    """

    hub: Hub
    api: ApiSettings
    stream: StreamSettings
    not_ready_reason: Callable[[], str | None]
    is_draining: Callable[[], bool]
    is_upstream_connected: Callable[[], bool]
    render_metrics: Callable[[], tuple[bytes, str]]
    reconnect_after_ms: Callable[[], int]
