"""FP8: F8_E4M3 elements with a scale a block, a row or a tensor.

For a weight of N rows and K columns:

=======================  ====================================================  ===================================
blocks (DeepSeek)        ``weight_scale_inv`` F32 [ceil(N/128), ceil(K/128)]   compressed-tensors: ``weight_scale``
rows ("channel")         ``weight_scale`` F32 or BF16 [N, 1]                   compressed-tensors
tensor                   ``weight_scale`` F32 [] or [1]                        modelopt
=======================  ====================================================  ===================================

``weight`` is F8_E4M3 [N, K] in each of them.  An element stands for ``element * scale``: `weight_scale_inv` too is a
factor, in spite of its name.  Blocks at the lower and right edge may be smaller.

Source: DeepSeek-V3 `inference/kernel.py` (`weight_dequant`), compressed-tensors 0.20 `calculate_qparams`, `_quantize`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from overlay.transforms.accuracy import Reach
from overlay.transforms.blocks import e4m3_table, largest, lookup, row_blocks
from overlay.transforms.checking import (
    all_finite,
    require_dtype,
    require_finite_scale,
    require_finite_weight,
    require_matrix,
    require_no_overflow,
    require_shape,
    require_target,
    require_weight,
)
from overlay.transforms.dtypes import FLOATS, describe, dtype_name
from overlay.transforms.problems import TransformProblem

BLOCK: Final = (128, 128)
"""Rows and columns of a block, unless ``weight_block_size`` says otherwise."""

_E4M3_MAX: Final = 448.0


class Fp8Blocks(NamedTuple):
    """The partners of a weight with a scale a block; compressed-tensors calls the second ``weight_scale``."""

    weight: Tensor
    weight_scale_inv: Tensor


class Fp8(NamedTuple):
    """The partners of a weight with a scale a row or one for the tensor; the fields are the suffixes of their names."""

    weight: Tensor
    weight_scale: Tensor


def dequantise_fp8_blocks(
    weight: Tensor,
    weight_scale_inv: Tensor,
    *,
    block: tuple[int, int] = BLOCK,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`dtype` [N, K]: the values of a weight with a scale a block, computed in F32 and rounded once.

    Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: dtypes or shapes that do not fit, NaN, or a value that `dtype` cannot hold.
    """
    require_matrix("weight", weight, torch.float8_e4m3fn)
    require_matrix("weight_scale_inv", weight_scale_inv, *FLOATS)
    require_shape("weight_scale_inv", weight_scale_inv, _blocks(tuple(weight.shape), block))
    return _decode(weight, weight_scale_inv, block, dtype, part="weight_scale_inv")


def dequantise_fp8(weight: Tensor, weight_scale: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """`dtype` [N, K]: the values of a weight with a scale a row ([N, 1]) or one for the tensor ([] or [1]).

    Computed in F32 and rounded once.  Beside the result this takes a few MB, or some copies of one row where that is
    more.

    Raises:
        TransformProblem: dtypes or shapes that do not fit, NaN, or a value that `dtype` cannot hold.
    """
    require_matrix("weight", weight, torch.float8_e4m3fn)
    require_dtype("weight_scale", weight_scale, *FLOATS)
    rows, columns = weight.shape
    if tuple(weight_scale.shape) not in ((), (1,), (rows, 1)):
        expected = f"[{rows}, 1], [1] or []"
        raise TransformProblem("shape", "weight_scale", expected=expected, found=describe(weight_scale))
    scale = weight_scale.reshape(-1, 1)
    return _decode(weight, scale, (rows // scale.shape[0], columns), dtype, part="weight_scale")


def _decode(weight: Tensor, scale: Tensor, block: tuple[int, int], dtype: torch.dtype, *, part: str) -> Tensor:
    """The decoded weight; `scale` is [ceil(N / block rows), ceil(K / block columns)]."""
    require_target(dtype)
    require_finite_scale(part, scale)
    if not all_finite(weight):
        raise TransformProblem("finite-weight", "weight", expected="finite weights", found="NaN")
    elements, codes = e4m3_table(weight.device), weight.view(torch.uint8)
    decoded = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    for span in row_blocks(*weight.shape):
        values = lookup(elements, codes[span]).view(-1, weight.shape[1])
        values.mul_(_spread(scale, span, block, weight.shape[1]))
        decoded[span].copy_(values)
    if not _E4M3_MAX * float(scale.abs().amax().item()) <= torch.finfo(dtype).max:
        require_no_overflow("decoded weight", decoded)
    return decoded


def _spread(scale: Tensor, span: slice, block: tuple[int, int], columns: int) -> Tensor:
    """F32 [rows of span, columns or 1]: the scale of each element of the rows of `span`."""
    height, width = block
    line = torch.arange(span.start, span.stop, device=scale.device).div_(height, rounding_mode="floor")
    some = scale.index_select(0, line).to(torch.float32)
    return some if width >= columns else some[..., None].expand(-1, -1, width).reshape(len(some), -1)[:, :columns]


def quantise_fp8_blocks(weight: Tensor, *, block: tuple[int, int] = BLOCK) -> Fp8Blocks:
    """F8_E4M3 [N, K] and F32 [ceil(N/128), ceil(K/128)]: greatest magnitude of a block / 448 as its scale.

    Statistics and division are F32, whatever the dtype of `weight`.  A block of zeros gets the scale 2^-23, as in
    compressed-tensors.  Beside the result this takes a few MB, or some copies of one strip of blocks where that is more.

    Raises:
        TransformProblem: a weight that is no matrix of floats, or not finite.
    """
    require_weight("weight", weight)
    rows, columns = weight.shape
    height = block[0]
    encoded = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=weight.device)
    scales = torch.empty(_blocks((rows, columns), block), dtype=torch.float32, device=weight.device)
    for span in row_blocks(rows, columns, multiple=height):
        values = weight[span].to(torch.float32)
        strips = slice(span.start // height, -(-span.stop // height))
        scales[strips] = _scales_of(_block_peaks(values, block))
        encoded[span] = _encode(values, _spread(scales, span, block, columns))
    return Fp8Blocks(encoded, scales)


def _block_peaks(values: Tensor, block: tuple[int, int]) -> Tensor:
    """F32 [strips, blocks of a strip]: the greatest magnitude of every block of `values`, F32 [r, K]."""
    height, width = block
    padding = (0, -values.shape[1] % width, 0, -values.shape[0] % height)
    padded = torch.nn.functional.pad(values, padding) if any(padding) else values
    strips = padded.view(padded.shape[0] // height, height, padded.shape[1] // width, width)
    return strips.abs().amax(dim=3).amax(dim=1)


def quantise_fp8_rows(weight: Tensor, *, scale_dtype: torch.dtype | None = None) -> Fp8:
    """F8_E4M3 [N, K] and [N, 1]: greatest magnitude of a row / 448 as its scale, compressed-tensors' "channel".

    Args:
        weight: BF16, F16 or F32 [N, K].
        scale_dtype: of statistics, division and scale; F32, or the dtype of `weight`, which is meant by None.

    Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: a weight that is no matrix of floats, or not finite, or a dtype of scales not named above.
    """
    require_weight("weight", weight)
    dtype = weight.dtype if scale_dtype is None else scale_dtype
    if dtype not in (weight.dtype, torch.float32):
        raise TransformProblem("dtype", "weight_scale", expected="F32 or that of the weight", found=dtype_name(dtype))
    encoded = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    scales = torch.empty(weight.shape[0], 1, dtype=dtype, device=weight.device)
    for span in row_blocks(*weight.shape):
        values = weight[span].to(torch.float32)
        scales[span] = _scales_of(values.abs().amax(dim=1, keepdim=True).to(dtype))
        encoded[span] = _encode(values.to(dtype), scales[span])
    return Fp8(encoded, scales)


def quantise_fp8_tensor(weight: Tensor) -> Fp8:
    """F8_E4M3 [N, K] and F32 []: greatest magnitude / 448 as the scale of the tensor, as modelopt's ``FP8``.

    Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: a weight that is no matrix of floats, or not finite.
    """
    require_weight("weight", weight)
    scale = _scales_of(largest(weight))
    encoded = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    for span in row_blocks(*weight.shape):
        encoded[span] = _encode(weight[span].to(torch.float32), scale)
    return Fp8(encoded, scale)


def fp8_reach(scale: Tensor, rows: int, *, block_rows: int | None = None) -> Reach:
    """What these scales can express, for `measure`: 448 times a scale, and half of the last step of 32.

    Args:
        scale: a scale a block, [ceil(N / `block_rows`), …], a scale a row, [N, 1], or one for the tensor.
        rows: the number N of rows of the weight.
        block_rows: the rows of a block, where there is a scale a block.
    """
    lines = scale.reshape(-1, scale.shape[-1] if scale.dim() == 2 else 1)
    return Reach(lines, -_E4M3_MAX - 16, _E4M3_MAX + 16, rows=block_rows or rows // lines.shape[0])


def _scales_of(peaks: Tensor) -> Tensor:
    """`peaks` / 448 in their dtype; its epsilon where that is zero, which keeps zeros zero."""
    require_finite_weight("weight", peaks)
    scales = peaks / _E4M3_MAX
    return scales.masked_fill_(scales == 0, torch.finfo(peaks.dtype).eps)


def _encode(values: Tensor, scale: Tensor) -> Tensor:
    """F8_E4M3: `values` / `scale`, rounded to their dtype first, then to E4M3."""
    return (values / scale).clamp_(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn)


def _blocks(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    """How many blocks cover `shape`, down and across."""
    if min(block) < 1:
        raise TransformProblem("block-size", "weight_block_size", expected="positive numbers", found=str(list(block)))
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])
