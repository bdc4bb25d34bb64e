"""How a problem inside a document is addressed: by a dotted path such as ``grafts[1].expect.tensors``.

pydantic checks the shape of our documents; this module turns its errors into our words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

Path = tuple[str | int, ...]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

_KINDS = {
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
}
"""pydantic's kinds of error that say which kind of value was expected, in the words of JSON and YAML."""


def _whole_number(value: Any) -> Any:
    """`value`, which a comparison with 1 would also accept as true or 1.0."""
    if type(value) is not int:
        raise ValueError(f"expected 1, found {_short(value)}")
    return value


FormatOne = Annotated[Literal[1], BeforeValidator(_whole_number)]
"""The version of a format."""


class Document(BaseModel):
    """What every document model of this project has in common: frozen, strict, and no unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        populate_by_name=True,
        defer_build=True,  # building a model costs milliseconds, and a command uses two of the twenty
    )


def dotted(path: Path) -> str:
    """``("grafts", 1, "shard")`` as ``grafts[1].shard``; odd keys are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def explain(error: ValidationError, document: Any) -> list[tuple[Path, str]]:
    """Every problem in `error` as (path, "expected …, found …"), in the order of the document."""
    problems = []
    for item in error.errors(include_url=False):
        path = _existing(tuple(item["loc"]), document)
        problems.append((path, _in_words(item, path)))
    return list(dict.fromkeys(problems))


def _existing(loc: Path, document: Any) -> Path:
    """`loc` without the names of union members, which pydantic puts in but the document does not have."""
    path: list[str | int] = []
    value = document
    for position, part in enumerate(loc):
        if _holds(value, part):
            value = value[part]
        elif position == len(loc) - 1 and isinstance(part, str) and isinstance(value, Mapping):
            path.append(part)  # a missing key
            break
        else:
            continue
        path.append(part)
    return tuple(path)


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _in_words(item: Any, path: Path) -> str:
    kind, message, found = item["type"], item["msg"], item.get("input")
    if kind == "missing":
        return "expected a value, found none"
    if kind == "extra_forbidden":
        return f"expected a known key, found {path[-1]!r}" if path else "expected a known key"
    if kind == "value_error":
        return str(message).removeprefix("Value error, ")
    if kind == "too_short":
        return "expected at least one entry, found none"
    if kind in _KINDS:
        return f"expected {_KINDS[kind]}, found {_short(found)}"
    if kind in ("string_pattern_mismatch", "literal_error"):
        wanted = message.removeprefix("Input should be ").removeprefix("String should match pattern ")
        return f"expected {wanted}, found {_short(found)}"
    wanted = str(message).removeprefix("Input should be ").removeprefix("Input should ")
    return f"expected {wanted}, found {_short(found)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
