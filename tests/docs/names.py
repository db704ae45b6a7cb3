"""Dotted names that a document mentions, looked up in the program."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable

_DOTTED = re.compile(r"tracker(?:\.\w+)+")


def dotted_names(spans: Iterable[str]) -> list[str]:
    """The code spans that are dotted names of ours, each once, in their order."""
    return list(dict.fromkeys(span for span in spans if _DOTTED.fullmatch(span)))


def look_up(name: str) -> object:
    """What a dotted name means: a module, or what is in one, or a method of a class in one.

    An attribute that only instances have counts when its class names it, in `__slots__` or in
    an annotation.
    Raises: LookupError that says how far the name leads.
    """
    parts = name.split(".")
    found: object = None
    for size in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for at, part in enumerate(parts[size:], size):
            if not hasattr(found, part):
                raise LookupError(f"{name}: nothing called {part!r} in {'.'.join(parts[:at])}")
            found = getattr(found, part)
        return found
    raise LookupError(name)
