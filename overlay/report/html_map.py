"""The map of a comparison: which layers and components there are, and what became of each; `html_chart` draws it.

A stack such as ``model.layers`` is a table, a line a layer and a column a component, with a bar where they meet.  What is
too much to be looked at (a thousand layers, a hundred components) is put together or left out, and the map says so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from typing import Final, NamedTuple

from overlay.core.diffing import Change
from overlay.core.findings import Finding
from overlay.core.tallying import Amount, Cell, Tally, total

MAX_STACKS: Final = 8
MAX_COLUMNS: Final = 24
MAX_LINES: Final = 300
_ALIKE_LINES: Final = 160
"""A stack of more layers shows neighbours of one make as one line."""

OTHERS: Final = "(others)"
"""The column of the components that got none of their own."""


class Mark(StrEnum):
    """What became of tensors, as far as it has a look of its own."""

    SAME = "same"
    ADDED = "added"
    REPLACED = "replaced"
    MOVED = "moved"
    DROPPED = "removed"


MARKS: Final[Mapping[Change, Mark]] = {
    Change.ADDED: Mark.ADDED,
    Change.REMOVED: Mark.DROPPED,
    Change.RENAMED: Mark.MOVED,
    Change.RETYPED: Mark.REPLACED,
    Change.RESHAPED: Mark.REPLACED,
    Change.REWRITTEN: Mark.REPLACED,
    Change.MOVED: Mark.MOVED,
    Change.UNREAD: Mark.SAME,
    Change.IDENTICAL: Mark.SAME,
}


class Part(NamedTuple):
    """Tensors of one bar that have their change and dtypes in common."""

    change: Change
    old_dtype: str
    new_dtype: str
    amount: Amount

    @property
    def mark(self) -> Mark:
        """How it is drawn."""
        return MARKS[self.change]

    @property
    def dtype(self) -> str:
        """The dtype that it is coloured by: the new one, if there is one."""
        return self.new_dtype or self.old_dtype


Bar = Sequence[Part]


@dataclass(frozen=True, slots=True)
class Line:
    """A layer, neighbouring layers of one make, or layers that are not there."""

    first: int
    last: int
    bars: Mapping[str, Bar]
    """Component to what this line has of it."""
    absent: str = ""
    """Why there is nothing, where a layer is expected and missing."""

    @property
    def label(self) -> str:
        """The number or numbers of the line."""
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"

    @property
    def news(self) -> frozenset[tuple[Mark, str, str]]:
        """What is not the same in it; lines that agree in this are told of together."""
        parts = (part for bar in self.bars.values() for part in bar)
        return frozenset((p.mark, p.old_dtype, p.new_dtype) for p in parts if p.mark is not Mark.SAME)

    @property
    def make(self) -> tuple[object, ...]:
        """What it is made of, numbers aside."""
        return (self.absent, frozenset((component, tuple(bar)) for component, bar in self.bars.items()))


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of one stack; the nameless stack is what lies outside of all layers."""

    name: str
    components: Sequence[str]
    """The columns, the heaviest first."""
    lines: Sequence[Line]
    left_out: int = 0
    """Lines that would have been too many."""


@dataclass(frozen=True, slots=True)
class Map:
    """Everything that is drawn."""

    stacks: Sequence[Stack]
    outside: Mapping[str, Bar]
    """Components outside of all layers, the heaviest first."""
    left_out: Sequence[str] = ()
    """Names of stacks that would have been too many."""

    @property
    def bars(self) -> Iterator[Bar]:
        """All bars."""
        yield from self.outside.values()
        for stack in self.stacks:
            for line in stack.lines:
                yield from line.bars.values()


def map_of(counted: Tally, findings: Iterable[Finding] = ()) -> Map:
    """The map of a tally; layers that a finding says are missing have their place in it."""
    by_stack: dict[str, list[tuple[Cell, Amount]]] = defaultdict(list)
    for cell, amount in counted.cells.items():
        by_stack[cell.place.stack].append((cell, amount))
    outside = _bars(by_stack.pop("", []))
    order = sorted(by_stack, key=lambda name: (-_weight(by_stack[name]), name))
    stacks = [_stack(name, by_stack[name]) for name in order[:MAX_STACKS]]
    missing = missing_layers(findings)
    if stacks and missing:
        stacks[0] = _with_missing(stacks[0], missing)
    heaviest = sorted(outside, key=lambda component: (-_bytes(outside[component]), component))
    return Map(
        [_bounded(_with_gaps(stack)) for stack in stacks],
        {component: outside[component] for component in heaviest[:MAX_COLUMNS]},
        [*order[MAX_STACKS:], *heaviest[MAX_COLUMNS:]],
    )


_DECLARED = re.compile(r"declares layer (\d{1,6}(?:, \d{1,6}){0,63})")


def missing_layers(findings: Iterable[Finding]) -> list[int]:
    """The layers that MTP001 says are declared and not there; `core.checking` words it."""
    messages = (finding.message for finding in findings if finding.code == "MTP001")
    found = (match for message in messages if (match := _DECLARED.search(message)))
    return sorted({int(number) for match in found for number in match[1].split(", ")})


def _stack(name: str, cells: list[tuple[Cell, Amount]]) -> Stack:
    weights: dict[str, int] = defaultdict(int)
    for cell, amount in cells:
        weights[cell.place.component] += amount.bytes
    components = sorted(weights, key=lambda component: (-weights[component], component))
    if len(components) > MAX_COLUMNS:
        components = [*components[: MAX_COLUMNS - 1], OTHERS]
    shown, by_layer = set(components), defaultdict(list)
    for cell, amount in cells:
        by_layer[cell.place.layer or 0].append((cell, amount))
    lines = [Line(layer, layer, _bars(by_layer[layer], shown)) for layer in sorted(by_layer)]
    return Stack(name, components, lines)


def _bars(cells: Iterable[tuple[Cell, Amount]], shown: set[str] | None = None) -> dict[str, Bar]:
    """Component to its parts, in an order that does not depend on how they were counted."""
    bars: dict[str, dict[tuple[Change, str, str], list[Amount]]] = defaultdict(lambda: defaultdict(list))
    for cell, amount in cells:
        component = cell.place.component
        column = component if shown is None or component in shown else OTHERS
        bars[column][cell.change, cell.old_dtype, cell.new_dtype].append(amount)
    marks = list(Mark)
    return {
        column: sorted(
            (Part(*key, total(amounts)) for key, amounts in parts.items()),
            key=lambda part: (marks.index(part.mark), -part.amount.bytes, part),
        )
        for column, parts in bars.items()
    }


def _with_missing(stack: Stack, missing: Iterable[int]) -> Stack:
    """The stack with a line for each declared layer that the new checkpoint has nothing of."""
    there = {line.first for line in stack.lines}
    slots = [Line(n, n, {}, "declared by config.json, none found (MTP001)") for n in missing if n not in there]
    return replace(stack, lines=sorted([*stack.lines, *slots], key=lambda line: line.first))


def _with_gaps(stack: Stack) -> Stack:
    """The stack with a line for each run of numbers that neither checkpoint has."""
    lines: list[Line] = []
    for line in stack.lines:
        if lines and lines[-1].last + 1 < line.first:
            lines.append(Line(lines[-1].last + 1, line.first - 1, {}, "in neither checkpoint"))
        lines.append(line)
    return replace(stack, lines=lines)


def _bounded(stack: Stack) -> Stack:
    lines = list(stack.lines)
    if len(lines) > _ALIKE_LINES:
        runs = [list(run) for _, run in groupby(lines, key=lambda line: line.make)]
        lines = [replace(run[0], last=run[-1].last) for run in runs]
    return replace(stack, lines=lines[:MAX_LINES], left_out=max(0, len(lines) - MAX_LINES))


def _weight(cells: Iterable[tuple[Cell, Amount]]) -> int:
    return sum(amount.bytes for _, amount in cells)


def _bytes(bar: Bar) -> int:
    return sum(part.amount.bytes for part in bar)
