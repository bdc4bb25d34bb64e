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

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from overlay.transforms.accuracy import Reach
from overlay.transforms.blocks import e4m3_table, largest, lookup, row_blocks
from overlay.transforms.checking import (
    require_divides,
    require_finite_scale,
    require_finite_weight,
    require_matrix,
    require_no_overflow,
    require_shape,
    require_target,
    require_tensor_scale,
    require_weight,
)
from overlay.transforms.nibbles import E2M1, encode_e2m1, pack_nibbles, unpack_nibbles
from overlay.transforms.problems import TransformProblem

GROUP: Final = 16
"""Columns that share a scale."""

_E2M1_MAX: Final = 6.0
_E4M3_MAX: Final = 448.0
_E4M3_LEAST: Final = 2.0**-9
_FULL_RANGE: Final = _E2M1_MAX * _E4M3_MAX
_SCALE_OF_NOTHING: Final = 0.125
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
    require_tensor_scale("weight_scale_2", weight_scale_2)
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
    require_tensor_scale("weight_global_scale", weight_global_scale)
    factors = e4m3_table(weight_scale.device) / weight_global_scale.reshape(())
    return _decode(PackedNvfp4._fields, weight_packed, weight_scale, factors, dtype)


def _decode(parts: tuple[str, ...], packed: Tensor, scale: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
    """The decoded weight; `factors` (F32 [256]) is the whole factor of a group by the byte of its scale."""
    require_matrix(parts[0], packed, torch.uint8)
    require_matrix(parts[1], scale, torch.float8_e4m3fn)
    require_target(dtype)
    rows, columns = packed.shape[0], packed.shape[1] * 2
    require_divides(parts[0], GROUP, columns)
    require_shape(parts[1], scale, (rows, columns // GROUP))
    require_finite_scale(parts[1], scale)
    weight = torch.empty(rows, columns, dtype=dtype, device=packed.device)
    codes = scale.view(torch.uint8)
    for span in row_blocks(rows, columns):
        values = unpack_nibbles(packed[span], E2M1).view(-1, GROUP)
        values.mul_(lookup(factors, codes[span])[:, None])
        weight[span].copy_(values.view(-1, columns))
    # Finite factors are at most 448 times the scale of the tensor; only where that comes near the limit is it worth a pass.
    if not _E2M1_MAX * factors[0x7E].item() <= torch.finfo(dtype).max:
        require_no_overflow("decoded weight", weight)
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
    tensor_scale = shared_weight_scale_2(weight) if weight_scale_2 is None else weight_scale_2.to(weight.device)
    _require_encodable(weight, "weight_scale_2", tensor_scale, least=_LEAST_SCALE)
    tensor_scale = tensor_scale.reshape(())

    def scales_of(peaks: Tensor) -> Tensor:
        scales = peaks.to(torch.float32) / (_E2M1_MAX * tensor_scale)
        return scales.masked_fill_(scales == 0, 1.0).clamp_(_E4M3_LEAST, _E4M3_MAX)

    weight_packed, weight_scale = _encode(weight, scales_of, lambda scales: scales * tensor_scale)
    return ModeloptNvfp4(weight_packed, weight_scale, tensor_scale.clone())


def quantise_packed_nvfp4(weight: Tensor, weight_global_scale: Tensor | None = None) -> PackedNvfp4:
    """The partners that compressed-tensors makes of `weight`, BF16, F16 or F32 [N, K], with its min-max observer.

    The statistics are taken in the dtype of `weight`, as llm-compressor's observers do, so that the group scales of a
    BF16 weight may differ from modelopt's in the last bit; cast to F32 first to take them in F32.

    Args:
        weight: the weight; NaN and infinity are refused.
        weight_global_scale: the divisor of the tensor, where several weights must share one (see `shared_global_scale`).

    A group without a scale (zeros, or too small for E4M3) gets 0.125, and a tensor of zeros the divisor 1, both as in
    the library.  Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: a weight that is not finite, columns that 16 does not divide, or a scale out of range.
    """
    divisor = shared_global_scale(weight) if weight_global_scale is None else weight_global_scale.to(weight.device)
    _require_encodable(weight, "weight_global_scale", divisor, most=1 / _LEAST_SCALE)
    divisor = divisor.reshape(1)

    def scales_of(peaks: Tensor) -> Tensor:
        scales = (divisor * (peaks / _E2M1_MAX)).clamp_(max=_E4M3_MAX).to(torch.float8_e4m3fn).to(torch.float32)
        return scales.masked_fill_(scales == 0, _SCALE_OF_NOTHING)

    weight_packed, weight_scale = _encode(weight, scales_of, lambda scales: scales / divisor)
    return PackedNvfp4(weight_packed, weight_scale, divisor.clone())


def modelopt_nvfp4_reach(weight_scale: Tensor, weight_scale_2: Tensor) -> Reach:
    """What these scales can express, for `measure`: 6 times their product, and half of the last step of 2."""
    most = (_E2M1_MAX + 1) * weight_scale_2.item()
    return Reach(weight_scale, -most, most)


def packed_nvfp4_reach(weight_scale: Tensor, weight_global_scale: Tensor) -> Reach:
    """What these scales can express, for `measure`: 6 times their quotient, and half of the last step of 2."""
    most = (_E2M1_MAX + 1) / weight_global_scale.item()
    return Reach(weight_scale, -most, most)


def shared_weight_scale_2(*weights: Tensor) -> Tensor:
    """F32 []: the `weight_scale_2` that fits all of `weights`: their greatest magnitude / (6 * 448).

    Engines fuse gate and up projections (and q, k, v) and keep one scale of the tensor for both, without rescaling the
    groups of the other; so these must be encoded with one.

    Raises:
        TransformProblem: a weight that is no matrix of floats, or not finite.
    """
    peak = _peak(weights).to(torch.float32)
    return torch.where(peak == 0, torch.ones_like(peak), peak / _FULL_RANGE)


def shared_global_scale(*weights: Tensor) -> Tensor:
    """F32 [1]: the `weight_global_scale` that fits all of `weights`: (6 * 448) / their greatest magnitude.

    The quotient is rounded to the dtype of the weights, as compressed-tensors' `generate_gparam` does.

    Raises:
        TransformProblem: a weight that is no matrix of floats, or not finite; or one so small that the quotient is
            beyond its dtype (F16 below 0.041), where the library silently writes 1.
    """
    peak = _peak(weights)
    divisor = torch.where(peak == 0, torch.ones_like(peak), _FULL_RANGE / peak)
    require_no_overflow("weight_global_scale", divisor)
    return divisor.to(torch.float32).reshape(1)


def pack_modelopt_nvfp4(weight: Tensor, weight_scale: Tensor, weight_scale_2: Tensor) -> PackedNvfp4:
    """The same codes and group scales under compressed-tensors' names, with the reciprocal scale of the tensor.

    Raises:
        TransformProblem: a scale of the tensor that is not finite and positive.
    """
    return PackedNvfp4(weight, weight_scale, reciprocal_scale("weight_scale_2", weight_scale_2).reshape(1))


def unpack_modelopt_nvfp4(weight_packed: Tensor, weight_scale: Tensor, weight_global_scale: Tensor) -> ModeloptNvfp4:
    """The same codes and group scales under modelopt's names, with the reciprocal scale of the tensor.

    Raises:
        TransformProblem: a scale of the tensor that is not finite and positive.
    """
    scale = reciprocal_scale("weight_global_scale", weight_global_scale).reshape(())
    return ModeloptNvfp4(weight_packed, weight_scale, scale)


def reciprocal_scale(part: str, scale: Tensor) -> Tensor:
    """F32: 1 / `scale`, which turns modelopt's factors (also ``input_scale``) and compressed-tensors' divisors into
    each other.

    Raises:
        TransformProblem: `scale` is not one finite positive F32 number, or its reciprocal is not.
    """
    require_tensor_scale(part, scale)
    reciprocal = 1 / scale
    require_tensor_scale(f"1 / {part}", reciprocal)
    return reciprocal


def _peak(weights: tuple[Tensor, ...]) -> Tensor:
    """[] in the dtype of the first weight: the greatest magnitude of them all."""
    for weight in weights:
        require_weight("weight", weight)
    peak = torch.stack([largest(weight) for weight in weights]).amax()
    require_finite_weight("weight", peak)
    return peak.to(weights[0].dtype)


def _require_encodable(
    weight: Tensor, part: str, scale: Tensor, *, least: float = 0.0, most: float = float("inf")
) -> None:
    """`weight` falls into groups, and `scale` leaves every product with a group scale a normal number."""
    require_weight("weight", weight)
    require_divides("weight", GROUP, weight.shape[1])
    require_tensor_scale(part, scale)
    if not least <= scale.item() <= most:
        raise TransformProblem("overflow", part, expected=f"{least:g} to {most:g}", found=f"{scale.item():g}")


def _encode(
    weight: Tensor, scales_of: Callable[[Tensor], Tensor], factors_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """U8 [N, K/2] and F8_E4M3 [N, K/16]: codes and group scales.

    Args:
        weight: the weight [N, K].
        scales_of: from the greatest magnitudes of groups, in the dtype of `weight`, to what is stored as E4M3.
        factors_of: from the stored scales in F32 to the whole factors of groups.
    """
    rows, columns = weight.shape
    packed = torch.empty(rows, columns // 2, dtype=torch.uint8, device=weight.device)
    scale = torch.empty(rows, columns // GROUP, dtype=torch.float8_e4m3fn, device=weight.device)
    for span in row_blocks(rows, columns):
        groups = weight[span].to(torch.float32).reshape(-1, GROUP)
        peaks = groups.abs().amax(dim=1)
        require_finite_weight("weight", peaks)
        stored = scales_of(peaks.to(weight.dtype)).to(torch.float8_e4m3fn)
        groups = groups / factors_of(stored.to(torch.float32))[:, None]
        packed[span].copy_(pack_nibbles(encode_e2m1(groups)).view(-1, columns // 2))
        scale[span] = stored.view(-1, columns // GROUP)
    return packed, scale
