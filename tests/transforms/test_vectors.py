"""Every vector of vectors.json, made with torch 2.13, compressed-tensors 0.20 and modelopt 0.47, is met bit for bit."""

from __future__ import annotations

import hashlib

import pytest
import torch

from overlay.transforms import (
    dequantise_fp8,
    dequantise_fp8_blocks,
    dequantise_modelopt_nvfp4,
    dequantise_mxfp4,
    dequantise_mxfp8,
    dequantise_packed_integers,
    dequantise_packed_nvfp4,
    pack_codes,
    pack_modelopt_nvfp4,
    quantise_fp8_blocks,
    quantise_fp8_rows,
    quantise_modelopt_nvfp4,
    quantise_mxfp4,
    quantise_mxfp8,
    quantise_packed_integers,
    quantise_packed_nvfp4,
    unpack_codes,
)
from tests.transforms.support import VECTORS, raw, same, tensor


@pytest.mark.parametrize("case", ["ct_int4_g32_asym_bf16", "ct_int4_g32_asym_fp32", "ct_int4_g32_sym_bf16"])
def test_int4(case: str) -> None:
    parts = quantise_packed_integers(tensor(case, "weight"), symmetric="sym_" in case and "asym" not in case)

    for name, part in parts._asdict().items():
        assert part is None if name not in VECTORS[case] else same(tensor(case, name), part), name
    assert same(tensor(case, "dequant"), dequantise_packed_integers(*parts))


@pytest.mark.parametrize("case", ["ct_int4_g32_asym_bf16", "ct_int4_g32_asym_fp32"])
def test_int4_zero_points(case: str) -> None:
    zeros = torch.tensor(VECTORS[case]["zero_point_int8"], dtype=torch.int8)

    assert same(tensor(case, "weight_zero_point"), pack_codes(zeros, dim=0))
    assert same(zeros, unpack_codes(tensor(case, "weight_zero_point"), 4, 16, dim=0))


@pytest.mark.parametrize("dim", [0, 1])
def test_packing(dim: int) -> None:
    codes = torch.tensor(VECTORS[f"ct_pack_dim{dim}"]["input_int8"], dtype=torch.int8)
    packed = tensor(f"ct_pack_dim{dim}", "packed")

    assert same(packed, pack_codes(codes, dim=dim))
    assert same(codes, unpack_codes(packed, 4, codes.shape[dim], dim=dim))


def test_modelopt_nvfp4() -> None:
    parts = quantise_modelopt_nvfp4(tensor("modelopt_nvfp4", "weight_bf16"))

    for name, part in parts._asdict().items():
        assert same(tensor("modelopt_nvfp4", name), part), name
    assert same(tensor("modelopt_nvfp4", "dequant_fp32"), dequantise_modelopt_nvfp4(*parts, torch.float32))
    assert same(tensor("modelopt_nvfp4", "dequant_bf16"), dequantise_modelopt_nvfp4(*parts))


def test_packed_nvfp4() -> None:
    expected = {name: tensor("ct_nvfp4", name) for name in ("weight_packed", "weight_scale", "weight_global_scale")}
    weight = tensor("modelopt_nvfp4", "weight_bf16")

    converted = pack_modelopt_nvfp4(*quantise_modelopt_nvfp4(weight))
    encoded = quantise_packed_nvfp4(weight, expected["weight_global_scale"])

    for name, value in expected.items():
        assert same(value, getattr(encoded, name)), name
    # The divisor of the vector is given; as a reciprocal, and as 2688 / 1.75, it is one unit in the last place less.
    assert same(expected["weight_packed"], converted.weight_packed)
    assert same(expected["weight_scale"], converted.weight_scale)
    assert same(expected["weight_global_scale"].nextafter(torch.zeros(1)), converted.weight_global_scale)
    decoded = dequantise_packed_nvfp4(**expected)
    assert torch.equal(tensor("modelopt_nvfp4", "dequant_bf16"), decoded)


def test_modelopt_nvfp4_of_every_byte() -> None:
    case = "modelopt_nvfp4_decode_all_bytes"
    parts = [tensor(case, name) for name in ("weight", "weight_scale", "weight_scale_2")]

    decoded = dequantise_modelopt_nvfp4(*parts, torch.float32)

    expected = tensor(case, "dequant_fp32")
    assert torch.equal(expected, decoded)
    # modelopt writes plus zero for code 8; vLLM and SGLang keep the sign, and so do we.
    codes = torch.stack((parts[0] & 15, parts[0] >> 4), dim=-1).view(expected.shape)
    assert same(torch.where(codes == 8, -0.0, expected), decoded)


def test_fp8_blocks() -> None:
    row, column = torch.arange(130)[:, None], torch.arange(256)[None, :]
    weight = (((5 * row + 3 * column) % 37 - 18) * (1 + 3 * (column // 128))).float() / 64

    parts = quantise_fp8_blocks(weight)

    case = VECTORS["fp8_block128"]
    assert case["weight_sha256"] == hashlib.sha256(bytes(raw(parts.weight).tolist())).hexdigest()
    assert case["weight_row129"] == bytes(raw(parts.weight[129]).tolist()).hex()
    assert same(tensor("fp8_block128", "weight_scale_inv"), parts.weight_scale_inv)
    spread = parts.weight_scale_inv[row // 128, column // 128]
    assert same(parts.weight.float() * spread, dequantise_fp8_blocks(*parts, dtype=torch.float32))


def test_fp8_rows() -> None:
    parts = quantise_fp8_rows(tensor("ct_fp8_channel", "weight_in"))

    for name, part in parts._asdict().items():
        assert same(tensor("ct_fp8_channel", name), part), name
    assert same(tensor("ct_fp8_channel", "dequant"), dequantise_fp8(*parts))


def test_mxfp4() -> None:
    parts = quantise_mxfp4(tensor("ct_mxfp4", "weight_in"))

    for name, part in parts._asdict().items():
        assert same(tensor("ct_mxfp4", name), part), name
    assert same(tensor("ct_mxfp4", "dequant"), dequantise_mxfp4(*parts))


def test_mxfp8() -> None:
    parts = quantise_mxfp8(tensor("ct_mxfp8", "weight_in"))

    for name, part in parts._asdict().items():
        assert same(tensor("ct_mxfp8", name), part), name
    assert same(tensor("ct_mxfp8", "dequant"), dequantise_mxfp8(*parts))
