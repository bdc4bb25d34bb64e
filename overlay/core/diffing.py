"""Diffing: what one checkpoint has that another has not, tensor by tensor, from headers.

Headers alone cannot tell whether a tensor of equal name, dtype and shape holds equal bytes; such pairs are listed, and
whoever can read them decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from overlay.core.checkpoint import Checkpoint, Shard
from overlay.core.parts import TensorSource


@dataclass(frozen=True, slots=True)
class HeaderDifference:
    """The difference of two checkpoints as far as headers tell."""

    added: tuple[str, ...]
    """Tensors that only the new one has, in its order."""
    dropped: tuple[str, ...]
    """Tensors that only the old one has, in its order."""
    retyped: tuple[str, ...]
    """Tensors of another dtype or shape."""
    alike: tuple[tuple[TensorSource, TensorSource], ...]
    """Tensors of equal name, dtype and shape in different files, as (old, new)."""


def diff_headers(old: Checkpoint, new: Checkpoint) -> HeaderDifference:
    """Compare two checkpoints by their headers.

    Shards that are one file, or that a content-addressed store calls by one digest, are not looked into.

    Costs one look-up a tensor.
    """
    added, retyped, alike = [], [], []
    same_files = {name for name, shard in new.shards.items() if _same_file(old, shard)}
    for name, shard in new.shards.items():
        if name in same_files:
            continue
        for tensor, info in shard.header.items():
            home = old.shards.get(old.weight_map.get(tensor, ""))
            if home is None:
                added.append(tensor)
                continue
            before = home.header[tensor]
            if (before.dtype, before.shape) != (info.dtype, info.shape):
                retyped.append(tensor)
            else:
                alike.append((source_of(home, tensor), source_of(shard, tensor)))
    dropped = tuple(tensor for tensor in old.weight_map if tensor not in new.weight_map)
    return HeaderDifference(tuple(added), dropped, tuple(retyped), tuple(alike))


def source_of(shard: Shard, tensor: str) -> TensorSource:
    """Where a tensor lies."""
    info, start = shard.header[tensor], shard.header.data_start
    return TensorSource(tensor, info.dtype, info.shape, shard.file, start + info.begin, start + info.end)


def roll_up(chosen: Iterable[str], everything: Iterable[str]) -> list[str]:
    """Few patterns that describe exactly `chosen` among `everything`.

    A dotted prefix under which everything is chosen becomes ``prefix.**``; the shortest such prefix is taken.
    """
    wanted = list(chosen)
    unwanted_prefixes = {prefix for name in set(everything) - set(wanted) for prefix in _prefixes(name)}
    patterns: dict[str, None] = {}
    for name in wanted:
        free = next((prefix for prefix in _prefixes(name) if prefix not in unwanted_prefixes), None)
        patterns[f"{free}.**" if free is not None else name] = None
    return list(patterns)


def _prefixes(name: str) -> Iterator[str]:
    """The dotted prefixes of a name, shortest first, the name itself excluded."""
    at = name.find(".")
    while at >= 0:
        yield name[:at]
        at = name.find(".", at + 1)


def _same_file(old: Checkpoint, shard: Shard) -> bool:
    """Whether `old` lists the very file, so that each of its tensors has the same bytes there."""
    return any(
        other.file.fingerprint[:2] == shard.file.fingerprint[:2]
        or (other.file.stated_sha256 and other.file.stated_sha256 == shard.file.stated_sha256)
        for other in old.shards.values()
    )
