"""Undoing: let a target and an old generation of it change places.

Nothing is rebuilt, copied or rewritten: the tree that comes back is the one that was put away.  It is checked first, since
its links may have lost what they led to in the meantime.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlay.core.findings import Finding
from overlay.core.generations import Generation, choose
from overlay.core.progress import Reporter
from overlay.core.target import TargetSeen, check_target
from overlay.errors import Conflict
from overlay.formats.names import RECEIPT_NAME
from overlay.running.examining import examine, require_ours
from overlay.storage.folders import refused
from overlay.storage.generations import bring_back, read_generations
from overlay.storage.staging import locked, recover
from overlay.storage.targets import look_at_target

_HARMLESS = frozenset({"LCK003", "LCK008"})
"""A file that was added to a tree stays in it, and a copy does not need what it was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """What undoing did."""

    target: str
    generation: Generation
    """The one that came back."""
    replaced: int | None
    """The number of the one that was current, and is kept; None when there was no target."""
    left: tuple[str, ...]
    """Files that overlay did not place; they stay in the tree that was replaced."""
    findings: tuple[Finding, ...]
    """What is wrong with the tree that came back; empty unless undoing was forced."""


def undo_target(target: str, number: int | None, force: bool, reporter: Reporter) -> Undone:
    """Bring back generation `number`, or the one before the current one, of the target at the real path `target`.

    Raises:
        Conflict: there is no such generation, or, unless `force`, it is damaged; nothing was changed.  Or another run is
            at this target.
        InvalidInput: overlay did not assemble the target.
        EnvironmentFault: the machine refused; nothing was changed.
    """
    require_ours(target, read_generations(target))  # before a lock file is made beside something that is not ours
    with locked(target):
        try:
            recover(target)
            known = read_generations(target)
            seen = require_ours(target, known)
            _require_receipt(seen)
            chosen = choose(known, number, target)
            findings = _examine(chosen, target, force, reporter)
            bring_back(chosen, target)
        except OSError as error:
            raise refused(error, getattr(error, "filename", None) or target) from None
    return Undone(
        target=target,
        generation=Generation(target, chosen.receipt, current=True),
        replaced=seen.receipt.generation if seen.receipt is not None else None,
        left=tuple(finding.file for finding in check_target(seen) if finding.code == "LCK003"),
        findings=tuple(findings),
    )


def _require_receipt(seen: TargetSeen) -> None:
    """A tree that cannot be told from others would be lost among the kept ones."""
    if seen.receipt_problem:
        raise Conflict(
            f"expected a receipt that can be read, found one that cannot: {seen.receipt_problem}",
            subject=f"{seen.path}/{RECEIPT_NAME}",
            hint="apply again, or move the folder away and run overlay undo again",
        )


def _examine(chosen: Generation, target: str, force: bool, reporter: Reporter) -> list[Finding]:
    """What is wrong with the tree that would come back; something is only given back with `force`."""
    findings = [f for f in examine(look_at_target(chosen.path), reporter) if f.code not in _HARMLESS]
    if findings and not force:
        raise Conflict(
            f"expected generation {chosen.number} to be as it was, found {findings[0].line}",
            subject=target,
            hint="put the file right, choose another generation with --to N, or bring it back as it is with --force",
            others=tuple(finding.line for finding in findings[1:]),
        )
    return findings
