"""Tensor patterns: ``*`` within a dotted part, ``**`` across parts; everything else is itself.  Never a regex.

Theory of operation: a pattern is a row of tokens, and a set of "next tokens" is one integer.  A character moves the
whole set with four integer operations, so that time is (length of name) x (words of pattern), whatever the
pattern; there is nothing to backtrack.  A literal prefix is compared first and decides nearly every name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_TOKENS = re.compile(r"\*+|[^*]")


class Pattern:
    """A compiled tensor pattern; equal to another of the same text."""

    def __init__(self, text: str) -> None:
        self.text = text
        tokens: list[str] = _TOKENS.findall(text)
        self._prefix = text.partition("*")[0]
        rest = tokens[len(self._prefix) :]
        self._all_below = rest == ["**"]
        self._literals: dict[str, int] = {}
        self._within = self._across = 0
        for position, token in enumerate(rest):
            if token == "*":
                self._within |= 1 << position
            elif token.startswith("**"):
                self._across |= 1 << position
            else:
                self._literals[token] = self._literals.get(token, 0) | 1 << position
        self._stars = self._within | self._across
        self._accept = 1 << len(rest)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def matches(self, name: str) -> bool:
        """Whether the whole of `name` is described."""
        if not name.startswith(self._prefix):
            return False
        if self._all_below:
            return True
        states = 1 | (self._stars & 1) << 1
        for character in name[len(self._prefix) :]:
            kept = self._across if character == "." else self._stars
            states = (states & self._literals.get(character, 0)) << 1 | states & kept
            if not states:
                return False
            states |= (states & self._stars) << 1
        return bool(states & self._accept)


def select(patterns: Iterable[Pattern], names: Iterable[str]) -> tuple[list[str], list[Pattern]]:
    """The names that some pattern describes, in their order, and the patterns that describe none."""
    wanted = tuple(patterns)
    chosen = [name for name in names if any(pattern.matches(name) for pattern in wanted)]
    idle = [pattern for pattern in wanted if not any(pattern.matches(name) for name in chosen)]
    return chosen, idle
