"""JSON text changed in place: what an edit does not touch keeps its bytes.

Somebody else's ``config.json`` is not ours to reformat, and a diff that shows one changed line is a diff that a person
can review.  So nothing is parsed and dumped again: every edit finds byte spans in the text and splices it.

Theory of operation, in six rules:

1. `read` judges the text with `strict_json` once (RFC 8259, no repeated key).  What it gives is a `JsonText`; every edit
   of a `JsonText` is one again, so nothing is judged twice.
2. A place is a tuple of reference tokens, as RFC 6901 splits them: member names and array indices.
3. What lies between two children goes with the first of them, so that a child taken off the end leaves no trace.  A new
   child brings the separator that its neighbours have between them.
4. A new array or object is laid out as what it replaces or as the sibling before it, if that is of the same kind and not
   empty; else as the nearest container around it.  Several lines: the indent found there; one line: the separators found
   there.  Inside it every container is laid out alike, and an empty one is ``[]`` or ``{}``.
5. New strings are escaped to ASCII if the whole text is ASCII.
6. A value that is equal to the one it would replace (``1`` and ``1.0`` are not) leaves the text as it was.

An edit costs time in proportion to the text before and in the container that it changes.  Nothing here recurses.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import NamedTuple, NewType, TypeAlias

from overlay.formats import strict_json
from overlay.formats.json_spans import (
    BRACKET,
    DEEPER,
    STRING,
    Child,
    NoSuchPlace,
    Span,
    Tokens,
    array_index,
    checked_index,
    children_of,
    container_at,
    skip_blank,
    walk,
)
from overlay.formats.strict_json import MAX_DEPTH, JsonProblem, JsonValue

JsonText = NewType("JsonText", bytes)
"""Bytes that `read` accepted, or an edit or excerpt of such bytes."""

NewValue: TypeAlias = JsonValue | JsonText
"""A value to be written in the style of its surroundings, or an excerpt, whose spelling is kept."""

_TOKEN = re.compile(STRING.pattern + rb'|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_SEPARATOR = re.compile(STRING.pattern + rb"(?P<colon>\s*:\s*)?|(?P<comma>,\s*)", re.DOTALL)
_MARGIN = re.compile(rb"[ \t]*")


class Style(NamedTuple):
    """How a new container is laid out."""

    newline: bytes
    """What ends a line; empty: everything stands on one line."""
    unit: bytes
    """What one level is indented by."""
    comma: bytes
    """What separates two children on one line."""
    colon: bytes


def read(data: bytes) -> JsonText:
    """Judge `data`; the result is `data` itself.

    Raises:
        JsonProblem: as `strict_json.decode`.
    """
    strict_json.decode(data)
    return JsonText(data)


def value_at(text: JsonText, tokens: Tokens) -> JsonValue:
    """The value at `tokens`; the whole document at ``()``.

    Raises:
        NoSuchPlace: nothing is there.
    """
    span = walk(text, tokens)[-1]
    return strict_json.decode(text[span.begin : span.end])


def excerpt(text: JsonText, tokens: Tokens) -> JsonText:
    """The text of the value at `tokens`, to be put elsewhere: its lines are indented as if it were a document.

    Raises:
        NoSuchPlace: nothing is there.
    """
    span = walk(text, tokens)[-1]
    margin = _margin(text, span.begin)
    return JsonText(text[span.begin : span.end].replace(b"\n" + margin, b"\n"))


def replace(text: JsonText, tokens: Tokens, value: NewValue) -> JsonText:
    """Put `value` in the place of the one at `tokens`.

    Raises:
        NoSuchPlace: nothing is there.
        JsonProblem: JSON cannot hold `value`, or the result would be nested too deep.
    """
    chain = walk(text, tokens)
    old = chain[-1]
    spelled = _spelled(text, value, len(tokens))
    if _equal(text[old.begin : old.end], spelled):
        return text
    style = _style(text, chain[:-1], old, spelled[:1])
    return _splice(text, old, _laid_out(spelled, style, _margin(text, old.begin), isinstance(value, bytes)))


def add(text: JsonText, tokens: Tokens, value: NewValue) -> JsonText:
    """Carry out the ``add`` of RFC 6902, section 4.1.

    A member is set, an item is inserted before the one that has the index, ``-`` appends, and ``()`` replaces all.

    Raises:
        NoSuchPlace: the container is not there, is none, or the index is past its end.
        JsonProblem: as `replace`.
    """
    if not tokens:
        return replace(text, tokens, value)
    within, last = tokens[:-1], tokens[-1]
    chain, children = container_at(text, within, b"{[")
    if text[chain[-1].begin] == ord("["):
        index = len(children) if last == "-" else array_index(last, within)
        return _insert(text, chain, children, checked_index(index, children, within), b"", value)
    if any(child.name == last for child in children):
        return replace(text, tokens, value)
    return _insert(text, chain, children, len(children), _spelled(text, last, 0), value)


def insert_member(text: JsonText, tokens: Tokens, name: str, value: NewValue) -> JsonText:
    """Put a new member at the end of the object at `tokens`.

    Raises:
        KeyError: the object has a member of this name.
        NoSuchPlace: there is no object.
        JsonProblem: as `replace`.
    """
    chain, children = container_at(text, tokens, b"{")
    if any(child.name == name for child in children):
        raise KeyError(name)
    return _insert(text, chain, children, len(children), _spelled(text, name, 0), value)


def insert_item(text: JsonText, tokens: Tokens, index: int | None, value: NewValue) -> JsonText:
    """Put a new item before the one at `index` of the array at `tokens`; None or the array's length appends.

    Raises:
        NoSuchPlace: there is no array, or `index` is past its end.
        JsonProblem: as `replace`.
    """
    chain, children = container_at(text, tokens, b"[")
    index = len(children) if index is None else index
    return _insert(text, chain, children, checked_index(index, children, tokens), b"", value)


def remove(text: JsonText, tokens: Tokens) -> JsonText:
    """Take the member or item at `tokens` out, with the separator that it leaves over.

    Raises:
        NoSuchPlace: nothing is there, or `tokens` names the whole document.
    """
    if not tokens:
        raise NoSuchPlace("a member or an item", "the whole document", ())
    chain = walk(text, tokens)
    container, span = chain[-2:]
    children = list(children_of(text, container))
    at = next(number for number, child in enumerate(children) if child.value == span)
    if len(children) == 1:
        gone = Span(container.begin + 1, container.end - 1)
    elif at < len(children) - 1:
        gone = Span(children[at].begin, children[at + 1].begin)
    else:
        gone = Span(children[at - 1].value.end, span.end)
    return _splice(text, gone, b"")


# --- writing


def _splice(text: bytes, span: Span, piece: bytes) -> JsonText:
    return JsonText(b"".join([text[: span.begin], piece, text[span.end :]]))


def _insert(
    text: bytes, chain: list[Span], children: list[Child], index: int, name: bytes, value: NewValue
) -> JsonText:
    """Splice a child in before `children[index]`, or after the last one; `name` is spelled, and empty for items."""
    container = chain[-1]
    spelled = _spelled(text, value, len(chain))
    neighbour = children[max(index, 1) - 1].value if children else None
    style = _style(text, chain, neighbour, spelled[:1])
    start = name + style.colon if name else b""
    kept = isinstance(value, bytes)
    if not children:
        margin = _margin(text, container.begin)
        child = start + _laid_out(spelled, style, margin + style.unit, kept)
        if style.newline:
            child = style.newline + margin + style.unit + child + style.newline + margin
        return _splice(text, Span(container.begin + 1, container.end - 1), child)
    gap = _gap(text, container, children, index)
    if index < len(children):
        at = children[index].begin
        child = start + _laid_out(spelled, style, _margin(text, at), kept) + gap
    else:
        at = children[-1].value.end
        margin = _margin(gap, len(gap)) if b"\n" in gap else _margin(text, at)
        child = gap + start + _laid_out(spelled, style, margin, kept)
    return _splice(text, Span(at, at), child)


def _gap(text: bytes, container: Span, children: list[Child], index: int) -> bytes:
    """What separates a new child at `index` from its neighbour, as the container does it."""
    if len(children) > 1:
        after = min(max(index, 1), len(children) - 1)
        return text[children[after - 1].value.end : children[after].begin]
    lead = text[container.begin + 1 : children[0].begin]
    return b"," + lead if b"\n" in lead else _separators(text, [container])[0]


def _spelled(text: bytes, value: NewValue, depth: int) -> bytes:
    """`value` as JSON that may stand at `depth`, not laid out yet; an excerpt stays as it is."""
    if isinstance(value, bytes):
        spelled: bytes = value
    else:
        strict_json.survey(value)
        try:
            plain = json.dumps(value, ensure_ascii=text.isascii(), allow_nan=False, separators=(",", ":"))
            spelled = plain.encode()
            strict_json.decode_unchecked(spelled)
        except ValueError:  # not a number, infinite, half a surrogate pair
            raise JsonProblem(f"expected a value that JSON can hold, found {value!r:.60}") from None
    if spelled[:1] in (b"{", b"["):
        for match in BRACKET.finditer(spelled):
            depth += DEEPER.get(match[0], 0)
            if depth > MAX_DEPTH:
                raise JsonProblem(f"expected at most {MAX_DEPTH} nested levels, found more")
    return spelled


def _equal(one: bytes, other: bytes) -> bool:
    return strict_json.canonical(strict_json.decode(one)) == strict_json.canonical(strict_json.decode(other))


def _laid_out(spelled: bytes, style: Style, margin: bytes, kept: bool) -> bytes:
    """`spelled` in `style`, on a line that begins with `margin`.

    An excerpt (`kept`) keeps its lines, or its one line; only where there is no room for lines is it laid out anew.
    """
    if spelled[:1] not in (b"{", b"[") or (kept and b"\n" not in spelled):
        return spelled
    if kept and style.newline:
        return spelled.replace(b"\n", b"\n" + margin)
    pieces: list[bytes] = []
    line, opened = style.newline + margin if style.newline else b"", False
    for match in _TOKEN.finditer(spelled):
        token = match[0]
        if token in (b"}", b"]"):
            line = line[: len(line) - len(style.unit)] if style.newline else line
            pieces += [token] if opened else [line, token]
            opened = False
            continue
        if opened:
            pieces.append(line)
        opened = token in (b"{", b"[")
        if opened and style.newline:
            line += style.unit
        if token == b",":
            pieces.append(b"," + line if style.newline else style.comma)
        else:
            pieces.append(style.colon if token == b":" else token)
    return b"".join(pieces)


# --- style


def _style(text: bytes, chain: list[Span], model: Span | None, opening: bytes) -> Style:
    """How a new value that begins with `opening` is laid out inside of `chain`: see rule 4."""
    around = chain[::-1]
    if model is not None and text[model.begin : model.begin + 1] == opening:
        around = [model, *around]
    newline, unit = b"", b""
    for span in around:
        if (lead := _lead(text, span)) is not None:
            if b"\n" in lead:  # the children stand on lines of their own
                margin, child = _margin(text, span.begin), lead[lead.rfind(b"\n") + 1 :]
                newline = b"\r\n" if b"\r\n" in lead else b"\n"
                unit = child.removeprefix(margin) if child.startswith(margin) else b"  "
            break
    else:
        if b"\n" in text.strip(b" \t\r\n"):
            newline, unit = b"\n", b"  "
    comma, colon = _separators(text, around)
    return Style(newline, unit, comma, colon)


def _lead(text: bytes, span: Span) -> bytes | None:
    """What stands before the first child; None for an empty container, and for a scalar."""
    if text[span.begin] not in b"{[":
        return None
    first = skip_blank(text, span.begin + 1)
    return text[span.begin + 1 : first] if first < span.end - 1 else None


def _margin(text: bytes, at: int) -> bytes:
    """The blanks that the line of `at` begins with."""
    match = _MARGIN.match(text, text.rfind(b"\n", 0, at) + 1, at)
    assert match is not None  # it matches nothing at all, too
    return match[0]


def _separators(text: bytes, around: list[Span]) -> tuple[bytes, bytes]:
    """The comma and the colon of one-line containers: the first that are found within `around`, from the inside out."""
    found: dict[str, bytes] = {}
    for span in [*around, Span(0, len(text))]:
        for match in islice(_SEPARATOR.finditer(text, *span), 1000):  # what shows up later is not the rule
            kind = match.lastgroup
            if kind and b"\n" not in match[kind]:
                found.setdefault(kind, match[kind])
            if len(found) == 2:
                return found["comma"], found["colon"]
    tight = all(mark.strip(b" \t\r") == mark for mark in found.values()) and bool(found)
    return found.get("comma", b"," if tight else b", "), found.get("colon", b":" if tight else b": ")
