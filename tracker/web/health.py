"""For operators and their machines: alive, ready, metrics."""

from __future__ import annotations

from quart import Quart, Response

from tracker.web.answers import json_response
from tracker.web.view import GatewayView


def add_health(app: Quart, gateway: GatewayView) -> None:
    """Add `/healthz`, `/readyz` and `/metrics` to `app`."""

    @app.get("/healthz")
    async def healthz() -> Response:
        return json_response({"alive": True})

    @app.get("/readyz")
    async def readyz() -> Response:
        reason = gateway.not_ready_reason()
        if reason is None:
            return json_response({"ready": True})
        return json_response({"ready": False, "reason": reason}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        body, content_type = gateway.render_metrics()
        return Response(body, content_type=content_type)
