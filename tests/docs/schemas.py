"""Holding a document against a schema, and noting which of the schema's properties it has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.docs.pages import DOCS

FOLDER = DOCS / "schemas"
SCHEMAS: Mapping[str, dict[str, Any]] = {
    path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
_REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema, default_specification=DRAFT202012)) for name, schema in SCHEMAS.items()
)

Pointer = tuple[str, ...]
"""The file of a schema, and the keys that lead to a place in it."""


def problems(document: object) -> list[str]:
    """What is wrong with a document of any kind."""
    assert isinstance(document, dict)
    schema = SCHEMAS.get(f"{document.get('kind')}.json")
    if schema is None:
        return [f"no schema for the kind {document.get('kind')}"]
    return [f"{error.json_path}: {error.message}" for error in validator(schema).iter_errors(document)]


def validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    """A validator that finds our other schemas."""
    return jsonschema.Draft202012Validator(schema, registry=_REGISTRY)


def listed() -> set[Pointer]:
    """Every property that a schema lists."""
    return {
        (*at, "properties", key)
        for name, schema in SCHEMAS.items()
        for at, part in _parts(schema, (name,))
        for key in part.get("properties", {})
    }


def objects() -> Iterator[tuple[Pointer, Mapping[str, Any]]]:
    """Every schema of an object."""
    for name, schema in SCHEMAS.items():
        for at, part in _parts(schema, (name,)):
            if part.get("type") == "object":
                yield at, part


def used(document: Mapping[str, Any]) -> set[Pointer]:
    """The listed properties that a valid `document` has."""
    name = f"{document['kind']}.json"
    return set(_used(document, (name,), SCHEMAS[name]))


def _parts(schema: Any, at: Pointer) -> Iterator[tuple[Pointer, Mapping[str, Any]]]:
    """A schema and every one within it."""
    if not isinstance(schema, dict):
        return
    yield at, schema
    for key in ("$defs", "properties"):
        for name, part in schema.get(key, {}).items():
            yield from _parts(part, (*at, key, name))
    for key in ("items", "additionalProperties"):
        yield from _parts(schema.get(key), (*at, key))
    for key in ("oneOf", "anyOf"):
        for number, part in enumerate(schema.get(key, [])):
            yield from _parts(part, (*at, key, str(number)))


def _used(value: Any, at: Pointer, schema: Any) -> Iterator[Pointer]:
    if not isinstance(schema, dict):
        return
    if "$ref" in schema and not schema["$ref"].startswith("https://"):
        name, _, path = schema["$ref"].partition("#/")
        yield from _used(value, (name, *path.split("/")), _at(SCHEMAS[name], path))
    for key in ("oneOf", "anyOf"):
        for number, part in enumerate(schema.get(key, [])):
            if validator({**part, "$id": "part"}).is_valid(value):
                yield from _used(value, (*at, key, str(number)), part)
    if isinstance(value, dict):
        for key, entry in value.items():
            if key in schema.get("properties", {}):
                yield (*at, "properties", key)
                yield from _used(entry, (*at, "properties", key), schema["properties"][key])
            else:
                yield from _used(entry, (*at, "additionalProperties"), schema.get("additionalProperties"))
    if isinstance(value, list):
        for entry in value:
            yield from _used(entry, (*at, "items"), schema.get("items"))


def _at(schema: Any, path: str) -> Any:
    for key in path.split("/"):
        schema = schema[key]
    return schema
