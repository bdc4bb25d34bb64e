"""The tensors of the GLM-5.2 family: which there are, how they are stored, and in which shard they lie.

Pure: it computes names, texts and sizes, and opens no file.  What is known about the published checkpoints, and how:

1. The BF16 donor, zai-org/GLM-5.2, is reproduced to the byte: index, config and every header (by their sha256 and
   sizes).  Names are sorted as strings, so that layer 78 comes between 77 and 8; shards are filled greedily.
2. The NVFP4 base, Mapika/GLM-5.2-NVFP4, follows from its `total_size`, which only one assignment of dtypes gives:
   every MLP is NVFP4, the dense ones of layers 0-2 too, everything else stays BF16, and there is no layer 78.  Its
   45 shards follow from the exporter's limit and the order of the modules; where exactly they part is a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from overlay.demo import sidecars
from overlay.demo.geometry import FULL_SIZE, SCALED_DOWN, Geometry
from overlay.formats import dtypes
from overlay.formats.header_text import layout_order
from overlay.formats.index import new_index

__all__ = [
    "FULL_SIZE",
    "SCALED_DOWN",
    "Geometry",
    "Layout",
    "TensorSpec",
    "base_layout",
    "base_tensors",
    "donor_layout",
    "donor_tensors",
    "mtp_tensors",
    "split_into_shards",
]

_NVFP4_GROUP: Final = 16
_PARAMETER_DTYPES: Final = frozenset({"BF16", "U8"})
"""What counts for `total_parameters`: weights.  Scales and the router's bias are buffers; packed bytes count once."""


class TensorSpec(NamedTuple):
    """A tensor without its data."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return dtypes.count_bytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A checkpoint without its tensor data."""

    files: dict[str, list[TensorSpec]]
    """Shards by name; the tensors of each in the order of their bytes."""
    index: bytes
    """Text of the index."""
    sidecars: dict[str, bytes]
    """The small files beside shards and index, by name."""
    metadata: dict[str, str] | None
    """``__metadata__`` of every header."""

    def tensors(self) -> Iterator[TensorSpec]:
        """All tensors, shard by shard."""
        for shard in self.files.values():
            yield from shard

    @property
    def total_size(self) -> int:
        """Bytes of tensor data, headers excluded."""
        return sum(tensor.nbytes for tensor in self.tensors())


Linear: TypeAlias = Callable[[str, int, int], Iterator[TensorSpec]]
"""How a linear module is stored: (module, output width, input width) to its tensors."""


def donor_layout(geometry: Geometry = FULL_SIZE) -> Layout:
    """The BF16 checkpoint zai-org/GLM-5.2, MTP layer included."""
    ordered = sorted(donor_tensors(geometry))
    files = _name_shards(split_into_shards(ordered, geometry.donor_shard_limit))
    total_size = sum(tensor.nbytes for tensor in ordered)
    index = new_index(_weight_map(files), {"total_size": total_size}).removesuffix(b"\n")
    return Layout(files=files, index=index, sidecars=sidecars.donor_sidecars(geometry), metadata=None)


def base_layout(geometry: Geometry = FULL_SIZE) -> Layout:
    """The checkpoint Mapika/GLM-5.2-NVFP4: MLPs in NVFP4, no MTP layer."""
    tensors = list(base_tensors(geometry))
    files = _name_shards(split_into_shards(tensors, geometry.base_shard_limit))
    parameters = sum(dtypes.count_elements(tensor.shape) for tensor in tensors if tensor.dtype in _PARAMETER_DTYPES)
    total_size = sum(tensor.nbytes for tensor in tensors)
    index = new_index(_weight_map(files), {"total_parameters": parameters, "total_size": total_size})
    return Layout(files=files, index=index, sidecars=sidecars.base_sidecars(geometry), metadata={"format": "pt"})


def donor_tensors(geometry: Geometry) -> Iterator[TensorSpec]:
    """The tensors of the donor, in the order of the modules."""
    yield from _trunk(geometry, _bf16)
    yield from mtp_tensors(geometry)


def base_tensors(geometry: Geometry) -> Iterator[TensorSpec]:
    """The tensors of the base, in the order of the modules."""
    return _trunk(geometry, _nvfp4)


def mtp_tensors(geometry: Geometry) -> Iterator[TensorSpec]:
    """The MTP layer in BF16: a decoder layer with experts, and what joins it to the trunk.

    It has no embedding and no head of its own; engines share those of the trunk.
    """
    prefix = geometry.mtp_prefix
    yield _norm(prefix + "enorm", geometry.hidden)
    yield _norm(prefix + "hnorm", geometry.hidden)
    yield from _bf16(prefix + "eh_proj", geometry.hidden, 2 * geometry.hidden)
    yield _norm(prefix + "shared_head.norm", geometry.hidden)
    yield from _decoder_layer(geometry, geometry.mtp_layer, _bf16)


def split_into_shards(tensors: Iterable[TensorSpec], limit: int) -> list[list[TensorSpec]]:
    """Fill shards greedily, in the given order, with at most `limit` data bytes each.

    A tensor that is larger than `limit` gets a shard of its own.
    """
    shards: list[list[TensorSpec]] = []
    used = 0
    for tensor in tensors:
        size = tensor.nbytes
        if not shards or used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += size
    return shards


def _name_shards(shards: list[list[TensorSpec]]) -> dict[str, list[TensorSpec]]:
    """Standard names, and within each shard the order in which the safetensors library lays tensors out."""
    count = len(shards)
    return {
        f"model-{number:05d}-of-{count:05d}.safetensors": sorted(
            shard, key=lambda tensor: layout_order(tensor.name, tensor.dtype)
        )
        for number, shard in enumerate(shards, start=1)
    }


def _weight_map(files: dict[str, list[TensorSpec]]) -> dict[str, str]:
    return {tensor.name: file for file, shard in files.items() for tensor in shard}


# Modules, in the order in which transformers 5 defines them (`models/glm_moe_dsa/modeling_glm_moe_dsa.py`).


def _trunk(geometry: Geometry, mlp: Linear) -> Iterator[TensorSpec]:
    yield from _bf16("model.embed_tokens", geometry.vocabulary, geometry.hidden)
    for layer in range(geometry.layers):
        yield from _decoder_layer(geometry, layer, mlp)
    yield _norm("model.norm", geometry.hidden)
    yield from _bf16("lm_head", geometry.vocabulary, geometry.hidden)


def _decoder_layer(geometry: Geometry, layer: int, mlp: Linear) -> Iterator[TensorSpec]:
    prefix = f"model.layers.{layer}."
    yield from _attention(geometry, prefix + "self_attn.")
    if geometry.has_indexer(layer):
        yield from _indexer(geometry, prefix + "self_attn.indexer.")
    if geometry.is_dense(layer):
        yield from _mlp(mlp, prefix + "mlp.", geometry.hidden, geometry.dense_width)
    else:
        yield from _experts(geometry, prefix + "mlp.", mlp)
    yield _norm(prefix + "input_layernorm", geometry.hidden)
    yield _norm(prefix + "post_attention_layernorm", geometry.hidden)


def _attention(g: Geometry, prefix: str) -> Iterator[TensorSpec]:
    """Multi-head latent attention: queries and keys go through a low rank, which has a norm of its own."""
    yield from _bf16(prefix + "q_a_proj", g.query_rank, g.hidden)
    yield _norm(prefix + "q_a_layernorm", g.query_rank)
    yield from _bf16(prefix + "q_b_proj", g.heads * (g.plain_head + g.rotary_head), g.query_rank)
    yield from _bf16(prefix + "kv_a_proj_with_mqa", g.key_value_rank + g.rotary_head, g.hidden)
    yield _norm(prefix + "kv_a_layernorm", g.key_value_rank)
    yield from _bf16(prefix + "kv_b_proj", g.heads * (g.plain_head + g.value_head), g.key_value_rank)
    yield from _bf16(prefix + "o_proj", g.hidden, g.heads * g.value_head)


def _indexer(g: Geometry, prefix: str) -> Iterator[TensorSpec]:
    """The lightning indexer of sparse attention; it stays BF16 in the base as well."""
    yield from _bf16(prefix + "wq_b", g.indexer_heads * g.indexer_head, g.query_rank)
    yield from _bf16(prefix + "wk", g.indexer_head, g.hidden)
    yield _norm(prefix + "k_norm", g.indexer_head)
    yield TensorSpec(prefix + "k_norm.bias", "BF16", (g.indexer_head,))
    yield from _bf16(prefix + "weights_proj", g.indexer_heads, g.hidden)


def _experts(g: Geometry, prefix: str, mlp: Linear) -> Iterator[TensorSpec]:
    for expert in range(g.experts):
        yield from _mlp(mlp, f"{prefix}experts.{expert}.", g.hidden, g.expert_width)
    yield TensorSpec(prefix + "gate.weight", "BF16", (g.experts, g.hidden))
    # The one tensor that is F32 by nature: BF16 would round the small corrections that balance the experts away.
    yield TensorSpec(prefix + "gate.e_score_correction_bias", "F32", (g.experts,))
    yield from _mlp(mlp, prefix + "shared_experts.", g.hidden, g.expert_width)


def _mlp(linear: Linear, prefix: str, hidden: int, width: int) -> Iterator[TensorSpec]:
    yield from linear(prefix + "gate_proj", width, hidden)
    yield from linear(prefix + "up_proj", width, hidden)
    yield from linear(prefix + "down_proj", hidden, width)


def _norm(module: str, width: int) -> TensorSpec:
    return TensorSpec(module + ".weight", "BF16", (width,))


def _bf16(module: str, outputs: int, inputs: int) -> Iterator[TensorSpec]:
    yield TensorSpec(module + ".weight", "BF16", (outputs, inputs))


def _nvfp4(module: str, outputs: int, inputs: int) -> Iterator[TensorSpec]:
    """ModelOpt's NVFP4: two weights a byte, a scale for each group, one scale over those, and one for activations.

    Raises:
        ValueError: groups do not divide the input width.
    """
    groups, rest = divmod(inputs, _NVFP4_GROUP)
    if rest:
        raise ValueError(f"{module}: expected an input width divisible by {_NVFP4_GROUP}, found {inputs}")
    yield TensorSpec(module + ".weight", "U8", (outputs, inputs // 2))
    yield TensorSpec(module + ".weight_scale", "F8_E4M3", (outputs, groups))
    yield TensorSpec(module + ".weight_scale_2", "F32", ())
    yield TensorSpec(module + ".input_scale", "F32", ())
