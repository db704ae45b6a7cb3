"""A React component from a document, made into a script for a browser, with npm's own parts."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.tools import program

#: Fixed, so that a test does not fail on the day of a new release.
PACKAGES = ("react@19.2", "react-dom@19.2", "esbuild@0.27")
DEADLINE_S = 120.0


def bundle(directory: Path, source: str, element: str) -> str:
    """A script that shows `element`, in which `source` and React are defined, in `#root`.

    `directory` takes React and the bundler, from the registry that npm is set up for. Blocks for
    some seconds.
    """
    npm = program("npm")
    (directory / "package.json").write_text('{"private":true}')
    (directory / "entry.jsx").write_text(
        "import { createRoot } from 'react-dom/client';\n"
        f"{source}\n"
        f"createRoot(document.getElementById('root')).render({element});\n",
        encoding="utf-8",
    )
    _run(directory, npm, "install", "--no-audit", "--no-fund", "--loglevel=error", *PACKAGES)
    bundler = directory / "node_modules" / ".bin" / "esbuild"
    _run(
        directory, bundler, "entry.jsx", "--bundle", "--jsx=automatic", "--outfile=bundle.js",
        "--charset=utf8", "--log-level=error", '--define:process.env.NODE_ENV="production"',
    )  # fmt: skip
    return (directory / "bundle.js").read_text(encoding="utf-8")


def _run(directory: Path, *command: str | Path) -> None:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
