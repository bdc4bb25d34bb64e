"""Diffing: how two checkpoints differ, tensor by tensor.

Headers tell which tensors are added, removed, retyped, reshaped or moved.  Whether a tensor of equal name, dtype and
shape holds equal bytes they cannot tell: such tensors are `Change.UNREAD` unless both lie in one file (or in files that a
content-addressed store calls by one digest), and `settle` decides them once somebody has read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import repeat
from typing import NamedTuple

from overlay.core.checkpoint import Checkpoint, Shard, TensorSource
from overlay.formats.header import Header


class Change(StrEnum):
    """How a tensor of one checkpoint relates to the other."""

    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    """Under another name, with the same dtype, shape and bytes; only known when bytes were read."""
    RETYPED = "retyped"
    """Another dtype; the shape may differ as well, as packing does."""
    RESHAPED = "reshaped"
    REWRITTEN = "rewritten"
    """Same dtype and shape, other bytes; only known when bytes were read."""
    MOVED = "moved"
    """The same tensor in a shard of another name."""
    UNREAD = "unread"
    """Same name, dtype, shape and shard; nobody compared the bytes."""
    IDENTICAL = "identical"
    """The same bytes, in a shard of the same name."""


DIFFERENT = frozenset(Change) - {Change.UNREAD, Change.IDENTICAL}
"""The changes that make two checkpoints different."""


class TensorChange(NamedTuple):
    """One tensor that is not where or what it was."""

    change: Change
    name: str
    """In the new checkpoint; of a removed tensor, in the old one."""
    old: str
    """The shard of the old checkpoint that holds it, or ""."""
    new: str
    """The shard of the new checkpoint that holds it, or ""."""
    was: str
    """Its name in the old checkpoint, or "" where it had none."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Tensors of equal name, dtype and shape in two files, whose bytes nobody compared."""

    old: Shard
    new: Shard
    names: list[str]

    @property
    def whole(self) -> bool:
        """Whether these are all tensors of the new shard, under an equal header."""
        return self.names is self.new.header.names

    def sources(self) -> Iterator[tuple[TensorSource, TensorSource]]:
        """Where both sides of each pair lie, in the order of the new shard's bytes."""
        return ((source_of(self.old, name), source_of(self.new, name)) for name in self.names)


@dataclass(frozen=True, kw_only=True, eq=False)
class Difference:
    """How `new` differs from `old`."""

    old: Checkpoint
    new: Checkpoint
    changes: tuple[TensorChange, ...]
    """All but the unread and the identical: removed ones first, then in the order of the new checkpoint."""
    pairs: tuple[Pairs, ...]
    """The unread and the moved whose bytes may differ."""

    @cached_property
    def counts(self) -> Mapping[Change, int]:
        """Tensors of each change."""
        counts = dict.fromkeys(Change, 0)
        moved = 0
        for change in self.changes:
            counts[change.change] += 1
        unsettled = {name for pairs in self.pairs if pairs.old.file.name != pairs.new.file.name for name in pairs.names}
        moved = len(unsettled)
        counts[Change.UNREAD] = sum(len(pairs.names) for pairs in self.pairs) - moved
        present = sum(len(shard.header) for shard in self.new.shards.values())
        others = sum(counts[change] for change in Change if change is not Change.REMOVED)
        counts[Change.IDENTICAL] = present - others
        return counts

    @property
    def unread(self) -> int:
        """Tensors whose bytes nobody compared, moved ones included."""
        return sum(len(pairs.names) for pairs in self.pairs)

    @property
    def differs(self) -> bool:
        """Whether anything is known to differ."""
        return bool(self.changes)


def diff(old: Checkpoint, new: Checkpoint) -> Difference:
    """Compare two checkpoints by their headers.

    What a shard holds counts, not what the index says of it: engines load every tensor of a listed shard.

    Costs one look-up a tensor, and nothing for the tensors of a shard whose header did not change.
    """
    homes = _homes(old)
    by_identity = {key: shard for shard in old.shards.values() for key in _identities(shard)}
    changes: list[TensorChange] = []
    pairs: list[Pairs] = []
    for name, shard in new.shards.items():
        twin = next((by_identity[key] for key in _identities(shard) if key in by_identity), None)
        before = old.shards.get(name)
        if twin is not None and (old.is_bijective or _is_home(twin, homes)):
            if twin.file.name != name:
                changes += _changes(Change.MOVED, shard.header.names, twin.file.name, name, shard.header.names)
        elif (
            before is not None
            and before.header.digest == shard.header.digest
            and (old.is_bijective or _is_home(before, homes))
        ):
            pairs.append(Pairs(before, shard, shard.header.names))
        else:
            _diff_shard(shard, old, homes, changes, pairs)
    return Difference(old=old, new=new, changes=(*_removed(homes, new), *changes), pairs=tuple(pairs))


def settle(difference: Difference, differing: AbstractSet[str], renamed: Mapping[str, str] | None = None) -> Difference:
    """The difference once all its pairs were read.

    Args:
        difference: as `diff` gave it.
        differing: the names among its pairs whose bytes differ.
        renamed: new name to old name, of added and removed tensors with equal bytes.
    """
    names, origins = renamed or {}, set((renamed or {}).values())
    homes = _homes(difference.old)
    kept: list[TensorChange] = []
    for change in difference.changes:
        if change.change is Change.REMOVED and change.name in origins:
            continue
        if change.change is Change.ADDED and change.name in names:
            was = names[change.name]
            kept.append(TensorChange(Change.RENAMED, change.name, homes[was], change.new, was))
        elif not (change.change is Change.MOVED and change.name in differing):
            kept.append(change)
    kept += [
        TensorChange(Change.REWRITTEN, name, pairs.old.file.name, pairs.new.file.name, name)
        for pairs in difference.pairs
        if differing
        for name in pairs.names
        if name in differing
    ]
    return replace(difference, changes=tuple(kept), pairs=())


def source_of(shard: Shard, tensor: str) -> TensorSource:
    """Where a tensor lies."""
    info, start = shard.header[tensor], shard.header.data_start
    return TensorSource(tensor, info.dtype, info.shape, shard.file, start + info.begin, start + info.end)


def _diff_shard(
    shard: Shard, old: Checkpoint, homes: Mapping[str, str], changes: list[TensorChange], pairs: list[Pairs]
) -> None:
    """Compare the tensors of one new shard, wherever the old checkpoint holds them."""
    here, header = shard.file.name, shard.header
    by_home: dict[str | None, list[int]] = {}
    for position, home in enumerate(map(homes.get, header.names)):
        by_home.setdefault(home, []).append(position)
    for home, positions in by_home.items():
        names = [header.names[position] for position in positions]
        if home is None:
            changes += _changes(Change.ADDED, names, "", here, repeat(""))
            continue
        before = old.shards[home]
        alike = _alike(before.header, header, names, positions, changes, home, here)
        if home != here:
            changes += _changes(Change.MOVED, alike, home, here, alike)
        if alike and not _same_file(before, shard):
            pairs.append(Pairs(before, shard, alike))


def _alike(
    before: Header,
    now: Header,
    names: list[str],
    positions: list[int],
    changes: list[TensorChange],
    home: str,
    here: str,
) -> list[str]:
    """The names of equal dtype and shape on both sides; the others become changes.  A column at a time where all are."""
    at = [*map(before.positions.__getitem__, names)]
    dtypes, shapes = ([column[position] for position in positions] for column in (now.dtypes, now.shapes))
    if dtypes == [before.dtypes[p] for p in at] and shapes == [before.shapes[p] for p in at]:
        return names
    alike = []
    for name, position, dtype, shape in zip(names, at, dtypes, shapes, strict=True):
        if before.dtypes[position] != dtype:
            changes.append(TensorChange(Change.RETYPED, name, home, here, name))
        elif before.shapes[position] != shape:
            changes.append(TensorChange(Change.RESHAPED, name, home, here, name))
        else:
            alike.append(name)
    return alike


def _changes(change: Change, names: Iterable[str], old: str, new: str, was: Iterable[str]) -> Iterable[TensorChange]:
    """A change for each name; `tuple.__new__` spares a call in Python for each of 200,000."""
    columns = zip(repeat(change), names, repeat(old), repeat(new), was)
    return map(tuple.__new__, repeat(TensorChange), columns)


def _homes(checkpoint: Checkpoint) -> Mapping[str, str]:
    """Tensor to the shard that holds it; where two do, the one that the index maps it to."""
    if checkpoint.is_bijective:
        return checkpoint.weight_map
    homes = {name: shard for shard, seen in checkpoint.shards.items() for name in seen.header.names}
    if len(homes) != sum(len(shard.header) for shard in checkpoint.shards.values()):
        for name, shard in checkpoint.weight_map.items():
            seen = checkpoint.shards.get(shard)
            if seen is not None and name in seen.header:
                homes[name] = shard
    return homes


def _is_home(shard: Shard, homes: Mapping[str, str]) -> bool:
    """Whether the shard is what its tensors are known by: no other shard is asked for one of them."""
    return [*map(homes.get, shard.header.names)].count(shard.file.name) == len(shard.header)


def _removed(homes: Mapping[str, str], new: Checkpoint) -> Iterator[TensorChange]:
    present: AbstractSet[str] = new.weight_map.keys()
    if not new.is_bijective:
        present = {name for shard in new.shards.values() for name in shard.header.names}
    if present >= homes.keys():
        return iter(())
    return (TensorChange(Change.REMOVED, name, home, "", name) for name, home in homes.items() if name not in present)


def _identities(shard: Shard) -> Iterable[object]:
    """What only a file of the same bytes has as well."""
    yield shard.file.fingerprint[:2]
    if shard.file.stated_sha256:
        yield shard.file.stated_sha256


def _same_file(one: Shard, other: Shard) -> bool:
    return not {*_identities(one)}.isdisjoint(_identities(other))
