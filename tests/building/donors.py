"""Donors for builds: small checkpoints with real numbers, and the formulas that say what they mean.

`draft_donor` is 0xSero/GLM-5.2-NVFP4-REAP-469B as far as a draft needs it: a trunk of which some is pruned, and beside it
the unpruned MTP layer with its routed experts in NVFP4 and everything else in BF16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overlay.demo.geometry import SCALED_DOWN, Geometry
from overlay.demo.layout import Layout, TensorSpec, mtp_tensors
from overlay.demo.sidecars import donor_sidecars
from overlay.formats.header_text import layout_order
from overlay.formats.index import new_index

DRAFT_SHARD = "model-mtp.safetensors"
SCALES_SHARD = "model-mtp-inputscales.safetensors"
TRUNK_SHARD = "model-00001-of-00001.safetensors"

INT4 = {"format": "pack-quantized", "bits": 4, "group_size": 32, "symmetric": False}
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def draft_donor(geometry: Geometry = SCALED_DOWN, *, listed: bool = True) -> Layout:
    """The donor of the draft; without `listed` it is an extract of the draft's two shards that has no trunk."""
    stored = list(draft_tensors(geometry))
    files = {
        DRAFT_SHARD: [spec for spec in stored if not spec.name.endswith(".input_scale")],
        SCALES_SHARD: [spec for spec in stored if spec.name.endswith(".input_scale")],
    }
    if listed:
        files[TRUNK_SHARD] = [TensorSpec("model.norm.weight", "BF16", (geometry.hidden,))]
    ordered = {
        name: sorted(specs, key=lambda spec: layout_order(spec.name, spec.dtype)) for name, specs in files.items()
    }
    mapped = {spec.name: name for name, specs in ordered.items() for spec in specs}
    index = new_index(mapped, {"total_size": sum(spec.nbytes for spec in stored)})
    pruned = replace(geometry, experts=geometry.experts // 2)  # of the trunk: the draft layer keeps all of its experts
    sidecars = {"config.json": donor_sidecars(pruned)["config.json"]}
    return Layout(files=ordered, index=index, sidecars=sidecars, metadata={"format": "pt"})


def draft_tensors(geometry: Geometry) -> Iterator[TensorSpec]:
    """The MTP layer: routed experts in NVFP4, the rest in BF16."""
    for spec in mtp_tensors(geometry):
        if ".mlp.experts." in spec.name:
            yield from nvfp4(spec)
        else:
            yield spec


def nvfp4(spec: TensorSpec) -> Iterator[TensorSpec]:
    """A weight as ModelOpt stores it."""
    rows, columns = spec.shape
    module = spec.name.removesuffix(".weight")
    yield TensorSpec(f"{module}.weight", "U8", (rows, columns // 2))
    yield TensorSpec(f"{module}.weight_scale", "F8_E4M3", (rows, columns // 16))
    yield TensorSpec(f"{module}.weight_scale_2", "F32", ())
    yield TensorSpec(f"{module}.input_scale", "F32", ())


def target_sidecars(experts: int, geometry: Geometry = SCALED_DOWN) -> dict[str, bytes]:
    """The small files of cyankiwi/GLM-5.2-AWQ-INT4 or of its pruned relative: a config that leaves attention unquantised."""
    files = donor_sidecars(replace(geometry, experts=experts))
    config = json.loads(files["config.json"])
    ignored = ["lm_head", *(f"model.layers.{n}.self_attn.o_proj" for n in range(geometry.layers + 1))]
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ignored,
    }
    return {**files, "config.json": (json.dumps(config, indent=2) + "\n").encode()}


# What is stored, as plain weights


def dequantised_nvfp4(stored: dict[str, Tensor], module: str) -> Tensor:
    """The formula of ModelOpt's NVFP4, computed in F32 and rounded once."""
    packed = stored[f"{module}.weight"]
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).int()
    scales = stored[f"{module}.weight_scale"].float() * stored[f"{module}.weight_scale_2"]
    return (E2M1[codes].unflatten(-1, (-1, 16)) * scales.unsqueeze(-1)).flatten(-2).to(torch.bfloat16)


def load(folder: Path) -> dict[str, Tensor]:
    """Every tensor of every shard in `folder`, read by the safetensors library."""
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def plain_weight(stored: dict[str, Tensor], module: str) -> Tensor:
    """The weight of a module of the donor in BF16."""
    return dequantised_nvfp4(stored, module) if f"{module}.weight_scale" in stored else stored[f"{module}.weight"]


# Manifests


def manifest_text(**changes: Any) -> str:
    """A standalone draft of `draft_donor` in the folder ``donor``, with the sidecars of ``target``; JSON is YAML."""
    value = {
        "overlay": 1,
        "name": "draft",
        "license": "mit",
        "base": None,
        "donors": {"mtp": "donor"},
        "grafts": [graft()],
        "files": {
            name: {"from": f"target/{name}"} for name in ("config.json", "generation_config.json", "tokenizer.json")
        },
        **changes,
    }
    return json.dumps(value, indent=2)


def graft(**changes: Any) -> dict[str, Any]:
    """The graft of `manifest_text`."""
    return {
        "shard": "model-00001-of-00001.safetensors",
        "from": "mtp",
        "tensors": ["model.layers.78.**"],
        "steps": [{"dequantize": "modelopt-nvfp4"}, {"quantize": INT4}],
        **changes,
    }
