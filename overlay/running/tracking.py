"""Tracking: what became of a target since it was assembled, and the way back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from overlay.core.findings import Finding, about, errors
from overlay.core.progress import Reporter
from overlay.core.target import TargetSeen, TargetState, linked_files
from overlay.errors import Conflict, InvalidInput
from overlay.formats.header import HeaderProblem
from overlay.formats.receipt import PlacedFile, Receipt
from overlay.running.proving import hash_afresh
from overlay.running.verifying import check_receipt, check_touched
from overlay.storage.generations import Generation, read_generations, rename_by_number
from overlay.storage.local import file_at, read_header
from overlay.storage.proofs import Memory, ProofStore
from overlay.storage.staging import exchange, locked, recover
from overlay.storage.targets import look_at_target


@dataclass(frozen=True, slots=True)
class Status:
    """What became of a target."""

    target: str
    states: tuple[str, ...]
    """``clean``, or some of ``modified``, ``dangling`` and ``base moved``."""
    generation: int
    kept: tuple[int, ...]
    """Numbers of the kept generations."""
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether it is what was assembled."""
        return self.states == ("clean",)

    def document(self) -> dict[str, Any]:
        """The status as it stands in JSON documents."""
        return {
            "target": self.target,
            "state": list(self.states),
            "generation": self.generation,
            "generations": list(self.kept),
            "findings": [finding.document() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class History:
    """The trees that a target has been, the current one among them, oldest first."""

    target: str
    current: int
    """0: there is no target now."""
    receipts: tuple[Receipt, ...]

    def document(self) -> dict[str, Any]:
        """The history as it stands in JSON documents."""
        return {
            "target": self.target,
            "generations": [
                {
                    "generation": receipt.generation,
                    "current": receipt.generation == self.current,
                    "name": receipt.name,
                    "tensors": receipt.tensors,
                    "total_size": receipt.total_size,
                    "state": receipt.state,
                    "manifest_sha256": receipt.manifest_sha256,
                }
                for receipt in self.receipts
            ],
        }


def read_status(target: str, reporter: Reporter) -> Status:
    """What became of the target at the absolute path `target`.

    Costs a stat a file, the small files' bytes and a header a shard; a large file is read only when it was touched.

    Raises:
        InvalidInput: overlay did not assemble it.
    """
    seen = _require_ours(look_at_target(target))
    assert seen.receipt is not None
    under = list(_check_sources(seen.receipt, reporter))
    linked = linked_files(seen.receipt)  # a size behind a link is the base's affair, and said of the base
    checked = check_receipt(seen) + check_touched(seen, reporter)
    own = [finding for finding in checked if finding.code != "LCK004" or finding.file not in linked]
    return Status(
        target=target,
        states=_states(own, under),
        generation=seen.receipt.generation,
        kept=tuple(generation.number for generation in read_generations(target)),
        findings=tuple(sorted({*own, *under})),
    )


def read_history(target: str) -> History:
    """The generations of the target at the absolute path `target`; it may be gone itself.

    Raises:
        InvalidInput: overlay did not assemble it, and keeps nothing of it.
    """
    seen, kept = look_at_target(target), read_generations(target)
    if not kept:
        _require_ours(seen)
    current = [seen.receipt] if seen.receipt is not None else []
    receipts = sorted([*current, *(generation.receipt for generation in kept)], key=lambda receipt: receipt.generation)
    return History(target, seen.receipt.generation if seen.receipt else 0, tuple(receipts))


def undo(target: str, number: int | None, reporter: Reporter, *, force: bool = False) -> Receipt:
    """Put an earlier generation back in one step; the tree that it replaces is kept, so that this can be undone too.

    Args:
        target: an absolute path.
        number: which generation; None: the one before the current one, or the newest when there is no target.
        reporter: shows that a touched file is read.
        force: put it back although it is not what its receipt says.

    Raises:
        InvalidInput: overlay did not assemble it, and keeps nothing of it.
        Conflict: there is no such generation, or it is damaged; nothing was changed.
        EnvironmentFault: the file system cannot exchange two folders in one step.
    """
    if not read_generations(target):
        _require_ours(look_at_target(target))
    with locked(target):
        recover(target)
        seen = look_at_target(target)
        if seen.state is TargetState.FOREIGN:
            _require_ours(seen)
        chosen = _choose(read_generations(target), seen, number)
        damage = [] if force else errors(_check_generation(chosen, target, reporter))
        if damage:
            raise Conflict(
                damage[0].line,
                subject=f"{target}: generation {chosen.number}",
                hint="overlay apply assembles it anew; overlay undo --force puts it back as it is",
                others=tuple(finding.line for finding in damage[1:20]),
            )
        exchange(target, chosen.path)
        rename_by_number(chosen.path, target)
    return chosen.receipt


def _choose(kept: Sequence[Generation], seen: TargetSeen, number: int | None) -> Generation:
    current = seen.receipt.generation if seen.receipt is not None else 0
    if number is None:
        candidates = [g for g in kept if g.number < current or not current]
    else:
        candidates = [g for g in kept if g.number == number]
    if not candidates:
        numbers = ", ".join(str(generation.number) for generation in kept) or "none"
        wanted = "an earlier generation" if number is None else f"generation {number}"
        raise Conflict(
            f"expected {wanted}, found {numbers} beside the current {current or 'nothing'}",
            subject=seen.path,
            hint=f"overlay history {seen.path}",
        )
    return candidates[-1]


def _check_generation(generation: Generation, target: str, reporter: Reporter) -> list[Finding]:
    seen = look_at_target(generation.path)
    touched = check_touched(seen, reporter, formerly=target)
    return [*check_receipt(seen), *touched, *_check_sources(generation.receipt, reporter)]


def _check_sources(receipt: Receipt, reporter: Reporter) -> Iterator[Finding]:
    """The real files behind a target's shards: gone, or no longer what they were when they were placed."""
    memory = ProofStore()
    for name, placed in receipt.files.items():
        if placed.source is None or placed.header_sha256 is None or placed.how == "trim":
            continue
        if not os.path.exists(placed.source):
            if placed.how == "symlink":
                yield about("LNK002", name, f"expected a file, found a dangling link to {placed.source}")
            continue
        yield from _check_source(name, placed, placed.source, memory, reporter)


def _check_source(
    name: str, placed: PlacedFile, source: str, memory: ProofStore, reporter: Reporter
) -> Iterator[Finding]:
    file = file_at(source, name)
    if file.size != placed.size:
        yield about("LCK007", name, f"expected {placed.size} bytes at {source}, found {file.size}")
        return
    try:
        digest = read_header(file).digest
    except HeaderProblem as problem:
        yield about("LCK007", name, f"expected the shard that was placed at {source}, found: {problem}")
        return
    if digest != placed.header_sha256:
        yield about("LCK007", name, f"expected header sha256 {placed.header_sha256} at {source}, found {digest}")
        return
    recalled, known = memory.recall(file)
    if recalled is Memory.CHANGED and placed.sha256:
        known = hash_afresh([file], reporter, store=memory)[file.location]
    if known is not None and placed.sha256 and known.sha256 != placed.sha256:
        yield about("LCK007", name, f"expected sha256 {placed.sha256} at {source}, found {known.sha256}")


def _states(own: Sequence[Finding], under: Sequence[Finding]) -> tuple[str, ...]:
    dangling = any(finding.code == "LNK002" for finding in under)
    moved = any(finding.code == "LCK007" for finding in under)
    named = {"modified": bool(own), "dangling": dangling, "base moved": moved}
    return tuple(state for state, holds in named.items() if holds) or ("clean",)


def _require_ours(seen: TargetSeen) -> TargetSeen:
    if seen.receipt is None:
        found = seen.receipt_problem or f"a folder that is {seen.state.value}"
        raise InvalidInput(
            f"expected a target that overlay assembled, found {found}",
            subject=seen.path,
            hint="name the folder that was given to overlay apply -o",
        )
    return seen
