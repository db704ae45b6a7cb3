"""`/api/v1/stream`: one URL, two transports; and its statistics. PROTOCOL A1, A3, A5."""

from __future__ import annotations

from quart import Quart, Response, request, websocket

from tracker.domain.errors import BadRequestError
from tracker.web.answers import error_response, json_response
from tracker.web.parameters import parse_device_ids, parse_options
from tracker.web.socket import refuse_websocket, serve_websocket
from tracker.web.sse import sse_response
from tracker.web.view import GatewayView

PATH = "/api/v1/stream"

_RESUME_HEADER = "Last-Event-ID"


def add_stream(app: Quart, gateway: GatewayView) -> None:
    """Add the stream and its statistics to `app`."""
    limit = gateway.stream.max_device_ids

    @app.websocket(PATH)
    async def stream_websocket() -> None:
        # A browser cannot read why an upgrade was refused: accept first. PROTOCOL B5.
        await websocket.accept()
        try:
            device_ids = parse_device_ids(websocket.args.getlist("device_ids"), limit)
            options = parse_options(websocket.args.get, websocket.headers.get(_RESUME_HEADER))
        except BadRequestError as error:
            await refuse_websocket(str(error))
        else:
            await serve_websocket(device_ids, options, gateway)

    @app.get(PATH)
    async def stream_sse() -> Response:
        try:
            device_ids = parse_device_ids(request.args.getlist("device_ids"), limit)
            options = parse_options(request.args.get, request.headers.get(_RESUME_HEADER))
        except BadRequestError as error:
            return error_response(400, str(error))
        return sse_response(device_ids, options, gateway)

    @app.get(f"{PATH}/stats")
    async def stream_stats() -> Response:
        statistics = gateway.hub.statistics()
        return json_response(
            {
                "total_messages_processed": statistics.published,
                "active_subscribers": statistics.subscriptions,
                "devices_being_monitored": statistics.devices_watched,
                "connections": statistics.streams,
                "messages_delivered": statistics.delivered,
                "messages_dropped": sum(statistics.dropped.values()),
                "messages_waiting": statistics.waiting,
                "messages_replayed": statistics.replayed,
                "gaps": statistics.gaps,
                "resumes": {outcome.value: n for outcome, n in statistics.resumes.items()},
                "history": {
                    "messages": statistics.history_messages,
                    "bytes": statistics.history_bytes,
                    "devices": statistics.history_devices,
                    "evicted": statistics.history_evicted,
                },
                "devices_known": statistics.devices_known,
                "mqtt_connected": gateway.is_upstream_connected(),
            }
        )
