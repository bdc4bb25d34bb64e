"""Generations: the trees that a target is and was, and which of them is meant.

A generation is known by the number in its receipt, never by the name of the folder it lies in: a run that dies between
two renames leaves a wrong name and nothing worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from overlay.errors import Conflict
from overlay.formats.receipt import Receipt

KEEP: Final = 3
"""Old generations that are kept beside the current one."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One tree of a target."""

    path: str
    receipt: Receipt
    current: bool = False
    """Whether it is what the target's name leads to."""

    @property
    def number(self) -> int:
        """Its number, from 1."""
        return self.receipt.generation

    def document(self) -> dict[str, Any]:
        """The generation as it stands in JSON documents."""
        receipt = self.receipt
        return {
            "generation": self.number,
            "current": self.current,
            "name": receipt.name,
            "tensors": receipt.tensors,
            "total_size": receipt.total_size,
            "state": receipt.state,
            "manifest_sha256": receipt.manifest_sha256,
            "path": self.path,
        }


def next_number(known: Iterable[Generation]) -> int:
    """The number of a new tree: one more than any that is known."""
    return max((generation.number for generation in known), default=0) + 1


def was_replaced(tree: Receipt | None, current: Receipt | None, kept: Iterable[Generation]) -> bool:
    """Whether a tree that bears a stage's name is an older generation on its way into the history.

    A new tree that was never put in place has a higher number than the current one, and a damaged one that a repair
    replaced has the same: both are garbage, and so is a tree that is kept already.
    """
    if tree is None or current is None or tree.generation >= current.generation:
        return False
    return all(generation.receipt != tree for generation in kept)


def outdated(kept: Sequence[Generation], latest: str) -> list[Generation]:
    """The old generations that are too many: all but the `KEEP` highest numbers.

    The one at the path `latest`, which was replaced just now, stays whatever its number: after an undo the tree that is
    replaced need not have a high one.
    """
    newest_first = sorted(kept, key=lambda generation: (generation.path != latest, -generation.number))
    return newest_first[KEEP:]


def choose(known: Sequence[Generation], number: int | None, target: str) -> Generation:
    """The generation that undo brings back: the one with `number`, else the one that the current tree replaced.

    Raises:
        Conflict: there is no such generation, or it is the current one.
    """
    current = next((generation.number for generation in known if generation.current), None)
    old = [generation for generation in known if not generation.current]
    if number is None:
        wanted = _before(known, old)
    elif number == current:
        problem = f"expected another generation than the current one, found {number}, which is current"
        raise Conflict(problem, subject=target, hint=f"overlay history {target}")
    else:
        wanted = [generation for generation in old if generation.number == number]
    if not wanted:
        raise Conflict(_missing(old, current, number), subject=target, hint=_hint(old, target))
    return max(wanted, key=lambda generation: generation.number)


def _before(known: Sequence[Generation], old: Sequence[Generation]) -> list[Generation]:
    """The kept trees that undo may go back to: the one that the current tree replaced, else any with a lower number."""
    current = next((generation for generation in known if generation.current), None)
    if current is None:
        return list(old)
    replaced = [generation for generation in old if generation.number == current.receipt.replaced]
    return replaced or [generation for generation in old if generation.number < current.number]


def _missing(old: Sequence[Generation], current: int | None, number: int | None) -> str:
    kept = ", ".join(str(kept) for kept in sorted(generation.number for generation in old)) or "none"
    if number is not None:
        return f"expected to have kept generation {number}, found {kept}"
    return f"expected to have kept a generation before {current}, found {kept}"


def _hint(old: Sequence[Generation], target: str) -> str:
    if old:
        return f"overlay undo {target} --to N brings back any that is kept; overlay history {target} lists them"
    return "a generation is kept when apply replaces it with something else; nothing was replaced yet"
