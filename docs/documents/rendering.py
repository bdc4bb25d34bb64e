"""The declarations as files: one schema a kind, and a page for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from documents.kinds import KINDS
from documents.shared import DEFINITIONS
from documents.words import SHARED, Schema

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_INTRODUCTION: Final = """\
Every command prints one JSON document on one line with `--json`, also when it fails. A document says what it is: `kind`, and
`format`, the version of the form, which is 1. Keys may be added to a format; a key that is there keeps its meaning. Text is
escaped to ASCII. Sizes are whole numbers of bytes, digests are lower-case hex digits.

The schemas are JSON Schema 2020-12. They say what this version prints, with no key more, and refer to each other by file
name: what several kinds have in common, such as a finding, is in [shared.json](schemas/shared.json). Where a command stops
before it has a result, the document is of the kind `error`, and the exit code is in it.
"""


def schema_files() -> dict[str, str]:
    """Name to text of every schema."""
    files = {f"{kind}.json": _file(kind, schema) for kind, (_, schema) in KINDS.items()}
    return {**files, SHARED: _text(SHARED, "What several documents have in common", {"$defs": DEFINITIONS})}


def json_page(note: str) -> Iterator[str]:
    """The page of documents."""
    yield from ("# JSON documents", "", note, "", _INTRODUCTION)
    yield from ("| kind | printed by | schema |", "|---|---|---|")
    for kind, (commands, _) in KINDS.items():
        names = ", ".join(f"`{name}`" if name.startswith("overlay") else name for name in commands.split(", "))
        yield f"| [{kind}](#{kind}) | {names} | [{kind}.json](schemas/{kind}.json) |"
    for kind, (_, schema) in KINDS.items():
        yield from ("", f"## {kind}")
        for form in schema.get("oneOf", [schema]):
            yield from ("", form["description"], "", "| key | value | meaning |", "|---|---|---|")
            required = set(form["required"])
            for key, value in form["properties"].items():
                if key not in ("kind", "format"):
                    yield f"| `{key}` | {_value(value)}{'' if key in required else ', or not there'} | {_about(value)} |"
    yield ""


def _file(kind: str, schema: Schema) -> str:
    return _text(f"{kind}.json", f"The document {kind} of overlay --json", schema)


def _text(name: str, title: str, schema: Mapping[str, Any]) -> str:
    return json.dumps({"$schema": DIALECT, "$id": name, "title": title, **schema}, indent=2, ensure_ascii=False) + "\n"


def _value(schema: Schema) -> str:
    """What kind of value it is, in a word or two."""
    if "anyOf" in schema:
        return f"{_value(schema['anyOf'][0])} or null"
    if "$ref" in schema:
        return _name(schema["$ref"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = {
        "string": "text",
        "integer": "whole number",
        "boolean": "true or false",
        "null": "null",
        "object": "object",
    }
    return " or ".join(f"list of {_items(schema['items'])}" if kind == "array" else words[kind] for kind in kinds)


def _items(schema: Schema) -> str:
    if "$ref" in schema:
        return _name(schema["$ref"])
    return {"string": "text", "integer": "whole numbers", "object": "objects"}[schema["type"]]


def _name(reference: str) -> str:
    """What a reference leads to, as a link where it is ours."""
    if not reference.startswith(SHARED):
        return "object"
    name = reference.removeprefix(f"{SHARED}#/$defs/")
    return "text" if "/" in name else f"[{name.replace('_', ' ')}](schemas/{SHARED})"


def _about(schema: Schema) -> str:
    words = ", ".join(f"`{word}`" for word in schema.get("enum", ()) if word is not None)
    return f"{schema.get('description', '')}{f' One of {words}.' if words else ''}".replace("|", "\\|").strip()
