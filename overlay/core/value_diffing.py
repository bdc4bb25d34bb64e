"""Differences of two JSON values, place by place; and JSON read strictly at the size of a tokenizer.

Objects are compared by key, and the order of their members does not count.  A list of distinct scalars is compared as
the set that it nearly always is (``ignore``, ``eos_token_id``): a member is there or not.  Any other list is compared by
position, once what is equal at both ends is taken off.  ``1``, ``1.0`` and ``true`` are three values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from overlay.core.details import ABSENT, Side
from overlay.formats import strict_json
from overlay.formats.strict_json import JsonProblem, JsonValue

Tokens: TypeAlias = tuple[str, ...]

_STRING_AND_COLON = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\r\n]*+(:?)', re.DOTALL)
_HUGE = re.compile(rb"[0-9]{20}")
"""Every integer past 2**64-1 has twenty digits in a row."""


class ValueChange(NamedTuple):
    """A place at which two values differ."""

    tokens: Tokens
    old: Side
    new: Side
    member: bool = False
    """The place is a list that is used as a set, and `old` or `new` the member that it lost or gained."""


def read_json(data: bytes) -> JsonValue:
    """`strict_json.decode`, several times faster on a text that is full of colons and floats, as tokenizers are.

    Colons are counted after whole strings, so that those inside of strings raise no doubt about repeated keys, and a
    float raises one only where some number is long enough to be an integer that became a float.

    Raises:
        JsonProblem: as `strict_json.decode`.
    """
    value = strict_json.decode_unchecked(data)
    keys, exact = _survey(value)
    # In JSON a colon follows the string that is a key, and nothing else.
    once = keys == data.count(b":") or keys == _STRING_AND_COLON.findall(data).count(b":")
    if once and (exact or not _HUGE.search(data)):
        return value
    return strict_json.decode_slowly(data)


def _survey(value: JsonValue) -> tuple[int, bool]:
    """`strict_json.survey`, level by level without a Python loop over the items of large lists.

    Raises:
        JsonProblem: nested deeper than `MAX_DEPTH`.
    """
    keys, exact, depth = 0, True, 0
    level: list[Any] = [value]
    while level:
        kinds = set(map(type, level))
        exact = exact and float not in kinds
        lists = [item for item in level if type(item) is list] if list in kinds else []
        dicts = [item for item in level if type(item) is dict] if dict in kinds else []
        keys += sum(map(len, dicts))
        depth += bool(lists or dicts)
        if depth > strict_json.MAX_DEPTH:
            raise JsonProblem(f"expected at most {strict_json.MAX_DEPTH} nested levels, found more")
        level = [*chain.from_iterable(lists), *chain.from_iterable(map(dict.values, dicts))]
    return keys, exact


def differences(old: JsonValue, new: JsonValue, at: Tokens = ()) -> Iterator[ValueChange]:
    """The places at which two values differ; none if and only if they are equal.

    What changes is named where it changes, so that a new key of a nested object does not repeat the object.  In a list
    that is used as a set, the order of the members that both have is one change of the whole list.  Recurses as deep as
    the values, which is not deeper than `strict_json.MAX_DEPTH`.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key in new:
                yield from differences(value, new[key], (*at, key))
            else:
                yield ValueChange((*at, key), value, ABSENT)
        for key, value in new.items():
            if key not in old:
                yield ValueChange((*at, key), ABSENT, value)
    elif isinstance(old, list) and isinstance(new, list):
        ours, theirs = _as_set(old), _as_set(new)
        if ours is not None and theirs is not None:
            yield from _of_sets(at, ours, theirs)
        else:
            yield from _of_sequences(at, old, new)
    elif not _equal(old, new):
        yield ValueChange(at, old, new)


def _of_sets(at: Tokens, old: dict[Any, JsonValue], new: dict[Any, JsonValue]) -> Iterator[ValueChange]:
    yield from (ValueChange(at, value, ABSENT, member=True) for key, value in old.items() if key not in new)
    yield from (ValueChange(at, ABSENT, value, member=True) for key, value in new.items() if key not in old)
    if [key for key in old if key in new] != [key for key in new if key in old]:
        yield ValueChange(at, list(old.values()), list(new.values()))


def _of_sequences(at: Tokens, old: list[JsonValue], new: list[JsonValue]) -> Iterator[ValueChange]:
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if not _equal(old[i], new[i])), shorter)
    tail = next((i for i in range(shorter - head) if not _equal(old[-1 - i], new[-1 - i])), shorter - head)
    for i in range(head, shorter - tail):
        yield from differences(old[i], new[i], (*at, str(i)))
    for i in range(shorter - tail, len(old) - tail):
        yield ValueChange((*at, str(i)), old[i], ABSENT)
    for i in range(shorter - tail, len(new) - tail):
        yield ValueChange((*at, str(i)), ABSENT, new[i])


def _as_set(items: list[JsonValue]) -> dict[Any, JsonValue] | None:
    """The items by identity, in their order; None if one is a container or occurs twice."""
    if any(isinstance(item, (dict, list)) for item in items):
        return None
    members = {_identity(item): item for item in items}
    return members if len(members) == len(items) else None


def _identity(scalar: JsonValue) -> tuple[type, Any]:
    """What tells scalars apart: ``0.0`` and ``-0.0`` are equal to Python."""
    return type(scalar), repr(scalar) if isinstance(scalar, float) else scalar


def _equal(old: JsonValue, new: JsonValue) -> bool:
    if isinstance(old, (dict, list)) or isinstance(new, (dict, list)):
        return type(old) is type(new) and strict_json.canonical(old) == strict_json.canonical(new)
    return _identity(old) == _identity(new)
