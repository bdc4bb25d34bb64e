"""Describing: what a checkpoint is made of, counted, beside what its config says that it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from overlay.core.checking import layers_of
from overlay.core.checkpoint import Checkpoint
from overlay.core.drafts import Draft, find_drafts
from overlay.core.modules import Experts, ModuleClass, classify, count_experts, find_modules, place_modules
from overlay.formats.model_config import ModelConfig
from overlay.formats.quant_config import QuantConfig


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """One shard, counted."""

    name: str
    tensors: int
    data_bytes: int
    file_bytes: int
    location: str
    """The real file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A checkpoint, counted."""

    label: str
    config: ModelConfig | None
    declared: tuple[QuantConfig, ...]
    """What its files say of its quantisation."""
    tensors: int
    data_bytes: int
    dtypes: dict[str, tuple[int, int]]
    """Dtype to number of tensors and bytes."""
    layers: tuple[int, ...]
    draft_present: tuple[int, ...]
    """Layers past the trunk that have tensors, or whose tensors the index names."""
    drafts: tuple[Draft, ...]
    classes: tuple[ModuleClass, ...]
    experts: Experts
    kv_scales: int
    """Tensors that scale the KV cache."""
    output_layer: bool
    """Whether there is an output layer (``lm_head``) of its own."""
    shards: tuple[ShardSummary, ...]
    elsewhere: tuple[tuple[str, int], ...]
    """Shards that the index names and that are not here, with the tensors that it maps to them."""
    sidecars: tuple[str, ...]

    @property
    def schemes(self) -> dict[str, int]:
        """Label of each scheme that quantises to its number of modules."""
        counts: Counter[str] = Counter()
        for row in self.classes:
            if row.scheme.quantised or row.scheme.kind == "unknown":
                counts[row.scheme.label] += row.modules
        return dict(counts)

    def document(self) -> dict[str, Any]:
        """The description as it stands in JSON documents."""
        config = self.config
        return {
            "checkpoint": self.label,
            "architecture": config.architecture if config else None,
            "model_type": config.model_type if config else None,
            "quant_method": config.quant_method if config else None,
            "tensors": self.tensors,
            "total_size": self.data_bytes,
            "dtypes": {name: {"tensors": n, "bytes": size} for name, (n, size) in self.dtypes.items()},
            "layers": len(self.layers),
            "layers_declared": config.layers if config else None,
            "draft": self._draft_document(),
            "experts": self._experts_document(),
            "embeddings": {"tied": config.tied_embeddings if config else None, "output_layer": self.output_layer},
            "quantization": {
                "declared": [declared.document() for declared in self.declared],
                "present": self.schemes,
                "kv_scales": self.kv_scales,
            },
            "schemes": [_class_document(row) for row in self.classes],
            "shards": [
                {"name": s.name, "tensors": s.tensors, "bytes": s.data_bytes, "file_bytes": s.file_bytes}
                for s in self.shards
            ],
            "elsewhere": [{"name": name, "tensors": count} for name, count in self.elsewhere],
            "sidecars": list(self.sidecars),
        }

    def _draft_document(self) -> dict[str, Any]:
        config = self.config
        return {
            "declared": config.draft_layers if config else 0,
            "key": config.draft_key if config else "",
            "present": list(self.draft_present),
            "dialects": [{**draft._asdict(), "layers": list(draft.layers)} for draft in self.drafts],
        }

    def _experts_document(self) -> dict[str, Any]:
        config = self.config
        return {
            "declared": config.routed_experts if config else None,
            "shared_declared": config.shared_experts if config else None,
            "routed": [
                {"stack": g.stack, "layers": list(g.layers), "present": len(g.numbers), "numbers": ranges(g.numbers)}
                for g in self.experts.routed
            ],
            "shared": [{"stack": g.stack, "layers": list(g.layers)} for g in self.experts.shared],
        }


def describe(checkpoint: Checkpoint, config: ModelConfig | None, declared: Iterable[QuantConfig] = ()) -> Description:
    """Count `checkpoint`; costs a few steps a tensor, 0.4 s for 232,296 of them.

    Args:
        checkpoint: what is there.
        config: what its ``config.json`` says.
        declared: what other files say of its quantisation.
    """
    modules = find_modules(shard.header for shard in checkpoint.shards.values())
    places = place_modules(modules)
    layers = tuple(sorted(layers_of(checkpoint)))
    trunk = config.layers if config else None
    sayings = (*((config.quantization,) if config and config.quantization else ()), *declared)
    return Description(
        label=checkpoint.label,
        config=config,
        declared=sayings,
        tensors=len(checkpoint.weight_map),
        data_bytes=checkpoint.data_bytes,
        dtypes=_dtypes(checkpoint),
        layers=layers,
        draft_present=tuple(layer for layer in layers if layer >= trunk) if trunk else (),
        drafts=find_drafts(modules, places, trunk),
        classes=classify(modules, places, (bits for said in sayings for bits in said.bits)),
        experts=count_experts(modules, places),
        kv_scales=sum(stored.suffix in _KV_SCALES for form in modules.values() for stored in form),
        output_layer=any("lm_head." in name for name in checkpoint.weight_map),
        shards=tuple(
            ShardSummary(name, len(s.header), s.header.data_bytes, s.file.size, s.file.location)
            for name, s in sorted(checkpoint.shards.items())
        ),
        elsewhere=_elsewhere(checkpoint),
        sidecars=tuple(sorted(checkpoint.sidecars)),
    )


def ranges(numbers: Iterable[int]) -> str:
    """``0-77, 79`` for the numbers that it says; ``2-74 by 4`` for four or more at equal distances."""
    left, words, at = sorted(set(numbers)), [], 0
    while at < len(left):
        end = at + 1
        step = left[end] - left[at] if end < len(left) else 1
        while end < len(left) and left[end] - left[end - 1] == step:
            end += 1
        if step > 1 and end - at < _LEAST_RUN:
            end = at + 1
        last = f"-{left[end - 1]}" + (f" by {step}" if step > 1 else "")
        words.append(f"{left[at]}{last if end - at > 1 else ''}")
        at = end
    return ", ".join(words)


_LEAST_RUN: Final = 4
"""Numbers at equal distances that are shorter to read as a range."""
_KV_SCALES: Final = ("k_scale", "v_scale")


def _class_document(row: ModuleClass) -> dict[str, Any]:
    scheme = row.scheme.document()
    own = {"stack": row.stack, "component": row.component, "layers": list(row.layers)}
    return {**own, **scheme, "modules": row.modules, "tensors": row.tensors, "bytes": row.bytes}


def _elsewhere(checkpoint: Checkpoint) -> tuple[tuple[str, int], ...]:
    """Shards of the index that are not here; one that is here and cannot be used has a finding instead."""
    known = checkpoint.shards.keys() | {finding.file for finding in checkpoint.findings}
    counts = Counter(checkpoint.weight_map.values())
    return tuple((name, counts[name]) for name in sorted(counts.keys() - known))


def _dtypes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for shard in checkpoint.shards.values():
        counts.update(shard.header.dtypes)
        begin = 0
        for dtype, end in zip(shard.header.dtypes, shard.header.ends, strict=True):
            sizes[dtype] += end - begin
            begin = end
    return {dtype: (counts[dtype], sizes[dtype]) for dtype in sorted(counts, key=lambda d: -sizes[d])}
