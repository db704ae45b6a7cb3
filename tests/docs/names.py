"""Dotted names that a document mentions, looked up in the program."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable

_DOTTED = re.compile(r"tracker(?:\.\w+)+")


def dotted_names(spans: Iterable[str]) -> list[str]:
    """The code spans that are dotted names of ours, each once, in their order."""
    return list(dict.fromkeys(span for span in spans if _DOTTED.fullmatch(span)))


def look_up(name: str) -> None:
    """Look for a module, for what is in one, or for a method of a class in one.

    A module that is named itself is not imported: some do something then.
    Raises: LookupError that says how far the name leads.
    """
    if _is_module(name):
        return
    parts = name.split(".")
    size = next(size for size in range(len(parts), 0, -1) if _is_module(".".join(parts[:size])))
    found: object = importlib.import_module(".".join(parts[:size]))
    for at, part in enumerate(parts[size:], size):
        if not hasattr(found, part):
            raise LookupError(f"{name}: nothing called {part!r} in {'.'.join(parts[:at])}")
        found = getattr(found, part)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what stands before the last dot is no package
        return False
