"""The front matter of a model card: the few keys of it that a reader of licences and lineage needs.

Cards are written by people, and their YAML is whatever the Hub let through: dates, anchors, ``no`` for a language.  So
only the lines of the wanted keys are read, each key by itself; what is no restricted YAML is taken as the text it is.
Nothing here fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from overlay.formats.yaml_text import read_yaml

CARD_KEYS: Final = ("license", "license_name", "license_link", "base_model", "base_model_relation")

_MAX_CHARACTERS: Final = 1024 * 1024
"""Of a card that are searched for its front matter."""
_MAX_ENTRY: Final = 8 * 1024
"""Characters of one key's lines that are read as YAML, which is slow."""
_OPENING = re.compile(r"\s*---[ \t]*\r?\n")
_CLOSING = re.compile(r"^---[ \t]*\r?$", re.MULTILINE)
_KEY = re.compile(rf"""(["']?)({"|".join(CARD_KEYS)})\1[ \t]*:(?=\s|$)""")


def read_front_matter(data: bytes) -> dict[str, str]:
    """The values of `CARD_KEYS` in the card `data`, as text: ``"mit"``, ``"org/a, org/b"``; absent ones are left out.

    A key that is written twice gives both values, with `` | `` between them.
    """
    text = _front_matter(data.decode(errors="replace").removeprefix("\ufeff")[:_MAX_CHARACTERS])
    if text.lstrip().startswith("{"):  # flow style
        value = _parsed(text)
        return {key: _text(value[key]) for key in CARD_KEYS if key in value} if isinstance(value, dict) else {}
    found: dict[str, str] = {}
    for key, entry in _entries(text):
        parsed = _parsed(entry)
        raw = " ".join(entry.partition(":")[2].split())
        value = _text(parsed[key]) if isinstance(parsed, dict) and key in parsed else raw
        found[key] = f"{found[key]} | {value}" if key in found else value
    return found


def _front_matter(text: str) -> str:
    opening = _OPENING.match(text)
    if opening is None:
        return ""
    closing = _CLOSING.search(text, opening.end())
    return text[opening.end() : closing.start()] if closing else ""


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Each wanted key with its lines: the one it stands on, and the indented ones and list items that follow."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        match = _KEY.match(line)
        if match is None:
            continue
        end = at + 1
        while end < len(lines) and (not lines[end].strip() or lines[end][0] in " \t#-"):
            end += 1
        yield match[2], "\n".join(lines[at:end])


def _parsed(entry: str) -> Any:
    if len(entry) > _MAX_ENTRY:
        return None
    try:
        return read_yaml(entry.encode(errors="replace")).value
    except (ValueError, OverflowError):  # no YAML, or an escape that is no character
        return None


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
