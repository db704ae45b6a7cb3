"""Writes `docs/schema/`, from the types that the gateway itself encodes and decodes with.

`python -m tests.docs.schemas` brings it up to date; a test says when it is not.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.snippets import ROOT
from tracker.domain import event_data
from tracker.web.connections import ConnectionStatus
from tracker.web.devices import Device
from tracker.web.operations import TYPES as OPERATIONS

FOLDER = ROOT / "docs" / "schema"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{name}"


def make_schemas() -> dict[str, dict[str, Any]]:
    """Every schema, by the name of its file."""
    return {
        "events.json": _events(),
        "operations.json": _operations(),
        "answers.json": _answers(),
    }


def _events() -> dict[str, Any]:
    types = list(dict.fromkeys(event_data.TYPES.values()))
    references, definitions = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(types, references, strict=True))
    return _schema(
        "A WebSocket text message of the gateway",
        "On SSE, `event` is the event's name, `data` its data, and `id` its id.",
        [_envelope(name, by_type[kind]) for name, kind in event_data.TYPES.items()],
        definitions,
    )


def _envelope(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {"event": {"const": name}}
    if name == "message":
        properties["id"] = {"type": "string", "description": "to resume from"}
    properties["data"] = data
    return {
        "type": "object",
        "properties": properties,
        "required": ["event", "data"],
        "additionalProperties": False,
    }


def _operations() -> dict[str, Any]:
    references, definitions = msgspec.json.schema_components(OPERATIONS, ref_template=_REF)
    return _schema(
        "A WebSocket text message of a client",
        "What has no `op` is ignored.",
        references,
        definitions,
    )


def _answers() -> dict[str, Any]:
    references, definitions = msgspec.json.schema_components(
        [Device, ConnectionStatus], ref_template=_REF
    )
    return _schema(
        "What the lists hold",
        "`devices` of /api/v1/devices, `connections` of /api/v1/stream/connections.",
        references,
        definitions,
    )


def _schema(
    title: str,
    description: str,
    variants: Sequence[Mapping[str, Any]],
    definitions: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "$schema": _DIALECT,
        "title": title,
        "description": description,
        "oneOf": list(variants),
        "$defs": {name: _dedented(definition) for name, definition in definitions.items()},
    }


def _dedented(definition: Mapping[str, Any]) -> dict[str, Any]:
    # Before Python 3.13 a docstring has the indentation of its source.
    if "description" not in definition:
        return dict(definition)
    return {**definition, "description": inspect.cleandoc(definition["description"])}


def text_of(schema: Mapping[str, Any]) -> str:
    """A schema as its file holds it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main(folder: Path = FOLDER) -> None:
    """Write every schema."""
    folder.mkdir(exist_ok=True)
    for name, schema in make_schemas().items():
        (folder / name).write_text(text_of(schema), encoding="utf-8")


if __name__ == "__main__":
    main()
