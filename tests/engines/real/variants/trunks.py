"""The base's own tensors, damaged beside a good draft layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.engines.real.bases import Base, bf16
from tests.engines.real.trees import Tree
from tests.engines.real.variants.assembling import Change, as_float32, assembled, cut_rows, on, without

LAYER = "model.layers.4."


def damaged(base: Base, change: Change) -> Tree:
    """The shards that hold layer 4 and the norm after the last layer, changed."""
    tree = assembled(base)
    assert tree.weight_map is not None
    shards = {shard for name, shard in tree.weight_map.items() if name.startswith(LAYER) or name == "model.norm.weight"}
    for shard in sorted(shards):
        tree = tree.edit(shard, change)
    return tree


VARIANTS: Mapping[str, Callable[[Base], Tree]] = {
    "base: norm missing": lambda base: damaged(base, without("model.norm.weight")),
    "base: input_layernorm missing": lambda base: damaged(base, without(f"{LAYER}input_layernorm")),
    "base: o_proj missing": lambda base: damaged(base, without(f"{LAYER}self_attn.o_proj")),
    "base: one expert missing": lambda base: damaged(base, without(f"{LAYER}mlp.experts.2.")),
    "base: gate bias missing": lambda base: damaged(base, without(f"{LAYER}mlp.gate.e_score_correction_bias")),
    "base: o_proj of half the rows": lambda base: damaged(
        base, on(f"{LAYER}self_attn.o_proj", lambda tensor: [cut_rows(tensor, 16)])
    ),
    "base: an expert in F32": lambda base: damaged(
        base, on(f"{LAYER}mlp.experts.1.up_proj", lambda tensor: [as_float32(tensor)])
    ),
    "base: unknown weight": lambda base: damaged(
        base,
        on(
            f"{LAYER}input_layernorm",
            lambda tensor: [tensor, bf16(f"{LAYER}mlp.extra_proj.weight", (32, 32))],
        ),
    ),
}
