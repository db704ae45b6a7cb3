"""docs/architecture.md: every name in it is looked up in the program."""

from __future__ import annotations

import re

import pytest

from tests.docs.names import dotted_names, look_up
from tests.snippets import ROOT, Document
from tracker.config import LEAVES

ARCHITECTURE = Document("docs/architecture.md")
FLOW = "The flow/"


def test_the_only_fence_is_the_flow() -> None:
    assert list(ARCHITECTURE.fences) == [FLOW]


@pytest.mark.parametrize(
    "name",
    [
        *dotted_names(ARCHITECTURE.code_spans()),
        *dotted_names(re.findall(r"tracker[.\w]+", ARCHITECTURE.fence(FLOW))),
    ],
)
def test_names(name: str) -> None:
    look_up(name)


def test_rooms_are_the_packages() -> None:
    rooms = {room.strip("`") for room, _, _ in ARCHITECTURE.rows("The rooms")}
    packages = {path.parent.name for path in ROOT.glob("tracker/*/__init__.py")}
    assert packages == rooms


def test_only_its_room_imports_a_library() -> None:
    for room, library in {"mqtt": "paho", "server": "hypercorn", "web": "quart"}.items():
        importers = {
            path.relative_to(ROOT / "tracker").parts[0]
            for path in ROOT.glob("tracker/**/*.py")
            if re.search(rf"^(from|import) {library}\b", path.read_text(), re.MULTILINE)
        }
        # the composition root makes Hypercorn's configuration
        assert importers - {"app.py"} == {room}


def test_domain_knows_no_trio_and_no_clock() -> None:
    for path in ROOT.glob("tracker/domain/*.py"):
        assert not re.search(r"^(from|import) (trio|time|socket)\b", path.read_text(), re.MULTILINE)


def test_settings_named_in_the_text() -> None:
    spans = ARCHITECTURE.code_spans()
    named = {span for span in spans if re.fullmatch(r"(mqtt|stream|http|api|log)\.\w+", span)}
    assert named <= set(LEAVES)
