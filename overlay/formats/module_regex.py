r"""The regular expressions of a ``quantization_config``, matched in bounded time.

Lists such as ``ignore`` hold expressions (``re:.*mlp\.gate$``) that a stranger wrote, and Python's own matcher can be kept
busy for years by a short one.  Theory of operation: a set of positions in a name is one integer, bit p for position p, and
every part of an expression takes the set of positions before it to the set of those behind it.  Nothing is tried twice, so
that time is (length of expression) x (length of name), times the length of the name for each level of nested repetition,
of which there may be two.

What is understood is what such lists hold: literals, ``.``, classes, groups, alternation, repetition (lazy or not, which is
the same here), ``^``, ``$``, and looking ahead.  Everything else is refused: back references, flags, looking behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

MAX_LENGTH: Final = 2000
"""Characters of an expression."""
MAX_NAME: Final = 1000
"""Characters of a name."""
_MAX_NESTED: Final = 2
_MAX_COUNT: Final = 100
_MAX_DEPTH: Final = 40

_REPEAT: Final = re.compile(r"\*|\+|\?|\{(\d{1,3})\}|\{(\d{0,3}),(\d{0,3})\}")
_CLASSES: Final = {"d": str.isdigit, "s": str.isspace, "w": lambda c: c.isalnum() or c == "_"}
_PLAIN_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}

Test = Callable[[str], bool]
"""Whether a character belongs to a class."""


class RegexProblem(ValueError):
    """An expression that is malformed, or that this module does not evaluate."""


class _Text:
    """A name while it is matched."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.end = 1 << len(name)
        self.within = (self.end << 1) - 1
        self._masks: dict[int, int] = {}

    def positions(self, test: Test) -> int:
        """The positions before a character that `test` accepts."""
        key = id(test)
        if key not in self._masks:
            self._masks[key] = sum(1 << at for at, character in enumerate(self.name) if test(character))
        return self._masks[key]


Node = Callable[[_Text, int], int]
"""From the positions before a part to those behind it; a union of sets goes to the union of what they go to."""


class _Part(NamedTuple):
    """A part of an expression, and how many unbounded or counted repetitions lie in one another in it."""

    node: Node
    nested: int = 0


@dataclass(frozen=True)
class ModuleRegex:
    """A compiled expression."""

    text: str
    _node: Node

    def matches(self, name: str) -> bool:
        """Whether some beginning of `name` matches, as with `re.match`.

        Raises:
            RegexProblem: the name is longer than `MAX_NAME`.
        """
        if len(name) > MAX_NAME:
            raise RegexProblem(f"expected a name of at most {MAX_NAME} characters, found {len(name)}")
        return self._node(_Text(name), 1) != 0


def compile_regex(text: str) -> ModuleRegex:
    """Compile `text`.

    Raises:
        RegexProblem: it is malformed, too long, or has something that is not understood here.
    """
    if len(text) > MAX_LENGTH:
        raise RegexProblem(f"expected at most {MAX_LENGTH} characters of expression, found {len(text)}")
    return ModuleRegex(text, _Parser(text).parse())


class _Parser:
    """Recursive descent over an expression, at most `_MAX_DEPTH` groups deep."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def parse(self) -> Node:
        part = self._alternatives()
        if self.at < len(self.text):
            self._refuse("a group that is open")
        return part.node

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self) -> str:
        character = self._peek()
        if not character:
            self._refuse("more of the expression")
        self.at += 1
        return character

    def _refuse(self, expected: str) -> NoReturn:
        found = repr(self.text[self.at : self.at + 10]) if self.at < len(self.text) else "its end"
        raise RegexProblem(f"expected {expected} at character {self.at}, found {found}")

    def _alternatives(self) -> _Part:
        parts = [self._sequence()]
        while self._peek() == "|":
            self.at += 1
            parts.append(self._sequence())
        if len(parts) == 1:
            return parts[0]
        return _Part(_union([part.node for part in parts]), max(part.nested for part in parts))

    def _sequence(self) -> _Part:
        nodes, nested = [], 0
        while self._peek() not in ("", "|", ")"):
            part = self._repeated()
            nodes.append(part.node)
            nested = max(nested, part.nested)
        return _Part(_chain(nodes), nested)

    def _repeated(self) -> _Part:
        if _REPEAT.match(self.text, self.at):
            self._refuse("something to repeat")
        is_anchor = self._peek() in ("^", "$")
        part = self._atom()
        match = _REPEAT.match(self.text, self.at)
        if match is None:
            return part
        if is_anchor:
            self._refuse("something to repeat")
        least, most = _counts(match)
        self.at = match.end()
        if self._peek() == "?":
            self.at += 1  # lazy: whether something matches does not depend on it
        if _REPEAT.match(self.text, self.at):
            self._refuse("a single repetition")
        if (most is not None and not least <= most <= _MAX_COUNT) or least > _MAX_COUNT:
            self._refuse(f"a repetition of at most {_MAX_COUNT}")
        nested = part.nested + (0 if (least, most) == (0, 1) else 1)
        if nested > _MAX_NESTED:
            self._refuse(f"at most {_MAX_NESTED} repetitions inside of one another")
        return _Part(_repetition(part.node, least, most), nested)

    def _atom(self) -> _Part:
        character = self._take()
        if character == "(":
            return self._group()
        if character == "[":
            return _Part(_one(self._class()))
        if character == ".":
            return _Part(_one(lambda c: c != "\n"))
        if character == "^":
            return _Part(lambda text, before: before & 1)
        if character == "$":
            return _Part(lambda text, before: before & text.end)
        if character == "\\":
            return self._escape()
        return _Part(_one(character.__eq__))

    def _escape(self) -> _Part:
        if self._peek() in ("A", "Z"):
            at_start = self._take() == "A"
            return _Part(lambda text, before: before & (1 if at_start else text.end))
        return _Part(_one(self._escaped()))

    def _escaped(self) -> Test:
        """The class or the character that an escape means, its backslash already taken."""
        character = self._take()
        if character.lower() in _CLASSES:
            test: Test = _CLASSES[character.lower()]
            return test if character.islower() else lambda c: not test(c)
        if character in _PLAIN_ESCAPES:
            return _PLAIN_ESCAPES[character].__eq__
        if character.isalnum():
            self.at -= 1
            self._refuse("an escape that is understood here")
        return character.__eq__

    def _group(self) -> _Part:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self._refuse(f"at most {_MAX_DEPTH} groups inside of one another")
        looks = self._group_kind()
        inside = self._alternatives()
        if self._peek() != ")":
            self._refuse("a closing bracket")
        self.at += 1
        self.depth -= 1
        return inside if looks is None else _Part(_ahead(inside.node, wanted=looks), inside.nested + 1)

    def _group_kind(self) -> bool | None:
        """True and False: what follows must, or must not, match ahead; None: a group as others."""
        for opening, looks in (("?:", None), ("?=", True), ("?!", False)):
            if self.text.startswith(opening, self.at):
                self.at += len(opening)
                return looks
        named = re.compile(r"\?P<[A-Za-z_]\w*>").match(self.text, self.at)
        if named:
            self.at = named.end()
        elif self._peek() == "?":
            self._refuse("a group of a kind that is understood here")
        return None

    def _class(self) -> Test:
        negated = self._peek() == "^"
        self.at += negated
        tests: list[Test] = []
        while not tests or self._peek() != "]":
            low = self._take()
            if low == "\\":
                tests.append(self._escaped())
            elif self._peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("", "]"):
                self.at += 1
                high = self._take()
                if high == "\\" or high < low:
                    self._refuse("a range from a character to a later one")
                tests.append(_between(low, high))
            else:
                tests.append(low.__eq__)
        self.at += 1
        return lambda c: any(test(c) for test in tests) != negated


def _counts(match: re.Match[str]) -> tuple[int, int | None]:
    """How often at least and at most; None: without a limit."""
    plain = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(match[0])
    if plain is not None:
        return plain
    if match[1] is not None:
        return int(match[1]), int(match[1])
    return int(match[2] or 0), int(match[3]) if match[3] else None


def _between(low: str, high: str) -> Test:
    return lambda c: low <= c <= high


def _one(test: Test) -> Node:
    return lambda text, before: (before & text.positions(test)) << 1


def _chain(nodes: list[Node]) -> Node:
    def node(text: _Text, before: int) -> int:
        for part in nodes:
            if not before:
                break
            before = part(text, before)
        return before

    return node


def _union(nodes: list[Node]) -> Node:
    def node(text: _Text, before: int) -> int:
        behind = 0
        for part in nodes:
            behind |= part(text, before)
        return behind

    return node


def _repetition(part: Node, least: int, most: int | None) -> Node:
    def node(text: _Text, before: int) -> int:
        for _ in range(least):
            before = part(text, before)
        reached = fresh = before
        rounds = len(text.name) + 1 if most is None else most - least
        while fresh and rounds:
            fresh = part(text, fresh) & ~reached
            reached |= fresh
            rounds -= 1
        return reached

    return node


def _ahead(part: Node, *, wanted: bool) -> Node:
    def node(text: _Text, before: int) -> int:
        singles = (1 << at for at in range(before.bit_length()) if before >> at & 1)
        return sum(single for single in singles if (part(text, single) != 0) == wanted)

    return node
