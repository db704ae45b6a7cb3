"""The lines that the gateway's code can log, read from its source.

What is filled in when it is logged stands as `…`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.snippets import ROOT

_LOGGERS = ("log", "logger", "LOGGER", "_logger")
_LOUD = ("warning", "error", "critical", "exception")
#: Those of other commands, and what quotes a line that is made elsewhere.
_ELSEWHERE = ("replay.py", "embedded.py", "demo.py")
_PERCENT = re.compile(r"%(?:\.\d+)?[a-z]")


def _modules() -> Iterator[ast.Module]:
    package = ROOT / "tracker"
    rooms = ("", "mqtt", "server", "web", "domain")
    for path in (path for room in rooms for path in (package / room).glob("*.py")):
        if path.name not in _ELSEWHERE:
            yield _parse(path)


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def logged() -> set[str]:
    """Everything that is logged as a warning or worse, but for texts made elsewhere."""
    found = set()
    for module in _modules():
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and _is_loud(node.func):
                template = _template(node.args[0])
                if template.strip("…"):
                    found.add(template)
    return found


def _is_loud(function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute) or function.attr not in _LOUD:
        return False
    owner = function.value
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return name in _LOGGERS


def diagnoses(module: str, functions: tuple[str, ...]) -> set[str]:
    """The sentences of functions, or of tables, of a module under `tracker/`."""
    found = set()
    for node in _parse(ROOT / "tracker" / module).body:
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            values = [n.value for n in ast.walk(node) if isinstance(n, ast.Return) and n.value]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in functions:
            assert isinstance(node.value, ast.Dict)
            values = node.value.values
        else:
            continue
        found |= {template for value in values if (template := _template(value)).strip("…")}
    return found


def _template(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return _PERCENT.sub("…", text)
        case ast.JoinedStr(values=parts):
            return "".join(_template(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _template(left) + _template(right)
        case ast.IfExp(body=body):
            return _template(body)
        case _:
            return "…"
