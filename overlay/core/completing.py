"""Completing: a diff-only repository seen as the checkpoint that it makes of its base.

Such a repository holds the new shards and an index that also names shards of the base; on its own it cannot be served.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from overlay.core.checkpoint import Checkpoint
from overlay.core.findings import about


@dataclass(frozen=True, slots=True)
class Completed:
    """A checkpoint, and what was borrowed to make it whole."""

    checkpoint: Checkpoint
    borrowed: tuple[str, ...]
    """Shards of the base that it names and does not hold."""


def complete(seen: Checkpoint, base: Checkpoint) -> Completed:
    """`seen` with the base's shards and sidecars that it does without.

    Only a repository none of whose own shards bears the name of a base shard is diff-only; any other that lacks shards is
    broken, and gets a finding for each.

    Args:
        seen: read with ``partial``, so that missing shards are no findings yet.
        base: the base, whole.
    """
    if seen.index is None:
        return Completed(seen, ())
    missing = [name for name in seen.index.shards() if name not in seen.shards and not _reported(seen, name)]
    diff_only = not any(name in base.shards for name in seen.shards)
    borrowed = tuple(name for name in missing if diff_only and name in base.shards)
    lost = [
        about("IDX003", name, "expected this shard, found nothing of that name")
        for name in missing
        if name not in borrowed
    ]
    shards = {**{name: base.shards[name] for name in borrowed}, **seen.shards}
    return Completed(
        replace(
            seen,
            shards={name: shards[name] for name in seen.index.shards() if name in shards},
            sidecars={**base.sidecars, **seen.sidecars} if borrowed else seen.sidecars,
            findings=(*seen.findings, *lost),
        ),
        borrowed,
    )


def _reported(seen: Checkpoint, name: str) -> bool:
    return any(finding.file == name for finding in seen.findings)
