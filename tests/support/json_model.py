"""JSON changes on values, by the words of RFC 6902 and RFC 7396, and random ones; knows nothing of texts or spans."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Operation = dict[str, Any]

_NAMES = st.sampled_from(["ignore", "moe", "rope_theta", "a/b", "m~n", "0", "-x"])
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.sampled_from([0.5, -1.25, 1e-7, "", "on", "0012", "a b"])
)
json_values: st.SearchStrategy[Any] = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3), max_leaves=6
)


def text_of(value: Any) -> bytes:
    """How every JSON sidecar of these tests is set out."""
    return (json.dumps(value, indent=2) + "\n").encode()


def patched(value: Any, operations: list[Operation]) -> Any:
    """`value` after a JSON Patch whose operations all fit."""
    document = copy.deepcopy(value)
    for operation in operations:
        document = _after(document, operation)
    return document


def merged(value: Any, patch: Any) -> Any:
    """`value` after a JSON Merge Patch (RFC 7396, section 2)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(value) if isinstance(value, dict) else {}
    for name, entry in patch.items():
        if entry is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), entry)
    return result


def get(value: Any, path: str) -> Any:
    """What stands at the JSON Pointer `path`."""
    for token in _tokens(path):
        value = value[int(token)] if isinstance(value, list) else value[token]
    return value


@st.composite
def operations_on(draw: st.DrawFn, value: Any, below: str, most: int = 3) -> list[Operation]:
    """Operations that fit `value` and change nothing but what is below the object at `below`."""
    operations: list[Operation] = []
    for _ in range(draw(st.integers(1, most))):
        operation = draw(_operation(patched(value, operations), below))
        operations.append(operation)
    return operations


@st.composite
def merges_on(draw: st.DrawFn, value: Any, name: str) -> dict[str, Any]:
    """A merge that changes nothing but the member `name` of `value`."""
    present = value.get(name) if isinstance(value, dict) else None
    entry: Any = draw(json_values)
    if isinstance(present, dict) and present and draw(st.booleans()):
        entry = {draw(st.sampled_from(sorted(present))): draw(json_values)}
    return {name: entry}


@st.composite
def _operation(draw: st.DrawFn, value: Any, below: str) -> Operation:
    places = [place for place in _places(value, below) if place != below]
    kind = draw(st.sampled_from(["add", "append", "insert", "remove", "replace", "move", "copy", "test"]))
    if not places or kind == "add":
        objects = [at for at in (below, *places) if isinstance(get(value, at), dict)]
        return {
            "op": "add",
            "path": f"{draw(st.sampled_from(objects))}/{draw(_NAMES.map(_escaped))}",
            "value": draw(json_values),
        }
    place = draw(st.sampled_from(places))
    if kind in ("append", "insert"):
        lists = [at for at in places if isinstance(get(value, at), list)]
        if lists:
            at = draw(st.sampled_from(lists))
            index = "-" if kind == "append" else str(draw(st.integers(0, len(get(value, at)))))
            return {"op": "add", "path": f"{at}/{index}", "value": draw(json_values)}
        kind = "replace"
    if kind == "remove":
        return {"op": "remove", "path": place}
    if kind in ("move", "copy"):
        return {"op": kind, "from": place, "path": f"{below}/{kind}d"}
    found = get(value, place)
    return {"op": kind, "path": place, "value": found if kind == "test" else draw(json_values)}


def _after(document: Any, operation: Operation) -> Any:
    kind, path = operation["op"], operation["path"]
    if kind == "test":
        assert operation["value"] == get(document, path)
        return document
    if kind == "remove":
        _take(document, path)
        return document
    if kind == "replace":
        parent, last = _parent(document, path)
        parent[int(last) if isinstance(parent, list) else last] = copy.deepcopy(operation["value"])
        return document
    if kind == "add":
        value = copy.deepcopy(operation["value"])
    else:
        source = operation["from"]
        value = _take(document, source) if kind == "move" else copy.deepcopy(get(document, source))
    parent, last = _parent(document, path)
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else int(last), value)
    else:
        parent[last] = value
    return document


def _take(document: Any, path: str) -> Any:
    parent, last = _parent(document, path)
    return parent.pop(int(last) if isinstance(parent, list) else last)


def _parent(document: Any, path: str) -> tuple[Any, str]:
    above, _, _ = path.rpartition("/")
    return get(document, above), _tokens(path)[-1]


def _places(value: Any, at: str) -> Iterator[str]:
    """Every place at and below `at`, as pointers."""
    yield at
    found = get(value, at)
    names = (
        map(_escaped, found)
        if isinstance(found, dict)
        else map(str, range(len(found) if isinstance(found, list) else 0))
    )
    for name in names:
        yield from _places(value, f"{at}/{name}")


def _tokens(path: str) -> list[str]:
    return [token.replace("~1", "/").replace("~0", "~") for token in path.split("/")[1:]]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
