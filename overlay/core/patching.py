"""Patching: changes to JSON sidecars, decided by value and made in the text.

A manifest changes a file by a JSON Patch (RFC 6902) or a JSON Merge Patch (RFC 7396).  Both are carried out as edits of
the text (`json_text`), so that a patched file differs from the base's only in what the manifest names; all operations
take effect or none.  Two rules are stricter than the RFCs: ``add``, ``replace`` and ``test`` need a ``value`` (``null``
is one), and the whole document cannot be removed (``remove: true`` in the manifest does that).

`touched` and `conflicts` answer whether two changes to one file may be applied in either order; `make_patch` finds the
change between two values.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from overlay.errors import Conflict, InvalidInput
from overlay.formats import json_text, strict_json
from overlay.formats.json_pointer import JsonPointer, PointerProblem, Tokens
from overlay.formats.json_spans import NoSuchPlace
from overlay.formats.json_text import JsonText
from overlay.formats.manifest import FileChange, PatchOperation
from overlay.formats.strict_json import JsonProblem, JsonValue

_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")
_WRONG_BASE: Final = "correct the change in the manifest, or pin the revision of the file that it was written for"


# --- applying


def apply_change(name: str, text: bytes, change: FileChange) -> bytes:
    """The text of the file `name` with the ``patch`` or ``merge`` of `change` made in it.

    Costs time in proportion to the text, for each operation.

    Raises:
        InvalidInput: `text` is not strict JSON, or an operation is malformed.
        Conflict: an operation does not fit the text; the subject names file and pointer, the line the operation.
        ValueError: `change` is neither a patch nor a merge.
    """
    try:
        document = json_text.read(text)
    except JsonProblem as error:
        hint = "fetch the file again, or replace it as a whole with 'from'"
        raise InvalidInput(str(error), subject=name, hint=hint) from None
    if change.patch is not None:
        for number, operation in enumerate(change.patch, 1):
            document = _Step(name, number, operation).apply(document)
        return document
    if change.merge is not None:
        try:
            return merged(document, change.merge)
        except JsonProblem as error:
            raise InvalidInput(str(error), subject=f"{name}: merge", hint="correct the manifest") from None
    raise ValueError("expected a change with patch or merge")


def merged(text: JsonText, patch: JsonValue) -> JsonText:
    """`text` after the merge of RFC 7396: null removes, objects merge, all else replaces.

    Raises:
        JsonProblem: JSON cannot hold a value of `patch`, or the result would be nested too deep.
    """
    strict_json.survey(patch)
    return _merge(text, (), json_text.value_at(text, ()), patch)


def _merge(text: JsonText, at: Tokens, old: JsonValue, patch: JsonValue) -> JsonText:
    """Recurses as deep as `patch`, which is not deeper than `strict_json.MAX_DEPTH`."""
    if not isinstance(patch, dict) or not isinstance(old, dict):
        return json_text.replace(text, at, _without_nulls(patch))
    for key, value in patch.items():
        if key in old:
            text = json_text.remove(text, (*at, key)) if value is None else _merge(text, (*at, key), old[key], value)
        elif value is not None:
            text = json_text.insert_member(text, at, key, _without_nulls(value))
    return text


def _without_nulls(patch: JsonValue) -> JsonValue:
    """What merging `patch` into nothing gives."""
    if not isinstance(patch, dict):
        return patch
    return {key: _without_nulls(value) for key, value in patch.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation of a patch, and what an error says about it."""

    name: str
    number: int
    """Counted from 1."""
    operation: PatchOperation

    def apply(self, text: JsonText) -> JsonText:
        operation = self.operation
        path = self._pointer(operation.path)
        source = self._source()
        value = self._value()
        if operation.op == "test":
            self._test(text, path, value)
            return text
        if operation.op == "move" and path.tokens[: len(source.tokens)] == source.tokens:
            return self._move_inside(text, source, path)
        piece: json_text.NewValue = value
        if operation.op in ("move", "copy"):
            with self._locating(source):
                piece = json_text.excerpt(text, source.tokens)
        if operation.op == "move":
            with self._locating(source):
                text = json_text.remove(text, source.tokens)
        with self._locating(path):
            match operation.op:
                case "add" | "move" | "copy":
                    return json_text.add(text, path.tokens, piece)
                case "remove":
                    return json_text.remove(text, path.tokens)
                case "replace":
                    return json_text.replace(text, path.tokens, value)
                case _:
                    assert_never(operation.op)

    def _pointer(self, text: str) -> JsonPointer:
        try:
            return JsonPointer.parse(text)
        except PointerProblem as error:
            raise self._invalid(str(error), text) from None

    def _source(self) -> JsonPointer:
        if self.operation.op not in ("move", "copy"):
            return JsonPointer()
        if self.operation.from_ is None:
            raise self._invalid("expected a 'from', found none", self.operation.path)
        return self._pointer(self.operation.from_)

    def _value(self) -> JsonValue:
        if self.operation.op in ("add", "replace", "test") and "value" not in self.operation.model_fields_set:
            raise self._invalid("expected a value (null is one), found none", self.operation.path)
        return self.operation.value

    def _test(self, text: JsonText, path: JsonPointer, expected: JsonValue) -> None:
        with self._locating(path):
            strict_json.survey(expected)
            found = json_text.value_at(text, path.tokens)
        if not equal(expected, found):
            raise self._conflict(f"expected {_short(expected)}, found {_short(found)}", path)

    def _move_inside(self, text: JsonText, source: JsonPointer, path: JsonPointer) -> JsonText:
        """A move onto itself changes nothing; one into its own child is impossible (RFC 6902, section 4.4)."""
        with self._locating(source):
            json_text.value_at(text, source.tokens)
        if source == path:
            return text
        problem = f"expected a path outside of {str(source) or 'the document'!r}, found one inside of what is moved"
        raise self._conflict(problem, path, "copy the value, or move it elsewhere")

    @contextmanager
    def _locating(self, pointer: JsonPointer) -> Iterator[None]:
        """Turn problems of the text at `pointer` into errors that name file, operation and pointer."""
        try:
            yield
        except NoSuchPlace as error:
            within = str(JsonPointer(error.within)) or "the document"
            hint = _WRONG_BASE
            if len(error.within) < len(pointer.tokens):
                token = pointer.tokens[len(error.within)]
                near = difflib.get_close_matches(token, error.names, n=1)
                hint = f"did you mean {JsonPointer((*error.within, *near))}?" if near else hint
            problem = f"expected {error.expected} in {within}, found {error.found}"
            raise self._conflict(problem, pointer, hint) from None
        except JsonProblem as error:
            raise self._invalid(str(error), str(pointer)) from None

    def _conflict(self, problem: str, pointer: JsonPointer, hint: str = _WRONG_BASE) -> Conflict:
        return Conflict(f"{self._where}: {problem}", subject=self._subject(str(pointer)), hint=hint)

    def _invalid(self, problem: str, pointer: str) -> InvalidInput:
        hint = f"correct operation {self.number} of the patch in the manifest"
        return InvalidInput(f"{self._where}: {problem}", subject=self._subject(pointer), hint=hint)

    @property
    def _where(self) -> str:
        return f"operation {self.number} ({self.operation.op})"

    def _subject(self, pointer: str) -> str:
        return f"{self.name}: {pointer}" if pointer else self.name


def equal(one: JsonValue, other: JsonValue) -> bool:
    """Equality of RFC 6902, section 4.6: numbers by value, members in any order; a boolean is no number."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"


# --- what a change touches


class Touch(NamedTuple):
    """A place that a change reads or writes."""

    pointer: Tokens
    write: bool
    append: bool = False
    """It writes a new item after the last one of the array at `pointer`; two of these do not disturb each other."""
    shift: bool = False
    """If the container is an array, the later items get other indices."""


def touched(change: FileChange) -> list[Touch]:
    """The places that `change` reads or writes, in its order.

    Which containers are arrays is not known here: ``/x/-`` counts as an append, ``/x/0`` as an index.

    Raises:
        InvalidInput: a pointer is malformed.
    """
    if change.from_ is not None:  # whatever is changed in it, it takes the place of the whole file
        return [Touch((), True)]
    if change.patch is not None:
        return [touch for operation in change.patch for touch in _touched_by(operation)]
    if change.merge is not None:
        return list(_leaves((), change.merge)) if change.merge else []
    return [Touch((), True)]


def conflicts(one: Sequence[Touch], other: Sequence[Touch]) -> tuple[Touch, Touch] | None:
    """The first pair that makes the order of two changes matter; None if they are independent."""
    return next(((mine, theirs) for mine in one for theirs in other if _conflict(mine, theirs)), None)


def _touched_by(operation: PatchOperation) -> Iterator[Touch]:
    path = _tokens(operation.path)
    if operation.op in ("move", "copy") and operation.from_ is not None:
        source = _tokens(operation.from_)
        yield Touch(source, operation.op == "move", shift=operation.op == "move" and _is_index(source))
    if operation.op in ("test", "replace"):
        yield Touch(path, operation.op == "replace")
    elif operation.op != "remove" and path[-1:] == ("-",):
        yield Touch(path[:-1], write=True, append=True)
    else:
        yield Touch(path, write=True, shift=_is_index(path))


def _leaves(at: Tokens, patch: JsonValue) -> Iterator[Touch]:
    if isinstance(patch, dict) and patch:
        for key, value in patch.items():
            yield from _leaves((*at, key), value)
    else:
        yield Touch(at, write=True)


def _tokens(text: str) -> Tokens:
    try:
        return JsonPointer.parse(text).tokens
    except PointerProblem as error:
        raise InvalidInput(str(error), subject=text, hint="correct the patch in the manifest") from None


def _is_index(pointer: Tokens) -> bool:
    return bool(pointer) and _INDEX.fullmatch(pointer[-1]) is not None


def _conflict(one: Touch, other: Touch) -> bool:
    if not (one.write or other.write) or (one.append and other.append):
        return False
    shared = min(len(one.pointer), len(other.pointer))
    return one.pointer[:shared] == other.pointer[:shared] or _shifts(one, other) or _shifts(other, one)


def _shifts(one: Touch, other: Touch) -> bool:
    """Whether `one` gives another index to what `other` touches."""
    depth = len(one.pointer)
    if not one.shift or len(other.pointer) < depth or one.pointer[:-1] != other.pointer[: depth - 1]:
        return False
    return _is_index(other.pointer[:depth]) and int(other.pointer[depth - 1]) >= int(one.pointer[-1])


# --- making a patch


def make_patch(old: JsonValue, new: JsonValue) -> list[PatchOperation]:
    """A small patch that makes `new` of `old`: ``1`` and ``1.0`` differ, the order of members does not count.

    A scalar is tested before it is replaced or removed.  Of two lists, what is equal at both ends stays, the items between
    are changed one by one, and what is left is removed or added.
    """
    return list(_difference((), old, new))


def _difference(at: Tokens, old: JsonValue, new: JsonValue) -> Iterator[PatchOperation]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key in new:
                yield from _difference((*at, key), value, new[key])
            else:
                yield from _removal((*at, key), value)
        for key, value in new.items():
            if key not in old:
                yield PatchOperation(op="add", path=_path(*at, key), value=value)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _difference_of_lists(at, old, new)
    elif not _same(old, new):
        yield from _tested(at, old)
        yield PatchOperation(op="replace", path=_path(*at), value=new)


def _difference_of_lists(at: Tokens, old: list[JsonValue], new: list[JsonValue]) -> Iterator[PatchOperation]:
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if not _same(old[i], new[i])), shorter)
    tail = next((i for i in range(shorter - head) if not _same(old[-1 - i], new[-1 - i])), shorter - head)
    for index in range(head, shorter - tail):
        yield from _difference((*at, str(index)), old[index], new[index])
    for index in reversed(range(shorter - tail, len(old) - tail)):
        yield from _removal((*at, str(index)), old[index])
    for index in range(shorter - tail, len(new) - tail):
        yield PatchOperation(op="add", path=_path(*at, str(index) if tail else "-"), value=new[index])


def _removal(at: Tokens, old: JsonValue) -> Iterator[PatchOperation]:
    yield from _tested(at, old)
    yield PatchOperation(op="remove", path=_path(*at))


def _tested(at: Tokens, old: JsonValue) -> Iterator[PatchOperation]:
    if not isinstance(old, (dict, list)):
        yield PatchOperation(op="test", path=_path(*at), value=old)


def _path(*tokens: str) -> str:
    return str(JsonPointer(tokens))


def _same(one: JsonValue, other: JsonValue) -> bool:
    return strict_json.canonical(one) == strict_json.canonical(other)
