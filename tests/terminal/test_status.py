"""`tracker.terminal.status`: one line that is written over, and notes above it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from tracker.terminal.status import StatusLine, notes_from


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """The two ends of a terminal, ours and its user's."""
    monkeypatch.setenv("TERM", "xterm")
    master, slave = os.openpty()
    yield slave, master
    os.close(master)
    os.close(slave)


def test_on_a_terminal(terminal: tuple[int, int]) -> None:
    status = StatusLine(terminal[0])
    assert status.is_live
    status.show("one\x1b")
    status.note("a note")
    status.close()
    status.close()
    expected = "\rone\\x1b\x1b[K" + "\r\x1b[Ka note\r\n" + "\rone\\x1b\x1b[K" + "\r\x1b[K"
    received = b""
    while len(received) < len(expected):  # the kernel hands it over in pieces
        received += os.read(terminal[1], 4096)
    assert received.decode() == expected


def test_in_a_pipe_there_are_notes_alone() -> None:
    read, write = os.pipe()
    status = StatusLine(write)
    status.show("one")
    with notes_from(logging.getLogger("tracker.something"), status, "tracker "):
        logging.getLogger("tracker.something").info("did %s", "this\n")
        logging.getLogger("tracker.something").debug("not told")
    logging.getLogger("tracker.something").warning("too late")
    status.close()
    assert os.read(read, 4096) == b"tracker did this\\n\n"
    os.close(read)
    status.note("to nobody")
    os.close(write)


def test_a_terminal_that_takes_nothing_delays_nobody(terminal: tuple[int, int]) -> None:
    status = StatusLine(terminal[0])
    for number in range(5000):
        status.note(f"{number} " + "x" * 70)
