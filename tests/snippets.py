"""What a Markdown file shows: its fenced blocks, links, tables and code spans.

A fence is known by the heading above it, its language and its place there: `Behind a proxy/nginx`,
`Try it/sh 2`. A test module names each fence that it runs, and one of its tests compares those
names with what the file has: a fence that nobody runs is a failure, and so is one that is gone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

_FENCE = re.compile(r"^(?P<indent> *)(?P<mark>`{3,}|~{3,})(?P<info>[^`]*)$")
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)>\s]+)>?\)")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
# GitHub: lower case, punctuation gone, blanks to hyphens.
_NOT_IN_ANCHOR = re.compile(r"[^\w\- ]")


@dataclass(frozen=True)
class Fence:
    """A fenced block: `line` is that of its first line of text, counted from 1."""

    key: str
    language: str
    text: str
    line: int


class Document:
    """One Markdown file of this repository, `path` relative to its root."""

    def __init__(self, path: str) -> None:
        self.path = ROOT / path
        self.text = self.path.read_text(encoding="utf-8")
        self.headings: list[str] = []
        self.fences: dict[str, Fence] = {}
        self.prose: list[str] = []
        """The lines outside of fences."""
        self._read()

    def _read(self) -> None:
        counts: Counter[str] = Counter()
        fence: tuple[str, str, str, int, list[str]] | None = None
        for number, line in enumerate(self.text.splitlines(), 1):
            if fence is not None:
                indent, mark, language, begun, lines = fence
                if line.strip() == mark:
                    place = f"{self.headings[-1]}/{language}"
                    counts[place] += 1
                    key = place if counts[place] == 1 else f"{place} {counts[place]}"
                    text = "".join(f"{line}\n" for line in lines)
                    self.fences[key] = Fence(key, language, text, begun)
                    fence = None
                else:
                    lines.append(line.removeprefix(indent))
            elif match := _FENCE.match(line):
                fence = (match["indent"], match["mark"], match["info"].strip(), number + 1, [])
            else:
                self.prose.append(line)
                if match := _HEADING.match(line):
                    self.headings.append(match[2])
        assert fence is None, f"{self.path}: the fence of line {fence[3] - 1} is never closed"

    def fence(self, key: str) -> str:
        """The text of a fence. Raises: KeyError when the file has no such fence."""
        return self.fences[key].text

    def anchors(self) -> set[str]:
        """What a link to this file may have behind its `#`."""
        plain = (re.sub(r"[`*]", "", heading).lower() for heading in self.headings)
        return {_NOT_IN_ANCHOR.sub("", heading).replace(" ", "-") for heading in plain}

    def links(self) -> list[str]:
        """The targets of its links and pictures, as they stand there."""
        return _LINK.findall("\n".join(self.prose))

    def code_spans(self) -> list[str]:
        """What stands between single backticks, in its order."""
        return _SPAN.findall("\n".join(self.prose))

    def rows(self, heading: str) -> Iterator[list[str]]:
        """The cells of the table rows beneath a heading, without the tables' heads."""
        assert heading in self.headings, f"{self.path} has no heading {heading!r}"
        is_beneath = False
        head = True
        for line in self.prose:
            if match := _HEADING.match(line):
                is_beneath = match[2] == heading
            elif is_beneath and line.startswith("|"):
                cells = [
                    cell.strip().replace(r"\|", "|")
                    for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])
                ]
                if set("".join(cells)) <= {"-", ":"}:
                    head = False
                elif not head:
                    yield cells
            else:
                head = True
