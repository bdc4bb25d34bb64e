"""The step `keep-experts`: some experts of each layer stay, and become numbers 0 to n-1.

Pruning takes four changes that must agree: tensors go, those of later experts move up, rows of the router and of its bias
go, and the count in the config falls.  The first three are made here, the fourth is `Kept.experts`.  Sources: Cerebras
REAP `src/reap/prune.py`; vLLM 0.33 `deepseek_mtp.py`, which fails on any of the four that is missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.core.places import place_of
from overlay.core.recipes.state import Problem, Tensors, about, ordered, require
from overlay.core.recipes.values import Argument, Spec, Value, make_call, renamed
from overlay.formats.keep_lists import KeepLists
from overlay.formats.steps import explain_keep_list

_EXPERT: Final = re.compile(r"(?:(?P<block>.+)\.)?experts\.(?P<number>0|[1-9][0-9]{0,6})\.(?P<rest>.+)")
_STACKED: Final = re.compile(r"(?:(?P<block>.+)\.)?experts\.(?P<rest>[A-Za-z_][^.]*)")
_ROUTER: Final = re.compile(r"(?:(?P<block>.+)\.)?(?:gate|router)\.(?P<rest>weight|bias|e_score_correction_bias)")


@dataclass(frozen=True, slots=True)
class Kept:
    """What the step came to."""

    tensors: dict[str, Value]
    experts: int
    """Experts of every layer now, which the config has to say."""


@dataclass(slots=True)
class _Block:
    """A layer with experts, and its tensors by what has to happen to them."""

    path: str
    numbered: dict[str, tuple[int, str]]
    """Tensor to its expert, and to the rest of its name."""
    stacked: list[str]
    """Tensors with one entry an expert: fused experts."""
    router: list[str]


def keep_experts(tensors: Tensors, lists: KeepLists, *, n_group: int = 1, wanted: int | None = None) -> Kept:
    """The experts of `lists` in every layer that has any.

    Args:
        tensors: before the step.
        lists: the experts that stay.
        n_group: routing groups of the model, each of which must keep as many experts as the others.
        wanted: how many experts must stay, where that is known.

    Raises:
        StepProblems: a list that names what is not there, repeats or is out of order; a layer without a list, a list
            without a layer, layers that keep different numbers; a router that is missing or has other rows.
    """
    blocks = _blocks(tensors)
    problems = [] if blocks else [Problem("", "", "expected experts, found none (rule idle-step)")]
    layers = {place_of(f"{block.path}.experts.x").layer for block in blocks}
    for layer, _ in lists.by_layer:
        if layer not in layers:
            problems.append(
                Problem("", "", f"keep-experts: expected layer {layer} to have experts, found none (rule keep-list)")
            )
    chosen: list[tuple[_Block, tuple[int, ...], int]] = []
    for block in blocks:
        kept = lists.for_layer(place_of(f"{block.path}.experts.x").layer)
        if kept is None:
            problems.append(
                Problem(f"{block.path}.experts", "", "expected a keep list for this layer, found none (rule keep-list)")
            )
            continue
        count, odd = _count(block, tensors)
        odd += list(_explain(block, kept, count, n_group))
        if wanted not in (None, len(kept)):
            message = f"expected a list of {wanted} experts, found {len(kept)} (rule keep-list)"
            odd.append(Problem(f"{block.path}.experts", "", message))
        problems += odd
        chosen.append((block, kept, count))
    if len({len(kept) for _, kept, _ in chosen}) > 1:
        counts = ", ".join(sorted({str(len(kept)) for _, kept, _ in chosen}))
        problems.append(
            Problem("", "", f"keep-experts: expected one number for all layers, found {counts} (rule keep-list)")
        )
    require(problems)
    result = dict(tensors)
    for block, kept, count in chosen:
        if kept != tuple(range(count)):
            _keep(block, kept, result)
    return Kept(ordered(result.values()), len(chosen[0][1]))


def _blocks(tensors: Tensors) -> list[_Block]:
    """The layers with experts, by path."""
    blocks: dict[str, _Block] = {}
    for name, value in tensors.items():
        numbered, stacked = _EXPERT.fullmatch(name), _STACKED.fullmatch(name)
        if numbered:
            block = _block(blocks, numbered["block"])
            block.numbered[name] = int(numbered["number"]), numbered["rest"]
        elif stacked and len(value.shape) >= 2:
            _block(blocks, stacked["block"]).stacked.append(name)
    for name in tensors:
        router = _ROUTER.fullmatch(name)
        if router and (router["block"] or "") in blocks:
            blocks[router["block"] or ""].router.append(name)
    return [blocks[path] for path in sorted(blocks)]


def _block(blocks: dict[str, _Block], path: str | None) -> _Block:
    return blocks.setdefault(path or "", _Block(path or "", {}, [], []))


def _count(block: _Block, tensors: Tensors) -> tuple[int, list[Problem]]:
    """How many experts a layer has, and where its tensors disagree about it."""
    numbers = {number for number, _ in block.numbered.values()}
    rows = {name: tensors[name].shape[0] if tensors[name].shape else 0 for name in (*block.router, *block.stacked)}
    count = max(numbers, default=-1) + 1 or min(rows.values(), default=0)
    problems = [
        about(tensors[name], f"expected a row for each of {count} experts, found {found}", "expert-rows")
        for name, found in rows.items()
        if found != count
    ]
    first = tensors[min([*block.numbered, *block.stacked])]
    missing = sorted(set(range(count)) - numbers) if numbers else []
    if missing:
        problems.append(
            about(first, f"expected experts 0 to {count - 1}, found none with number {missing[0]}", "expert-rows")
        )
    if not any(name.endswith(".weight") for name in block.router):
        prefix = f"{block.path}." if block.path else ""
        message = f"expected {prefix}gate.weight beside it, found none"
        problems.append(about(first, message, "partner"))
    return count, problems


def _explain(block: _Block, kept: Sequence[int], count: int, n_group: int) -> Iterator[Problem]:
    """What is wrong with the list of a layer of `count` experts."""
    path = f"{block.path}.experts" if block.path else "experts"
    if problem := explain_keep_list(list(kept)):
        yield Problem(path, "", f"{problem} (rule keep-list)")
        return
    beyond = [expert for expert in kept if not 0 <= expert < count]
    if beyond:
        named = ", ".join(map(str, beyond[:5]))
        yield Problem(path, "", f"expected experts 0 to {count - 1}, found {named} (rule keep-list)")
    elif n_group > 1 and count % n_group == 0:
        groups = Counter(expert * n_group // count for expert in kept)
        sizes = [groups[group] for group in range(n_group)]
        if len(set(sizes)) > 1:
            yield Problem(
                path, "", f"expected as many experts in each of {n_group} groups, found {sizes} (rule expert-groups)"
            )


def _keep(block: _Block, kept: tuple[int, ...], result: dict[str, Value]) -> None:
    """Change the tensors of a layer in `result`."""
    moved = {old: new for new, old in enumerate(kept)}
    prefix = f"{block.path}.experts" if block.path else "experts"
    values = {name: result.pop(name) for name in block.numbered}
    for name, (number, rest) in block.numbered.items():
        if number in moved:
            new = f"{prefix}.{moved[number]}.{rest}"
            result[new] = renamed(values[name], new)
    for name in (*block.router, *block.stacked):
        result[name] = _rows(result[name], kept)


def _rows(value: Value, rows: tuple[int, ...]) -> Value:
    output = Spec("tensor", value.dtype, (len(rows), *value.shape[1:]))
    _, (result,) = make_call("keep-rows", [Argument("tensor", value)], [output], rows=rows)
    return renamed(result, value.name)
