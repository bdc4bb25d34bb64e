"""Claims: statements that a card or a user makes about a checkpoint, as far as they can be held against one.

Read from prose, so that little is understood and the rest is left alone: a number of tensors or bytes, with a word that says
which are meant; numbers of tensors by dtype; a repository that tensors are said to come from.  `core.judging` holds them
against a difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from overlay.formats.dtypes import BITS


class About(StrEnum):
    """Which tensors a figure speaks of."""

    ADDED = "added"
    REPLACED = "replaced"
    KEPT = "unchanged"
    REMOVED = "removed"
    MOVED = "moved"
    ANY = ""
    """The words do not say: those that were added or replaced, or all there are."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement, as it was found."""

    text: str
    """The words that say it."""
    source: str
    """The file that says it, or ``--claim``."""
    kind: Literal["tensors", "bytes", "dtypes", "donor"]
    number: int = 0
    """Of tensors, or of bytes."""
    tolerance: int = 0
    """Bytes by which a rounded figure may differ."""
    about: About = About.ANY
    dtypes: tuple[tuple[str, int], ...] = ()
    """Dtype and number of tensors, by name."""
    donor: str = ""
    """The repository that tensors are said to come from."""
    unread: str = ""
    """A word that may mean something and is not understood: the claim stays open then."""


class ClaimProblem(ValueError):
    """A text that holds more than claims, or none."""


_NUMBER: Final = r"(?<![\w.,+-])(\d{1,3}(?:,\d{3})+|\d{1,18})"
_DTYPE: Final = "|".join(sorted(map(re.escape, BITS), key=len, reverse=True))
_WORDS: Final = r"((?:[A-Za-z][\w-]{0,20}\s+){0,3})"
_AFTER: Final = (
    r"(?:\s+(?:are\s+|were\s+|is\s+|was\s+)?"
    r"(added|new|replaced|rewritten|changed|unchanged|identical|removed|dropped|moved)\b)?"
)
_TENSORS = re.compile(rf"{_NUMBER}\s+{_WORDS}tensors?\b{_AFTER}", re.IGNORECASE)
_BYTES = re.compile(rf"{_NUMBER}\s+{_WORDS}bytes?\b{_AFTER}", re.IGNORECASE)
_FIGURES: Final[tuple[tuple[Literal["tensors", "bytes"], re.Pattern[str]], ...]] = (
    ("tensors", _TENSORS),
    ("bytes", _BYTES),
)
_ROUNDED = re.compile(rf"(?<![\w.,+-])(\d{{1,6}}(?:\.\d{{1,3}})?)\s?(GB|GiB|MB|MiB|TB)\b{_AFTER}")
_COUNT: Final = rf"{_NUMBER}\s+({_DTYPE})\b"
_COUNTS = re.compile(rf"{_COUNT}(?:\s*(?:\+|and|,)\s*{_COUNT}){{0,8}}")
_ONE_COUNT = re.compile(rf"(\d[\d,]*)\s+({_DTYPE})\b")
_DONOR = re.compile(
    r"(?:unmodified|unchanged|verbatim|byte-identical|bit-identical|copied|extracted|taken)\b[^.\n]{0,80}?\b(?:of|from|to)\s+"
    r"\[?`?([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}?)(?=[`\]\s,;:)]|\.?$|\.\s)",
    re.IGNORECASE | re.MULTILINE,
)
_OF_TENSORS = re.compile(r"\b(?:tensors?|weights?|shards?|layers?|parameters?|experts?|heads?)\b", re.IGNORECASE)
_NEGATED = re.compile(r"\b(?:not|never|no|nor|without|isn't|aren't|weren't|wasn't)\b", re.IGNORECASE)
_UNITS: Final = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30}

_ABOUT: Final = {
    **dict.fromkeys(("added", "new", "additional", "extra", "grafted"), About.ADDED),
    **dict.fromkeys(("replaced", "rewritten", "changed", "modified", "requantised", "requantized"), About.REPLACED),
    **dict.fromkeys(("unchanged", "unmodified", "identical", "untouched"), About.KEPT),
    **dict.fromkeys(("removed", "dropped"), About.REMOVED),
    "moved": About.MOVED,
}
_PLAIN: Final = frozenset(
    ["mtp", "nextn", "draft", "weight", "model", "head", "layer", "graft", "data", "tensor", "safetensors"]
)
"""Words before "tensors" that change nothing."""
_SCALES: Final = frozenset(["thousand", "million", "billion", "trillion", "k", "m", "b"])
_FILLERS = re.compile(
    r"(?:adds?|all|and|are|has|holds?|in|is|it|of|that|the|there|these|this|to|total|with|which|tensors?)\b|[\s,.;:()+&\[\]`'\"]+",
    re.IGNORECASE,
)

MAX_TEXT: Final = 200_000
"""Characters of a card that are searched."""


def find_claims(text: str, source: str) -> list[Claim]:
    """The statements in the prose `text` that can be held against a checkpoint; each once."""
    return _distinct([claim for claim, _ in _find(text[:MAX_TEXT], source, meant=False)])


def parse_claims(text: str, source: str) -> list[Claim]:
    """The statements that `text` consists of, and nothing else.

    Raises:
        ClaimProblem: it holds no statement, or words that none of them covers.
    """
    found = _find(text[:MAX_TEXT], source, meant=True)
    covered = bytearray(len(text))
    for _, (begin, end) in found:
        covered[begin:end] = b"\1" * (end - begin)
    rest = _FILLERS.sub(" ", "".join(" " if mark else letter for letter, mark in zip(text, covered, strict=True)))
    if not found or rest.strip():
        raise ClaimProblem(
            f"expected a claim about tensors, bytes or a donor, found {' '.join(rest.split()) or text!r}"
        )
    unread = [claim.unread for claim, _ in found if claim.unread]
    if unread:
        raise ClaimProblem(f"expected a word such as added, replaced or unchanged, found {unread[0]}")
    return _distinct([claim for claim, _ in found])


Found = list[tuple[Claim, tuple[int, int]]]


def _find(text: str, source: str, *, meant: bool) -> Found:
    return [*_counts(text, source, meant), *_figures(text, source), *_donors(text, source, meant)]


def _distinct(claims: list[Claim]) -> list[Claim]:
    found: dict[str, Claim] = {}
    for claim in claims:
        found.setdefault(claim.text.lower(), claim)
    return list(found.values())


def _counts(text: str, source: str, meant: bool) -> Iterator[tuple[Claim, tuple[int, int]]]:
    """Numbers by dtype: ``790 BF16 + 1 F32``; in prose a single one says too little."""
    for match in _COUNTS.finditer(text):
        counts = tuple(sorted((dtype, _whole(number)) for number, dtype in _ONE_COUNT.findall(match[0])))
        followed = re.match(r"\s+tensors?\b", text[match.end() : match.end() + 20])
        if len(counts) > 1 or meant or followed:
            yield Claim(_flat(match[0]), source, "dtypes", dtypes=counts), match.span()


def _figures(text: str, source: str) -> Iterator[tuple[Claim, tuple[int, int]]]:
    for kind, pattern in _FIGURES:
        for match in pattern.finditer(text):
            words = match[2].lower().split()
            if _SCALES.isdisjoint(words) and not any(word.upper() in BITS for word in words):
                about, unread = _read_words(words, match[3])
                claim = Claim(_flat(match[0]), source, kind, _whole(match[1]), about=about, unread=unread)
                yield claim, match.span()
    for match in _ROUNDED.finditer(text):
        unit, digits = _UNITS[match[2]], len(match[1].partition(".")[2])
        about, _ = _read_words([], match[3])
        half = unit // 10**digits // 2
        yield Claim(_flat(match[0]), source, "bytes", round(float(match[1]) * unit), half, about), match.span()


def _read_words(words: list[str], after: str | None) -> tuple[About, str]:
    """Which tensors the words around a figure mean, and a word that is not understood."""
    said = [*words, *([after.lower()] if after else [])]
    meanings = {_ABOUT[word] for word in said if word in _ABOUT}
    unknown = [word for word in said if word not in _ABOUT and word not in _PLAIN]
    if len(meanings) > 1:
        return About.ANY, " ".join(said)
    return next(iter(meanings), About.ANY), unknown[0] if unknown else ""


def _donors(text: str, source: str, meant: bool) -> Iterator[tuple[Claim, tuple[int, int]]]:
    """Where tensors are said to come from, in sentences that speak of tensors and deny nothing."""
    for match in _DONOR.finditer(text):
        begin = max(text.rfind(mark, 0, match.start()) for mark in (". ", "\n")) + 1
        sentence = text[begin : match.end()]
        if meant or (_OF_TENSORS.search(sentence) and not _NEGATED.search(sentence)):
            yield Claim(_flat(match[0]), source, "donor", donor=match[1]), match.span()


def _flat(text: str) -> str:
    return " ".join(text.split())


def _whole(text: str) -> int:
    return int(text.replace(",", ""))
