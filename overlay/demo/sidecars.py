"""The small files beside the shards of a replica, as texts.

At full size the donor's `config.json` is the published file, byte for byte.  The quantisation config of the base is
what ModelOpt 0.44 writes for such an export, by its source.  The other files are stand-ins that loaders accept: the
tokenizer knows the 256 bytes and the special tokens of the family, and merges nothing.
"""

from __future__ import annotations

import json
from typing import Final

from overlay.demo.geometry import Geometry
from overlay.formats.strict_json import JsonValue

DONOR_REPO: Final = "zai-org/GLM-5.2"
BASE_REPO: Final = "Mapika/GLM-5.2-NVFP4"
_PRODUCER: Final[dict[str, JsonValue]] = {"name": "modelopt", "version": "0.44.0"}
_CONTEXT: Final = 1_048_576
_SPECIAL_TOKENS: Final = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
"""In the order of their ids."""
_END_TOKENS: Final = ("<|endoftext|>", "<|user|>", "<|observation|>")

_CHAT_TEMPLATE: Final = b"""\
[gMASK]<sop>
{%- for message in messages %}<|{{ message.role }}|>
{{ message.content }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
{% endif %}"""

_LICENSE: Final = b"""\
MIT License

Copyright (c) The overlay authors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

_CARD: Final = """\
---
license: mit
library_name: transformers
pipeline_tag: text-generation
{relation}---

# Replica of {repo}

This checkpoint has the tensor names, dtypes and shards of [{repo}](https://huggingface.co/{repo}). Its numbers are
placeholders and predict nothing: it is made for tests and demonstrations.
"""


def donor_sidecars(geometry: Geometry) -> dict[str, bytes]:
    """The small files of the BF16 donor."""
    config = json.dumps(_config(geometry), indent=2) + "\n"
    return {"config.json": config.encode(), "README.md": _card(DONOR_REPO), **_common(geometry)}


def base_sidecars(geometry: Geometry) -> dict[str, bytes]:
    """The small files of the NVFP4 base, among them the two that state its quantisation."""
    config = {**_config(geometry), "quantization_config": _quantization_config(geometry)}
    return {
        # ModelOpt writes both anew after the export: indent 4, no final newline.
        "config.json": json.dumps(config, indent=4).encode(),
        "hf_quant_config.json": json.dumps(_hf_quant_config(geometry), indent=4).encode(),
        "README.md": _card(BASE_REPO, quantized_from=DONOR_REPO),
        **_common(geometry),
    }


def _common(geometry: Geometry) -> dict[str, bytes]:
    return {
        "generation_config.json": _text(_generation_config(geometry)),
        "tokenizer.json": _text(_tokenizer(geometry)),
        "tokenizer_config.json": _text(_tokenizer_config()),
        "chat_template.jinja": _CHAT_TEMPLATE,
        "LICENSE": _LICENSE,
    }


def _text(document: dict[str, JsonValue]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _card(repo: str, quantized_from: str = "") -> bytes:
    relation = f"base_model: {quantized_from}\nbase_model_relation: quantized\n" if quantized_from else ""
    return _CARD.format(repo=repo, relation=relation).encode()


def _config(g: Geometry) -> dict[str, JsonValue]:
    """`config.json`; keys are in the published order, which is alphabetical."""
    return {
        "architectures": ["GlmMoeDsaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "bfloat16",
        "eos_token_id": _end_ids(g),
        "ep_size": 1,
        "first_k_dense_replace": g.dense_layers,
        "head_dim": g.plain_head,
        "hidden_act": "silu",
        "hidden_size": g.hidden,
        "index_head_dim": g.indexer_head,
        "index_n_heads": g.indexer_heads,
        "index_share_for_mtp_iteration": True,
        "index_skip_topk_offset": g.indexer_offset,
        "index_topk": 2048,
        "index_topk_freq": g.indexer_period,
        "index_topk_pattern": None,
        "indexer_rope_interleave": True,
        "indexer_types": ["full" if g.has_indexer(layer) else "shared" for layer in range(g.layers)],
        "initializer_range": 0.02,
        "intermediate_size": g.dense_width,
        "kv_lora_rank": g.key_value_rank,
        "max_position_embeddings": _CONTEXT,
        "mlp_layer_types": ["dense" if g.is_dense(layer) else "sparse" for layer in range(g.layers)],
        "model_type": "glm_moe_dsa",
        "moe_intermediate_size": g.expert_width,
        "moe_layer_freq": 1,
        "moe_router_dtype": "float32",
        "n_group": 1,
        "n_routed_experts": g.experts,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": g.heads,
        "num_experts_per_tok": g.experts_per_token,
        "num_hidden_layers": g.layers,
        "num_key_value_heads": g.heads,
        "num_nextn_predict_layers": 1,
        "pad_token_id": g.first_special_token,
        "pretraining_tp": 1,
        "q_lora_rank": g.query_rank,
        "qk_head_dim": g.plain_head + g.rotary_head,
        "qk_nope_head_dim": g.plain_head,
        "qk_rope_head_dim": g.rotary_head,
        "rms_norm_eps": 1e-05,
        "rope_interleave": True,
        "rope_parameters": {"rope_theta": 8_000_000, "rope_type": "default"},
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "transformers_version": "5.12.0",
        "use_cache": True,
        "v_head_dim": g.value_head,
        "vocab_size": g.vocabulary,
    }


def _end_ids(geometry: Geometry) -> list[int]:
    return [geometry.first_special_token + _SPECIAL_TOKENS.index(token) for token in _END_TOKENS]


def _generation_config(geometry: Geometry) -> dict[str, JsonValue]:
    return {
        "_from_model_config": True,
        "eos_token_id": _end_ids(geometry),
        "pad_token_id": geometry.first_special_token,
        "temperature": 1.0,
        "top_p": 0.95,
        "transformers_version": "5.12.0",
    }


def _unquantized_modules(geometry: Geometry) -> list[str]:
    """Patterns of the modules that stay BF16, sorted as strings.  Nothing names layer 78, which the export lacks."""
    return sorted(["lm_head", *(f"model.layers.{layer}.self_attn*" for layer in range(geometry.layers))])


def _hf_quant_config(geometry: Geometry) -> dict[str, JsonValue]:
    """The same statement in a file of its own, which engines read when the config makes none."""
    return {
        "producer": _PRODUCER,
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": None,
            "group_size": 16,
            "exclude_modules": _unquantized_modules(geometry),
        },
    }


def _quantization_config(geometry: Geometry) -> dict[str, JsonValue]:
    values: dict[str, JsonValue] = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
    return {
        "config_groups": {"group_0": {"input_activations": values, "weights": values, "targets": ["Linear"]}},
        "ignore": _unquantized_modules(geometry),
        "quant_algo": "NVFP4",
        "producer": _PRODUCER,
        "quant_method": "modelopt",
    }


def _tokenizer(geometry: Geometry) -> dict[str, JsonValue]:
    """A byte-level tokenizer in the format of the `tokenizers` library."""
    special = {token: geometry.first_special_token + rank for rank, token in enumerate(_SPECIAL_TOKENS)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token, **flags} for token, number in special.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {**{letter: byte for byte, letter in enumerate(_byte_letters())}, **special},
            "merges": [],
        },
    }


def _tokenizer_config() -> dict[str, JsonValue]:
    return {
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "model_max_length": _CONTEXT,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary.

    GPT-2's table: a printable Latin-1 character is itself, and the others take the code points from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 256
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return letters
