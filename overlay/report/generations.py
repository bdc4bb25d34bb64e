"""Plain text about what became of a target and what it has been."""

from __future__ import annotations

from collections.abc import Iterator

from overlay.formats.receipt import Receipt
from overlay.report.text import finding_lines, table
from overlay.running.tracking import History, Status


def status_lines(status: Status) -> Iterator[str]:
    """The state first, then what it rests on."""
    kept = f", kept: {', '.join(map(str, status.kept))}" if status.kept else ""
    yield f"{', '.join(status.states)}: {status.target} (generation {status.generation}{kept})"
    yield from finding_lines(status.findings)


def history_lines(history: History) -> Iterator[str]:
    """A line a generation, oldest first."""
    yield from table(
        [
            (
                "*" if receipt.generation == history.current else " ",
                str(receipt.generation),
                receipt.name,
                f"{receipt.tensors} tensors",
                f"total_size {receipt.total_size}",
                f"state {receipt.state[:12]}",
                f"manifest {receipt.manifest_sha256[:12]}",
            )
            for receipt in history.receipts
        ]
    )


def undo_lines(target: str, receipt: Receipt) -> Iterator[str]:
    """What the target is now."""
    yield f"{target}: generation {receipt.generation} ({receipt.name}), {receipt.tensors} tensors"
