"""MX formats: groups of 32 columns that share a power of two, stored as the byte ``exponent + 127`` (E8M0).

==========  ==================================  ==========================================
            elements                            scales
==========  ==================================  ==========================================
MXFP4       ``weight_packed`` U8 [N, K/2]       ``weight_scale`` U8 or F8_E8M0 [N, K/32]
MXFP8       ``weight`` F8_E4M3 [N, K]           ``weight_scale`` U8 or F8_E8M0 [N, K/32]
==========  ==================================  ==========================================

An element stands for ``element * 2^(byte - 127)``; the byte 255 is NaN (OCP Microscaling 1.0, §5.4.1).  Names as
compressed-tensors and modelopt write them; the three-dimensional ``*_blocks`` and ``*_scales`` of GPT-OSS hold the same
bytes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from overlay.transforms.blocks import e4m3_table, lookup, row_blocks
from overlay.transforms.checking import (
    all_finite,
    require_divides,
    require_finite_weight,
    require_matrix,
    require_no_overflow,
    require_shape,
    require_target,
    require_weight,
)
from overlay.transforms.nibbles import E2M1, encode_e2m1, pack_nibbles, unpack_nibbles
from overlay.transforms.problems import TransformProblem

GROUP: Final = 32
"""Columns that share a scale."""

_BIAS: Final = 127
_NAN: Final = 255


class Mxfp4(NamedTuple):
    """The partners of one MXFP4 weight; the fields are the suffixes of their names."""

    weight_packed: Tensor
    weight_scale: Tensor


class Mxfp8(NamedTuple):
    """The partners of one MXFP8 weight; the fields are the suffixes of their names."""

    weight: Tensor
    weight_scale: Tensor


def dequantise_mxfp4(weight_packed: Tensor, weight_scale: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """`dtype` [N, K]: the values of an MXFP4 weight, computed in F32 and rounded once; exact in BF16 but for the last
    few powers of two.

    Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: dtypes or shapes that do not fit, a scale that is NaN, or a value that `dtype` cannot hold.
    """
    require_matrix("weight_packed", weight_packed, torch.uint8)
    return _decode("weight_packed", weight_packed, weight_scale, dtype)


def dequantise_mxfp8(weight: Tensor, weight_scale: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """`dtype` [N, K]: the values of an MXFP8 weight, computed in F32 and rounded once.

    Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: dtypes or shapes that do not fit, NaN, or a value that `dtype` cannot hold.
    """
    require_matrix("weight", weight, torch.float8_e4m3fn)
    if not all_finite(weight):
        raise TransformProblem("finite-weight", "weight", expected="finite weights", found="NaN")
    return _decode("weight", weight, weight_scale, dtype)


def _decode(part: str, elements: Tensor, weight_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The decoded weight; U8 elements are pairs of E2M1 codes."""
    paired = elements.dtype == torch.uint8
    rows, columns = elements.shape[0], elements.shape[1] * (2 if paired else 1)
    require_target(dtype)
    require_divides(part, GROUP, columns)
    scale = _require_scale(weight_scale, (rows, columns // GROUP))
    powers, table = _powers(elements.device), e4m3_table(elements.device)
    weight = torch.empty(rows, columns, dtype=dtype, device=elements.device)
    for span in row_blocks(rows, columns):
        some = elements[span]
        values = unpack_nibbles(some, E2M1) if paired else lookup(table, some.view(torch.uint8))
        values = values.view(-1, GROUP).mul_(lookup(powers, scale[span])[:, None])
        weight[span].copy_(values.view(-1, columns))
    if not (6.0 if paired else 448.0) * float(powers[int(scale.amax())]) <= torch.finfo(dtype).max:
        require_no_overflow("decoded weight", weight)
    return weight


def _require_scale(scale: Tensor, shape: tuple[int, int]) -> Tensor:
    """U8: the bytes of `scale`, when dtype and shape fit and none is NaN."""
    require_matrix("weight_scale", scale, torch.uint8, torch.float8_e8m0fnu)
    require_shape("weight_scale", scale, shape)
    codes = scale.view(torch.uint8)
    if int(codes.amax()) == _NAN:
        raise TransformProblem("finite-scale", "weight_scale", expected="finite scales", found="NaN")
    return codes


def _powers(device: torch.device) -> Tensor:
    """F32 [256]: the value of every E8M0 byte.  The last entry, NaN, is never looked up."""
    return torch.tensor([2.0 ** (byte - _BIAS) for byte in range(_NAN)] + [float("nan")], device=device)


def quantise_mxfp4(weight: Tensor) -> Mxfp4:
    """The partners that compressed-tensors makes of `weight`, BF16, F16 or F32 [N, K], for MXFP4.

    Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: a weight that is no matrix of floats, not finite, or whose columns 32 does not divide.
    """
    rows, columns = _require_encodable(weight)
    packed = torch.empty(rows, columns // 2, dtype=torch.uint8, device=weight.device)
    scale = torch.empty(rows, columns // GROUP, dtype=torch.uint8, device=weight.device)
    for span in row_blocks(rows, columns):
        values, codes = _scaled(weight[span], headroom=2)
        packed[span].copy_(pack_nibbles(encode_e2m1(values)).view(-1, columns // 2))
        scale[span] = codes.view(-1, columns // GROUP)
    return Mxfp4(packed, scale)


def quantise_mxfp8(weight: Tensor) -> Mxfp8:
    """The partners that compressed-tensors makes of `weight`, BF16, F16 or F32 [N, K], for MXFP8.

    Beside the result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: as `quantise_mxfp4`.
    """
    rows, columns = _require_encodable(weight)
    elements = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=weight.device)
    scale = torch.empty(rows, columns // GROUP, dtype=torch.uint8, device=weight.device)
    for span in row_blocks(rows, columns):
        values, codes = _scaled(weight[span], headroom=8)
        elements[span] = values.clamp_(-448, 448).to(torch.float8_e4m3fn).view(-1, columns)
        scale[span] = codes.view(-1, columns // GROUP)
    return Mxfp8(elements, scale)


def _require_encodable(weight: Tensor) -> tuple[int, int]:
    require_weight("weight", weight)
    rows, columns = weight.shape
    require_divides("weight", GROUP, columns)
    return rows, columns


def _scaled(weight: Tensor, *, headroom: int) -> tuple[Tensor, Tensor]:
    """F32 [m, 32] and U8 [m]: the groups of `weight` divided by their scales, and these.

    The exponent is that of the greatest magnitude less `headroom`, the exponent of the largest element, and one more
    where the magnitude is 1.75 times its power of two or beyond (`round_to_power_2` of compressed-tensors).
    """
    groups = weight.to(torch.float32).reshape(-1, GROUP)
    peaks = groups.abs().amax(dim=1)
    require_finite_weight("weight", peaks)
    # The exponent bits of a quarter more than the mantissa's unit: 2^23 is one step of the exponent, 2^21 a quarter.
    exponents = (peaks.view(torch.int32) + (1 << 21)) >> 23
    codes = (exponents - headroom).clamp_(0, _NAN - 1).to(torch.uint8)
    return groups / lookup(_powers(weight.device), codes)[:, None], codes
