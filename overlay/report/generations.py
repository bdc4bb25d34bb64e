"""Generations as text: how a target stands, what it was, and what undoing did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from overlay.core.generations import Generation
from overlay.report.blocks import Block, Heading, Marked, Table
from overlay.report.text import finding_lines, in_bytes
from overlay.running.examining import Status
from overlay.running.undoing import Undone

_PREFIX = 12
"""Hex digits of a digest that people compare; JSON has them all."""


def status_lines(status: Status) -> Iterator[str]:
    """The state first, then why."""
    state, *others = (state.value for state in status.states)
    old = [str(number) for number in status.generations if number != status.generation]
    kept = f"kept: {', '.join(old)}" if old else "none kept"
    current = f"generation {status.generation}" if status.generation is not None else "no generation"
    rest = "".join(f", {other}" for other in others)
    yield Marked("", state, f"{rest}: {status.target} ({current}; {kept})")
    yield from finding_lines(status.findings)


def history_lines(target: str, known: Sequence[Generation], *, present: bool) -> Iterator[Block]:
    """A line a generation, the newest last.

    Args:
        target: how the user named it.
        known: the generations whose receipts can be read.
        present: whether there is anything at the target's path.
    """
    yield Heading(target)
    yield Table([_row(generation) for generation in known], numbers=(1, 3, 4), flexible=(2, 5, 6), kinds=7)
    current = any(generation.current for generation in known)
    if not current and present:
        yield f"the current tree has no receipt that can be read: overlay status {target} says more"
    elif not current:
        yield f"there is no target: overlay undo {target} brings the newest generation back"


def undone_lines(undone: Undone) -> Iterator[str]:
    """What came back, and what became of what was there."""
    receipt = undone.generation.receipt
    yield (
        f"{undone.target}: generation {receipt.generation} is back ({receipt.name}, {receipt.tensors} tensors, "
        f"total_size {receipt.total_size})"
    )
    if undone.replaced is not None:
        yield f"generation {undone.replaced} is kept: overlay undo {undone.target} --to {undone.replaced}"
    for name in undone.left:
        yield Marked("", "note", f": {name}, which overlay did not place, stays in generation {undone.replaced}")
    yield from finding_lines(undone.findings)


def _row(generation: Generation) -> tuple[str, ...]:
    receipt = generation.receipt
    return (
        "*" if generation.current else " ",
        str(generation.number),
        receipt.name,
        f"{receipt.tensors} tensors",
        in_bytes(receipt.total_size),
        f"state {receipt.state[:_PREFIX]}",
        f"manifest {receipt.manifest_sha256[:_PREFIX]}",
        "current" if generation.current else "",
    )
