"""DESIGN, law 8: imports point down only; these tests read the imports to prove it.

Every import counts, wherever it stands: in a function, or for type checkers only.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = "tracker"

#: What each room may import of ours, besides itself.
BELOW = {
    "tracker.domain": set(),
    "tracker.mqtt": {"tracker.domain", "tracker.settings"},
    "tracker.server": {"tracker.domain", "tracker.settings"},
    "tracker.web": {"tracker.domain", "tracker.settings"},
    "tracker.terminal": set(),
    "tracker.watch": {"tracker.domain", "tracker.terminal"},
    "tracker.top": {"tracker.domain", "tracker.terminal", "tracker.watch"},
    "tracker.data": set(),
}

#: Who alone may import a library; a module here, or a room with all its modules.
ONLY = {
    "paho": {"tracker.mqtt"},
    "hypercorn": {"tracker.server", "tracker.app"},
    "quart": {"tracker.web"},
    "quart_trio": {"tracker.web"},
    "werkzeug": {"tracker.web"},
    "prometheus_client": {"tracker.metrics"},
    "trio_websocket": {"tracker.watch"},
    "iotcore": {"tracker.embedded"},
}

#: The domain is pure: no waiting, no sockets, no clock, no threads, no chance, no log.
IMPURE = {
    "asyncio",
    "concurrent",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}


def is_in(module: str, room: str) -> bool:
    """Whether `module` is `room`, or a module of it."""
    return module == room or module.startswith(f"{room}.")


def imports(source: str, module: str, known: Iterable[str]) -> set[str]:
    """The modules that `source`, which is `module`, imports, by their full names.

    `known`: modules of ours, so that `from tracker.domain import wire` is known to be one.
    """
    package = module.split(".")
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: -node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{name}.{alias.name}" for alias in node.names}
            submodules = names.intersection(known)
            found |= submodules
            # A package beside its modules only if something else is taken from it.
            if submodules != names:
                found.add(name)
    return found


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """What each module of ours imports."""
    sources = {module_name(path): path.read_text("utf-8") for path in python_files(OURS)}
    return {module: imports(source, module, sources) for module, source in sources.items()}


def ours(imported: Iterable[str]) -> set[str]:
    return {module for module in imported if is_in(module, OURS)}


def test_the_reader_of_imports_sees_them_all() -> None:
    source = """
import os.path, trio as t
from tracker.domain import wire, Nothing
from tracker.domain import event
from . import sockets
from ..settings import Settings
if TYPE_CHECKING:
    from quart import Quart
def f():
    try:
        import paho.mqtt.client
    except ImportError:
        from tracker.web.app import create_app
"""
    known = {"tracker.domain", "tracker.domain.wire", "tracker.domain.event"}
    known |= {"tracker.server.sockets"}
    assert imports(source, "tracker.server.serve", known) == {
        *("os.path", "trio", "quart", "paho.mqtt.client"),
        *("tracker.domain", "tracker.domain.wire", "tracker.domain.event"),
        *("tracker.server.sockets", "tracker.settings", "tracker.web.app"),
    }


def test_every_module_is_read(graph: dict[str, set[str]]) -> None:
    assert {"tracker", "tracker.app", "tracker.domain.hub", "tracker.web.app"} <= graph.keys()
    assert set().union(*map(ours, graph.values())) <= graph.keys()


def test_nothing_is_imported_behind_the_readers_back() -> None:
    """By a name that is computed."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in python_files(OURS)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in ("import_module", "run_module"))
        or (isinstance(node, ast.Name) and node.id in ("import_module", "__import__"))
    ]
    assert found == []


def test_no_module_imports_itself_in_the_end(graph: dict[str, set[str]]) -> None:
    """Down only: there is an order in which every module stands above what it imports."""
    try:
        TopologicalSorter({module: ours(imported) for module, imported in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_what_is_below_it(room: str, graph: dict[str, set[str]]) -> None:
    """Siblings do not import each other."""
    allowed = {room, *BELOW[room]}
    above = {
        (module, imported)
        for module in graph
        if is_in(module, room)
        for imported in ours(graph[module])
        if not any(is_in(imported, below) for below in allowed)
    }
    assert above == set()


@pytest.mark.parametrize("library", ONLY)
def test_a_library_has_one_room(library: str, graph: dict[str, set[str]]) -> None:
    elsewhere = {
        (module, imported)
        for module in graph
        for imported in graph[module]
        if is_in(imported, library) and not any(is_in(module, room) for room in ONLY[library])
    }
    assert elsewhere == set()


def test_the_composition_root_takes_two_things_of_its_frameworks(
    graph: dict[str, set[str]],
) -> None:
    """Hypercorn's configuration, and the web's app with what it is given."""
    app = graph["tracker.app"]
    assert {module for module in app if is_in(module, "hypercorn")} == {"hypercorn.config"}
    assert {module for module in app if is_in(module, "tracker.web")} == {
        *("tracker.web.app", "tracker.web.view"),
    }


def test_the_domain_is_pure(graph: dict[str, set[str]]) -> None:
    imported = {
        name.partition(".")[0]
        for module in graph
        if is_in(module, "tracker.domain")
        for name in graph[module]
    }
    assert imported & IMPURE == set()
    assert imported - sys.stdlib_module_names == {"msgspec", OURS}


def test_nobody_imports_the_commands_and_few_the_root(graph: dict[str, set[str]]) -> None:
    def importers(imported: str) -> set[str]:
        return {module for module in graph if imported in graph[module]}

    assert importers("tracker.cli") == {"tracker.__main__"}
    assert importers("tracker.__main__") == set()
    assert importers("tracker.app") == {"tracker.cli", "tracker.demo", "tracker.asgi"}
    assert importers("tracker.asgi") == set()
    assert importers("tracker.metrics") == {"tracker.app"}


@pytest.mark.parametrize("outside", ["tests", "bench"])
def test_the_program_knows_neither_its_tests_nor_its_bench(
    outside: str, graph: dict[str, set[str]]
) -> None:
    assert {module for module in graph for name in graph[module] if is_in(name, outside)} == set()
