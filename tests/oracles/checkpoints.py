"""Tiny checkpoints with a draft layer, written by the libraries that write the real ones.

The base comes from ``PreTrainedModel.save_pretrained``; its config declares a draft layer that it does not hold.  The
donor has one layer more, which is that draft layer, and is laid out by ``huggingface_hub.save_torch_state_dict``.  The
depth is the real one, because transformers knows a family's draft layer by its number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import load_file

INDEX = "model.safetensors.index.json"

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "num_nextn_predict_layers": 1,
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}


class Bits(NamedTuple):
    """A tensor, as far as two readers can agree on it."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, eq=False)
class Family:
    """A model architecture at its real depth."""

    name: str
    layers: int
    settings: dict[str, Any] = field(repr=False)
    drafts: bool = True
    """Whether ``generate(use_mtp=True)`` runs; for glm_moe_dsa it ends in a KeyError of the library's own (5.23.0)."""

    @property
    def draft_prefix(self) -> str:
        return f"model.layers.{self.layers}."


@dataclass(frozen=True, eq=False)
class Pair:
    """A base without its draft layer, and a donor that holds it."""

    family: Family
    base: Path
    donor: Path

    @property
    def shard(self) -> str:
        """The name that the graft gets: the one after the base's last."""
        count = len(shards_of(self.base)) + 1
        return f"model-{count:05d}-of-{count:05d}.safetensors"

    @cached_property
    def draft(self) -> dict[str, Bits]:
        """The donor's tensors of the draft layer."""
        return {n: bits for n, bits in tensors_of(self.donor).items() if n.startswith(self.family.draft_prefix)}

    def write_manifest(self, folder: Path, *, base: str = "", donor: str = "", shard: str = "") -> Path:
        """A manifest of the kind that a person writes, in `folder`."""
        path = folder / f"{self.family.name}-mtp.yaml"
        lines = [
            "overlay: 1",
            f"name: {self.family.name}-mtp",
            f"base: {base or self.base}",
            "donors:",
            f"  bf16: {donor or self.donor}",
            "grafts:",
            f"  - shard: {shard or self.shard}",
            "    from: bf16",
            f'    tensors: ["{self.family.draft_prefix}**"]',
        ]
        path.write_text("\n".join([*lines, ""]))
        return path


def families() -> list[Family]:
    """The three architectures whose draft layer transformers can load; the shallowest first."""
    return _FAMILIES


def write_pair(family: Family, folder: Path) -> Pair:
    """Write the base and the donor of `family` below `folder`."""
    import huggingface_hub

    base = write_model(family, folder / "base", layers=family.layers, seed=1, max_shard_size="150KB")
    trunk = write_model(family, folder / "trunk", layers=family.layers + 1, seed=2, max_shard_size="10MB")
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(trunk.glob("*.safetensors")):
        tensors.update(load_file(shard))
    donor = folder / "donor"
    donor.mkdir()
    # Small enough that the draft layer lies in several shards, one of which it shares with the trunk.
    huggingface_hub.save_torch_state_dict(tensors | draft_extras(family), donor, max_shard_size="12KB")
    (donor / "config.json").write_bytes((base / "config.json").read_bytes())
    return Pair(family, base, donor)


def write_model(family: Family, folder: Path, *, layers: int, seed: int, max_shard_size: str) -> Path:
    """Let transformers write a model of random weights to `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.for_model(family.name, num_hidden_layers=layers, **SMALL, **family.settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for module in model.modules():
        if hasattr(module, "e_score_correction_bias"):  # float32 in every published checkpoint
            module.e_score_correction_bias = module.e_score_correction_bias.float()
    randomise(model, seed)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def randomise(model: Any, seed: int) -> None:
    """Give every tensor values that no initialisation gives, so that one that was lost cannot look as if it were there.

    All values are exact in bfloat16: the draft model of transformers rounds a float32 bias to that.
    """
    noise = torch.Generator().manual_seed(seed)
    buffers = [tensor for name, tensor in model.named_buffers() if not name.endswith("inv_freq")]
    with torch.no_grad():
        for tensor in [*model.parameters(), *buffers]:
            drawn = torch.randn(tensor.shape, generator=noise)
            drawn = 1 + drawn / 8 if tensor.ndim == 1 else drawn / tensor.shape[-1] ** 0.5
            tensor.copy_(drawn.to(torch.bfloat16).to(tensor.dtype))


def draft_extras(family: Family) -> dict[str, torch.Tensor]:
    """What a draft layer has beside a decoder layer."""
    noise = torch.Generator().manual_seed(3)
    width = SMALL["hidden_size"]
    assert isinstance(width, int)
    shapes = {"enorm": (width,), "hnorm": (width,), "eh_proj": (width, 2 * width), "shared_head.norm": (width,)}
    return {
        f"{family.draft_prefix}{name}.weight": torch.randn(shape, generator=noise).to(torch.bfloat16)
        for name, shape in shapes.items()
    }


def shards_of(folder: Path) -> list[str]:
    """The shards that the index names."""
    weight_map: dict[str, str] = json.loads((folder / INDEX).read_bytes())["weight_map"]
    return sorted(set(weight_map.values()))


def tensors_of(folder: Path) -> dict[str, Bits]:
    """Every tensor of every shard that the index names, as safetensors reads it; each must lie where the index says."""
    weight_map: dict[str, str] = json.loads((folder / INDEX).read_bytes())["weight_map"]
    found: dict[str, Bits] = {}
    owners: dict[str, str] = {}
    for shard in shards_of(folder):
        read = tensors_in(folder / shard)
        assert not found.keys() & read.keys(), "a tensor lies in two shards"
        found.update(read)
        owners.update(dict.fromkeys(read, shard))
    assert owners == weight_map
    return found


def tensors_in(shard: Path) -> dict[str, Bits]:
    """Every tensor of one shard, as safetensors reads it."""
    return {
        name: Bits(tensor["dtype"], tuple(tensor["shape"]), digest(tensor["data"]))
        for name, tensor in deserialize(shard.read_bytes())
    }


def deserialize(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The tensors of a shard as safetensors sees them, of every dtype and without a tensor library."""
    untyped: Any = safetensors.deserialize
    tensors: list[tuple[str, dict[str, Any]]] = untyped(data)
    return tensors


def bits_of(tensor: torch.Tensor, like: Bits | None = None) -> Bits:
    """A tensor in memory; converted to the dtype of `like` first, where it is another one."""
    wanted = _DTYPES[like.dtype] if like is not None else tensor.dtype
    raw = tensor.detach().to(wanted).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return Bits(_NAMES[wanted], tuple(tensor.shape), digest(raw))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def as_written(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model's state under the names of its checkpoint: transformers fuses experts in memory, and only there."""
    return dict(_split_experts(state.items()))


def as_written_draft(family: Family, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A draft model's state under the names of its checkpoint."""
    own = ((name, tensor) for name, tensor in state.items() if name.startswith("layers."))
    return {_draft_name(family, name): tensor for name, tensor in _split_experts(own)}


def _split_experts(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterable[tuple[str, torch.Tensor]]:
    for name, tensor in tensors:
        layer, _, part = name.rpartition(".mlp.experts.")
        if part == "gate_up_proj":
            for number, both in enumerate(tensor):
                gate, up = both.chunk(2)
                yield f"{layer}.mlp.experts.{number}.gate_proj.weight", gate
                yield f"{layer}.mlp.experts.{number}.up_proj.weight", up
        elif part == "down_proj":
            for number, down in enumerate(tensor):
                yield f"{layer}.mlp.experts.{number}.down_proj.weight", down
        else:
            yield name, tensor


def _draft_name(family: Family, name: str) -> str:
    rest = name.removeprefix("layers.0.").removeprefix("mtp_block.")
    return family.draft_prefix + rest.replace("post_norm.", "shared_head.norm.")


_FAMILIES = [
    Family("glm4_moe", 46, {"head_dim": 16, "first_k_dense_replace": 1}),
    Family("deepseek_v3", 61, {"first_k_dense_replace": 3, **LATENT}),
    Family(
        "glm_moe_dsa",
        78,
        {
            "first_k_dense_replace": 3,
            "index_topk": 16,
            "index_head_dim": 8,
            "index_n_heads": 2,
            # The library's draft model wants these three; the configs of published GLM-5.2 checkpoints lack them.
            "num_mtp_layers": 1,
            "mtp_layer_types": ["indexed_attention"],
            "mtp_mlp_layer_types": ["sparse"],
            **LATENT,
        },
        drafts=False,
    ),
]

_DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
