"""Places in JSON text: from a pointer's tokens to byte spans, lazily and without recursion.

For texts that were judged before (`strict_json`): what is found here is where things lie, not whether they are right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

Tokens: TypeAlias = tuple[str, ...]
"""Reference tokens of RFC 6901: member names and array indices."""

MAX_NAMES: Final = 2000
"""Member names that an error offers for comparison; a vocabulary has more, and is no help."""

STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
BRACKET = re.compile(STRING.pattern + rb"|[{}\[\]]", re.DOTALL)
_SCALAR = re.compile(rb"[^\s,}\]]+")
_BLANK = re.compile(rb"[ \t\r\n]*")
_INDEX = re.compile(r"0|[1-9][0-9]*")
_KINDS = {b"{": "an object", b"[": "an array", b"{[": "an object or array"}
DEEPER = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}


class NoSuchPlace(LookupError):
    """Nothing is at the place asked for: `within` leads to what is there, and `names` are the members it has."""

    def __init__(self, expected: str, found: str, within: Tokens, names: tuple[str, ...] = ()) -> None:
        self.expected = expected
        self.found = found
        self.within = within
        self.names = names
        super().__init__(f"expected {expected}, found {found}")


class Span(NamedTuple):
    """The value that begins at `begin` and ends before `end`."""

    begin: int
    end: int


class Child(NamedTuple):
    """A member of an object or an item of an array."""

    name: str | None
    """The member's name, unescaped; None for an item."""
    begin: int
    """Where the member begins, its name included."""
    value: Span


def walk(text: bytes, tokens: Tokens) -> list[Span]:
    """The spans from the document's value down to the one at `tokens`."""
    begin = skip_blank(text, 0)
    chain = [Span(begin, len(text.rstrip(b" \t\r\n")))]
    for depth, token in enumerate(tokens):
        chain.append(_step(text, chain[-1], token, tokens[:depth]))
    return chain


def _step(text: bytes, container: Span, token: str, within: Tokens) -> Span:
    match text[container.begin : container.begin + 1]:
        case b"{":
            names: list[str] = []
            for child in children_of(text, container):
                if child.name == token:
                    return child.value
                if len(names) < MAX_NAMES:
                    names.append(str(child.name))
            listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise NoSuchPlace(f"a member {token!r}", listed or "an empty object", within, tuple(names))
        case b"[":
            if token == "-":
                raise NoSuchPlace("an item", "'-', the place after the last item", within)
            index = array_index(token, within)
            length = 0
            for length, child in enumerate(children_of(text, container), 1):
                if length > index:
                    return child.value
            found = f"index {token[:20]}" if length else "an empty array"
            raise NoSuchPlace(f"an index below {length}" if length else f"an item {token[:20]}", found, within)
        case _:
            raise NoSuchPlace(_KINDS[b"{["], glimpse(text, container), within)


def array_index(token: str, within: Tokens) -> int:
    """An array index as RFC 6901 writes it: ASCII digits, no leading zero.

    Raises:
        NoSuchPlace: it is none.
    """
    if not _INDEX.fullmatch(token):
        raise NoSuchPlace("an array index", repr(token), within)
    return int(token[:18])  # cut, it is still past the end of every array


def checked_index(index: int, children: list[Child], within: Tokens) -> int:
    """`index`, if an item can be put there.

    Raises:
        NoSuchPlace: it is past the end.
    """
    if not 0 <= index <= len(children):
        raise NoSuchPlace(f"an index of at most {len(children)}", str(index), within)
    return index


def container_at(text: bytes, tokens: Tokens, openings: bytes) -> tuple[list[Span], list[Child]]:
    """The spans down to the container at `tokens`, which begins with one of `openings`, and its children."""
    chain = walk(text, tokens)
    if text[chain[-1].begin] not in openings:
        raise NoSuchPlace(_KINDS[openings], glimpse(text, chain[-1]), tokens)
    return chain, list(children_of(text, chain[-1]))


def children_of(text: bytes, container: Span) -> Iterator[Child]:
    """The members of an object or the items of an array, in order."""
    named = text[container.begin] == ord("{")
    at = skip_blank(text, container.begin + 1)
    while at < container.end - 1:
        name, begin = None, at
        if named:
            match = STRING.match(text, at)
            assert match is not None  # the text was judged by `read`
            name = str(json.loads(match[0])) if b"\\" in match[0] else match[0][1:-1].decode()
            at = skip_blank(text, skip_blank(text, match.end()) + 1)
        value = Span(at, value_end(text, at))
        yield Child(name, begin, value)
        at = skip_blank(text, value.end)
        if text[at] == ord(","):
            at = skip_blank(text, at + 1)


def value_end(text: bytes, at: int) -> int:
    """Where the value that begins at `at` ends."""
    if text[at] in b"{[":
        depth = 0
        for match in BRACKET.finditer(text, at):
            depth += DEEPER.get(match[0], 0)
            if not depth:
                return match.end()
    found = (STRING if text[at] == ord('"') else _SCALAR).match(text, at)
    assert found is not None  # the text was judged by `read`
    return found.end()


def skip_blank(text: bytes, at: int) -> int:
    """The first offset from `at` on that is not blank."""
    match = _BLANK.match(text, at)
    assert match is not None  # it matches nothing at all, too
    return match.end()


def glimpse(text: bytes, span: Span) -> str:
    """The beginning of a value, for a message."""
    found = text[span.begin : span.end].decode()
    return found if len(found) <= 60 else found[:57] + "…"
