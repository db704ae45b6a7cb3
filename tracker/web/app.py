"""The Quart-Trio app: all routes, and what they share."""

from __future__ import annotations

from quart import Response, has_websocket_context, request, websocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from tracker.web.answers import error_response
from tracker.web.connections import add_connections
from tracker.web.devices import add_devices
from tracker.web.health import add_health
from tracker.web.page import CLIENT_FILES, add_client, add_page
from tracker.web.stream import add_stream
from tracker.web.view import GatewayView

_API = "/api/v1/"
#: PROTOCOL B5.
_INTERNAL_ERROR = 1011


def create_app(gateway: GatewayView) -> QuartTrio:
    """The HTTP side of one gateway."""
    app = QuartTrio("tracker", static_folder=None)
    add_stream(app, gateway)
    add_health(app, gateway)
    add_devices(app, gateway)
    add_connections(app, gateway)
    add_client(app)
    if gateway.api.page:
        add_page(app)

    @app.errorhandler(HTTPException)
    async def answer_error(error: HTTPException) -> Response:
        code = error.code or 500
        path = websocket.path if has_websocket_context() else request.path
        if has_websocket_context() and code >= 500:
            await websocket.close(_INTERNAL_ERROR)  # Quart would close it as if all were well
        response = error_response(code, f"{error.name}: {path}")
        for name, value in error.get_headers():
            if name == "Allow":
                response.headers[name] = value
        return response

    origins = frozenset(gateway.api.cors_origins)
    if origins:

        @app.after_request
        async def allow_origin(response: Response) -> Response:
            origin = request.headers.get("Origin")
            if request.path.startswith(_API) or request.path[1:] in CLIENT_FILES:
                response.headers.add("Vary", "Origin")
                if origin is not None and ("*" in origins or origin in origins):
                    response.headers["Access-Control-Allow-Origin"] = origin
                    response.headers["Access-Control-Allow-Headers"] = "Last-Event-ID"
            return response

    return app
