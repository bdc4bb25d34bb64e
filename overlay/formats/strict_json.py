"""JSON read without forgetting anything, at orjson's speed.

orjson is fast, and blind in two ways that matter to a checkpoint: of two equal keys it keeps the last, and an
integer past 2**64-1 becomes a float.  Theory of operation, in three rules:

1. Every key is followed by one raw ``:``; a colon inside a string only adds to the count.  So the number of ``:``
   bytes is at least the number of keys written, which is at least the number of keys decoded.  If the two ends
   are equal, no key was written twice.  (No condition on backslashes or on blanks is needed: an escaped colon
   is not a raw one, and two spellings of one key are one decoded key.  Counting ``":`` instead, as is sometimes
   proposed, misses ``{"a" : 1, "a": 2}``.)
2. A float in the result may be an integer that was too large.
3. Where rule 1 or 2 leaves a doubt, the standard library reads the text again, slowly, with a hook that sees all pairs.

`tests/formats/test_strict_json.py` holds this against the slow path alone.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import orjson

JsonValue: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None

MAX_DEPTH = 127
"""Nested arrays and objects that we accept; serde_json, and with it the safetensors library, refuses the 128th."""


class JsonProblem(ValueError):
    """The text is not strict JSON; the message says what and, where known, at which line and column."""


def decode(data: bytes) -> JsonValue:
    """Decode UTF-8 JSON strictly.

    Integers are exact; key order is kept.

    Raises:
        JsonProblem: not UTF-8, not JSON, a repeated key, NaN or Infinity, a number that no double can hold, or nested
            deeper than `MAX_DEPTH`.
    """
    value = decode_unchecked(data)
    keys, exact = survey(value)
    if exact and data.count(b":") == keys:
        return value
    return decode_slowly(data)


def decode_unchecked(data: bytes) -> JsonValue:
    """orjson's reading of `data`: well-formed, but repeated keys and huge integers are not noticed.

    For callers that count keys themselves (rule 1) and reject floats (rule 2).

    Raises:
        JsonProblem: not UTF-8 or not JSON.
    """
    try:
        value: JsonValue = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        found = f"{error.msg} at line {error.lineno} column {error.colno}"
        raise JsonProblem(f"expected JSON, found {found}") from None
    return value


def decode_slowly(data: bytes) -> JsonValue:
    """The standard library's reading, which refuses a repeated key by name.

    Raises:
        JsonProblem: as `decode`.
    """
    # The stricter grammar first (UTF-8, no NaN, no lone surrogates, no bottomless nesting): what passes it cannot
    # fail below for any other reason than a repeated key.
    survey(decode_unchecked(data))
    value: JsonValue = json.loads(data, object_pairs_hook=_unique_keys)
    return value


def encode(value: JsonValue) -> bytes:
    """The one way that this project writes its own JSON documents: indent 2, given key order, final newline."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # an integer past 64 bits, which `decode` keeps exact
        return f"{json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)}\n".encode()


def canonical(value: JsonValue) -> bytes:
    """Compact JSON with sorted keys: equal values give equal bytes, whatever the order they were written in."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # as in `encode`
        return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def survey(value: JsonValue) -> tuple[int, bool]:
    """Count the keys of `value` at all levels, and tell whether it is free of floats.

    Costs time in proportion to the number of values.

    Raises:
        JsonProblem: nested deeper than `MAX_DEPTH`.
    """
    keys, exact = 0, True
    level: list[Any] = [value]
    depth = 0
    while level:
        nested = False
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                nested = True
                keys += len(item)
                below.extend(item.values())
            elif kind is list:
                nested = True
                below.extend(item)
            elif kind is float:
                exact = False
        depth += nested
        if depth > MAX_DEPTH:
            raise JsonProblem(f"expected at most {MAX_DEPTH} nested levels, found more")
        level = below
    return keys, exact


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonProblem(f"expected each key once, found {key!r} twice")
            seen.add(key)
    return found
