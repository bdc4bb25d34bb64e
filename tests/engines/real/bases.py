"""Tiny checkpoints of the three families whose draft layer all three engines know, at their real depth.

The depth is the real one because transformers knows a family's draft layer by its number.  transformers writes the trunk;
its config declares a draft layer that it does not hold.  The draft layer is the last layer of a shallow model of the same
class, with the four tensors that only a draft layer has.  Quantised checkpoints are stand-ins: the names, dtypes and shapes
of the format, and values that no engine has to decode in order to load them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from struct import pack
from typing import Any

from tests.engines.real.trees import Tree
from tests.support.checkpoints import INDEX, Tensor, read_shard

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "num_nextn_predict_layers": 1,
}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}
INDEXER = {"index_topk": 16, "index_head_dim": 16, "index_n_heads": 2}
PUBLISHED = {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1}
"""Keys that published configs of these families have and vLLM and SGLang read; transformers does not write them."""


@dataclass(frozen=True)
class Family:
    """A model architecture at its real depth."""

    name: str
    model_type: str
    layers: int
    settings: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """Of the draft layer's names."""
        return f"model.layers.{self.layers}."


FAMILIES = {
    family.name: family
    for family in (
        Family("glm_moe_dsa", "glm_moe_dsa", 78, {"first_k_dense_replace": 3, **LATENT, **INDEXER}),
        Family("glm4_moe", "glm4_moe", 46, {"first_k_dense_replace": 1, "head_dim": 16}),
        Family("deepseek_v3", "deepseek_v3", 61, {"first_k_dense_replace": 3, **LATENT}),
        # SGLang loads the shared expert as one more routed expert where there are 256; one sparse layer is enough for that.
        Family("wide", "glm_moe_dsa", 78, {"first_k_dense_replace": 77, "n_routed_experts": 256, **LATENT, **INDEXER}),
    )
}
SCHEMES = ("bf16", "int4", "int4-experts", "nvfp4")
"""``int4`` is asymmetric and covers attention; ``int4-experts`` is symmetric and leaves attention alone, like ``nvfp4``."""


@dataclass(frozen=True)
class Base:
    """A base, and the draft layer that it lacks in the base's own scheme and in others."""

    family: Family
    scheme: str
    tree: Tree
    """Without the draft layer."""
    draft: tuple[Tensor, ...]
    """In bfloat16, as the origin publishes it."""

    @property
    def graft(self) -> str:
        """The name that a graft gets: the one after the base's last shard."""
        count = len(self.tree.shards) + 1
        return f"model-{count:05d}-of-{count:05d}.safetensors"

    def drafted(self, scheme: str) -> tuple[Tensor, ...]:
        """The draft layer in a scheme, quantised where engines look for quantised weights."""
        return tuple(quantise(self.draft, scheme))


def make_base(family: Family, scheme: str, folder: Path) -> Base:
    """Let transformers write the trunk below `folder`, quantise it, and take the draft layer."""
    trunk = _write_trunk(family, folder / "trunk")
    weight_map = json.loads((trunk / INDEX).read_bytes())["weight_map"]
    shards: dict[str, Any] = {shard: trunk / shard for shard in sorted(set(weight_map.values()))}
    files: dict[str, bytes] = {}
    config = json.loads((trunk / "config.json").read_bytes()) | PUBLISHED
    if scheme != "bf16":
        shards = {
            shard: _store(folder / scheme / shard, quantise(read_shard(path).values(), scheme))
            for shard, path in shards.items()
        }
        weight_map = {name: shard for shard, path in shards.items() for name in read_shard(path)}
        config["quantization_config"] = quantization_config(scheme)
        if scheme == "nvfp4":
            files["hf_quant_config.json"] = json.dumps(hf_quant_config(), indent=2).encode()
    total = sum(len(tensor.data) for path in shards.values() for tensor in read_shard(path).values())
    tree = Tree(shards=shards, weight_map=weight_map, metadata={"total_size": total}, config=config, files=files)
    return Base(family, scheme, tree, _draft(family, folder / "donor"))


def _write_trunk(family: Family, folder: Path) -> Path:
    return folder if folder.exists() else write_model(family, folder, family.layers, family.settings, seed=1)


def _draft(family: Family, folder: Path) -> tuple[Tensor, ...]:
    last = 1
    if not folder.exists():
        write_model(family, folder, last + 1, {**family.settings, "first_k_dense_replace": 1}, seed=2)
    tensors = {name: held for shard in sorted(folder.glob("*.safetensors")) for name, held in read_shard(shard).items()}
    prefix = f"model.layers.{last}."
    layer = [t._replace(name=family.prefix + t.name.removeprefix(prefix)) for t in tensors.values() if prefix in t.name]
    return (*layer, *_own_tensors(family))


def _own_tensors(family: Family) -> Iterator[Tensor]:
    """What a draft layer has beside a decoder layer."""
    width = 32
    shapes = {"enorm": (width,), "hnorm": (width,), "eh_proj": (width, 2 * width), "shared_head.norm": (width,)}
    for name, shape in shapes.items():
        yield bf16(f"{family.prefix}{name}.weight", shape)


def write_model(family: Family, folder: Path, layers: int, settings: Mapping[str, Any], *, seed: int) -> Path:
    """Let transformers write a model of random weights to `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    from tests.oracles.checkpoints import randomise

    logging.disable_progress_bar()
    config = AutoConfig.for_model(family.model_type, num_hidden_layers=layers, **{**SMALL, **settings})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):  # float32 in every published checkpoint
            module.e_score_correction_bias = module.e_score_correction_bias.float()
    randomise(model, seed)
    model.save_pretrained(folder, max_shard_size="400KB")
    return folder


# Values


@cache
def _pattern(seed: str, length: int) -> bytes:
    block = sha256(seed.encode()).digest()
    return (block * (length // len(block) + 1))[:length]


def bf16(name: str, shape: tuple[int, ...], seed: str = "") -> Tensor:
    """A bfloat16 tensor of ordinary values, which follow from its name: 1.0 and a little more."""
    count = 1
    for extent in shape:
        count *= extent
    low = _pattern(f"{name}{seed}", count)
    return Tensor(name, "BF16", shape, b"".join(bytes((byte & 0x7F, 0x3F)) for byte in low))


def float32(name: str, seed: str) -> Tensor:
    """A scalar between 1 and 2, which follows from `seed`."""
    return Tensor(name, "F32", (), pack("<f", 1 + _pattern(seed, 1)[0] / 256))


def other_values(tensor: Tensor) -> Tensor:
    """The same name, dtype and shape with other bytes, none of which makes a NaN."""
    if tensor.dtype == "BF16":
        return bf16(tensor.name, tensor.shape, "other")
    if tensor.dtype == "F32":
        return tensor._replace(data=pack("<f", 0.5) * (len(tensor.data) // 4))
    return tensor._replace(data=bytes(byte ^ 0x11 for byte in tensor.data))


# Schemes


def is_quantised(tensor: Tensor, scheme: str) -> bool:
    """Whether the stand-ins hold this weight quantised: every Linear of a layer that engines allow to be.

    Published NVFP4 checkpoints of these families keep attention in bfloat16.
    """
    name = tensor.name
    if tensor.dtype != "BF16" or len(tensor.shape) != 2 or ".layers." not in name:
        return False
    kept = (".indexer.", ".mlp.gate.", ".eh_proj.", "shared_head", "embed_tokens")
    if scheme != "int4" and ".self_attn." in name:
        return False
    return not any(part in name for part in kept)


def quantise(tensors: Iterable[Tensor], scheme: str) -> Iterator[Tensor]:
    """The tensors with the quantised ones in the scheme's own names, dtypes and shapes."""
    for tensor in tensors:
        if scheme == "bf16" or not is_quantised(tensor, scheme):
            yield tensor
        elif scheme in {"int4", "int4-experts"}:
            yield from int4(tensor, symmetric=scheme == "int4-experts")
        else:
            yield from nvfp4(tensor)


def int4(tensor: Tensor, *, symmetric: bool = False) -> Iterator[Tensor]:
    """compressed-tensors ``pack-quantized``: 4 bits, groups of 32 along the input."""
    module = tensor.name.removesuffix(".weight")
    rows, columns = tensor.shape
    groups = columns // 32
    yield _packed(f"{module}.weight_packed", "I32", (rows, columns // 8), 4)
    yield bf16(f"{module}.weight_scale", (rows, groups))
    yield Tensor(f"{module}.weight_shape", "I64", (2,), pack("<qq", rows, columns))
    if not symmetric:
        yield _packed(f"{module}.weight_zero_point", "I32", (rows // 8, groups), 4)


def nvfp4(tensor: Tensor) -> Iterator[Tensor]:
    """ModelOpt NVFP4: two values a byte, a scale for 16 values, and two scalars that gate and up have in common."""
    module = tensor.name.removesuffix(".weight")
    rows, columns = tensor.shape
    fused = module.replace("up_proj", "gate_proj")
    yield _packed(f"{module}.weight", "U8", (rows, columns // 2), 1)
    scales = _pattern(f"{module}.weight_scale", rows * columns // 16)
    yield Tensor(f"{module}.weight_scale", "F8_E4M3", (rows, columns // 16), bytes(byte & 0x3F for byte in scales))
    yield float32(f"{module}.weight_scale_2", f"{fused} 2")
    yield float32(f"{module}.input_scale", f"{fused} in")


def fp8(tensor: Tensor, suffix: str = "weight_scale_inv") -> Iterator[Tensor]:
    """Block FP8 of the DeepSeek kind: a byte a value, a float32 scale for each block of 128 x 128."""
    module = tensor.name.removesuffix(".weight")
    rows, columns = tensor.shape
    data = bytes(byte & 0x3F for byte in _pattern(tensor.name, rows * columns))
    yield Tensor(tensor.name, "F8_E4M3", tensor.shape, data)
    blocks = (-(-rows // 128), -(-columns // 128))
    yield Tensor(f"{module}.{suffix}", "F32", blocks, pack("<f", 1.5) * (blocks[0] * blocks[1]))


def _packed(name: str, dtype: str, shape: tuple[int, int], width: int) -> Tensor:
    return Tensor(name, dtype, shape, _pattern(name, shape[0] * shape[1] * width))


IGNORED = {
    "int4": ["lm_head", "re:.*mlp\\.gate$", "re:.*indexer\\..*", "re:.*eh_proj$"],
    "int4-experts": ["lm_head", "re:.*mlp\\.gate$", "re:.*self_attn.*", "re:.*eh_proj$"],
    "nvfp4": ["lm_head", "*self_attn*", "*mlp.gate"],
}


def quantization_config(scheme: str) -> dict[str, Any]:
    """``quantization_config`` of config.json as the tool that writes the scheme puts it."""
    weights: dict[str, Any] = {"num_bits": 4, "group_size": 32, "dynamic": False}
    if scheme != "nvfp4":
        symmetric = scheme == "int4-experts"
        group = {
            "targets": ["Linear"],
            "weights": {**weights, "type": "int", "symmetric": symmetric, "strategy": "group"},
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": IGNORED[scheme],
            "kv_cache_scheme": None,
        }
    floats = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
    return {
        "config_groups": {"group_0": {"input_activations": floats, "weights": floats, "targets": ["Linear"]}},
        "ignore": IGNORED["nvfp4"],
        "quant_algo": "NVFP4",
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "quant_method": "modelopt",
    }


def hf_quant_config() -> dict[str, Any]:
    """``hf_quant_config.json`` as ModelOpt writes it beside config.json."""
    return {
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": None,
            "group_size": 16,
            "exclude_modules": IGNORED["nvfp4"],
        },
    }


def _store(path: Path, tensors: Iterable[Tensor]) -> Path:
    from tests.support.checkpoints import shard_bytes

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(shard_bytes(list(tensors), {"format": "pt"}))
    return path
