"""The words that documents are declared in; each gives a JSON Schema (2020-12).

Every declaration says what its value is about, with the unit where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

SHARED = "shared.json"
"""The schema that holds what several documents have in common."""


def text(about: str) -> Schema:
    """A text."""
    return {"type": "string", "description": about}


def one_of(about: str, words: Iterable[str]) -> Schema:
    """One of a few words."""
    return {"type": "string", "enum": list(words), "description": about}


def digest(about: str, *, may_be_empty: bool = False, digits: int = 64) -> Schema:
    """A digest in lower-case hex digits."""
    pattern = f"[0-9a-f]{{{digits}}}"
    return {"type": "string", "pattern": f"^({pattern})?$" if may_be_empty else f"^{pattern}$", "description": about}


def count(about: str, *, least: int = 0) -> Schema:
    """A whole number."""
    return {"type": "integer", "minimum": least, "description": about}


def flag(about: str) -> Schema:
    """True or false."""
    return {"type": "boolean", "description": about}


def items(about: str, schema: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": schema, "description": about}


def entries(about: str, schema: Schema) -> Schema:
    """An object whose keys are names."""
    return {"type": "object", "additionalProperties": schema, "description": about}


def record(about: str, keys: Mapping[str, Schema], *, optional: Iterable[str] = ()) -> Schema:
    """An object with fixed keys: all of them are there but the `optional` ones, and no others."""
    return {
        "type": "object",
        "description": about,
        "properties": dict(keys),
        "required": [key for key in keys if key not in set(optional)],
        "additionalProperties": False,
    }


def shared(name: str, about: str = "") -> Schema:
    """What `SHARED` declares under `name`."""
    return {"$ref": f"{SHARED}#/$defs/{name}", **({"description": about} if about else {})}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    about = {"description": schema["description"]} if "description" in schema else {}
    kept = {key: value for key, value in schema.items() if key != "description"}
    if "enum" in kept:
        return {**kept, "type": [kept["type"], "null"], "enum": [*kept["enum"], None], **about}
    if isinstance(kept.get("type"), str) and kept["type"] != "object":
        return {**kept, "type": [kept["type"], "null"], **about}
    return {"anyOf": [kept, {"type": "null"}], **about}


def document(kind: str, about: str, keys: Mapping[str, Schema], *, optional: Iterable[str] = ()) -> Schema:
    """A whole document of one kind."""
    head = {
        "kind": {"const": kind, "description": "What the document is."},
        "format": {"const": 1, "description": "Version of this form."},
    }
    return record(about, {**head, **keys}, optional=optional)
