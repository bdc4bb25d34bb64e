"""JSON Pointers (RFC 6901): a place in a JSON document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

Tokens: TypeAlias = tuple[str, ...]


class PointerProblem(ValueError):
    """The text is not a JSON Pointer; the message says what was expected and found."""


@dataclass(frozen=True, slots=True)
class JsonPointer:
    """A place in a JSON document (RFC 6901): ``parse(str(p)) == p``, and ``str(parse(t)) == t``."""

    tokens: Tokens = ()
    """Member names and array indices, unescaped; none: the whole document."""

    @classmethod
    def parse(cls, text: str) -> JsonPointer:
        """Parse ``/a/b~1c/0``; the empty text is the whole document.

        Raises:
            PointerProblem: no ``/`` in front, or a ``~`` that is neither ``~0`` nor ``~1`` (RFC 6901, section 3).
        """
        if not text:
            return cls()
        if text[0] != "/":
            raise PointerProblem(f"expected a JSON Pointer such as /a/b/0, found {text!r}")
        if found := re.search(r"~(?![01]).?", text, re.DOTALL):
            raise PointerProblem(f"expected ~0 (a tilde) or ~1 (a slash), found {found[0]!r} in {text!r}")
        return cls(tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/")))

    def __str__(self) -> str:
        return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in self.tokens)
