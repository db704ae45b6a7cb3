"""What the HTTP side is given by the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracker.domain.hub import Hub
from tracker.domain.rate import TokenBucket
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

    def new_allowance(self, now_s: float) -> TokenBucket:
        """How many messages one client may send, from `now_s` on."""
        per_s = self.stream.client_messages_per_s
        return TokenBucket(rate_per_s=per_s, burst=2 * per_s, now_s=now_s)
