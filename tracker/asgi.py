"""The same app for a stock ASGI server: `hypercorn -c hypercorn.toml -k trio tracker.asgi:app`.

For development only: the guards, deadlines and close codes of our own server are absent.
Settings come from `tracker.toml` and the environment.
"""

from __future__ import annotations

import logging
import os
import socket

import trio

from tracker.app import Parts
from tracker.config import load_settings

log = logging.getLogger("tracker")


def _refuse_second_worker() -> socket.socket:
    """Hold a name that only one worker of one server can hold.

    Raises: RuntimeError when another worker of the same server holds it: each would feed
    only the clients that happen to be its own, and count only those.
    """
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0tracker-asgi-{os.getppid()}")
    except OSError:
        raise RuntimeError("tracker.asgi runs in one worker only: start it with `-w 1`") from None
    return lock


_lock = _refuse_second_worker()
_parts = Parts(load_settings(environ=os.environ).settings)
_running = trio.CancelScope()
app = _parts.web


@app.before_serving
async def _start_parts() -> None:
    log.warning(
        "tracker.asgi is for development only: without `tracker serve` a client that does not"
        " read is never cut, and one bad request may end the server"
    )
    app.nursery.start_soon(_run_parts)


async def _run_parts() -> None:
    with _running:
        await _parts.run_beside_http()


@app.after_serving
async def _stop_parts() -> None:
    _running.cancel()
