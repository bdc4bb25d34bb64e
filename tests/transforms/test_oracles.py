"""compressed-tensors as an oracle over adverse random weights, and modelopt by digests that it made."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import (
    MXFP4PackedCompressor,
    MXFP8QuantizationCompressor,
    NVFP4PackedCompressor,
    PackedQuantizationCompressor,
)
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.quant_scheme import QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from torch import Tensor

from overlay.transforms import (
    TORCH_DTYPES,
    dequantise_awq,
    dequantise_fp8,
    dequantise_modelopt_nvfp4,
    dequantise_mxfp4,
    dequantise_mxfp8,
    dequantise_packed_integers,
    dequantise_packed_nvfp4,
    pack_codes,
    quantise_fp8_blocks,
    quantise_fp8_rows,
    quantise_modelopt_nvfp4,
    quantise_mxfp4,
    quantise_mxfp8,
    quantise_packed_integers,
    quantise_packed_nvfp4,
    unpack_codes,
)
from tests.transforms.support import DTYPES, HERE, formula, hostile, raw, same

SEEDS = range(6)
MODELOPT = json.loads((HERE / "modelopt.json").read_text())["cases"]


def scheme(**arguments: Any) -> QuantizationScheme:
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments))


def observed(weight: Tensor, arguments: QuantizationArgs, group: int, **more: Any) -> tuple[Tensor, Tensor]:
    """Scales and zero points of the library's memoryless min-max observer."""
    groups = weight.unflatten(-1, (-1, group))
    return calculate_qparams(groups.amin(-1), groups.amax(-1), arguments, **more)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_packed_integers_both_ways(seed: int, dtype: torch.dtype, bits: int, symmetric: bool) -> None:
    group = (32, 64, 16, 128, 24, 32)[seed]
    weight = hostile((16, 9, 40, 33, 17, 203)[seed], group * (3, 2, 5, 1, 3, 48)[seed], dtype, seed, group)
    library = scheme(num_bits=bits, type="int", strategy="group", group_size=group, symmetric=symmetric)
    scale, zero = observed(weight, library.weights, group)
    expected = PackedQuantizationCompressor.compress(
        {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}, library
    )

    parts = quantise_packed_integers(weight, bits=bits, group_size=group, symmetric=symmetric)

    for name, part in parts._asdict().items():
        assert part is None if name not in expected else same(expected[name], part), name
    decoded = PackedQuantizationCompressor.decompress(dict(expected), library)["weight"]
    assert same(decoded, dequantise_packed_integers(*parts, bits=bits))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [32, 33, 70])
def test_packed_integers_with_a_scale_a_row(dtype: torch.dtype, columns: int) -> None:
    weight = hostile(19, columns, dtype, columns, columns)
    library = scheme(num_bits=4, type="int", strategy="channel", symmetric=False)
    scale, zero = calculate_qparams(weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True), library.weights)
    expected = PackedQuantizationCompressor.compress(
        {"weight": weight, "weight_scale": scale, "weight_zero_point": zero}, library
    )

    parts = quantise_packed_integers(weight, group_size=None)

    assert all(same(expected[name], part) for name, part in parts._asdict().items())
    decoded = PackedQuantizationCompressor.decompress(dict(expected), library)["weight"]
    assert same(decoded, dequantise_packed_integers(*parts))


@pytest.mark.parametrize("rows", range(1, 9))
@pytest.mark.parametrize("bits", [4, 8])
def test_few_rows_where_the_library_fails_to_unpack(rows: int, bits: int) -> None:
    weight = hostile(rows, 96, torch.bfloat16, rows)
    library = scheme(num_bits=bits, type="int", strategy="group", group_size=32, symmetric=False)
    scale, zero = observed(weight, library.weights, 32)
    codes = quantize(weight, scale, zero, library.weights, dtype=torch.int8)

    parts = quantise_packed_integers(weight, bits=bits)

    assert parts.weight_zero_point is not None
    assert same(pack_to_int32(zero, bits, packed_dim=0), parts.weight_zero_point)
    assert same(pack_to_int32(codes, bits), parts.weight_packed)
    decoded = dequantize(codes, scale, zero, library.weights)
    assert same(decoded, dequantise_packed_integers(*parts, bits=bits))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (8, 8), (9, 33), (64, 40)], ids=str)
def test_packing_of_any_codes(bits: int, shape: tuple[int, int]) -> None:
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, shape, generator=torch.Generator().manual_seed(bits), dtype=torch.int8)

    for dim in (0, 1):
        packed = pack_codes(codes, bits, dim=dim)

        assert same(pack_to_int32(codes, bits, packed_dim=dim), packed)
        assert same(codes, unpack_codes(packed, bits, shape[dim], dim=dim))
    assert same(unpack_from_int32(pack_codes(codes, bits), bits, torch.Size(shape)), codes)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_packed_nvfp4_both_ways(seed: int, dtype: torch.dtype) -> None:
    weight = hostile(20 + 60 * seed, 16 * (1, 3, 8, 5, 96, 400)[seed], dtype, seed, 16)
    library = scheme(
        num_bits=4,
        type="float",
        strategy="tensor_group",
        group_size=16,
        symmetric=True,
        scale_dtype=torch.float8_e4m3fn,
    )
    divisor = generate_gparam(weight.amin().reshape(1), weight.amax().reshape(1))
    scale, _ = observed(weight, library.weights, 16, global_scale=divisor)
    given = {"weight": weight, "weight_scale": scale, "weight_global_scale": divisor}
    expected = NVFP4PackedCompressor.compress(given, library)

    parts = quantise_packed_nvfp4(weight)

    assert all(same(expected[name], part) for name, part in parts._asdict().items())
    decoded = NVFP4PackedCompressor.decompress(dict(parts._asdict()), library)["weight"]
    assert same(decoded, dequantise_packed_nvfp4(*parts))


@pytest.mark.parametrize("seed", SEEDS)
def test_decoding_of_any_nvfp4_bytes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randint(0, 256, (70, 96 * 8), dtype=torch.uint8, generator=generator)
    scale = torch.randint(0, 127, (70, 96), dtype=torch.uint8, generator=generator).view(torch.float8_e4m3fn)
    divisor = torch.rand(1, generator=generator) * 4000 + 0.1
    library = scheme(num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True)
    given = {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": divisor}

    expected = NVFP4PackedCompressor.decompress(given, library)["weight"]

    assert same(expected, dequantise_packed_nvfp4(packed, scale, divisor))


@pytest.mark.parametrize("case", MODELOPT, ids=lambda case: case["label"])
def test_modelopt_nvfp4_by_digest(case: dict[str, Any]) -> None:
    if case["label"] == "ties":
        ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, -0.0]
        weight, given = torch.tensor(ties).repeat(4, 4), torch.tensor(1.0)
    else:
        weight, given = formula(*case["shape"], TORCH_DTYPES[case["dtype"]]), torch.tensor(4.0 / 2688)

    parts = quantise_modelopt_nvfp4(weight, given if case["given"] else None)

    assert case["weight_scale_2"] == bytes(raw(parts.weight_scale_2).tolist()).hex()
    assert case["weight_scale"] == digest(parts.weight_scale)
    assert case["weight"] == digest(parts.weight)
    # Adding plus zero takes the sign from zeros, which modelopt does not keep.
    assert case["decoded_plus_zero"] == digest(dequantise_modelopt_nvfp4(*parts) + 0.0)


def digest(value: Tensor) -> str:
    return hashlib.sha256(bytes(raw(value).tolist())).hexdigest()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fp8_rows_both_ways(seed: int, dtype: torch.dtype) -> None:
    weight = hostile(30, 64, dtype, seed, 64)
    library = QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)
    scale, _ = calculate_qparams(weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True), library)
    expected = quantize(weight, scale, None, library, dtype=torch.float8_e4m3fn)

    parts = quantise_fp8_rows(weight)

    assert same(scale, parts.weight_scale)
    assert same(expected, parts.weight)
    assert same(dequantize(expected, scale, None, library), dequantise_fp8(*parts, dtype))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fp8_blocks(seed: int, dtype: torch.dtype) -> None:
    rows, columns, block = ((128, 256, 128), (130, 300, 128), (5, 7, 128), (64, 96, 32), (33, 65, 16), (1, 1, 128))[
        seed
    ]
    weight = hostile(rows, columns, dtype, seed, columns)
    library = QuantizationArgs(num_bits=8, type="float", strategy="block", block_structure=[block, block])
    blocks = [strip.float().split(block, dim=1) for strip in weight.split(block)]
    low = torch.tensor([[part.min() for part in strip] for strip in blocks])
    high = torch.tensor([[part.max() for part in strip] for strip in blocks])
    scale, _ = calculate_qparams(low, high, library)

    parts = quantise_fp8_blocks(weight, block=(block, block))

    assert same(scale, parts.weight_scale_inv)
    assert same(quantize(weight, scale, None, library, dtype=torch.float8_e4m3fn), parts.weight)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_mx_both_ways(seed: int, dtype: torch.dtype, bits: int) -> None:
    weight = hostile(40, 32 * (1 + seed), dtype, seed)
    library = scheme(
        num_bits=bits, type="float", strategy="group", group_size=32, symmetric=True, scale_dtype=torch.uint8
    )
    compressor = MXFP4PackedCompressor if bits == 4 else MXFP8QuantizationCompressor
    scale, _ = observed(weight, library.weights, 32)
    expected = compressor.compress({"weight": weight, "weight_scale": scale}, library)

    parts = quantise_mxfp4(weight) if bits == 4 else quantise_mxfp8(weight)
    decoded = dequantise_mxfp4(*parts) if bits == 4 else dequantise_mxfp8(*parts)

    assert all(same(expected[name], part) for name, part in parts._asdict().items())
    assert same(compressor.decompress(dict(expected), library)["weight"].bfloat16(), decoded)


@pytest.mark.parametrize("seed", SEEDS)
def test_awq(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns, rows, group = (64, 16, 32) if seed else (4096, 512, 128)
    qweight, qzeros = (
        torch.randint(-(2**31), 2**31, (lines, rows // 8), generator=generator).to(torch.int32)
        for lines in (columns, columns // group)
    )
    scales = (torch.rand(columns // group, rows, generator=generator) / 100).half()
    library = scheme(num_bits=4, type="int", strategy="group", group_size=group, symmetric=False)
    converted = AutoAWQConverter(group_size=group)._convert_gemm_module(qweight, scales, qzeros)

    expected = dequantize(converted[0], converted[1], converted[2], library.weights)

    assert same(expected, dequantise_awq(qweight, qzeros, scales))
