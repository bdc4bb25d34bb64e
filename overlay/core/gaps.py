"""Gaps: shards and layers that a checkpoint lacks by its own numbers.

Where an index lost a shard together with its entries, index and headers agree about what is left.  Two things still tell:
shards are numbered ``k`` of ``n``, and the config says how many layers there are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from overlay.core.findings import Finding, about
from overlay.core.places import stacks_of
from overlay.formats.model_config import CONFIG_NAME, ModelConfig
from overlay.formats.names import INDEX_NAME, SHARD_SUFFIX

_NUMBERED: Final = re.compile(r"(.*?)(\d{1,6})-of-(\d{1,6})\.safetensors")
_MOST_SHARDS: Final = 2000
"""Numbers that are looked for by name; the largest checkpoints have a few hundred shards."""

_NO_TRUNK: Final = re.compile(
    r"(?:^|[._])(?:mtp|nextn|draft|eagle|medusa|vision|visual|image|audio|speech|seanet|base_model)"
)
"""Stacks that no ``num_hidden_layers`` counts: drafts, towers, and adapters, which may leave layers alone."""

_COUNTED_OTHERWISE: Final = frozenset({"longcat_flash", "efficientnet"})
"""Model types whose ``num_hidden_layers`` is no number of layers: it counts two attentions a layer, or stages by four."""

Hole = tuple[int, int]
"""The first and the last of missing numbers."""


@dataclass(slots=True)
class _Series:
    """The shards of one stem, over all totals: ``-00046-of-00046`` continues 45 shards that say ``-of-00045``."""

    stem: str
    numbers: set[int] = field(default_factory=set)
    total: int = 0
    widths: tuple[int, int] = (5, 5)
    """Digits of a number, and of the total."""

    @property
    def range(self) -> Hole:
        """The numbers that it should have; some tools count from 0."""
        return (0, self.total - 1) if 0 in self.numbers else (1, self.total)

    def name(self, number: int | str) -> str:
        """The name of a shard of it."""
        text = number if isinstance(number, str) else f"{number:0{self.widths[0]}d}"
        return f"{self.stem}{text}-of-{self.total:0{self.widths[1]}d}{SHARD_SUFFIX}"


def check_series(listed: Collection[str], present: Iterable[str]) -> list[Finding]:
    """Whether numbers are missing among the shards that make up a checkpoint.

    Args:
        listed: the shards that the index names; without an index, those that are there.
        present: every name in the folder: a stray has a finding of its own.

    A shard without a number may be a numbered one that was renamed, so that as many numbers as there are such shards
    may be missing.
    """
    there = _series_of(present)
    unnumbered = sum(_NUMBERED.fullmatch(name) is None for name in listed)
    findings = []
    for stem, series in _series_of(listed).items():
        numbers = series.numbers | (there[stem].numbers if stem in there else set())
        holes = list(_holes(numbers, *series.range))
        if sum(last - first + 1 for first, last in holes) > unnumbered:
            first, last = series.range
            message = f"expected the shards {first} to {last} of {series.name('*')}, found none numbered {_said(holes)}"
            findings.append(about("IDX018", INDEX_NAME, message))
    return findings


def missing_numbers(names: Iterable[str]) -> list[str]:
    """The shards that `names` lack by their own numbers: ``model-00001-of-00003`` alone lacks two others.

    Where no index says what belongs together, this is all that tells a whole checkpoint from half a download.  A shard that
    was added under a higher total, ``-00004-of-00004``, belongs to the row.
    """
    missing = []
    for series in _series_of(names).values():
        first, last = series.range
        wanted = range(first, min(last, _MOST_SHARDS) + 1)
        missing += [series.name(number) for number in wanted if number not in series.numbers]
    return missing


def completing(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of `others` whose numbers are missing among `names`."""
    series = _series_of(names)
    return [
        name
        for name in others
        if (match := _NUMBERED.fullmatch(name)) is not None
        and (row := series.get(match[1])) is not None
        and int(match[2]) not in row.numbers
        and row.range[0] <= int(match[2]) <= row.range[1]
    ]


def check_layers(names: Iterable[str], config: ModelConfig) -> list[Finding]:
    """Whether each layer that the config declares has a tensor, where others of its stack have some.

    Only the stack with most layers is judged, since a config counts one and says of no other how deep it is.  A standalone
    draft has no layer of the trunk at all.
    """
    if not config.layers or config.model_type in _COUNTED_OTHERWISE:
        return []
    stacks = {path: numbers for path, numbers in stacks_of(names).items() if not _NO_TRUNK.search(path)}
    most = max(map(len, stacks.values()), default=0)
    largest = [path for path, numbers in stacks.items() if len(numbers) == most]
    if len(largest) != 1:
        return []
    present = {number for number in stacks[largest[0]] if number < config.layers}
    holes = list(_holes(present, 0, config.layers - 1))
    from_one = 0 not in present and config.layers in stacks[largest[0]] and not config.draft_layers
    if not present or not holes or from_one:
        return []
    word = "layer" if holes == [(holes[0][0], holes[0][0])] else "layers"
    message = f"declares {config.layers} layers, found no tensor of {word} {_said(holes)} in {largest[0]}"
    return [about("CFG004", CONFIG_NAME, message, key="num_hidden_layers")]


def _series_of(names: Iterable[str]) -> dict[str, _Series]:
    """Stem to series."""
    found: dict[str, _Series] = {}
    for match in filter(None, map(_NUMBERED.fullmatch, names)):
        series = found.setdefault(match[1], _Series(match[1]))
        series.numbers.add(int(match[2]))
        if int(match[3]) > series.total:
            series.total, series.widths = int(match[3]), (len(match[2]), len(match[3]))
    return found


def _holes(numbers: Iterable[int], first: int, last: int) -> Iterator[Hole]:
    """The stretches of `first` to `last` that `numbers` leave open; costs a sort, however far apart both are."""
    inside = [number for number in sorted(numbers) if first <= number <= last]
    for before, after in pairwise([first - 1, *inside, last + 1]):
        if after - before > 1:
            yield before + 1, after - 1


_FEW: Final = 8
"""Stretches that a message names; the rest is counted."""


def _said(holes: list[Hole]) -> str:
    """``3, 5 to 6``."""
    words = [str(first) if first == last else f"{first} to {last}" for first, last in holes[:_FEW]]
    left = sum(last - first + 1 for first, last in holes[_FEW:])
    return ", ".join(words) + (f" and {left} more" if left else "")
