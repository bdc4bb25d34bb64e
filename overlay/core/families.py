"""Families: tensors whose names differ in numbers only, so that a quarter of a million names fit on a page.

``model.layers.3.mlp.experts.0.up_proj.weight`` and its 19,199 sisters are one family,
``model.layers.{3-77}.mlp.experts.{0-255}.up_proj.weight``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from overlay.core.diffing import Change, Difference
from overlay.core.tallying import Amount, braced
from overlay.formats.dtypes import count_bytes, count_elements

_NUMBER = re.compile(r"(?<![^.])\d{1,9}(?![^.])")
_MARK = "\x00"


@dataclass(frozen=True, slots=True)
class Family:
    """Tensors that differ in the numbers of their names, with equal change, dtypes and shape."""

    change: Change
    pattern: str
    """The name with ranges for numbers.  Where the numbers are no full grid, it describes more than `amount` counts."""
    old_dtype: str
    dtype: str
    """The new dtype; of removed tensors, the old one."""
    shape: tuple[int, ...]
    amount: Amount
    shards: int
    """In how many shards they lie."""


def families(difference: Difference) -> list[Family]:
    """All tensors of both checkpoints, as families in the order of their patterns.

    Costs a regular expression a module, and a few look-ups a tensor.
    """
    members: dict[tuple[Change, str, str, str, tuple[int, ...]], _Members] = defaultdict(_Members)
    known: dict[str, tuple[str, list[str]]] = {}
    for change, name, old_dtype, dtype, shape, shard in _tensors(difference):
        at = name.rfind(".") + 1
        stem, last = (name, "") if name[at:].isdigit() else (name[:at], name[at:])
        split = known.get(stem)
        if split is None:
            split = known[stem] = _NUMBER.sub(_MARK, stem), _NUMBER.findall(stem)
        members[change, split[0] + last, old_dtype, dtype, shape].add(split[1], shard)
    found = []
    for (change, template, old_dtype, dtype, shape), group in members.items():
        amount = Amount(group.count, group.count * count_elements(shape), group.count * count_bytes(dtype, shape))
        found.append(Family(change, group.fill(template), old_dtype, dtype, shape, amount, len(group.shards)))
    order = {change: number for number, change in enumerate(Change)}
    return sorted(found, key=lambda f: (order[f.change], _natural(f.pattern), f.dtype, f.shape))


class _Members:
    """What a family's names have between their dots."""

    def __init__(self) -> None:
        self.count = 0
        self.numbers: list[set[str]] = []
        self.shards: set[str] = set()

    def add(self, numbers: list[str], shard: str) -> None:
        if not self.count:
            self.numbers = [set() for _ in numbers]
        self.count += 1
        self.shards.add(shard)
        for seen, number in zip(self.numbers, numbers, strict=True):
            seen.add(number)

    def fill(self, template: str) -> str:
        first, *rest = template.split(_MARK)
        if len(rest) != len(self.numbers):  # a name with a NUL in it: shown as it is
            return template
        return first + "".join(braced(map(int, seen)) + part for seen, part in zip(self.numbers, rest, strict=True))


def _tensors(difference: Difference) -> Iterator[tuple[Change, str, str, str, tuple[int, ...], str]]:
    """Every tensor: change, name, old dtype, dtype, shape, shard."""
    changed: dict[tuple[str, str], tuple[Change, str]] = {}
    for change, name, old, new, was in difference.changes:
        before = difference.old.shards[old].header[was or name] if old else None
        if not new:
            assert before is not None  # what is in neither checkpoint is no change
            yield change, name, before.dtype, before.dtype, before.shape, old
        else:
            changed[new, name] = change, before.dtype if before is not None else ""
    unread = {id(pairs.new): pairs for pairs in difference.pairs if pairs.whole}
    partly = {name for pairs in difference.pairs if not pairs.whole for name in pairs.names}
    for shard, seen in difference.new.shards.items():
        whole, header = id(seen) in unread, seen.header
        for name, dtype, shape in zip(header.names, header.dtypes, header.shapes, strict=True):
            same = Change.UNREAD if whole or name in partly else Change.IDENTICAL
            change, old_dtype = changed.get((shard, name)) or (same, dtype)
            yield change, name, old_dtype, dtype, shape, shard


def _natural(pattern: str) -> list[tuple[int, str]]:
    """Numbers by value, so that layer 9 comes before layer 10."""
    return [
        (int(part), "") if part.isdigit() and part.isascii() else (0, part) for part in re.split(r"(\d{1,9})", pattern)
    ]
