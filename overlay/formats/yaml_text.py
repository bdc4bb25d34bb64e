"""Restricted YAML: the part of YAML 1.1 and 1.2 that means one thing to everybody.

Refused, each with its line and column: anchors and aliases, tags, repeated keys, keys that are not strings, several
documents, and plain scalars that two readers understand differently (``on``, ``0012``, ``1_000``, ``12:30:00``,
``2026-11-21``); quotes make those plain strings.  Built from parser events with a stack of our own, so that nesting costs
no recursion.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

MAX_BYTES: Final = 1024 * 1024
"""Parsing costs up to 11 s a megabyte (measured on a megabyte of commas); a large manifest has a few kilobytes."""
MAX_DEPTH: Final = 32

Path = tuple[str | int, ...]

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+([eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)")
_AMBIGUOUS = re.compile(
    r"(?i:y|n|yes|no|on|off|true|false|null|[-+]?\.(inf|nan))|[-+]?[0-9][0-9_,]*(:[0-5]?[0-9])+(\.[0-9]*)?|[-+]?0[0-9_]+|\+[0-9].*"
    r"|[-+]?0[xob][0-9a-fA-F_]+|[-+]?[0-9][0-9]*_[0-9_]*|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"
    r"|[-+]?([0-9]+\.[0-9]*|\.[0-9]+)|=|<<"
)
_WORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("null", "~", ""), None),
    "true": True,
    "false": False,
}


class Place(NamedTuple):
    """A position in a text, counted from 1."""

    line: int
    column: int


class YamlProblem(NamedTuple):
    """One thing wrong, and where."""

    place: Place
    path: Path
    message: str


class YamlProblems(ValueError):
    """Everything that is wrong with a text."""

    def __init__(self, problems: list[YamlProblem]) -> None:
        self.problems = problems
        super().__init__("; ".join(problem.message for problem in problems))


@dataclass(slots=True)
class Document:
    """A parsed text: plain values, the place of each of them, and what was wrong in passing."""

    value: Any
    places: dict[Path, Place]
    problems: list[YamlProblem]

    def place_of(self, path: Path) -> Place:
        """The place of `path`, or of the nearest thing around it that exists."""
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path, Place(1, 1))


def read_yaml(data: bytes) -> Document:
    """Parse `data`; what can be read around a refused construct is read, so that all problems come at once.

    Raises:
        YamlProblems: not UTF-8, or not YAML at all.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlProblems([YamlProblem(Place(line, 1), (), "expected UTF-8 text, found other bytes")]) from None
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.YAMLError as error:
        raise YamlProblems([*builder.problems, _syntax_problem(error, text)]) from None
    return Document(builder.root, builder.places, builder.problems)


def _syntax_problem(error: yaml.YAMLError, text: str) -> YamlProblem:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        place = Place(mark.line + 1, mark.column + 1)
    else:
        position = getattr(error, "position", 0)
        place = Place(text.count("\n", 0, position) + 1, 1)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
    return YamlProblem(place, (), f"expected YAML, found {problem}")


def _mark(event: yaml.Event) -> yaml.error.Mark:
    """Where an event begins; the pure Python parser, which is used here, always says."""
    mark = event.start_mark
    assert isinstance(mark, yaml.error.Mark)
    return mark


@dataclass(slots=True)
class _Open:
    """A collection that is being filled; `key` is the path element of the value that comes next."""

    value: dict[str, Any] | list[Any]
    path: Path
    key: str | None = None


@dataclass(slots=True)
class _Builder:
    root: Any = None
    documents: int = 0
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[YamlProblem] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)

    def take(self, event: yaml.Event) -> None:
        mark = _mark(event)
        place = Place(mark.line + 1, mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._complain(place, "expected one document, found a second one")
        elif isinstance(event, (yaml.CollectionEndEvent, yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self.stack.pop()
        elif isinstance(event, yaml.AliasEvent):
            self._complain(place, f"expected a value, found the alias *{event.anchor}")
            self._put(None, place)
        elif isinstance(event, yaml.NodeEvent):
            self._node(event, place)

    def _node(self, event: yaml.NodeEvent, place: Place) -> None:
        if event.anchor is not None:
            self._complain(place, f"expected a value, found the anchor &{event.anchor}")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._complain(place, f"expected a value, found the tag {tag}")
        if isinstance(event, yaml.ScalarEvent):
            self._put(self._scalar(event, place), place, text=event.value)
            return
        value: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._put(value, place)
        if len(self.stack) >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} nested levels", problem_mark=_mark(event))
        self.stack.append(_Open(value, path))

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Any:
        text: str = event.value
        if event.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return int(text) if len(text) < 40 else text
        if _FLOAT.fullmatch(text):
            number = float(text)
            if math.isinf(number):
                self._complain(place, f"expected a number that a double can hold, found {text} (write it in quotes)")
                return text
            return number
        if _AMBIGUOUS.fullmatch(text):
            self._complain(place, f"expected a value that all YAML readers agree on, found {text} (write it in quotes)")
        return text

    def _put(self, value: Any, place: Place, text: str = "") -> Path:
        """Store `value` where the open collection expects it; a scalar may instead become a mapping's key."""
        if not self.stack:
            if self.documents <= 1:
                self.root = value
                self.places[()] = place
            return ()
        parent = self.stack[-1]
        if isinstance(parent.value, list):
            path: Path = (*parent.path, len(parent.value))
            parent.value.append(value)
        elif parent.key is None:
            self._open_key(parent, value, place, text)
            return parent.path
        else:
            path = (*parent.path, parent.key)
            parent.value[parent.key] = value
            parent.key = None
        self.places.setdefault(path, place)
        return path

    def _open_key(self, parent: _Open, value: Any, place: Place, text: str) -> None:
        assert isinstance(parent.value, dict)
        if not isinstance(value, str):
            self._complain(place, f"expected a string as key, found {text or 'a collection'}")
            text = text or f"<{place.line}:{place.column}>"
        if text in parent.value:
            first = self.places.get((*parent.path, text), place)
            self._complain(place, f"expected each key once, found {text!r} again (first at line {first.line})")
        parent.key = text
        self.places.setdefault((*parent.path, text), place)

    def _complain(self, place: Place, message: str) -> None:
        path: Path = ()
        if self.stack:
            parent = self.stack[-1]
            here = len(parent.value) if isinstance(parent.value, list) else parent.key
            path = parent.path if here is None else (*parent.path, here)
        self.problems.append(YamlProblem(place, path, message))
