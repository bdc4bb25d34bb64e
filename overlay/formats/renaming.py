"""Renaming by patterns: what the wildcards of a pattern stood for is put in the place of those of a replacement.

``model.layers.*.mlp.**`` to ``model.decoder.*.ffn.**`` turns ``model.layers.3.mlp.up.weight`` into
``model.decoder.3.ffn.up.weight``.  Where a name can be read in several ways, an earlier wildcard takes as little as
possible.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from overlay.formats.patterns import Pattern

_TOKENS: Final = re.compile(r"\*+|[^*]+")


def explain_renaming(pattern: str, replacement: str) -> str:
    """Say how the wildcards of a replacement differ from those of its pattern; "" when they are the same."""
    wanted, found = _wildcards(pattern), _wildcards(replacement)
    if wanted == found:
        return ""
    return f"expected the wildcards of the pattern ({_words(wanted)}), found {_words(found)} in {replacement!r}"


def _wildcards(text: str) -> list[str]:
    return [token[:2] for token in _TOKENS.findall(text) if token.startswith("*")]


def _words(wildcards: list[str]) -> str:
    return " ".join(wildcards) or "none"


@dataclass(frozen=True)
class Renaming:
    """One entry of a `rename` step; `explain_renaming` finds nothing wrong with it."""

    pattern: str
    replacement: str

    @cached_property
    def _tokens(self) -> list[str]:
        return _TOKENS.findall(self.pattern)

    @cached_property
    def _pattern(self) -> Pattern:
        return Pattern(self.pattern)

    def apply(self, name: str) -> str | None:
        """The new name of the tensor `name`; None when the pattern does not describe it.

        Costs (length of name) squared x (words of pattern) at most, and no more than matching for other names.
        """
        if not self._pattern.matches(name):
            return None
        stood_for = iter(_captures(self._tokens, name))
        return "".join(next(stood_for) if t.startswith("*") else t for t in _TOKENS.findall(self.replacement))


def _captures(tokens: list[str], name: str) -> list[str]:
    """What each wildcard stands for in a name that the pattern describes.

    From the last token to the first: at which positions can the rest of the pattern begin?  Then forwards, each wildcard
    up to the first position from which the rest fits.
    """
    fits = [{len(name)}]
    for token in reversed(tokens):
        behind = fits[-1]
        if token.startswith("*"):
            fits.append({at for at in range(len(name) + 1) if _shortest(token, name, at, behind) is not None})
        else:
            fits.append({end - len(token) for end in behind if name[: max(end, 0)].endswith(token)})
    fits.reverse()
    at, captures = 0, []
    for token, behind in zip(tokens, fits[1:], strict=True):
        if token.startswith("*"):
            end = _shortest(token, name, at, behind)
            assert end is not None  # the pattern describes the name
            captures.append(name[at:end])
            at = end
        else:
            at += len(token)
    return captures


def _shortest(token: str, name: str, at: int, behind: set[int]) -> int | None:
    """The first position of `behind` that the wildcard `token` reaches from `at`."""
    end = len(name) if len(token) > 1 else (name.find(".", at) if "." in name[at:] else len(name))
    return next((position for position in range(at, end + 1) if position in behind), None)
