"""Small checkpoints with a draft layer, written by hand: names, shapes and schemes as the published ones have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.checkpoints import Checkpoint, Tensor, tensor

LAYERS, EXPERTS, HIDDEN, WIDTH, VOCABULARY = 2, 2, 64, 32, 48
DRAFT = f"model.layers.{LAYERS}."
DRAFT_SHARD = "model-00002-of-00002.safetensors"
TRUNK_SHARD = "model-00001-of-00002.safetensors"

COMMON: dict[str, Any] = {
    "dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "moe_intermediate_size": WIDTH,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_hidden_layers": LAYERS,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 2,
    "first_k_dense_replace": 1,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
}
LATENT: dict[str, Any] = {
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v3": {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", **COMMON, **LATENT},
    "glm_moe_dsa": {
        "architectures": ["GlmMoeDsaForCausalLM"],
        "model_type": "glm_moe_dsa",
        **COMMON,
        **LATENT,
        "index_n_heads": 2,
        "index_head_dim": 32,
    },
    "glm4_moe": {
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        **COMMON,
        "head_dim": 32,
        "num_key_value_heads": 2,
    },
}

Linear = Callable[[str, int, int], Iterator[Tensor]]


def bf16(module: str, outputs: int, inputs: int) -> Iterator[Tensor]:
    yield tensor(f"{module}.weight", "BF16", (outputs, inputs))


def nvfp4(module: str, outputs: int, inputs: int) -> Iterator[Tensor]:
    yield tensor(f"{module}.weight", "U8", (outputs, inputs // 2))
    yield tensor(f"{module}.weight_scale", "F8_E4M3", (outputs, inputs // 16))
    for scalar in ("weight_scale_2", "input_scale"):
        yield Tensor(f"{module}.{scalar}", "F32", (), b"\x00\x00\x80\x3f")


def int4(module: str, outputs: int, inputs: int) -> Iterator[Tensor]:
    yield tensor(f"{module}.weight_packed", "I32", (outputs, inputs // 8))
    yield tensor(f"{module}.weight_scale", "BF16", (outputs, inputs // 32))
    yield tensor(f"{module}.weight_zero_point", "I32", (outputs // 8, inputs // 32))
    shape = outputs.to_bytes(8, "little") + inputs.to_bytes(8, "little")
    yield Tensor(f"{module}.weight_shape", "I64", (2,), shape)


def fp8(module: str, outputs: int, inputs: int) -> Iterator[Tensor]:
    yield tensor(f"{module}.weight", "F8_E4M3", (outputs, inputs))
    yield tensor(f"{module}.weight_scale_inv", "F32", (-(-outputs // 128), -(-inputs // 128)))


MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["lm_head", "*self_attn*"]}
PACKED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32},
            "input_activations": None,
        }
    },
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*mlp.gate$"],
}


def layer(family: str, prefix: str, linear: Linear = bf16, *, dense: bool = False) -> Iterator[Tensor]:
    """A decoder layer; attention is never quantised here."""
    yield from (
        tensor(f"{prefix}{norm}.weight", "BF16", (HIDDEN,)) for norm in ("input_layernorm", "post_attention_layernorm")
    )
    yield from _grouped(prefix) if family == "glm4_moe" else _latent(prefix)
    if family == "glm_moe_dsa":
        yield from _indexer(prefix)
    if dense:
        yield from _mlp(f"{prefix}mlp.", 96, linear)
        return
    for expert in range(EXPERTS):
        yield from _mlp(f"{prefix}mlp.experts.{expert}.", WIDTH, linear)
    yield from _mlp(f"{prefix}mlp.shared_experts.", WIDTH, linear)
    yield tensor(f"{prefix}mlp.gate.weight", "BF16", (EXPERTS, HIDDEN))
    yield tensor(f"{prefix}mlp.gate.e_score_correction_bias", "F32", (EXPERTS,))


def _mlp(prefix: str, width: int, linear: Linear) -> Iterator[Tensor]:
    yield from linear(f"{prefix}gate_proj", width, HIDDEN)
    yield from linear(f"{prefix}up_proj", width, HIDDEN)
    yield from linear(f"{prefix}down_proj", HIDDEN, width)


def _latent(prefix: str) -> Iterator[Tensor]:
    yield from bf16(f"{prefix}self_attn.q_a_proj", 32, HIDDEN)
    yield from bf16(f"{prefix}self_attn.q_b_proj", 64, 32)
    yield from bf16(f"{prefix}self_attn.kv_a_proj_with_mqa", 48, HIDDEN)
    yield from bf16(f"{prefix}self_attn.kv_b_proj", 64, 32)
    yield from bf16(f"{prefix}self_attn.o_proj", HIDDEN, 32)
    yield from (tensor(f"{prefix}self_attn.{norm}_layernorm.weight", "BF16", (32,)) for norm in ("q_a", "kv_a"))


def _grouped(prefix: str) -> Iterator[Tensor]:
    for part in ("q", "k", "v"):
        yield from bf16(f"{prefix}self_attn.{part}_proj", 64, HIDDEN)
    yield from bf16(f"{prefix}self_attn.o_proj", HIDDEN, 64)


def _indexer(prefix: str) -> Iterator[Tensor]:
    inside = f"{prefix}self_attn.indexer."
    yield from bf16(f"{inside}wq_b", 64, 32)
    yield from bf16(f"{inside}wk", 32, HIDDEN)
    yield from bf16(f"{inside}weights_proj", 2, HIDDEN)
    yield from (tensor(f"{inside}k_norm.{part}", "BF16", (32,)) for part in ("weight", "bias"))


def draft(family: str, linear: Linear = bf16, prefix: str = DRAFT) -> list[Tensor]:
    """The draft layer: a layer with experts, and what joins it to the trunk."""
    joins = [tensor(f"{prefix}{norm}.weight", "BF16", (HIDDEN,)) for norm in ("enorm", "hnorm", "shared_head.norm")]
    return [*joins, *bf16(f"{prefix}eh_proj", HIDDEN, 2 * HIDDEN), *layer(family, prefix, linear)]


def trunk(family: str, linear: Linear = bf16) -> list[Tensor]:
    """Everything but the draft."""
    outside = [tensor(f"{name}.weight", "BF16", (VOCABULARY, HIDDEN)) for name in ("model.embed_tokens", "lm_head")]
    outside.append(tensor("model.norm.weight", "BF16", (HIDDEN,)))
    layers = (layer(family, f"model.layers.{n}.", linear, dense=n == 0) for n in range(LAYERS))
    return [*outside, *(entry for one in layers for entry in one)]


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A checkpoint of two shards, trunk and draft, to be damaged."""

    family: str = "deepseek_v3"
    trunk: list[Tensor] = field(default_factory=list)
    draft: list[Tensor] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)
    hf_quant: Mapping[str, Any] | None = None
    more: Mapping[str, bytes] = field(default_factory=dict)

    def without(self, *names: str) -> Tiny:
        """Without the draft's tensors of these names, below the layer; a name that is not there is an error."""
        gone = {DRAFT + name for name in names}
        assert gone <= {entry.name for entry in self.draft}, gone
        return replace(self, draft=[entry for entry in self.draft if entry.name not in gone])

    def with_draft(self, *tensors: Tensor) -> Tiny:
        """With these tensors instead of the draft's of the same names, or besides them."""
        names = {entry.name for entry in tensors}
        return replace(self, draft=[*(entry for entry in self.draft if entry.name not in names), *tensors])

    def with_config(self, **values: Any) -> Tiny:
        """With other values; ... takes a key out."""
        config = {key: value for key, value in {**self.config, **values}.items() if value is not ...}
        return replace(self, config=config)

    def checkpoint(self) -> Checkpoint:
        sidecars = {"config.json": json.dumps(self.config).encode(), **self.more}
        if self.hf_quant is not None:
            sidecars["hf_quant_config.json"] = json.dumps(self.hf_quant).encode()
        shards = {TRUNK_SHARD: self.trunk, DRAFT_SHARD: self.draft}
        held = {name: tensors for name, tensors in shards.items() if tensors}
        return Checkpoint(shards=held, sidecars=sidecars, metadata={"format": "pt"})

    def write(self, folder: Path) -> Path:
        return self.checkpoint().write(folder)


def good(family: str = "deepseek_v3") -> Tiny:
    """All BF16, and whole."""
    return Tiny(family=family, trunk=trunk(family), draft=draft(family), config=CONFIGS[family])


def quantised(family: str, declared: Mapping[str, Any], linear: Linear, of_draft: Linear) -> Tiny:
    """A quantised trunk, and a draft in whatever scheme."""
    config = {**CONFIGS[family], "quantization_config": declared}
    return Tiny(family=family, trunk=trunk(family, linear), draft=draft(family, of_draft), config=config)


def ignoring(declared: Mapping[str, Any], *entries: str) -> dict[str, Any]:
    """The declaration with more entries in its list of unquantised modules."""
    return {**declared, "ignore": [*declared["ignore"], *entries]}


def codes(findings: Iterable[Mapping[str, Any]]) -> set[str]:
    return {finding["code"] for finding in findings}
