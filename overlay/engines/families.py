"""Families: where each family of models keeps its draft, what it needs there, and what the engines share with the target.

Sources: vLLM 0.33 `deepseek_mtp.py`, `glm4_moe_mtp.py`, `glm4_moe_lite_mtp.py`, `qwen3_next_mtp.py`, `qwen3_5_mtp.py`,
`mimo_mtp.py`, `mimo_v2_mtp.py`; SGLang 0.5.23 `deepseek_nextn.py`, `glm4_moe_nextn.py`, `deepseek_weight_loader.py`;
transformers 5.23 `modeling_layers.py` (`MtpModel`) and ``_keys_to_ignore_on_load_unexpected`` of each model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Attention = Literal["mla", "gqa", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What is known about one family."""

    name: str
    model_types: tuple[str, ...]
    beside: str = ""
    """Prefix of the draft where it lies beside the trunk, such as ``mtp``; "" where it continues the layers."""
    attention: Attention = "unknown"
    """How a layer's attention is built; ``unknown``: shapes are not derived, names are."""
    indexer: bool = False
    """Whether attention is sparse, with an indexer."""
    always_biased_gate: bool = False
    """Whether a router has its correction bias whatever ``topk_method`` says."""
    joins: tuple[str, ...] = ("enorm", "hnorm", "eh_proj", "shared_head.norm")
    """Modules that join the draft to the trunk, below the draft's prefix."""
    decoder: str = ""
    """Prefix of the decoder layer inside the draft, such as ``layers.0.``."""
    copies: tuple[str, ...] = ("embed_tokens", "shared_head.head")
    """Modules that a draft may hold and every engine takes from the target."""
    shared: str = "embedding and output layer"
    """What engines take from the target, in words."""
    vllm_class: str = ""
    """vLLM's class of the draft."""
    vllm_checks: Literal["layer", "none", "unknown names"] = "none"
    """What vLLM checks of the draft's completeness: that any parameter of the layer came, nothing, or only that no name is
    unknown."""
    sglang_class: str = ""
    sglang_loader: Literal["deepseek", "glm4", "other"] = "other"
    """Whose `load_weights`: DeepSeek's warns of unknown names, GLM-4's passes over them."""
    transformers_layers: tuple[int, ...] = ()
    """Layer numbers that transformers ignores as drafts: those of the published models."""
    transformers_keys: tuple[str, ...] | None = ()
    """Keys of the config that `MtpModel` needs beyond the published ones; None: it cannot draft for the family."""
    default_drafts: int = 0
    """Draft layers where the config is silent: the default of transformers' config class, which engines use as well."""


_MLA: Final = {
    "attention": "mla",
    "vllm_class": "DeepSeekMTP",
    "vllm_checks": "layer",
    "sglang_class": "DeepseekV3ForCausalLMNextN",
    "sglang_loader": "deepseek",
}

FAMILIES: Final[tuple[Family, ...]] = (
    Family(name="deepseek_v3", model_types=("deepseek_v3",), transformers_layers=(61,), default_drafts=1, **_MLA),  # type: ignore[arg-type]
    Family(
        name="deepseek_v32",
        model_types=("deepseek_v32",),
        indexer=True,
        transformers_layers=(61,),
        transformers_keys=None,
        **_MLA,  # type: ignore[arg-type]
    ),
    Family(
        name="glm_moe_dsa",
        model_types=("glm_moe_dsa",),
        attention="mla",
        indexer=True,
        vllm_class="DeepSeekMTP",
        vllm_checks="layer",
        sglang_class="GlmMoeDsaForCausalLMNextN",
        sglang_loader="deepseek",
        transformers_layers=(78,),
        transformers_keys=("num_mtp_layers", "mtp_layer_types", "mtp_mlp_layer_types"),
    ),
    Family(
        name="glm4_moe",
        model_types=("glm4_moe",),
        attention="gqa",
        always_biased_gate=True,
        vllm_class="Glm4MoeMTP",
        sglang_class="Glm4MoeForCausalLMNextN",
        sglang_loader="glm4",
        transformers_layers=(46, 92),
        default_drafts=1,
    ),
    Family(
        name="glm4_moe_lite",
        model_types=("glm4_moe_lite",),
        attention="mla",
        always_biased_gate=True,
        vllm_class="Glm4MoeLiteMTP",
        sglang_class="Glm4MoeLiteForCausalLMNextN",
        sglang_loader="deepseek",
        transformers_layers=(47,),
        transformers_keys=None,
    ),
    Family(
        name="qwen3_next",
        model_types=("qwen3_next",),
        beside="mtp",
        joins=("fc", "norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"),
        decoder="layers.0.",
        copies=(),
        vllm_class="Qwen3NextMTP",
        vllm_checks="unknown names",
        sglang_class="Qwen3NextForCausalLMMTP",
        transformers_keys=None,
    ),
    Family(
        name="qwen3_5",
        model_types=("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
        beside="mtp",
        joins=("fc", "norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"),
        decoder="layers.0.",
        copies=(),
        vllm_class="Qwen3_5MTP",
        vllm_checks="unknown names",
        sglang_class="Qwen3_5ForCausalLMMTP",
        transformers_keys=None,
    ),
    Family(
        name="mimo",
        model_types=("mimo",),
        beside="model.mtp_layers.0",
        joins=("token_layernorm", "hidden_layernorm", "input_proj", "final_layernorm"),
        copies=(),
        vllm_class="MiMoMTP",
        sglang_class="MiMoMTP",
        transformers_keys=None,
    ),
    Family(
        name="mimo_v2",
        model_types=("mimo_v2", "mimo_v2_flash"),
        beside="model.mtp.layers.0",
        joins=("enorm", "hnorm", "eh_proj", "pre_mlp_layernorm", "final_layernorm"),
        copies=(),
        shared="output layer",
        vllm_class="MiMoV2MTP",
        sglang_class="MiMoV2MTP",
        transformers_keys=None,
    ),
)
"""The families whose drafts are known tensor by tensor, or at least by their names."""

_BY_TYPE: Final = {model_type: family for family in FAMILIES for model_type in family.model_types}


def family_of(model_type: str) -> Family | None:
    """The family of a ``model_type``; None: unknown, so that only rules which need no names apply."""
    return _BY_TYPE.get(model_type)
