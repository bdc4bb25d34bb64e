"""Properties that hold for every transform: minus zero, inputs untouched, any strides, any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from overlay.transforms import (
    cast,
    dequantise_awq,
    dequantise_fp8,
    dequantise_fp8_blocks,
    dequantise_gptq,
    dequantise_modelopt_nvfp4,
    dequantise_mxfp4,
    dequantise_mxfp8,
    dequantise_packed_integers,
    dequantise_packed_nvfp4,
    measure,
    modelopt_nvfp4_reach,
    quantise_fp8_blocks,
    quantise_fp8_rows,
    quantise_fp8_tensor,
    quantise_modelopt_nvfp4,
    quantise_mxfp4,
    quantise_mxfp8,
    quantise_packed_integers,
    quantise_packed_nvfp4,
    shared_global_scale,
    shared_weight_scale_2,
    unpack_modelopt_nvfp4,
)
from overlay.transforms.nibbles import E2M1, encode_e2m1, pack_nibbles, unpack_nibbles
from tests.transforms.support import DTYPES, hostile, same

ENCODERS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor]]] = {
    "modelopt-nvfp4": (quantise_modelopt_nvfp4, dequantise_modelopt_nvfp4),
    "packed-nvfp4": (quantise_packed_nvfp4, dequantise_packed_nvfp4),
    "int4": (quantise_packed_integers, dequantise_packed_integers),
    "int8": (
        lambda weight: quantise_packed_integers(weight, bits=8),
        lambda *p: dequantise_packed_integers(*p, bits=8),
    ),
    "fp8-blocks": (quantise_fp8_blocks, dequantise_fp8_blocks),
    "fp8-rows": (quantise_fp8_rows, dequantise_fp8),
    "fp8-tensor": (quantise_fp8_tensor, dequantise_fp8),
    "mxfp4": (quantise_mxfp4, dequantise_mxfp4),
    "mxfp8": (quantise_mxfp8, dequantise_mxfp8),
}


def gptq(generator: torch.Generator, columns: int, rows: int, group: int, bits: int) -> tuple[Tensor, ...]:
    """Random partners of a GPTQ weight."""

    def words(*shape: int) -> Tensor:
        return torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)

    groups = columns // group
    scales = (torch.rand(groups, rows, generator=generator) / 100).half()
    return words(columns * bits // 32, rows), words(groups, rows * bits // 32), scales


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs_are_not_written_to_and_strides_do_not_matter(name: str, dtype: torch.dtype) -> None:
    encode, decode = ENCODERS[name]
    weight = hostile(96, 160, dtype, 3)
    kept = weight.clone()

    parts = encode(weight)
    copies = [None if part is None else part.clone() for part in parts]
    decoded = decode(*parts)

    assert same(kept, weight)
    assert all(part is None or same(copy, part) for copy, part in zip(copies, parts, strict=True))
    turned = encode(weight.t().contiguous().t())
    assert all(part is None or same(part, other) for part, other in zip(parts, turned, strict=True))
    assert all(part is None or part.is_contiguous() for part in parts)
    strange = [part if part is None or part.dim() < 2 else part.t().contiguous().t() for part in parts]
    assert same(decoded, decode(*strange))
    assert decoded.is_contiguous()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_results_do_not_depend_on_the_number_of_threads(threads: Callable[[int], None]) -> None:
    weight = hostile(300, 2048, torch.bfloat16, 5)
    wide = torch.randn(3, 200_000, generator=torch.Generator().manual_seed(1))

    def everything() -> list[Any]:
        results: list[Any] = []
        for encode, decode in ENCODERS.values():
            parts = encode(weight)
            decoded = decode(*parts)
            results += [*parts, decoded, measure(weight, decoded, group_size=32)]
        return [*results, measure(wide, wide.bfloat16()), measure(wide[:1], wide[:1].bfloat16())]

    threads(1)
    alone = everything()
    threads(4)
    together = everything()

    for one, other in zip(alone, together, strict=True):
        assert same(one, other) if isinstance(one, Tensor) else one == other


def test_a_result_does_not_depend_on_the_blocks_it_is_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = hostile(40, 96, torch.bfloat16, 8)
    results = []
    for elements in (1, 500, 1 << 18):
        monkeypatch.setattr("overlay.transforms.blocks.BLOCK_ELEMENTS", elements)
        parts = [(encode(weight), decode) for encode, decode in ENCODERS.values()]
        results.append([t for made, decode in parts for t in (*made, decode(*made)) if t is not None])

    for other in results[1:]:
        assert all(same(one, two) for one, two in zip(results[0], other, strict=True))


def test_nvfp4_keeps_minus_zero() -> None:
    weight = torch.tensor([[-0.001, 0.001, -0.0, 0.0] + [6.0] * 12])

    parts = quantise_modelopt_nvfp4(weight)
    decoded = dequantise_modelopt_nvfp4(*parts)

    assert [True, False, False, False] == decoded[0, :4].signbit().tolist()
    assert [0.0] * 4 == decoded[0, :4].tolist()


def test_nvfp4_rounds_once() -> None:
    """The product of code, group scale and tensor scale in F32, and only that, rounded to BF16."""
    generator = torch.Generator().manual_seed(2)
    packed = torch.randint(0, 256, (64, 128), dtype=torch.uint8, generator=generator)
    scale = torch.randint(0, 127, (64, 16), dtype=torch.uint8, generator=generator).view(torch.float8_e4m3fn)
    factor = torch.tensor(0.000651041686)
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).view(64, 16, 16).long()

    values = torch.tensor(E2M1)[codes] * (scale.float() * factor)[..., None]

    assert same(values.view(64, 256), dequantise_modelopt_nvfp4(packed, scale, factor, torch.float32))
    assert same(values.view(64, 256).bfloat16(), dequantise_modelopt_nvfp4(packed, scale, factor))


def test_all_zero_weights() -> None:
    zeros = torch.zeros(8, 64, dtype=torch.bfloat16)

    for encode, decode in ENCODERS.values():
        assert 0 == decode(*encode(zeros)).count_nonzero()
    assert 1.0 == quantise_modelopt_nvfp4(zeros).weight_scale_2.item()
    assert 1.0 == quantise_packed_nvfp4(zeros).weight_global_scale.item()


def test_gate_and_up_share_the_scale_of_the_tensor() -> None:
    gate, up = hostile(16, 64, torch.bfloat16, 1), hostile(16, 64, torch.bfloat16, 2)

    factor, divisor = shared_weight_scale_2(gate, up), shared_global_scale(gate, up)

    largest = max(gate.abs().max().item(), up.abs().max().item())
    assert torch.tensor(largest) / 2688 == factor
    assert (2688 / torch.tensor(largest, dtype=torch.bfloat16)).float() == divisor
    for weight in (gate, up):
        assert same(factor, quantise_modelopt_nvfp4(weight, factor).weight_scale_2)
        assert same(divisor, quantise_packed_nvfp4(weight, divisor).weight_global_scale)


def test_the_two_nvfp4_layouts_are_each_others_reciprocals() -> None:
    parts = quantise_packed_nvfp4(hostile(16, 64, torch.bfloat16, 1))

    other = unpack_modelopt_nvfp4(*parts)

    assert (parts.weight_packed, parts.weight_scale) == (other.weight, other.weight_scale)
    assert () == other.weight_scale_2.shape
    assert 1 / parts.weight_global_scale == other.weight_scale_2


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("indexed", [False, True], ids=["in order", "by index"])
@pytest.mark.parametrize("first_format", [True, False], ids=["v1", "v2"])
def test_gptq_by_its_definition(bits: int, indexed: bool, first_format: bool) -> None:
    generator = torch.Generator().manual_seed(bits)
    columns, rows, group = 256, 48, 64
    qweight, qzeros, scales = gptq(generator, columns, rows, group, bits)
    index = torch.arange(columns, dtype=torch.int32) // group
    if indexed:
        index = index[torch.randperm(columns, generator=generator)]

    decoded = dequantise_gptq(
        qweight, qzeros, scales, index if indexed else None, bits=bits, zeros_less_one=first_format, dtype=torch.float32
    )

    per, mask = 32 // bits, 2**bits - 1
    for row, column in [(0, 0), (47, 255), (5, 100), (31, 63), (32, 64), (17, 191)]:
        place = int(index[column])
        code = int(qweight[column // per, row]) >> (bits * (column % per)) & mask
        zero = int(qzeros[place, row // per]) >> (bits * (row % per)) & mask
        zero = (zero + first_format) & mask
        assert (code - zero) * float(scales[place, row]) == decoded[row, column].item()
    ours = dequantise_gptq(qweight, qzeros, scales, index, bits=bits, zeros_less_one=first_format)
    assert same(decoded.half(), ours)


def test_gptq_words_of_the_format() -> None:
    """Codes 0..7 in one word read 76543210, and the zero point 8 of the first format is stored as 7."""
    word = torch.tensor([[0x76543210]], dtype=torch.int32).expand(1, 8).contiguous()

    decoded = dequantise_gptq(word, torch.tensor([[0x77777777]], dtype=torch.int32), torch.ones(1, 8))

    assert [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0] == decoded[3].tolist()


def test_awq_words_of_the_format() -> None:
    """Columns 0..7 that hold their own number are the word 75316420."""
    word = torch.tensor([[0x75316420]], dtype=torch.int32)

    decoded = dequantise_awq(word, torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 8))

    assert [float(code) for code in range(8)] == decoded[:, 0].tolist()


@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=64).filter(lambda v: len(v) % 2 == 0))
def test_e2m1_codes_are_the_nearest_and_ties_go_to_the_even_code(values: list[float]) -> None:
    tensor = torch.tensor(values)

    codes = encode_e2m1(tensor)

    for value, code in zip(tensor.tolist(), codes.tolist(), strict=True):
        distances = [abs(min(abs(value), 6.0) - magnitude) for magnitude in E2M1[:8]]
        nearest = [index for index, distance in enumerate(distances) if distance == min(distances)]
        assert code & 7 == next((index for index in nearest if index % 2 == 0), nearest[0])
        assert bool(code & 8) == (value < 0)
    assert torch.equal(torch.tensor(E2M1)[codes.long()], unpack_nibbles(pack_nibbles(codes).to(torch.uint8), E2M1))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20),
    groups=st.integers(1, 4),
    group=st.sampled_from([8, 16, 32, 40]),
    bits=st.sampled_from([4, 8]),
    dtype=st.sampled_from(DTYPES),
    symmetric=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_packed_integers_come_back_within_a_step(
    rows: int, groups: int, group: int, bits: int, dtype: torch.dtype, symmetric: bool, seed: int
) -> None:
    weight = torch.randn(rows, groups * group, generator=torch.Generator().manual_seed(seed)).to(dtype)

    parts = quantise_packed_integers(weight, bits=bits, group_size=group, symmetric=symmetric)
    decoded = dequantise_packed_integers(*parts, bits=bits)

    steps = parts.weight_scale.float().repeat_interleave(group, dim=1)
    # Half a step for the code and half for the zero point; quotients rounded to BF16 add one in 2^8 of up to 256 steps.
    assert ((weight.float() - decoded.float()).abs() <= steps * (1.2 if bits == 4 else 2.2)).all()


@pytest.mark.parametrize("source", DTYPES, ids=str)
@pytest.mark.parametrize("target", DTYPES, ids=str)
def test_casting_rounds_to_nearest_even(source: torch.dtype, target: torch.dtype) -> None:
    values = (torch.randn(700, 900, generator=torch.Generator().manual_seed(1)) * 100).to(source)
    halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 2.0**-140, -0.0]).to(source)

    assert same(values.to(target), cast(values, target))
    assert same(halfway.to(target), cast(halfway, target))
    assert same(values[0, 0].to(target), cast(values[0, 0], target))


def test_casting_halfway_goes_to_even() -> None:
    halfway = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, -0.0])

    assert [1.0, 1.015625, -1.0, -0.0] == cast(halfway, torch.bfloat16).tolist()


def test_measure_of_nvfp4_with_too_small_a_shared_scale_counts_saturation() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    parts = quantise_modelopt_nvfp4(weight, torch.tensor(weight.abs().max().item() / 2688 / 4))

    decoded = dequantise_modelopt_nvfp4(*parts, torch.float32)
    figures = measure(weight, decoded, group_size=16, reach=modelopt_nvfp4_reach(*parts[1:]))

    assert figures.saturated > 100
    assert 0.1 < figures.relative_rms < 1
