"""Checking: is a checkpoint what its own index and headers say?

The invariant that engines rely on and nobody enforces: the tensors of the listed shards and the weight map are a
bijection.  Engines load *every* tensor of every listed shard, whatever the weight map says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from overlay.core.checkpoint import Checkpoint
from overlay.core.counting import parameter_range
from overlay.core.findings import Finding, about
from overlay.errors import InvalidInput, shortened
from overlay.formats.model_config import ModelConfig
from overlay.formats.names import INDEX_NAME, SHARD_SUFFIX, SINGLE_NAME, find_case_collisions

MAX_TENSOR_NAME: Final = 512
"""Letters of a tensor's name that surprise nobody; real ones stay below 100."""

_FEW: Final = 4
"""Shards that a message names; the rest is counted."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_GLOBBED = re.compile(r"model.*\.safetensors")
"""What llama.cpp's converter and mlx-lm look for."""

_CONSOLIDATED = re.compile(r"consolidated.*\.safetensors")
"""What makes vLLM take a checkpoint for one in Mistral's own format."""


def check(checkpoint: Checkpoint) -> list[Finding]:
    """Everything that index, headers and file names say against each other, sorted.

    Costs one dictionary look-up a tensor.  Findings that were made while reading come first.
    """
    findings = list(checkpoint.findings)
    if checkpoint.index is not None:
        findings += _check_metadata(checkpoint)
        findings += _check_mapping(checkpoint)
    else:
        findings += check_unlisted(checkpoint.shards)
    findings += _check_names(checkpoint)
    findings += _check_strays(checkpoint)
    for name, shard in checkpoint.shards.items():
        findings += [about("SHD003", name, quirk) for quirk in shard.header.quirks]
        findings += _check_tensor_names(name, shard.header.names)
    return sorted(findings)


def check_unlisted(shards: Iterable[str]) -> Iterator[Finding]:
    """What the names of shards in a directory without an index say."""
    names = sorted(shards)
    if len(names) > 1:
        yield about("IDX013", INDEX_NAME, f"expected an index over {_listed(names)}, found none")


def check_parameters(checkpoint: Checkpoint) -> list[Finding]:
    """Whether ``total_parameters`` can be right, where the index states it; no error hangs on it.

    Costs one look at each name, which `check` has no need of.
    """
    index = checkpoint.index
    if index is None or "total_parameters" not in (index.metadata or {}):
        return []
    if not checkpoint.shards or len(checkpoint.shards) != len(index.shards()):
        return []
    stated = (index.metadata or {})["total_parameters"]
    possible = parameter_range(shard.header for shard in checkpoint.shards.values())
    if possible.least <= stated <= possible.most:
        return []
    message = f"expected {possible.elements}, the elements of all tensors, found {stated}"
    return [about("IDX014", INDEX_NAME, message, key="metadata.total_parameters")]


def require_sound(checkpoint: Checkpoint, findings: Iterable[Finding]) -> None:
    """Refuse a checkpoint with errors, naming them all.

    Raises:
        InvalidInput: `findings` is not empty.
    """
    lines = [finding.line for finding in findings]
    if lines:
        raise InvalidInput(
            lines[0],
            subject=checkpoint.label,
            hint=f"overlay verify {checkpoint.label}",
            others=tuple(shortened(lines[1:])),
        )


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
    message = f"{config.draft_layers} declares layer {layers}, found no tensor of it"
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
    if checkpoint.is_bijective:  # look for the culprits only where there are some
        return
    agreeing = 0
    for shard, seen in checkpoint.shards.items():
        names = seen.header.names
        mapped_here = [*map(weight_map.get, names)].count(shard)
        agreeing += mapped_here
        if mapped_here != len(names):
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
    listed = checkpoint.index.shards() if checkpoint.index is not None else []
    strays = [name for name in checkpoint.strays if name.endswith(SHARD_SUFFIX)]
    for one, other in find_case_collisions([*checkpoint.shards, *listed, *strays]):
        yield about("IDX011", other, f"expected names that differ in more than case, found {one} as well")
    for name in listed:
        if not _GLOBBED.fullmatch(name):
            yield about("IDX017", name, "expected a name like model*.safetensors, which globbing loaders look for")
    if SINGLE_NAME in listed and len(listed) > 1:
        message = f"the index names it beside {_others(len(listed) - 1)}, and transformers loads it alone (shadowed)"
        yield about("IDX015", SINGLE_NAME, message)


def _check_strays(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Shards that no index names; those that some loader prefers to the listed ones get a code of their own."""
    listed = checkpoint.index.shards() if checkpoint.index is not None else []
    for name in checkpoint.strays:
        if _CONSOLIDATED.fullmatch(name):
            yield about("IDX016", name, "found it beside other shards; vLLM loads nothing else then (shadowed)")
        elif checkpoint.index is None or not name.endswith(SHARD_SUFFIX):
            continue
        elif name == SINGLE_NAME and listed:
            message = (
                f"the index names {_others(len(listed))} and not this one, and transformers loads it alone (shadowed)"
            )
            yield about("IDX015", name, message)
        else:
            yield about("IDX010", name, "the index does not name this shard (stray)")


def _check_tensor_names(shard: str, names: list[str]) -> Iterator[Finding]:
    """Names that are too long to be meant; the format's own reader notes the empty ones and control characters."""
    if max(map(len, names), default=0) <= MAX_TENSOR_NAME:
        return
    for name in names:
        if len(name) > MAX_TENSOR_NAME:
            message = f"expected a tensor name of at most {MAX_TENSOR_NAME} letters, found {len(name)}: {name[:40]}…"
            yield about("SHD003", shard, message)


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _FEW else f"{', '.join(names[:_FEW])} and {len(names) - _FEW} more"


def _others(count: int) -> str:
    return "another shard" if count == 1 else f"{count} other shards"
