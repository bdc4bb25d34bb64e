"""Checking: is a checkpoint what its own index and headers say?

The invariant that engines rely on and nobody enforces: the tensors of the listed shards and the weight map are a
bijection.  Engines load *every* tensor of every listed shard, whatever the weight map says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from overlay.core.checkpoint import Checkpoint
from overlay.core.findings import Finding, about
from overlay.formats.model_config import ModelConfig
from overlay.formats.names import INDEX_NAME, SHARD_SUFFIX, find_case_collisions

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def check(checkpoint: Checkpoint) -> list[Finding]:
    """Everything that index, headers and file names say against each other, sorted.

    Costs one dictionary look-up a tensor.  Findings that were made while reading come first.
    """
    findings = list(checkpoint.findings)
    if checkpoint.index is not None:
        findings += _check_metadata(checkpoint)
        findings += _check_mapping(checkpoint)
    elif len(checkpoint.shards) > 1:
        names = ", ".join(sorted(checkpoint.shards))
        findings.append(about("IDX013", INDEX_NAME, f"expected an index over {names}, found none"))
    findings += _check_names(checkpoint)
    for name, shard in checkpoint.shards.items():
        findings += [about("SHD003", name, quirk) for quirk in shard.header.quirks]
    return sorted(findings)


def check_draft(checkpoint: Checkpoint, config: ModelConfig) -> list[Finding]:
    """Whether the draft layers that the config declares are there, in any of the places where families keep them."""
    if not config.draft_layers or config.layers is None:
        return []
    last = config.layers + config.draft_layers
    present = draft_layers(checkpoint, config)
    missing = [layer for layer in range(config.layers, last) if layer not in present]
    if not missing or any(_is_draft_name(name) for name in checkpoint.weight_map):
        return []
    layers = ", ".join(map(str, missing))
    message = f"{config.draft_key} = {config.draft_layers} declares layer {layers}, found no tensor of it"
    return [about("MTP001", "config.json", message, key=config.draft_key)]


def draft_layers(checkpoint: Checkpoint, config: ModelConfig) -> set[int]:
    """Numbers of the layers past the trunk that some tensor belongs to."""
    trunk = config.layers or 0
    return {layer for layer in layers_of(checkpoint) if layer >= trunk}


def layers_of(checkpoint: Checkpoint) -> set[int]:
    """Numbers of all layers that some tensor belongs to."""
    return {int(match[1]) for name in checkpoint.weight_map if (match := _LAYER.search(name))}


def _is_draft_name(name: str) -> bool:
    return name.startswith(("mtp.", "model.mtp.")) or ".mtp." in name or "nextn" in name


def _check_metadata(checkpoint: Checkpoint) -> Iterator[Finding]:
    index = checkpoint.index
    assert index is not None
    if index.metadata is None:
        yield about("IDX009", INDEX_NAME, "expected metadata with a total_size, found none", key="metadata")
    elif checkpoint.shards and len(checkpoint.shards) == len(index.shards()):
        stated = index.metadata.get("total_size")
        if stated != checkpoint.data_bytes:
            message = f"expected {checkpoint.data_bytes}, the bytes of all tensors, found {stated}"
            yield about("IDX008", INDEX_NAME, message, key="metadata.total_size")


def _check_mapping(checkpoint: Checkpoint) -> Iterator[Finding]:
    weight_map = checkpoint.weight_map
    if not weight_map and (checkpoint.shards or checkpoint.strays):
        yield about("IDX012", INDEX_NAME, "expected the tensors of the shards, found an empty weight_map")
    agreeing = 0
    for shard, seen in checkpoint.shards.items():
        names = seen.header.names
        mapped_here = [*map(weight_map.get, names)].count(shard)
        agreeing += mapped_here
        if mapped_here != len(names):  # look for the culprits only where there are some
            yield from (_misplaced(name, shard, checkpoint) for name in names if weight_map.get(name) != shard)
    if agreeing != len(weight_map):
        yield from _phantoms(checkpoint)


def _misplaced(name: str, shard: str, checkpoint: Checkpoint) -> Finding:
    """A tensor that lies in `shard` while the index does not map it there."""
    mapped = checkpoint.weight_map.get(name)
    if mapped is None:
        return about("IDX005", shard, "the shard holds it, the index does not map it (orphan)", tensor=name)
    other = checkpoint.shards.get(mapped)
    if other is not None and name in other.header:
        message = f"it lies in {shard} and in {mapped}, and both are listed (duplicate)"
        return about("IDX007", shard, message, tensor=name)
    return about("IDX006", shard, f"the index maps it to {mapped}, it lies in {shard}", tensor=name)


def _phantoms(checkpoint: Checkpoint) -> Iterator[Finding]:
    for name, shard in checkpoint.weight_map.items():
        seen = checkpoint.shards.get(shard)
        if seen is None or name in seen.header:
            continue
        # A tensor that lies in another shard was reported there, as misplaced.
        if not any(name in other.header for other in checkpoint.shards.values()):
            message = f"the index maps it to {shard}, which does not hold it (phantom)"
            yield about("IDX004", shard, message, tensor=name)


def _check_names(checkpoint: Checkpoint) -> Iterator[Finding]:
    shards = [*checkpoint.shards, *(name for name in checkpoint.strays if name.endswith(SHARD_SUFFIX))]
    for one, other in find_case_collisions(shards):
        yield about("IDX011", other, f"expected names that differ in more than case, found {one} as well")
    if checkpoint.index is not None:
        for name in checkpoint.strays:
            if name.endswith(SHARD_SUFFIX):
                yield about("IDX010", name, "the index does not name this shard (stray)")
