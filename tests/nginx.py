"""A real nginx for a test, with a configuration that a document shows."""

from __future__ import annotations

import getpass
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tools import program

DEADLINE_S = 20.0

#: What stands around the shown part. gzip is on for everything, since that is what makes a
#: careless proxy hold an event stream back.
_MAIN = """\
user {user};
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    gzip on;
    gzip_types *;
    gzip_proxied any;
    gzip_min_length 0;
{shown}
}}
"""


@contextmanager
def run_nginx(directory: Path, shown: str, port: int) -> Iterator[None]:
    """nginx with `shown` inside its `http` block, until the block ends; it listens on `port`.

    Blocks while it starts and ends, some milliseconds each.
    Raises: RuntimeError with what nginx said, when it did not start.
    """
    binary = program("nginx")
    config = directory / "nginx.conf"
    config.write_text(
        _MAIN.format(user=getpass.getuser(), directory=directory, shown=shown), encoding="utf-8"
    )
    log = directory / "nginx.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [binary, "-p", directory, "-c", config, "-g", "daemon off;"],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nginx did not start: {log.read_text()}")
            time.sleep(0.005)
        yield
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
