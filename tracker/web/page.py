"""`/`: the page that shows the fleet. Its files are read once and served from memory."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files

from quart import Quart, Response, request
from werkzeug.exceptions import NotFound

_INDEX = "index.html"

#: Nothing from elsewhere, nothing inline, no frame around it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _File:
    def __init__(self, name: str, body: bytes) -> None:
        self.body = body
        self.etag = hashlib.sha256(body).hexdigest()[:16]
        guessed, _ = mimetypes.guess_type(name)
        self.content_type = guessed or "application/octet-stream"
        if self.content_type.startswith("text/"):
            self.content_type += "; charset=utf-8"


def add_page(app: Quart) -> None:
    """Add the page and its files to `app`."""
    static = {
        path.name: _File(path.name, path.read_bytes())
        for path in (files("tracker.web") / "static").iterdir()
        if path.is_file()
    }

    @app.get("/", defaults={"name": _INDEX})
    @app.get("/<name>")
    async def page(name: str) -> Response:
        file = static.get(name)
        if file is None:
            raise NotFound
        response = Response(file.body, content_type=file.content_type)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-cache"
        response.set_etag(file.etag)
        await response.make_conditional(request)
        return response
