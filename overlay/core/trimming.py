"""Trimming: a shard without some of its tensors.

Engines load every tensor of every listed shard, whatever the weight map says, so that a superseded tensor must leave the
file.  What stays is copied, not read: `copy_file_range` shares blocks on file systems that can, but only where source and
target agree modulo the block size.  The header's padding is ours to choose, so it is chosen to make most bytes agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from overlay.core.checkpoint import Shard
from overlay.core.parts import Origin, Run, TrimmedShard
from overlay.formats.digest import sha256_of
from overlay.formats.header import Header
from overlay.formats.header_text import pad_header, render_without

BLOCK: Final = 4096
"""Block size of ext4, XFS and btrfs."""


def trim(name: str, origin: Origin, shard: Shard, removed: frozenset[str], reason: str) -> TrimmedShard:
    """`shard` without the tensors `removed`, some of which it holds and not all."""
    runs = tuple(_runs(shard.header, removed))
    header = _header(shard.header, removed, runs)
    return TrimmedShard(name, origin, shard, removed, runs, len(header), sha256_of(header), reason)


def header_of(part: TrimmedShard) -> bytes:
    """The header of a trimmed shard, rendered again."""
    return _header(part.shard.header, part.removed, part.runs)


def _header(header: Header, removed: frozenset[str], runs: tuple[Run, ...]) -> bytes:
    return pad_header(render_without(header, removed), _best_residue(runs), BLOCK)


def _runs(header: Header, removed: frozenset[str]) -> Iterator[Run]:
    """The stretches of bytes that stay, adjacent ones joined."""
    begin = end = header.data_start
    for name, stop in zip(header.names, header.ends, strict=True):
        if name in removed:
            if end > begin:
                yield Run(begin, end)
            begin = end = header.data_start + stop
        else:
            end = header.data_start + stop
    if end > begin:
        yield Run(begin, end)


def _best_residue(runs: tuple[Run, ...]) -> int:
    """Where the data should begin, modulo a block, so that most bytes lie at the same place within a block as before.

    Only multiples of 8 count, since a header is padded to 8.
    """
    weights: Counter[int] = Counter()
    at = 0
    for run in runs:
        residue = (run.begin - at) % BLOCK
        if residue % 8 == 0:
            weights[residue] += run.end - run.begin
        at += run.end - run.begin
    return max(weights, key=lambda residue: (weights[residue], -residue)) if weights else 0
