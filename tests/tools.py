"""Programs that a test runs and a machine may lack."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, *, package: str | None = None) -> str:
    """The path of a program. Skips the test where there is none, but fails it where CI=true.

    `package`: what Debian calls the package, when it is called otherwise.
    """
    # Where Debian keeps daemons; not on everybody's path.
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        message = f"{name} is not installed; expected Debian's package {package or name}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path
