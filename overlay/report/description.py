"""A description of a checkpoint as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from overlay.core.describing import Description, ranges
from overlay.core.modules import ExpertGroup, ModuleClass
from overlay.formats.quant_config import QuantConfig
from overlay.report.blocks import Block, Heading, Table
from overlay.report.text import in_bytes


def description_lines(description: Description, shards: bool) -> Iterator[Block]:
    """What a checkpoint is made of: what it declares and what is there, then its modules by component and scheme.

    Args:
        description: the checkpoint.
        shards: whether to list the shards, too.
    """
    yield Heading(description.label)
    yield Table([*_model_rows(description), *_quantisation_rows(description), *_size_rows(description)])
    if description.classes:
        rows = [_HEADINGS, *(_class_row(row, description) for row in description.classes)]
        yield Heading("modules")
        yield Table(rows, numbers=(2, 3), flexible=(0, 1, 4), headed=True)
    if shards:
        rows = [(s.name, f"{s.tensors} tensors", in_bytes(s.data_bytes)) for s in description.shards]
        away = [(name, f"{count} tensors", "elsewhere") for name, count in description.elsewhere]
        yield Heading("shards")
        yield Table(rows, numbers=(1, 2), flexible=(0,))
        yield Table(away, numbers=(1,), flexible=(0,))


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
