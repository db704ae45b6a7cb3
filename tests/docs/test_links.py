"""Every document: what it links to is there, and no document stands alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.snippets import ROOT, Document

PAGES = [
    "README.md",
    "CHANGELOG.md",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    document = Document(page)
    for link in document.links():
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in Document(str(target.relative_to(ROOT))).anchors(), link


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    new = {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        document = Document(str(page.relative_to(ROOT)))
        paths = {(page.parent / link.partition("#")[0]).resolve() for link in document.links()}
        new |= {path for path in paths if path.suffix == ".md" and path.is_file()} - reached
    assert {ROOT / page for page in PAGES} <= reached


@pytest.mark.parametrize("page", PAGES)
def test_no_line_is_longer_than_a_screen(page: str) -> None:
    """Prose, that is: tables and fences cannot be wrapped."""
    too_long = [
        line
        for line in Document(page).prose
        if len(line) > 120 and not line.startswith("|") and "](" not in line
    ]
    assert too_long == []
