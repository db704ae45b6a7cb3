"""Where the settings come from: TOML files, the environment, flags, and the one tree they make.

Each source gives raw values under the keys of the tree (`mqtt.url`); later sources win, key by
key. Then every value is checked against its type, and the tree against `rules.py`. Whatever is
wrong, in all sources together, is told in one `SettingsError`: nobody has to start the gateway
five times to find five mistakes.

How text from the environment is read: booleans are `true` or `false`; a list is separated by
commas, or is a JSON array (for items that hold a comma); `null`, or nothing, unsets what may be
unset. A secret is never part of a message, not even under a misspelt key.
"""

from __future__ import annotations

import datetime
import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import inspect

from tracker.hypercorn_keys import IDLE_KEYS, REFUSED_KEYS, SILENT_VALUES
from tracker.rules import broken_rules, quoted
from tracker.settings import MASK, SECRET_KEYS, HttpSettings, Settings, masked_url

CONFIG_FILE = Path("tracker.toml")
HYPERCORN_FILE = Path("hypercorn.toml")
ENVIRONMENT_PREFIX = "TRACKER_"
DEFAULT = "default"

FLAG_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "--mqtt-url": "mqtt.url",
        "--topic": "mqtt.topics",
        "--qos": "mqtt.qos",
        "--bind": "http.bind",
        "--log-level": "log.level",
        "--log-format": "log.format",
    }
)

BRANCHES: Final[Mapping[str, type[msgspec.Struct]]] = MappingProxyType(
    {branch.name: branch.type for branch in msgspec.structs.fields(Settings)}
)
LEAVES: Final[Mapping[str, msgspec.structs.FieldInfo]] = MappingProxyType(
    {
        f"{name}.{leaf.name}": leaf
        for name, branch in BRANCHES.items()
        for leaf in msgspec.structs.fields(branch)
    }
)

# Kubernetes tells every pod of a service called `tracker` or `tracker-…` in such variables.
_KUBERNETES = re.compile(
    r"TRACKER(_[A-Z0-9]+)*_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)"
    r"|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


class SettingsError(Exception):
    """The settings cannot be used. Its text is the whole message; `problems` are its lines."""

    def __init__(self, problems: list[str]) -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{count} in the settings:", *problems]))
        self.problems = tuple(problems)


class LoadedSettings(msgspec.Struct, frozen=True):
    """The effective settings; where each came from, by key; and what a user should know."""

    settings: Settings
    sources: dict[str, str]
    warnings: tuple[str, ...] = ()


class _Given(msgspec.Struct, frozen=True):
    """A value as a source gave it, before it is checked."""

    value: object
    source: str


def load_settings(
    *,
    environ: Mapping[str, str],
    config_file: Path | None = None,
    hypercorn_file: Path | None = None,
    flags: Mapping[str, object] = MappingProxyType({}),
) -> LoadedSettings:
    """Read every source into one tree.

    Without `config_file`, `tracker.toml` of the working directory is read if there is one;
    `hypercorn_file` and `hypercorn.toml` likewise. `flags` has the keys of `FLAG_KEYS`; those
    that are None or empty count as not given.

    Raises: SettingsError, with everything that is wrong.
    """
    problems: list[str] = []
    warnings: list[str] = []
    given: dict[str, _Given] = {}
    given |= _from_config_file(_read_toml(config_file, CONFIG_FILE, problems), problems)
    given |= _from_hypercorn_file(
        _read_toml(hypercorn_file, HYPERCORN_FILE, problems), problems, warnings
    )
    given |= _from_environment(environ, problems)
    given |= {
        FLAG_KEYS[flag]: _Given(value, flag)
        for flag, value in flags.items()
        if value is not None and value != ()
    }

    values: dict[str, dict[str, Any]] = {name: {} for name in BRANCHES}
    mistyped: set[str] = set()
    for key, entry in given.items():
        branch, _, name = key.partition(".")
        try:
            values[branch][name] = msgspec.convert(entry.value, LEAVES[key].type)
        except msgspec.ValidationError:
            mistyped.add(key)
            problems.append(
                f"{entry.source}: {key} is {_cut(shown(key, entry.value))}; "
                f"expected {_expected(inspect.type_info(LEAVES[key].type))}"
            )
    branches: dict[str, Any] = {name: BRANCHES[name](**leaves) for name, leaves in values.items()}
    settings = Settings(**branches)
    sources = {key: given[key].source if key in given else DEFAULT for key in LEAVES}

    for broken in broken_rules(settings):
        if mistyped.isdisjoint((broken.key, *broken.beside)):
            is_now = {
                key: f"{key} is {_cut(shown(key, value_of(settings, key)))}"
                for key in (broken.key, *broken.beside)
            }
            parts = [f"{sources[broken.key]}: {is_now[broken.key]}", broken.problem]
            parts += [f"{is_now[key]} ({sources[key]})" for key in broken.beside]
            problems.append("; ".join(parts))
    if problems:
        raise SettingsError(problems)
    return LoadedSettings(settings, sources, tuple(warnings))


def value_of(settings: Settings, key: str) -> object:
    """The value at `key` (`mqtt.url`)."""
    branch, _, name = key.partition(".")
    return getattr(getattr(settings, branch), name)


def shown(key: str, value: object) -> str:
    """`value` as it may be printed: as in TOML, on one line, whole, without its secret."""
    if value is None:
        return "not set"
    if key in SECRET_KEYS or key == "mqtt.url":
        if not isinstance(value, str):
            return MASK
        value = masked_url(value) if key == "mqtt.url" else MASK
    return _toml(value)


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return quoted(value, limit_chars=None)
        case list() | tuple():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case datetime.date() | datetime.time():
            return value.isoformat()
        case _:
            return "a table"


def _read_toml(
    named: Path | None, usual: Path, problems: list[str]
) -> tuple[str, dict[str, object]]:
    """Name and content of a TOML file; nothing where the usual one is not there."""
    path = named or usual
    try:
        # "-sig": some editors put a byte order mark in front
        return str(path), tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        if named is not None:
            problems.append(f"{path}: no such file")
    except UnicodeDecodeError:
        problems.append(f"{path}: expected TOML in UTF-8")
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: expected TOML: {str(error)[:1].lower()}{str(error)[1:]}")
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        problems.append(f"{path}: {reason}; expected a readable file")
    except ValueError:
        problems.append(f"{quoted(str(path))}: a path has no NUL character")
    return str(path), {}


def _from_config_file(
    file: tuple[str, dict[str, object]], problems: list[str]
) -> Iterator[tuple[str, _Given]]:
    source, content = file
    for branch, table in content.items():
        if branch not in BRANCHES:
            problems.append(
                f"{source}: {_bare(branch)} is not a setting{_did_you_mean(branch, BRANCHES)}"
            )
        elif not isinstance(table, dict):
            problems.append(f"{source}: {branch} is not a table; expected [{branch}]")
        else:
            for name, value in table.items():
                key = f"{branch}.{name}"
                if key in LEAVES:
                    yield key, _Given(value, source)
                else:
                    problems.append(
                        f"{source}: {branch}.{_bare(name)} is not a setting"
                        f"{_did_you_mean(key, LEAVES)}"
                    )


def _from_hypercorn_file(
    file: tuple[str, dict[str, object]], problems: list[str], warnings: list[str]
) -> Iterator[tuple[str, _Given]]:
    source, content = file
    names = HttpSettings.__struct_fields__
    idle = []
    for name, value in content.items():
        if name in names:
            if name == "bind" and isinstance(value, str):
                value = [value]
            yield f"http.{name}", _Given(value, source)
        elif SILENT_VALUES.get(name) == value:
            pass
        elif name in REFUSED_KEYS:
            problems.append(f"{source}: {name} is refused: {REFUSED_KEYS[name]}")
        elif name in IDLE_KEYS:
            idle.append(name)
        else:
            known = (*names, *IDLE_KEYS, *REFUSED_KEYS)
            problems.append(
                f"{source}: {_bare(name)} is not a setting of Hypercorn{_did_you_mean(name, known)}"
            )
    if idle:
        warnings.append(
            f"{source}: without effect here, since the gateway sees to it itself: {', '.join(idle)}"
        )


def _from_environment(
    environ: Mapping[str, str], problems: list[str]
) -> Iterator[tuple[str, _Given]]:
    keys = {key.replace(".", "__").upper(): key for key in LEAVES}
    for variable, text in environ.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name == variable or _is_kubernetes(variable, text):
            continue
        if name in keys:
            key = keys[name]
            yield key, _Given(_parsed(text, inspect.type_info(LEAVES[key].type)), variable)
        else:
            hint = _did_you_mean(name, keys, prefix=ENVIRONMENT_PREFIX)
            problems.append(f"{_bare(variable)}: not a setting{hint}")


def _is_kubernetes(variable: str, text: str) -> bool:
    if variable.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://")):
        return True
    return _KUBERNETES.fullmatch(variable) is not None


def _parsed(text: str, kind: inspect.Type) -> object:
    """The value that `text` stands for; `text` itself where it cannot be one of `kind`."""
    match kind:
        case inspect.UnionType(types=kinds):
            if text in ("", "null"):
                return None
            return _parsed(text, kinds[0])
        case inspect.BoolType():
            return {"true": True, "false": False}.get(text, text)
        case inspect.IntType():
            return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
        case inspect.LiteralType(values=values):
            return next((value for value in values if str(value) == text), text)
        case inspect.FloatType():
            number = r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?"
            return float(text) if re.fullmatch(number, text) else text
        case inspect.VarTupleType():
            return _parsed_list(text)
        case _:
            return text


def _parsed_list(text: str) -> object:
    text = text.strip()
    # `[::1]:8000` is an address, not an array.
    if text.startswith("[") and text.endswith("]"):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return [item.strip() for item in text.split(",")] if text else []


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types=kinds):
            return _expected(kinds[0])
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=least, le=most):
            if most is None:
                return f"a whole number, {least} or more"
            return f"a whole number from {least} to {most}"
        case inspect.FloatType(le=most):
            return f"a number above 0, {most} at most"
        case inspect.LiteralType(values=values):
            *others, last = [_toml(value) for value in values]
            return f"{', '.join(others)} or {last}"
        case inspect.VarTupleType():
            return "a list of strings"
        case _:
            return "a string"


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"


def _did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _bare(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) else quoted(name)
