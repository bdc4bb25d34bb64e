"""A description of a checkpoint as plain text, for terminals of any width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from overlay.core.describing import Description, ranges
from overlay.core.modules import ExpertGroup, ModuleClass
from overlay.formats.quant_config import QuantConfig
from overlay.report.text import in_bytes, table

_LEAST_WIDTH: Final = 24
"""A last column narrower than this is not wrapped but left to run over."""


def description_lines(description: Description, shards: bool, width: int = 160) -> Iterator[str]:
    """What a checkpoint is made of: what it declares and what is there, then its modules by component and scheme.

    Args:
        description: the checkpoint.
        shards: whether to list the shards, too.
        width: columns of the terminal.
    """
    yield description.label
    yield from _columns([*_model_rows(description), *_quantisation_rows(description), *_size_rows(description)], width)
    if description.classes:
        yield "modules"
        yield from _columns([_HEADINGS, *(_class_row(row, description) for row in description.classes)], width)
    if shards:
        yield "shards"
        yield from table([(s.name, f"{s.tensors} tensors", in_bytes(s.data_bytes)) for s in description.shards])
        yield from table([(name, f"{count} tensors", "elsewhere") for name, count in description.elsewhere])


_HEADINGS: Final = ("component", "scheme", "modules", "bytes", "layers")


def _model_rows(description: Description) -> Iterator[tuple[str, str]]:
    config = description.config
    if config is not None:
        yield "architecture", f"{config.architecture or 'unknown'} ({config.model_type or 'unknown'})"
    declared = f"; the trunk has {config.layers}" if config and config.layers is not None else ""
    yield "layers", f"{ranges(description.layers) or 'none'}{declared}"
    yield "draft", _draft(description)
    experts = _experts(description)
    if experts:
        yield "experts", experts
    tied = config.tied_embeddings if config else None
    words = {True: "declared tied", False: "declared untied", None: "not declared tied"}[tied]
    yield "embeddings", f"{words}; {'with' if description.output_layer else 'without'} an output layer (lm_head)"


def _draft(description: Description) -> str:
    config = description.config
    declared = (
        f"{config.draft_layers} declared ({config.draft_key})" if config and config.draft_key else "none declared"
    )
    found = [
        f"{f'layer {ranges(draft.layers)} as ' if draft.layers else ''}{draft.dialect} "
        f"({draft.tensors} tensors, {in_bytes(draft.bytes)})"
        for draft in description.drafts
    ]
    if not found and description.draft_present:
        found = [f"layer {ranges(description.draft_present)} elsewhere"]
    return f"{declared}; present: {', '.join(found) or 'none'}"


def _experts(description: Description) -> str:
    config = description.config
    parts = [f"{_expert_numbers(group)}{_in_layers(group)}" for group in description.experts.routed]
    parts += [f"shared{_in_layers(group)}" for group in description.experts.shared]
    if config is not None and (config.routed_experts or config.shared_experts):
        shared = f" and {config.shared_experts} shared" if config.shared_experts else ""
        parts.append(f"declared: {config.routed_experts or 0}{shared}")
    return "; ".join(parts)


def _expert_numbers(group: ExpertGroup) -> str:
    whole = group.numbers == tuple(range(len(group.numbers)))
    return f"{len(group.numbers)}" if whole else f"{len(group.numbers)} (numbers {ranges(group.numbers)})"


def _in_layers(group: ExpertGroup) -> str:
    stack = "" if group.stack.endswith("model.layers") or not group.stack else f" of {group.stack}"
    return f" in layers {ranges(group.layers)}{stack}" if group.layers else ""


def _quantisation_rows(description: Description) -> Iterator[tuple[str, str]]:
    for declared in description.declared:
        yield "declared", _declaration(declared)
    if not description.declared:
        yield "declared", "no quantisation"
    schemes = [f"{label} in {count} modules" for label, count in description.schemes.items()]
    kv_scales = [f"{description.kv_scales} KV-cache scales"] if description.kv_scales else []
    yield "present", "; ".join([*schemes, *kv_scales]) or "no quantised module"


def _declaration(declared: QuantConfig) -> str:
    kv_cache = f"KV cache {declared.kv_cache}" if declared.kv_cache else "KV cache not quantised"
    excluded = f"{len(declared.excluded)} in {declared.excluded_key}" if declared.excluded_key else "nothing excluded"
    return f"{declared.words}; {kv_cache}; {excluded} ({declared.source})"


def _size_rows(description: Description) -> Iterator[tuple[str, str]]:
    away = sum(count for _, count in description.elsewhere)
    yield "tensors", f"{description.tensors}" + (f", {away} of them elsewhere" if away else "")
    yield "bytes", f"{description.data_bytes} ({in_bytes(description.data_bytes)})"
    for name, (count, size) in description.dtypes.items():
        yield "dtype", f"{name}: {count} tensors, {in_bytes(size)}"
    away = len(description.elsewhere)
    yield "shards", f"{len(description.shards)}" + (f"; {away} that the index names are elsewhere" if away else "")


def _class_row(row: ModuleClass, description: Description) -> tuple[str, ...]:
    main = max(description.classes, key=lambda other: other.bytes if other.stack else -1).stack
    component = row.component if row.stack in ("", main) else f"{row.stack}: {row.component}"
    return component, row.scheme.label, str(row.modules), in_bytes(row.bytes), ranges(row.layers)


def _columns(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A table whose last column is wrapped to what is left of `width`."""
    left = width - 2 - sum(max(len(row[at]) for row in rows) + 2 for at in range(len(rows[0]) - 1))
    wrapped: list[Sequence[str]] = []
    for row in rows:
        lines = textwrap.wrap(row[-1], left, break_long_words=False) if left >= _LEAST_WIDTH else [row[-1]]
        first, *others = lines or [""]
        wrapped.append([*row[:-1], first])
        wrapped += [[*[""] * (len(row) - 1), line] for line in others]
    yield from table(wrapped)
