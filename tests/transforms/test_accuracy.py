"""The figures of a lossy step, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from overlay.transforms import (
    Accuracy,
    Reach,
    dequantise_fp8,
    dequantise_fp8_blocks,
    dequantise_packed_integers,
    fp8_reach,
    measure,
    packed_integers_reach,
    packed_nvfp4_reach,
    quantise_fp8_blocks,
    quantise_fp8_rows,
    quantise_fp8_tensor,
    quantise_packed_integers,
    quantise_packed_nvfp4,
)


def test_small_example() -> None:
    original = torch.tensor([[3.0, -4.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0, 0.0, 0.0]])
    restored = torch.tensor([[3.0, -2.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.5, 0.0, 0.0]])

    figures = measure(original, restored, group_size=2)

    assert (1, 12, 6) == (figures.tensors, figures.elements, figures.groups)
    assert (4, 1) == (figures.zero_groups, figures.vanished_groups)
    assert (4.0, 2.0) == (figures.max_abs, figures.max_abs_error)
    assert (35.0, 6.25) == (figures.sum_squares, figures.sum_squared_error)
    assert math.sqrt(6.25 / 35) == figures.relative_rms
    assert 0.5 == figures.relative_max
    assert 0 == figures.saturated


def test_a_ragged_last_group_counts_as_one() -> None:
    original = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0]])

    figures = measure(original, original * torch.tensor([1, 1, 1, 1, 0]), group_size=2)

    assert (3, 1, 1) == (figures.groups, figures.zero_groups, figures.vanished_groups)
    assert (5, 5.0) == (figures.elements, figures.sum_squares)


def test_figures_add_up_over_tensors() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(8, 32, generator=generator), torch.randn(4, 32, generator=generator) * 8
    one, two = (measure(part, part.bfloat16(), group_size=16) for part in (first, second))

    total = sum((one, two), Accuracy())
    whole = torch.cat((first, second))
    expected = measure(whole, whole.bfloat16(), group_size=16)

    assert 2 == total.tensors
    assert (expected.elements, expected.groups) == (total.elements, total.groups)
    assert expected.max_abs_error == total.max_abs_error
    assert expected.relative_rms == pytest.approx(total.relative_rms, rel=1e-6)
    assert one == one + Accuracy() == Accuracy() + one


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_sums_of_squares_neither_overflow_nor_vanish(scale: float) -> None:
    original = torch.randn(40, 5000, generator=torch.Generator().manual_seed(1)).mul(scale)

    figures = measure(original, original.bfloat16())

    error = (original.bfloat16().double() - original.double()).square().sum() / original.double().square().sum()
    assert math.sqrt(error.item()) == pytest.approx(figures.relative_rms, rel=1e-5)


def test_nothing_lost_is_no_error() -> None:
    zeros = torch.zeros(2, 4)

    assert 0.0 == measure(zeros, zeros).relative_rms == Accuracy().relative_rms == Accuracy().relative_max
    assert math.inf == measure(zeros, zeros + 1).relative_rms


def test_saturation_is_what_lies_beyond_the_reach() -> None:
    original = torch.tensor([[7.4, 7.6, -8.4, -8.6], [1.0, 2.0, -9.0, 0.0]])
    reach = Reach(torch.tensor([[1.0], [0.5]]), -8.5, 7.5, torch.tensor([[0], [-8]]))

    # The second row reaches from -0.25 to 7.75.
    assert 2 + 1 == measure(original, original, reach=reach).saturated


def test_min_max_scales_saturate_next_to_nothing() -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(1)).bfloat16()
    integers, blocks, rows = quantise_packed_integers(weight), quantise_fp8_blocks(weight), quantise_fp8_rows(weight)
    whole, packed = quantise_fp8_tensor(weight), quantise_packed_nvfp4(weight)

    for restored, group, reach in (
        (dequantise_packed_integers(*integers), 32, packed_integers_reach(*integers[1:3])),
        (dequantise_fp8_blocks(*blocks), 128, fp8_reach(blocks.weight_scale_inv, 256, block_rows=128)),
        (dequantise_fp8(*rows), None, fp8_reach(rows.weight_scale, 256)),
        (dequantise_fp8(*whole), None, fp8_reach(whole.weight_scale, 256)),
        (weight, 16, packed_nvfp4_reach(*packed[1:])),
    ):
        figures = measure(weight, restored, group_size=group, reach=reach)

        assert figures.saturated < 0.002 * weight.numel()
        assert figures.relative_rms < 0.1
        too_large = measure(weight * 3, restored, group_size=group, reach=reach)
        assert too_large.saturated > 300
