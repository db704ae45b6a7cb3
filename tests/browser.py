"""Headless Chromium for the tests that need a real browser.

Playwright's synchronous API runs in a worker thread, so the server under test goes on in the
test's nursery; the visit reaches it with `trio.from_thread.run_sync`. A visit fails when the page
logged an error, threw, or broke its Content-Security-Policy.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import pytest
import trio
from playwright.sync_api import ConsoleMessage, Error, Page, sync_playwright

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
# --no-sandbox: containers run the tests as root, and without user namespaces.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio")

STEP_TIMEOUT_S = 10.0
VISIT_TIMEOUT_S = 60.0
WAIT_TIMEOUT_S = 20.0

T = TypeVar("T")


def chromium_path() -> str:
    """The browser's executable. Skips the test where there is none, but fails it where CI=true."""
    for name in CHROMIUM_NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    message = f"no browser: none of {', '.join(CHROMIUM_NAMES)} is on the PATH"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


async def in_browser(
    visit: Callable[[Page], T],
    *,
    width_px: int = 1280,
    height_px: int = 800,
    color_scheme: Literal["light", "dark"] = "light",
    tolerate: str = "",
    arguments: Sequence[str] = (),
) -> T:
    """Run `visit` with a fresh page of its own browser; return what it returns.

    `tolerate`: a regular expression for those console errors that the visit provokes, such as a
    refused connection, which no page can keep out of the console.
    `arguments`: more of the browser's own.

    Raises: AssertionError: the page logged other errors. TooSlowError: after VISIT_TIMEOUT_S.
    Cancellation: the thread is left to end by the deadlines of its own steps.
    """
    path = chromium_path()

    def run() -> tuple[T, list[str]]:
        faults: list[str] = []
        with open_page(path, faults, width_px, height_px, color_scheme, arguments) as page:
            result = visit(page)
            # The violation events of what came last are still on their way.
            page.evaluate("() => new Promise((done) => setTimeout(done))")
        return result, faults

    with trio.fail_after(VISIT_TIMEOUT_S):
        result, faults = await trio.to_thread.run_sync(run, abandon_on_cancel=True)
    unexpected = [fault for fault in faults if not tolerate or not re.search(tolerate, fault)]
    assert not unexpected, unexpected
    return result


@contextmanager
def open_page(
    path: str,
    faults: list[str],
    width_px: int,
    height_px: int,
    color_scheme: Literal["light", "dark"],
    arguments: Sequence[str],
) -> Iterator[Page]:
    """A page that appends to `faults` what went wrong in it."""

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            faults.append(f"error: {message.text}")

    def on_page_error(error: Error) -> None:
        faults.append(f"thrown: {error}")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *arguments])
        try:
            page = browser.new_page(
                viewport={"width": width_px, "height": height_px}, color_scheme=color_scheme
            )
            page.set_default_timeout(STEP_TIMEOUT_S * 1000)
            page.on("console", on_console)
            page.on("pageerror", on_page_error)
            yield page
        finally:
            browser.close()


def wait_in(page: Page, is_so: Callable[[], bool]) -> None:
    """Let a page go on until it is so. Raises: AssertionError when it does not come to that."""
    deadline = time.monotonic() + WAIT_TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline
        page.wait_for_timeout(5)
