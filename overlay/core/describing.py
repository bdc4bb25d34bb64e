"""Describing: what a checkpoint is made of, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from overlay.core.checking import draft_layers, layers_of
from overlay.core.checkpoint import Checkpoint
from overlay.formats.model_config import ModelConfig


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
    tensors: int
    data_bytes: int
    dtypes: dict[str, tuple[int, int]]
    """Dtype to number of tensors and bytes."""
    layers: tuple[int, ...]
    draft_present: tuple[int, ...]
    """Layers past the trunk that have tensors."""
    shards: tuple[ShardSummary, ...]
    sidecars: tuple[str, ...]

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
            "draft": {
                "declared": config.draft_layers if config else 0,
                "present": list(self.draft_present),
            },
            "shards": [
                {"name": s.name, "tensors": s.tensors, "bytes": s.data_bytes, "file_bytes": s.file_bytes}
                for s in self.shards
            ],
            "sidecars": list(self.sidecars),
        }


def describe(checkpoint: Checkpoint, config: ModelConfig | None) -> Description:
    """Count `checkpoint`; costs one step a tensor."""
    return Description(
        label=checkpoint.label,
        config=config,
        tensors=len(checkpoint.weight_map),
        data_bytes=checkpoint.data_bytes,
        dtypes=_dtypes(checkpoint),
        layers=tuple(sorted(layers_of(checkpoint))),
        draft_present=tuple(sorted(draft_layers(checkpoint, config))) if config and config.layers else (),
        shards=tuple(
            ShardSummary(name, len(s.header), s.header.data_bytes, s.file.size, s.file.location)
            for name, s in sorted(checkpoint.shards.items())
        ),
        sidecars=tuple(sorted(checkpoint.sidecars)),
    )


def layer_ranges(layers: Iterable[int]) -> str:
    """``0-77, 79`` for the numbers that it says."""
    ranges: list[list[int]] = []
    for layer in sorted(layers):
        if ranges and ranges[-1][1] == layer - 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


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
