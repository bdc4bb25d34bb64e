"""``config.json``: what it says of the draft layer, and of what engines read besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tests.engines.real.bases import Base
from tests.engines.real.trees import Tree
from tests.engines.real.variants.assembling import assembled

DECLARED = "num_nextn_predict_layers"
MEMORY_KEYS = {"num_mtp_layers": 1, "mtp_layer_types": ["indexed_attention"], "mtp_mlp_layer_types": ["sparse"]}
"""What the draft model of transformers asks of a glm_moe_dsa config; published ones lack them."""


def without_draft(base: Base, value: int | None) -> Tree:
    return base.tree.configure(**{DECLARED: value})


def with_library_keys(base: Base) -> Tree:
    keys = MEMORY_KEYS if base.family.model_type == "glm_moe_dsa" else {}
    return assembled(base).configure(**keys)


def library_keys_and_no_draft(base: Base) -> Tree:
    keys = MEMORY_KEYS if base.family.model_type == "glm_moe_dsa" else {}
    return base.tree.configure(**keys)


VARIANTS: Mapping[str, Callable[[Base], Tree]] = {
    "draft not declared": lambda base: assembled(base).configure(**{DECLARED: None}),
    "draft declared as 0": lambda base: assembled(base).configure(**{DECLARED: 0}),
    "two draft layers declared": lambda base: assembled(base).configure(**{DECLARED: 2}),
    "no draft layer and none declared": lambda base: without_draft(base, None),
    "no draft layer and 0 declared": lambda base: without_draft(base, 0),
    "draft in the keys of transformers": with_library_keys,
    "no draft layer, declared in the keys of transformers": library_keys_and_no_draft,
    "config without a dtype": lambda base: assembled(base).configure(dtype=None),
    "config says float32": lambda base: assembled(base).configure(dtype="float32"),
    "more experts declared": lambda base: assembled(base).configure(n_routed_experts=8),
    "fewer experts declared": lambda base: assembled(base).configure(n_routed_experts=2),
    "no config": lambda base: replace(assembled(base), config={}),
}
