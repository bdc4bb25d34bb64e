"""The draft layer's tensors: missing, unknown, of another dtype or shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.engines.real.bases import Base, bf16, fp8
from tests.engines.real.trees import Tree
from tests.engines.real.variants.assembling import as_float32, assembled, cut_rows, on, plus, renamed, without
from tests.support.checkpoints import Tensor


def with_embedding_and_head(base: Base) -> Tree:
    """Copies of the target's, as DeepSeek publishes them."""
    embedding = base.tree.find("model.embed_tokens.weight")
    head = base.tree.find("lm_head.weight")
    prefix = base.family.prefix
    copies = (
        embedding._replace(name=f"{prefix}embed_tokens.weight"),
        head._replace(name=f"{prefix}shared_head.head.weight"),
    )
    return assembled(base, plus(*copies))


def more_experts(base: Base) -> Tree:
    """An expert beyond the four that the config declares."""
    layer = base.drafted(base.scheme)
    extra = [t._replace(name=t.name.replace("experts.3.", "experts.4.")) for t in layer if "experts.3." in t.name]
    return assembled(base, plus(*extra))


def half(tensor: Tensor) -> list[Tensor]:
    return [cut_rows(tensor, tensor.shape[0] // 2)]


def half_wide(tensor: Tensor) -> list[Tensor]:
    return [bf16(tensor.name, (tensor.shape[0], tensor.shape[1] // 2))]


def raw_bytes(tensor: Tensor) -> list[Tensor]:
    """The same shape in a byte an element, without scales."""
    return [next(iter(fp8(tensor)))]


VARIANTS: Mapping[str, Callable[[Base], Tree]] = {
    "no draft layer": lambda base: base.tree,
    "eh_proj missing": lambda base: assembled(base, without("eh_proj")),
    "enorm missing": lambda base: assembled(base, without("enorm")),
    "shared_head.norm missing": lambda base: assembled(base, without("shared_head.norm")),
    "input_layernorm missing": lambda base: assembled(base, without("input_layernorm")),
    "one expert missing": lambda base: assembled(base, without("mlp.experts.2.")),
    "one up_proj missing": lambda base: assembled(base, without("mlp.experts.2.up_proj")),
    "all experts missing": lambda base: assembled(base, without("mlp.experts.")),
    "gate bias missing": lambda base: assembled(base, without("e_score_correction_bias")),
    "gate missing": lambda base: assembled(base, without("mlp.gate.weight")),
    "shared experts missing": lambda base: assembled(base, without("shared_experts")),
    "o_proj missing": lambda base: assembled(base, without("o_proj")),
    "kv_a_proj or k_proj missing": lambda base: assembled(base, without("kv_a_proj", "k_proj")),
    "indexer missing": lambda base: assembled(base, without(".indexer.")),
    "indexer.wk missing": lambda base: assembled(base, without(".indexer.wk.")),
    "only eh_proj": lambda base: assembled(base, lambda ts: (t for t in ts if "eh_proj" in t.name)),
    "unknown weight": lambda base: assembled(base, plus(bf16(f"{base.family.prefix}mlp.extra_proj.weight", (32, 32)))),
    "unknown bias": lambda base: assembled(base, plus(bf16(f"{base.family.prefix}eh_proj.bias", (32,)))),
    "unknown rotary_emb.inv_freq": lambda base: assembled(
        base, plus(bf16(f"{base.family.prefix}self_attn.rotary_emb.inv_freq", (4,)))
    ),
    "an expert too many": more_experts,
    "embedding and head in the layer": with_embedding_and_head,
    "input_layernorm named as in memory": lambda base: assembled(
        base, renamed("input_layernorm", "mtp_block.input_layernorm")
    ),
    "norms in F32": lambda base: assembled(base, on("norm.weight", lambda tensor: [as_float32(tensor)])),
    "an expert in F32": lambda base: assembled(base, on("experts.1.up_proj", lambda tensor: [as_float32(tensor)])),
    "an expert in FP8 without scales": lambda base: assembled(base, on("mlp.experts.1.up_proj", raw_bytes)),
    "o_proj in FP8 without scales": lambda base: assembled(base, on("o_proj", raw_bytes)),
    "experts in block FP8": lambda base: assembled(base, on("mlp.experts.", fp8)),
    "shared experts in block FP8": lambda base: assembled(base, on("shared_experts", fp8)),
    "eh_proj of half the width": lambda base: assembled(base, on("eh_proj", half_wide)),
    "an expert of half the rows": lambda base: assembled(base, on("mlp.experts.1.up_proj", half)),
    "a down_proj of half the width": lambda base: assembled(base, on("mlp.experts.1.down_proj", half_wide)),
    "o_proj of half the rows": lambda base: assembled(base, on("o_proj", half)),
    "gate of half the rows": lambda base: assembled(base, on("mlp.gate.weight", half)),
    "gate bias of half the length": lambda base: assembled(base, on("e_score_correction_bias", half)),
    "enorm of half the length": lambda base: assembled(base, on("enorm", half)),
}
