"""Keys of JSON files that make a loader import code, found at any depth.

Files are read as transformers reads them, which is more forgiving than this project is elsewhere: Python's own reader
takes the last of two equal keys, and NaN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from overlay.core.details import ABSENT, Side
from overlay.core.value_diffing import Tokens, read_json
from overlay.formats.strict_json import JsonProblem, JsonValue

CODE_KEYS: Final = frozenset({"auto_map", "custom_pipelines", "_target_"})
"""Keys whose value names Python code, wherever they stand."""

_MODEL_FILE: Final = "model_file"
"""At the top of config.json: mlx-lm imports the Python file that it names."""
_KERNEL_KEYS: Final = frozenset(
    {
        f"{prefix}{what}_implementation{suffix}"
        for prefix in ("", "_")
        for what in ("attn", "experts")
        for suffix in ("", "_internal")
    }
)
_KERNEL = re.compile(r"[^/:]+/[^/:]+(@[^/:]+)?(:[^/:]+)?")
"""How transformers writes a kernel of the Hub, compiled code, in the place of an implementation's name."""
_ANY_KEY = re.compile("|".join(map(re.escape, sorted({*CODE_KEYS, _MODEL_FILE, "_implementation"}))).encode())
_ESCAPED_LETTER = re.compile(rb"\\u00(5[fF]|6|7[0-9aA])")
"""A letter or underscore that could be spelled plainly: a key may be hidden so."""
_ESCAPE = re.compile(rb"\\u00([0-7][0-9a-fA-F])")
_MAX_DEPTH: Final = 500
"""Nested levels up to which Python's own functions can be trusted with a value."""


def read_forgivingly(data: bytes) -> Side:
    """The value that transformers would read; absent when it could not.

    Strict JSON is read as such; what is not, by the standard library.
    """
    try:
        return read_json(data)
    except JsonProblem:
        pass
    try:
        value: JsonValue = json.loads(data.decode())
    except (ValueError, RecursionError):
        return ABSENT
    return ABSENT if _is_deeper(value, _MAX_DEPTH) else value


def find_code_keys(name: str, data: bytes) -> dict[Tokens, JsonValue]:
    """The places of the JSON file `name` that make a loader import code, with what they say.

    The place ``()`` stands for a text that holds such a key and that nobody can read as JSON.  Empty values are left out.
    """
    if not _ANY_KEY.search(data) and not _ESCAPED_LETTER.search(data):
        return {}
    value = read_forgivingly(data)
    if value is ABSENT:
        plain = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), data)
        found = [key for key in sorted(CODE_KEYS) if key.encode() in plain]
        return {(): ", ".join(found)} if found else {}
    is_config = name.rpartition("/")[2].lower() == "config.json"
    return {
        tokens: entry
        for tokens, entry in _members(value)
        if entry and (_names_code(tokens[-1], entry) or (is_config and tokens == (_MODEL_FILE,)))
    }


def _names_code(key: str, value: Any) -> bool:
    if key in CODE_KEYS:
        return True
    if key not in _KERNEL_KEYS:
        return False
    names = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(name, str) and _KERNEL.fullmatch(name) for name in names)


def _members(value: Any) -> Iterator[tuple[Tokens, Any]]:
    """Every member of every object in `value`, with its place.  Nothing recurses."""
    stack: list[tuple[Tokens, Any]] = [((), value)]
    while stack:
        tokens, item = stack.pop()
        if isinstance(item, dict):
            for key, entry in item.items():
                yield (*tokens, key), entry
                if isinstance(entry, (dict, list)):
                    stack.append(((*tokens, key), entry))
        elif isinstance(item, list):
            for number, entry in enumerate(item):
                if isinstance(entry, (dict, list)):
                    stack.append(((*tokens, str(number)), entry))


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        if not level:
            return False
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(level)
