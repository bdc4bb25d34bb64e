"""The quantised stand-ins have the names, dtypes and shapes that the libraries of their formats give a Linear."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressed_tensors.compressors import NVFP4PackedCompressor, PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.quant_scheme import QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from overlay.formats.quantization_config import parse_quantization_config
from tests.engines.real.bases import (
    FAMILIES,
    SCHEMES,
    bf16,
    int4,
    is_quantised,
    nvfp4,
    other_values,
    quantization_config,
)
from tests.support.checkpoints import WIDTHS, Tensor

ROWS, COLUMNS = 64, 96
WEIGHT = bf16("model.layers.4.mlp.up_proj.weight", (ROWS, COLUMNS))
NAMES = {
    torch.int32: "I32",
    torch.int64: "I64",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
}

Layout = dict[str, tuple[str, tuple[int, ...]]]


def layout(tensors: list[Tensor]) -> Layout:
    return {tensor.name.rsplit(".", 1)[1]: (tensor.dtype, tensor.shape) for tensor in tensors}


def library_layout(tensors: dict[str, torch.Tensor]) -> Layout:
    return {name: (NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}


def weight() -> torch.Tensor:
    return torch.frombuffer(bytearray(WEIGHT.data), dtype=torch.bfloat16).reshape(ROWS, COLUMNS)


@pytest.mark.parametrize("symmetric", [True, False])
def test_int4_as_compressed_tensors_writes_it(symmetric: bool) -> None:
    arguments = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32, symmetric=symmetric)
    groups = weight().unflatten(-1, (-1, 32))
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)

    written: Any = PackedQuantizationCompressor.compress(
        {"weight": weight(), "weight_scale": scale, "weight_zero_point": zero},
        QuantizationScheme(targets=["Linear"], weights=arguments),
    )

    assert layout(list(int4(WEIGHT, symmetric=symmetric))) == library_layout(written)


def test_nvfp4_packs_and_scales_as_compressed_tensors_does_under_modelopts_names() -> None:
    arguments = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True)
    values = weight()
    whole = generate_gparam(values.amin(), values.amax())
    groups = values.unflatten(-1, (-1, 16))
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments, global_scale=whole)

    written: Any = NVFP4PackedCompressor.compress(
        {"weight": values, "weight_scale": scale, "weight_zero_point": zero, "weight_global_scale": whole},
        QuantizationScheme(targets=["Linear"], weights=arguments),
    )
    theirs = library_layout({name: written[name] for name in ("weight_packed", "weight_scale")})

    ours = layout(list(nvfp4(WEIGHT)))
    assert (ours["weight"], ours["weight_scale"]) == (theirs["weight_packed"], theirs["weight_scale"])
    assert (ours["weight_scale_2"], ours["input_scale"]) == (("F32", ()), ("F32", ()))


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "bf16"])
def test_the_config_is_one_that_overlay_reads(scheme: str) -> None:
    assert parse_quantization_config(quantization_config(scheme)).groups


@pytest.mark.parametrize("scheme", ["int4", "int4-experts", "nvfp4"])
def test_what_engines_never_quantise_stays_as_it_is(scheme: str) -> None:
    prefix = FAMILIES["glm_moe_dsa"].prefix
    names = ("eh_proj", "mlp.gate", "self_attn.indexer.wq_b", "shared_head.head")

    assert [name for name in names if is_quantised(bf16(f"{prefix}{name}.weight", (32, 32)), scheme)] == []
    assert is_quantised(bf16(f"{prefix}mlp.experts.3.up_proj.weight", (32, 32)), scheme)


@pytest.mark.parametrize("made", [bf16("a", (4, 8)), *int4(WEIGHT), *nvfp4(WEIGHT)], ids=lambda tensor: tensor.name)
def test_other_values_are_other_values_of_the_same_layout(made: Tensor) -> None:
    other = other_values(made)

    assert (other.name, other.dtype, other.shape, len(other.data)) == (
        made.name,
        made.dtype,
        made.shape,
        len(made.data),
    )
    assert other.data != made.data
    assert len(made.data) == WIDTHS[made.dtype] * torch.Size(made.shape).numel()
