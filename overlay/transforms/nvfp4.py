"""NVFP4: E2M1 codes in groups of 16 columns, an F8_E4M3 scale a group, an F32 scale for the tensor.

Two layouts hold the same codes and group scales, byte for byte, and differ in the name, shape and *direction* of the
scale of the tensor, for a weight of N rows and K columns:

=================  ==========================================  ==================================================
                   modelopt (``quant_algo: NVFP4``)            compressed-tensors (``nvfp4-pack-quantized``)
=================  ==========================================  ==================================================
codes              ``weight`` U8 [N, K/2]                      ``weight_packed`` U8 [N, K/2]
group scales       ``weight_scale`` F8_E4M3 [N, K/16]          ``weight_scale`` F8_E4M3 [N, K/16]
tensor scale       ``weight_scale_2`` F32 []: a factor         ``weight_global_scale`` F32 [1]: a divisor
decoded            ``code * (scale * weight_scale_2)``         ``code * (scale / weight_global_scale)``
=================  ==========================================  ==================================================

Decoding works in F32 and rounds once, and keeps minus zero: what vLLM (`nvfp4_emulation_utils.dequantize_to_dtype`) and
SGLang (`dequantize_nvfp4`) do.  modelopt's own `dequantize` gives plus zero for code 8 and is equal otherwise.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from overlay.transforms import checking
from overlay.transforms.blocks import e4m3_table, lookup, row_blocks
from overlay.transforms.nibbles import E2M1, unpack_nibbles

GROUP: Final = 16
"""Columns that share a scale."""

_E2M1_MAX: Final = 6.0
_E4M3_MAX: Final = 448.0
_E4M3_LEAST: Final = 2.0**-9
_FULL_RANGE: Final = _E2M1_MAX * _E4M3_MAX
_LEAST_SCALE: Final = torch.finfo(torch.float32).tiny / _E4M3_LEAST


class ModeloptNvfp4(NamedTuple):
    """The partners of one weight as modelopt stores them; the fields are the suffixes of their names."""

    weight: Tensor
    weight_scale: Tensor
    weight_scale_2: Tensor


class PackedNvfp4(NamedTuple):
    """The partners of one weight as compressed-tensors stores them; the fields are the suffixes of their names."""

    weight_packed: Tensor
    weight_scale: Tensor
    weight_global_scale: Tensor


def dequantise_modelopt_nvfp4(
    weight: Tensor, weight_scale: Tensor, weight_scale_2: Tensor, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """`dtype` [N, K]: the values that a modelopt NVFP4 weight stands for.

    Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: dtypes or shapes that do not fit, a scale that is NaN, or a value that `dtype` cannot hold.
    """
    checking.require_tensor_scale("weight_scale_2", weight_scale_2)
    factors = e4m3_table(weight_scale.device) * weight_scale_2.reshape(())
    return _decode(ModeloptNvfp4._fields, weight, weight_scale, factors, dtype)


def dequantise_packed_nvfp4(
    weight_packed: Tensor, weight_scale: Tensor, weight_global_scale: Tensor, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """`dtype` [N, K]: the values that a compressed-tensors NVFP4 weight stands for.

    compressed-tensors 0.20 gives the same bits when `weight_global_scale` has the shape [1]; for [] it computes in BF16.

    Raises:
        TransformProblem: as `dequantise_modelopt_nvfp4`.
    """
    checking.require_tensor_scale("weight_global_scale", weight_global_scale)
    factors = e4m3_table(weight_scale.device) / weight_global_scale.reshape(())
    return _decode(PackedNvfp4._fields, weight_packed, weight_scale, factors, dtype)


def _decode(parts: tuple[str, ...], packed: Tensor, scale: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
    """The decoded weight; `factors` (F32 [256]) is the whole factor of a group by the byte of its scale."""
    checking.require_matrix(parts[0], packed, torch.uint8)
    checking.require_matrix(parts[1], scale, torch.float8_e4m3fn)
    checking.require_target(dtype)
    rows, columns = packed.shape[0], packed.shape[1] * 2
    checking.require_divides(parts[0], GROUP, columns)
    checking.require_shape(parts[1], scale, (rows, columns // GROUP))
    checking.require_finite_scale(parts[1], scale)
    weight = torch.empty(rows, columns, dtype=dtype, device=packed.device)
    codes = scale.view(torch.uint8)
    for span in row_blocks(rows, columns):
        values = unpack_nibbles(packed[span], E2M1).view(-1, GROUP)
        values.mul_(lookup(factors, codes[span])[:, None])
        weight[span].copy_(values.view(-1, columns))
    # Finite factors are at most 448 times the scale of the tensor; only where that comes near the limit is it worth a pass.
    if not _E2M1_MAX * factors[0x7E].item() <= torch.finfo(dtype).max:
        checking.require_no_overflow("decoded weight", weight)
    return weight


def quantise_modelopt_nvfp4(weight: Tensor, weight_scale_2: Tensor | None = None) -> ModeloptNvfp4:
    """The partners that modelopt's `NVFP4QTensor.quantize` makes of `weight`, BF16, F16 or F32 [N, K].

    Args:
        weight: the weight; NaN and infinity are refused.
        weight_scale_2: the scale of the tensor, where several weights must share one (see `shared_weight_scale_2`).
            A value too small for `weight` saturates its largest groups.

    A group of zeros gets the scale 1, as in modelopt; a tensor of zeros, for which modelopt writes NaN, gets
    `weight_scale_2` 1 as well.  Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: a weight that is not finite, columns that 16 does not divide, or a scale out of range.
    """
    _require_groups(weight)
    tensor_scale = shared_weight_scale_2(weight) if weight_scale_2 is None else weight_scale_2
    checking.require_tensor_scale("weight_scale_2", tensor_scale)
    tensor_scale = tensor_scale.reshape(()).to(weight.device)

    def group_scales(peaks: Tensor) -> Tensor:
        scales = peaks.to(torch.float32) / (_E2M1_MAX * tensor_scale)
        scales.masked_fill_(scales == 0, 1.0)
        return scales.clamp_(_E4M3_LEAST, _E4M3_MAX).to(torch.float8_e4m3fn)

    packed, scale = weight.new_empty(0), weight.new_empty(0)
    packed, scale = _outputs(weight)
    for span in row_blocks(*weight.shape):
        groups, peaks = _groups(weight[span])
        scales = group_scales(peaks)
        factors = scales.to(torch.float32) * tensor_scale
        _store(packed, scale, span, groups, scales, factors)
    return ModeloptNvfp4(packed, scale, tensor_scale.clone())
