"""Tallying: the tensors of a difference counted by change, place and dtype, so that 200,000 of them read as ten lines.

Reports of every kind (text, Markdown, HTML, JSON) are views of one table of cells.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, repeat
from operator import itemgetter
from typing import Final, NamedTuple, TypeVar

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
    """A difference, counted.

    What changed is counted by place at once; the rest, which is most of it, only when somebody asks for its places.
    """

    difference: Difference

    @cached_property
    def changed(self) -> Mapping[Cell, Amount]:
        """What changed; removed tensors count with their old bytes, all others with their new ones."""
        return _changed(self.difference)

    @cached_property
    def cells(self) -> Mapping[Cell, Amount]:
        """Everything; costs a few look-ups a tensor."""
        return {**self.changed, **_kept_cells(self.difference)}

    @cached_property
    def by_change(self) -> Mapping[Change, Amount]:
        """Everything of each change; all changes are there, in their order."""
        kept = _kept_totals(self.difference)
        changed = _grouped((cell.change, amount) for cell, amount in self.changed.items())
        return {change: kept.get(change) or changed.get(change) or Amount() for change in Change}

    @cached_property
    def added_by_dtype(self) -> Mapping[str, Amount]:
        """What was added, by dtype."""
        return _grouped(
            (cell.new_dtype, amount) for cell, amount in self.changed.items() if cell.change is Change.ADDED
        )

    def of(self, change: Change) -> Amount:
        """Everything of one change."""
        return self.by_change[change]

    def layers_kept(self, layers: AbstractSet[Layer]) -> AbstractSet[Layer]:
        """Those of `layers` in which some tensor did not change."""
        if not any(self.of(change).tensors for change in KEPT):
            return frozenset()
        if len(layers) > _FEW_LAYERS:
            return layers & {(cell.place.stack, cell.place.layer) for cell in self.cells if cell.change in KEPT}
        found: set[Layer] = set()
        changed = {(entry.new, entry.name) for entry in self.difference.changes}
        prefixes = tuple(f"{stack}.{layer}." for stack, layer in layers)
        for shard, seen in self.difference.new.shards.items() if prefixes else ():
            inside = [name for name in seen.header.names if name.startswith(prefixes) and (shard, name) not in changed]
            found.update((place.stack, place.layer) for place in places_of(inside))
        return found & layers


Layer = tuple[str, int | None]
"""A stack, and the number of a layer in it."""

KEPT: Final = frozenset({Change.UNREAD, Change.IDENTICAL})
"""What is where and what it was, as far as anybody knows."""

_FEW_LAYERS: Final = 8
"""So many prefixes are looked for in every name before it is cheaper to find every tensor's place."""


def total(amounts: Iterable[Amount]) -> Amount:
    """All of them together."""
    sums = [0, 0, 0]
    for amount in amounts:
        for at, count in enumerate(amount):
            sums[at] += count
    return Amount(*sums)


def _changed(difference: Difference) -> dict[Cell, Amount]:
    """What changed, counted a pair of shards at a time, a column at a time."""
    counts: Counter[_Key6] = Counter()
    known: dict[str, Place] = {}
    for (change, old, new), group in _by_shards(difference).items():
        names = [entry.name for entry in group]
        places = places_of(names, known)
        before = _forms(difference.old.shards[old], [entry.was for entry in group]) if old else None
        after = _forms(difference.new.shards[new], names) if new else None
        old_dtypes = before[0] if before is not None else repeat("")
        new_dtypes = after[0] if after is not None else repeat("")
        counts.update(zip(repeat(change), places, old_dtypes, new_dtypes, *(after or before or ((), ()))))
    return _measured(counts)


def _kept_cells(difference: Difference) -> dict[Cell, Amount]:
    """What did not change, by place."""
    counts: Counter[_Key6] = Counter()
    known: dict[str, Place] = {}
    for change, shard, names, sign in _kept(difference):
        columns = zip(places_of(names, known), *_forms(shard, names), strict=True)
        for (place, dtype, shape), number in Counter(columns).items():
            counts[change, place, dtype, dtype, dtype, shape] += sign * number
    return _measured(counts)


def _kept_totals(difference: Difference) -> dict[Change, Amount]:
    """What did not change, without its places."""
    counts: Counter[tuple[Change, str, tuple[int, ...]]] = Counter()
    for change, shard, names, sign in _kept(difference):
        for (dtype, shape), number in Counter(zip(*_forms(shard, names), strict=True)).items():
            counts[change, dtype, shape] += sign * number
    return _grouped((change, _amount(number, dtype, shape)) for (change, dtype, shape), number in counts.items())


def _kept(difference: Difference) -> Iterator[tuple[Change, Shard, Sequence[str], int]]:
    """Change, shard and names of what did not change, and whether they are counted on or off.

    A shard counts as a whole at first, as unread where it is one of the pairs that were not taken apart, else as identical;
    then what is otherwise is counted off.
    """
    whole = {id(pairs.new) for pairs in difference.pairs if pairs.whole}
    changed: dict[str, list[str]] = defaultdict(list)
    for entry in difference.changes:
        changed[entry.new].append(entry.name)
    for name, shard in difference.new.shards.items():
        if len(changed[name]) < len(shard.header):
            yield Change.UNREAD if id(shard) in whole else Change.IDENTICAL, shard, shard.header.names, 1
            yield Change.IDENTICAL, shard, changed[name], -1
    for pairs in difference.pairs:
        if not pairs.whole and pairs.old.file.name == pairs.new.file.name:
            yield Change.UNREAD, pairs.new, pairs.names, 1
            yield Change.IDENTICAL, pairs.new, pairs.names, -1


def _by_shards(difference: Difference) -> dict[tuple[Change, str, str], list[TensorChange]]:
    """The changes of each kind between each two shards."""
    groups: dict[tuple[Change, str, str], list[TensorChange]] = defaultdict(list)
    for key, run in groupby(difference.changes, key=itemgetter(0, 2, 3)):  # change, old and new: most come in long runs
        groups[key].extend(run)
    return groups


def _forms(shard: Shard, names: Sequence[str]) -> tuple[list[str], list[tuple[int, ...]]]:
    """Dtypes and shapes of tensors of a shard."""
    header = shard.header
    if names is header.names:
        return header.dtypes, header.shapes
    at = [header.positions[name] for name in names]
    return [header.dtypes[position] for position in at], [header.shapes[position] for position in at]


def contents(checkpoint: Checkpoint) -> Mapping[str, Amount]:
    """What one checkpoint holds, by dtype."""
    counts: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for shard in checkpoint.shards.values():
        counts.update(zip(shard.header.dtypes, shard.header.shapes, strict=True))
    return _grouped((dtype, _amount(number, dtype, shape)) for (dtype, shape), number in counts.items())


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
    for cell, amount in counted.changed.items():
        if cell.change in changes:
            place = cell.place
            component = "" if (place.stack, place.layer) in whole else place.component
            groups[cell.change, place.stack, component].append((cell, amount))
    order = {change: number for number, change in enumerate(changes)}
    rows = [_row(*key, entries) for key, entries in groups.items()]
    return sorted(rows, key=lambda row: (order[row.change], -row.amount.bytes, row.where))


def _whole_layers(counted: Tally) -> set[Layer]:
    """The layers all of whose tensors share one change."""
    seen: dict[Layer, set[Change]] = defaultdict(set)
    for cell in counted.changed:
        if cell.place.layer is not None:
            seen[cell.place.stack, cell.place.layer].add(cell.change)
    of_one = {layer for layer, changes in seen.items() if len(changes) == 1}
    return of_one - counted.layers_kept(of_one)


def _row(change: Change, stack: str, component: str, entries: list[tuple[Cell, Amount]]) -> Row:
    layers = {cell.place.layer for cell, _ in entries if cell.place.layer is not None}
    where = ".".join(part for part in (f"{stack}.{braced(layers)}" if stack else "", _pattern(component)) if part)
    return Row(
        change,
        where,
        total(amount for _, amount in entries),
        tuple(dict.fromkeys(cell.old_dtype for cell, _ in entries if cell.old_dtype)),
        tuple(dict.fromkeys(cell.new_dtype for cell, _ in entries if cell.new_dtype)),
    )


def _pattern(component: str) -> str:
    """A pattern for the tensors of a component; of norms, whose names differ, and for what lies outside of layers too."""
    return {"norms": "*norm*.**", "parameters": "*"}.get(component, f"{component}.**" if component else "**")


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
