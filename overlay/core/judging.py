"""Judging: claims held against a difference.

A claim holds, fails, or stays open with the reason why nobody could decide it.  What a card says in passing may speak of
something else, so an unmatched figure in a card stays open; what a user states is meant, and fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from overlay.core.claims import About, Claim
from overlay.core.diffing import Change, Difference
from overlay.core.tallying import KEPT, Amount, Tally, contents, total

IMPLIED: Final = "audit"
"""The source of the claim that nobody made and every audit answers."""


class Standing(StrEnum):
    """Whether a claim is true."""

    HOLDS = "holds"
    FAILS = "fails"
    OPEN = "open"


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
    if claim.unread:
        reason = f"what {claim.unread!r} means is not known; found {'; '.join(what for what, _ in figures)}"
        return Judged(claim.text, claim.source, Standing.OPEN, reason)
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


_CHANGES: Final = {
    About.ADDED: frozenset({Change.ADDED}),
    About.REPLACED: frozenset({Change.RETYPED, Change.RESHAPED, Change.REWRITTEN}),
    About.KEPT: KEPT,
    About.REMOVED: frozenset({Change.REMOVED}),
    About.MOVED: frozenset({Change.MOVED}),
}


def _figures(claim: Claim, difference: Difference, counted: Tally) -> list[tuple[str, Any]]:
    """What the claim may speak of: sentences for people, and values to match."""
    if claim.kind == "dtypes":
        sides = {"added": counted.added_by_dtype, "in the checkpoint": contents(difference.new)}
        return [(f"{_counts_of(by_dtype)} {what}", _plain(by_dtype)) for what, by_dtype in sides.items()]
    amounts = _amounts(claim, counted)
    if claim.kind == "tensors":
        return [(f"{amount.tensors:,} {what}", amount.tensors) for what, amount in amounts]
    figures = [(f"{amount.bytes:,} bytes {what}", amount.bytes) for what, amount in amounts]
    base = sum(shard.header.data_bytes for shard in difference.old.shards.values())
    return figures if claim.about is not About.ANY else [*figures, (f"{base:,} bytes in the base", base)]


def _amounts(claim: Claim, counted: Tally) -> list[tuple[str, Amount]]:
    """The amounts that the claim may speak of, as its words say; a figure of nothing only where they do."""
    of = {about: total(counted.of(change) for change in changes) for about, changes in _CHANGES.items()}
    if claim.about is not About.ANY:
        return [(claim.about.value, of[claim.about])]
    everything = total(amount for change, amount in counted.by_change.items() if change is not Change.REMOVED)
    sides = [("added", of[About.ADDED]), ("replaced", of[About.REPLACED]), ("in the checkpoint", everything)]
    return [(what, amount) for what, amount in sides if amount.tensors or claim.number == 0]


def _plain(by_dtype: Mapping[str, Amount]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((dtype, amount.tensors) for dtype, amount in by_dtype.items()))


def _counts_of(by_dtype: Mapping[str, Amount]) -> str:
    return " + ".join(f"{amount.tensors} {dtype}" for dtype, amount in sorted(by_dtype.items())) or "nothing"


def _matches(claim: Claim, value: Any) -> bool:
    if claim.kind == "dtypes":
        return bool(value == tuple((dtype, number) for dtype, number in claim.dtypes if number))
    return bool(abs(value - claim.number) <= claim.tolerance)
