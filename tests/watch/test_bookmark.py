"""`tracker.watch.bookmark`: the file that remembers where a stream stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.watch.hub_gateway import HubGateway
from tracker.watch import Stream, open_stream
from tracker.watch.bookmark import Bookmark


@pytest.mark.parametrize(
    ("content", "position"),
    [(b"", ""), (b"\n", ""), (b"7f-12\n", "7f-12"), (b"-", "-"), (b"x" * 200, "x" * 200)],
)
def test_what_an_earlier_one_left(tmp_path: Path, content: bytes, position: str) -> None:
    file = tmp_path / "position"
    file.write_bytes(content)
    assert Bookmark(file).position == position


@pytest.mark.parametrize("content", [b"a b", b"7f-12\nmore", b"x" * 201, b"\x00", b"\xff"])
def test_what_is_not_to_be_overwritten(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="notes does not hold a position; expected a file that"):
        Bookmark(file)


def test_a_new_file_needs_a_folder(tmp_path: Path) -> None:
    assert Bookmark(tmp_path / "new").position == ""
    with pytest.raises(FileNotFoundError):
        Bookmark(tmp_path / "nowhere" / "new")
    with pytest.raises(IsADirectoryError):
        Bookmark(tmp_path)


def test_it_is_replaced_as_a_whole_and_only_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "position"
    bookmark = Bookmark(file)
    bookmark.save()
    assert not file.exists()
    bookmark.position = "7f-1"
    bookmark.save()
    assert file.read_text() == "7f-1\n"
    before = file.stat().st_ino
    bookmark.save()
    assert file.stat().st_ino == before
    bookmark.position = "7f-2"
    bookmark.save()
    assert file.stat().st_ino != before
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "position"
    bookmark = Bookmark(file)
    file.mkdir()
    bookmark.position = "7f-1"
    with pytest.raises(IsADirectoryError):
        bookmark.save()
    assert list(tmp_path.iterdir()) == [file]


async def test_what_was_taken_counts_when_it_was_shown(
    autojump_clock: MockClock, nursery: trio.Nursery, tmp_path: Path
) -> None:
    gateway = HubGateway(nursery)
    bookmark = Bookmark(tmp_path / "position")

    async def take(stream: Stream) -> None:
        with bookmark.held(stream):
            await anext(stream)
            bookmark.note(stream)
            assert bookmark.position == "life1-0"

    async with open_stream("ws://gateway", ["A"], dial=gateway.dial) as stream:
        await trio.sleep(1)
        bookmark.note(stream)
        assert bookmark.position == "life1-0"
        gateway.publish("A")
        await take(stream)
        assert bookmark.position == "life1-1"
    nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_it_is_saved_now_and_then(nursery: trio.Nursery, tmp_path: Path) -> None:
    """On a real clock: a thread writes."""
    file = tmp_path / "position"
    gateway = HubGateway(nursery)
    gateway.publish("A", 3)
    with trio.fail_after(20):
        async with open_stream("ws://gateway", ["A"], dial=gateway.dial) as stream:
            nursery.start_soon(Bookmark(file).run, stream)
            while not file.exists():  # noqa: ASYNC110 a thread writes it
                await trio.sleep(0.01)
    assert file.read_text() == "life1-3\n"
    nursery.cancel_scope.cancel()
