"""Tallying: the tensors of a difference counted by change, place and dtype, so that 200,000 of them read as ten lines.

Reports of every kind (text, Markdown, HTML, JSON) are views of one table of cells.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import NamedTuple, TypeVar

from overlay.core.checkpoint import Checkpoint, Shard
from overlay.core.diffing import Change, Difference, TensorChange
from overlay.core.places import Place, places_of
from overlay.formats.dtypes import count_bytes, count_elements

_Key = TypeVar("_Key")
_Key6 = tuple[Change, Place, str, str, str, tuple[int, ...]]
"""Change, place, old dtype, new dtype, and the dtype and shape that its bytes are counted by."""


class Amount(NamedTuple):
    """How much there is of something."""

    tensors: int = 0
    parameters: int = 0
    """Elements; packed dtypes count their containers, as transformers' ``total_parameters`` does."""
    bytes: int = 0
    """Tensor data bytes."""

    def plus(self, other: Amount) -> Amount:
        """Both together."""
        return Amount(*map(sum, zip(self, other, strict=True)))


class Cell(NamedTuple):
    """What tensors have in common that are counted together."""

    change: Change
    place: Place
    old_dtype: str
    """"" for what was added."""
    new_dtype: str
    """"" for what was removed."""


@dataclass(frozen=True, eq=False)
class Tally:
    """A difference, counted."""

    cells: Mapping[Cell, Amount]
    """Removed tensors count with their old bytes, all others with their new ones."""

    @cached_property
    def by_change(self) -> Mapping[Change, Amount]:
        """Everything of each change; all changes are there, in their order."""
        return {change: self.of(change) for change in Change}

    @cached_property
    def added_by_dtype(self) -> Mapping[str, Amount]:
        """What was added, by dtype."""
        return _grouped((cell.new_dtype, amount) for cell, amount in self.cells.items() if cell.change is Change.ADDED)

    def of(self, change: Change) -> Amount:
        """Everything of one change."""
        return total(amount for cell, amount in self.cells.items() if cell.change is change)


def total(amounts: Iterable[Amount]) -> Amount:
    """All of them together."""
    sums = [0, 0, 0]
    for amount in amounts:
        for at, count in enumerate(amount):
            sums[at] += count
    return Amount(*sums)


def tally(difference: Difference) -> Tally:
    """Count a difference; costs a few look-ups a tensor."""
    counting = _Counting(difference)
    whole = {id(pairs.new): Change.UNREAD for pairs in difference.pairs if pairs.whole}
    for shard in difference.new.shards.values():
        counting.keep(shard, whole.get(id(shard), Change.IDENTICAL), shard.header.names)
    for pairs in difference.pairs:
        if not pairs.whole and pairs.old.file.name == pairs.new.file.name:
            counting.keep(pairs.new, Change.UNREAD, pairs.names)
            counting.keep(pairs.new, Change.IDENTICAL, pairs.names, -1)
    groups: dict[tuple[Change, str, str], list[TensorChange]] = defaultdict(list)
    for entry in difference.changes:
        groups[entry.change, entry.old, entry.new].append(entry)
    for (change, old, new), group in groups.items():
        counting.change(change, old, new, group)
    return Tally(_measured(counting.counts))


class _Counting:
    """Counts tensors a shard at a time, a column at a time."""

    def __init__(self, difference: Difference) -> None:
        self.old, self.new = difference.old.shards, difference.new.shards
        self.counts: Counter[_Key6] = Counter()
        self.known: dict[str, Place] = {}

    def keep(self, shard: Shard, change: Change, names: Sequence[str], sign: int = 1) -> None:
        """Count tensors that are what they were."""
        columns = zip(places_of(names, self.known), *_forms(shard, names), strict=True)
        for (place, dtype, shape), number in Counter(columns).items():
            self.counts[change, place, dtype, dtype, dtype, shape] += sign * number

    def change(self, change: Change, old: str, new: str, group: list[TensorChange]) -> None:
        """Count tensors of one change that lie in the same two shards; those of a new one were counted as kept before."""
        names = [entry.name for entry in group]
        places = places_of(names, self.known)
        before, old_shapes = _forms(self.old[old], [entry.was for entry in group]) if old else ([], [])
        if not new:
            self.counts.update(zip(repeat(change), places, before, repeat(""), before, old_shapes))
            return
        dtypes, shapes = _forms(self.new[new], names)
        self.counts.update(zip(repeat(change), places, before or repeat(""), dtypes, dtypes, shapes))
        self.counts.subtract(zip(repeat(Change.IDENTICAL), places, dtypes, dtypes, dtypes, shapes))


def _forms(shard: Shard, names: Sequence[str]) -> tuple[list[str], list[tuple[int, ...]]]:
    """Dtypes and shapes of tensors of a shard."""
    header = shard.header
    if names is header.names:
        return header.dtypes, header.shapes
    at = [header.positions[name] for name in names]
    return [header.dtypes[position] for position in at], [header.shapes[position] for position in at]


def contents(checkpoint: Checkpoint) -> Mapping[tuple[Place, str], Amount]:
    """What one checkpoint holds, by place and dtype."""
    everything: Counter[tuple[Place, str, tuple[int, ...]]] = Counter()
    for shard in checkpoint.shards.values():
        everything.update(zip(places_of(shard.header.names), *_forms(shard, shard.header.names), strict=True))
    return _grouped(
        ((place, dtype), _amount(number, dtype, shape)) for (place, dtype, shape), number in everything.items()
    )


def _measured(counts: Mapping[_Key6, int]) -> dict[Cell, Amount]:
    return _grouped(
        (Cell(change, place, before, after), _amount(number, dtype, shape))
        for (change, place, before, after, dtype, shape), number in counts.items()
        if number
    )


def _amount(number: int, dtype: str, shape: tuple[int, ...]) -> Amount:
    return Amount(number, number * count_elements(shape), number * count_bytes(dtype, shape))


def _grouped(amounts: Iterable[tuple[_Key, Amount]]) -> dict[_Key, Amount]:
    groups: dict[_Key, Amount] = {}
    for key, amount in amounts:
        groups[key] = groups[key].plus(amount) if key in groups else amount
    return groups


class Row(NamedTuple):
    """A line of a roll-up."""

    change: Change
    where: str
    """A pattern of tensor names, or the like for people: ``model.layers.{3-77}.mlp.experts.**``."""
    amount: Amount
    old_dtypes: tuple[str, ...]
    new_dtypes: tuple[str, ...]


def roll_up(counted: Tally, changes: Sequence[Change]) -> list[Row]:
    """The cells of `changes` in as few lines as say where they are.

    A layer that is wholly of one change is one line together with its neighbours of the same make; otherwise a component
    is one line over all its layers.
    """
    whole = _whole_layers(counted)
    groups: dict[tuple[Change, str, str], list[tuple[Cell, Amount]]] = defaultdict(list)
    for cell, amount in counted.cells.items():
        if cell.change in changes:
            place = cell.place
            component = "" if (place.stack, place.layer) in whole else place.component
            groups[cell.change, place.stack, component].append((cell, amount))
    order = {change: number for number, change in enumerate(changes)}
    rows = [_row(*key, entries) for key, entries in groups.items()]
    return sorted(rows, key=lambda row: (order[row.change], -row.amount.bytes, row.where))


def _whole_layers(counted: Tally) -> set[tuple[str, int | None]]:
    """The layers all of whose tensors share one change."""
    seen: dict[tuple[str, int | None], set[Change]] = defaultdict(set)
    for cell in counted.cells:
        seen[cell.place.stack, cell.place.layer].add(cell.change)
    return {key for key, changes in seen.items() if key[1] is not None and len(changes) == 1}


def _row(change: Change, stack: str, component: str, entries: list[tuple[Cell, Amount]]) -> Row:
    layers = {cell.place.layer for cell, _ in entries if cell.place.layer is not None}
    path = f"{stack}.{braced(layers)}" if stack else ""
    where = ".".join(part for part in (path, component, "**") if part)
    return Row(
        change,
        where,
        total(amount for _, amount in entries),
        tuple(dict.fromkeys(cell.old_dtype for cell, _ in entries if cell.old_dtype)),
        tuple(dict.fromkeys(cell.new_dtype for cell, _ in entries if cell.new_dtype)),
    )


def braced(numbers: Iterable[int]) -> str:
    """``78`` for one number, ``{0-2,5}`` for several."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    text = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
    return text if text.isdigit() else "{" + text + "}"
