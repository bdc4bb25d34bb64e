"""Claims: statements that a card or a manifest makes about a checkpoint, and whether they hold.

A claim holds, fails, or stays open with the reason why nobody could decide it.  What a card says in passing may speak of
something else, so an unmatched figure in a card stays open; what a manifest or a user states is meant, and fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final, Literal

from overlay.core.diffing import Change, Difference
from overlay.core.tallying import Tally, total
from overlay.formats.dtypes import BITS

IMPLIED: Final = "audit"
"""The source of the claim that nobody made and every audit answers."""


class Standing(StrEnum):
    """Whether a claim is true."""

    HOLDS = "holds"
    FAILS = "fails"
    OPEN = "open"


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
    dtypes: tuple[tuple[str, int], ...] = ()
    """Dtype and number of tensors."""
    donor: str = ""
    """The repository that tensors are said to come from."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim and what became of it."""

    text: str
    source: str
    standing: Standing
    reason: str
    """What was counted or compared, or why nobody could."""

    def document(self) -> dict[str, Any]:
        """The claim as it stands in JSON documents."""
        return {**asdict(self), "standing": self.standing.value}


_NUMBER: Final = r"(?<![\d.,])(\d{1,3}(?:,\d{3})+|\d{1,18})"
_DTYPE: Final = "|".join(sorted(map(re.escape, BITS), key=len, reverse=True))
_TENSORS = re.compile(_NUMBER + r"\s+(?:[A-Za-z0-9_-]{1,20}\s+){0,2}tensors\b")
_BYTES = re.compile(_NUMBER + r"\s+(?:data\s+)?bytes\b")
_ROUNDED = re.compile(r"(?<![\d.,])(\d{1,6}(?:\.\d{1,3})?)\s?(GB|GiB|MB|MiB|TB)\b")
_DTYPES = re.compile(rf"{_NUMBER}\s+({_DTYPE})\s*(?:\+|and|,)\s*{_NUMBER}\s+({_DTYPE})\b")
_DONOR = re.compile(
    r"(?:unmodified|unchanged|verbatim|byte-identical|bit-identical|copied|extracted|taken)\b[^.\n]{0,80}?\b(?:of|from|to)\s+"
    r"\[?`?([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}?)(?=[`\]\s,;:)]|\.?$|\.\s)",
    re.IGNORECASE | re.MULTILINE,
)
_UNITS: Final = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30}

MAX_TEXT: Final = 200_000
"""Characters of a card that are searched."""


def find_claims(text: str, source: str) -> list[Claim]:
    """The statements in `text` that can be held against a checkpoint; each once."""
    found: dict[str, Claim] = {}
    text = text[:MAX_TEXT]
    for claim in (*_counts(text, source), *_donors(text, source)):
        found.setdefault(" ".join(claim.text.split()).lower(), replace(claim, text=" ".join(claim.text.split())))
    return list(found.values())


def _counts(text: str, source: str) -> Iterator[Claim]:
    for match in _DTYPES.finditer(text):
        counts = ((match[2], _whole(match[1])), (match[4], _whole(match[3])))
        yield Claim(match[0], source, "dtypes", dtypes=tuple(sorted(counts)))
    for match in _TENSORS.finditer(text):
        yield Claim(match[0], source, "tensors", _whole(match[1]))
    for match in _BYTES.finditer(text):
        yield Claim(match[0], source, "bytes", _whole(match[1]))
    for match in _ROUNDED.finditer(text):
        unit = _UNITS[match[2]]
        digits = len(match[1].partition(".")[2])
        yield Claim(match[0], source, "bytes", round(float(match[1]) * unit), tolerance=unit // 10**digits)


def _donors(text: str, source: str) -> Iterator[Claim]:
    for match in _DONOR.finditer(text):
        yield Claim(match[0], source, "donor", donor=match[1])


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def judge(claim: Claim, difference: Difference, counted: Tally, *, meant: bool) -> Judged:
    """Hold a claim about figures against what was counted.

    Args:
        claim: of any kind but ``donor``, which needs the donor: `judge_donor`.
        difference: of the base and the checkpoint.
        counted: the same, counted.
        meant: whether an unmatched figure fails, and does not stay open.
    """
    figures = _figures(claim, difference, counted)
    matching = [what for what, value in figures if _matches(claim, value)]
    if matching:
        return Judged(claim.text, claim.source, Standing.HOLDS, matching[0])
    found = "; ".join(what for what, _ in figures)
    standing = Standing.FAILS if meant else Standing.OPEN
    return Judged(claim.text, claim.source, standing, f"found {found}")


def judge_donor(
    claim: Claim, wanted: Sequence[str], absent: Iterable[str], differing: Iterable[str], compared: bool
) -> Judged:
    """Whether the tensors that were added or replaced are the donor's.

    Args:
        claim: of kind ``donor``.
        wanted: the tensors that were added or replaced.
        absent: those that the donor does not have with this dtype and shape.
        differing: those whose bytes the donor has otherwise.
        compared: whether bytes were compared at all.
    """
    missing, other = list(absent), list(differing)
    if not wanted:
        return Judged(claim.text, claim.source, Standing.OPEN, "nothing was added or replaced")
    if missing:
        reason = (
            f"{len(missing)} of {len(wanted)} are not in {claim.donor} with this dtype and shape, {missing[0]} first"
        )
        return Judged(claim.text, claim.source, Standing.FAILS, reason)
    if other:
        reason = f"{len(other)} of {len(wanted)} have other bytes in {claim.donor}, {other[0]} first"
        return Judged(claim.text, claim.source, Standing.FAILS, reason)
    if not compared:
        reason = f"{claim.donor} has all {len(wanted)} with this dtype and shape; --content compares their bytes"
        return Judged(claim.text, claim.source, Standing.OPEN, reason)
    return Judged(claim.text, claim.source, Standing.HOLDS, f"all {len(wanted)} equal {claim.donor} byte for byte")


def judge_base(difference: Difference) -> Judged:
    """Whether the base's tensors are all there, as they were; every audit answers it."""
    text, counts = f"every tensor of {difference.old.label} is there unchanged", difference.counts
    broken = {
        change: counts[change]
        for change in (Change.REMOVED, Change.RENAMED, Change.RETYPED, Change.RESHAPED, Change.REWRITTEN)
        if counts[change]
    }
    if broken:
        reason = ", ".join(f"{number} {change}" for change, number in broken.items())
        return Judged(text, IMPLIED, Standing.FAILS, reason)
    if difference.unread:
        reason = f"the bytes of {difference.unread} tensors were not compared; --content compares them"
        return Judged(text, IMPLIED, Standing.OPEN, reason)
    return Judged(text, IMPLIED, Standing.HOLDS, f"{counts[Change.IDENTICAL] + counts[Change.MOVED]} tensors")


def _figures(claim: Claim, difference: Difference, counted: Tally) -> list[tuple[str, Any]]:
    """What the claim may speak of: sentences for people, and values to match."""
    added = counted.of(Change.ADDED)
    changed = [counted.of(change) for change in (Change.RETYPED, Change.RESHAPED, Change.REWRITTEN)]
    replaced, everything = (
        total(changed),
        total(amount for change, amount in counted.by_change.items() if change is not Change.REMOVED),
    )
    sides = (("added", added), ("replaced", replaced), ("in the checkpoint", everything))
    if claim.kind == "dtypes":
        return [(f"added: {_counts_of(counted.added_by_dtype)}", _plain(counted.added_by_dtype))]
    if claim.kind == "tensors":
        return [(f"{amount.tensors:,} {what}", amount.tensors) for what, amount in sides if amount.tensors]
    base = sum(shard.header.data_bytes for shard in difference.old.shards.values())
    figures = [(f"{amount.bytes:,} bytes {what}", amount.bytes) for what, amount in sides if amount.bytes]
    return [*figures, (f"{base:,} bytes in the base", base)]


def _plain(by_dtype: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((dtype, amount.tensors) for dtype, amount in by_dtype.items()))


def _counts_of(by_dtype: Mapping[str, Any]) -> str:
    return " + ".join(f"{amount.tensors} {dtype}" for dtype, amount in by_dtype.items()) or "nothing"


def _matches(claim: Claim, value: Any) -> bool:
    if claim.kind == "dtypes":
        return bool(value == claim.dtypes)
    return bool(abs(value - claim.number) <= claim.tolerance)
