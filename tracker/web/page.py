"""`/`: the page that shows the fleet, and `/tracker.js`, the client that it is built on.

Their files are read once and served from memory.
"""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files
from pathlib import PurePath

from quart import Quart, Response, request
from werkzeug.exceptions import NotFound

_INDEX = "index.html"

#: The JavaScript client and its types, which other pages use too.
CLIENT_FILES = ("tracker.js", "tracker.d.ts")

#: Nothing from elsewhere, nothing inline, no frame around it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

#: Machines disagree about it: a film, a translation, a program.
_TYPESCRIPT = ".ts"


class _File:
    def __init__(self, name: str, body: bytes) -> None:
        self.body = body
        self.etag = hashlib.sha256(body).hexdigest()[:16]
        guessed, _ = mimetypes.guess_type(name)
        if PurePath(name).suffix == _TYPESCRIPT:
            guessed = "text/plain"
        self.content_type = guessed or "application/octet-stream"
        if self.content_type.startswith("text/"):
            self.content_type += "; charset=utf-8"


def _read_files() -> dict[str, _File]:
    return {
        path.name: _File(path.name, path.read_bytes())
        for path in (files("tracker.web") / "static").iterdir()
        if path.is_file()
    }


async def _answer(file: _File) -> Response:
    response = Response(file.body, content_type=file.content_type)
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(file.etag)
    await response.make_conditional(request)
    return response


def add_client(app: Quart) -> None:
    """Add the JavaScript client to `app`."""
    client = {name: file for name, file in _read_files().items() if name in CLIENT_FILES}

    @app.get(f"/<any({', '.join(map(repr, CLIENT_FILES))}):name>")
    async def tracker_js(name: str) -> Response:
        return await _answer(client[name])


def add_page(app: Quart) -> None:
    """Add the page and its files to `app`."""
    static = _read_files()

    @app.get("/", defaults={"name": _INDEX})
    @app.get("/<name>")
    async def page(name: str) -> Response:
        file = static.get(name)
        if file is None:
            raise NotFound
        return await _answer(file)
