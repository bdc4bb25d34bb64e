"""INT4 and INT8 in groups of columns: compressed-tensors' ``pack-quantized``.

For a weight of N rows and K columns with G columns a group and B bits a code (4 or 8):

=====================  ==========================  =================================================================
``weight_packed``      I32 [N, ceil(K*B/32)]       codes along a row, code t of a word in bits B*t and up
``weight_scale``       of the weight [N, K/G]      a factor a group; G = K, one scale a row, is the strategy "channel"
``weight_zero_point``  I32 [ceil(N*B/32), K/G]     packed along the *rows*; absent where the scheme is symmetric
``weight_shape``       I64 [2]                     [N, K]
=====================  ==========================  =================================================================

Codes and zero points are signed and stored with an offset of 2^(B-1).  A code stands for ``(code - zero) * scale``.

Source: compressed-tensors 0.20, `calculate_qparams` (the arithmetic of the min-max observer), `_quantize`, and
`pack_to_int32`.  Each step is rounded to the dtype of the weight, and the zero point is added before the code is
rounded; leaving out either rounding changes codes.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from overlay.transforms.accuracy import Reach
from overlay.transforms.blocks import block_rows, row_blocks
from overlay.transforms.checking import (
    require_divides,
    require_dtype,
    require_finite_scale,
    require_finite_weight,
    require_matrix,
    require_no_overflow,
    require_shape,
    require_target,
    require_weight,
)
from overlay.transforms.nibbles import UNSIGNED, pack_nibbles, unpack_nibbles
from overlay.transforms.problems import TransformProblem

WORD: Final = 32
"""Bits of a word of packed codes."""

_STRIPE: Final = 8
"""Blocks whose scales are computed together."""


class PackedIntegers(NamedTuple):
    """The partners of one weight; the fields are the suffixes of their names.  A symmetric scheme has no zero points."""

    weight_packed: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor | None
    weight_shape: Tensor


def quantise_packed_integers(
    weight: Tensor, *, bits: int = 4, group_size: int | None = 32, symmetric: bool = False
) -> PackedIntegers:
    """The partners that compressed-tensors' min-max observer and packer make of `weight`, bit for bit.

    Args:
        weight: BF16, F16 or F32 [N, K].  Statistics and scales have its dtype; cast first to have others.
        bits: 4 or 8.
        group_size: columns that share a scale; None for one scale a row.
        symmetric: no zero points.

    Any number of rows will do, also those below 32 / `bits`.  Beside the result this takes a few MB, or some copies of
    one row where that is more.

    Raises:
        TransformProblem: a weight that is not finite, a group size that does not divide, or a group whose range is
            beyond the dtype.
    """
    _require_bits(bits)
    require_weight("weight", weight)
    rows, columns = weight.shape
    group = columns if group_size is None else group_size
    require_divides("weight", group, columns)
    packed = torch.empty(rows, _words(columns, bits), dtype=torch.int32, device=weight.device)
    scale = torch.empty(rows, columns // group, dtype=weight.dtype, device=weight.device)
    zeros = torch.zeros(rows, columns // group, dtype=torch.int8, device=weight.device)
    # One piece of memory for every block, so that it stays in the cache.
    scratch = torch.empty(block_rows(rows, columns) * columns, dtype=torch.float32, device=weight.device)
    for stripe in row_blocks(rows, columns, blocks=_STRIPE):
        scales, zero = _observe(weight[stripe], group, bits, symmetric, scratch)
        _encode_rows(weight[stripe], scales, zero, bits, packed[stripe], scratch)
        scale[stripe] = scales
        if zero is not None:
            zeros[stripe] = zero
    shape = torch.tensor([rows, columns], dtype=torch.int64, device=weight.device)
    return PackedIntegers(packed, scale, None if symmetric else pack_codes(zeros, bits, dim=0), shape)


def _observe(weight: Tensor, group: int, bits: int, symmetric: bool, scratch: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scales and zero points [r, K/G] of the rows of `weight`, in its dtype and rounded to it at every step."""
    half = 2 ** (bits - 1)
    low, high = _extremes(weight, group, scratch)
    zeros = None
    if symmetric:
        scales = torch.maximum(low.neg_(), high).div_((2 * half - 1) / 2)
    else:
        scales = high.sub_(low).div_(2 * half - 1)
        zeros = low.div_(scales).neg_().sub_(half).clamp_(-half, half - 1).round_()
    least, most = map(float, scales.aminmax())
    if not math.isfinite(most):
        _explain_infinite(weight, scales)
    if least == 0:
        # The zero point of a group of zeros came out of 0 / 0.
        zeros = None if zeros is None else zeros.nan_to_num_(nan=0)
        scales.masked_fill_(scales == 0, torch.finfo(weight.dtype).eps)
    return scales, zeros


def _extremes(weight: Tensor, group: int, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest values [r, K/G] of the groups of `weight`, or zero where they lie beyond it, in its dtype."""
    rows, columns = weight.shape
    low, high = scratch.new_empty(2, rows, columns // group)
    for span in row_blocks(rows, columns):
        # Along a row, torch's minimum of BF16 or F16 is many times slower than a cast and the minimum of F32.
        wide = scratch[: weight[span].numel()].view(-1, columns).copy_(weight[span]).view(-1, columns // group, group)
        torch.amin(wide, dim=2, out=low[span])
        torch.amax(wide, dim=2, out=high[span])
    return low.clamp_(max=0).to(weight.dtype), high.clamp_(min=0).to(weight.dtype)


def _explain_infinite(weight: Tensor, scales: Tensor) -> None:
    """Refuse: either the weight is not finite, or the range of a group is beyond its dtype."""
    require_finite_weight("weight", torch.stack(weight.to(torch.float32).aminmax()))
    require_no_overflow("weight_scale", scales)


_ROUNDING: Final = {
    torch.bfloat16: (1.5 * 2**7, torch.int16, 0x4340),
    torch.float16: (1.5 * 2**10, torch.int16, 0x6600),
    torch.float32: (1.5 * 2**23, torch.int32, 0x4B400000),
}
"""By dtype: a number in whose binade neighbours are 1 apart, the integer of its width, and its bits as that.

Adding it rounds a value to a whole number, ties to even, and leaves that number in the low bits: what `round` and a cast
to integers do in two slower steps.
"""


def _encode_rows(
    weight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, packed: Tensor, scratch: Tensor
) -> None:
    """Encode the rows of `weight` with scales and zero points, [r, K/G] each, into `packed`, I32 [r, words]."""
    rows, columns = weight.shape
    for span in row_blocks(rows, columns):
        groups = weight[span].reshape(-1, columns // scales.shape[1])
        zero = None if zeros is None else zeros[span].reshape(-1)
        values = scratch.view(weight.dtype)[: groups.numel()].view(groups.shape)
        codes = _encode(groups, scales[span].reshape(-1), zero, bits, values)
        _pack_rows(codes.view(-1, columns), bits, packed[span])


def _encode(groups: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, values: Tensor) -> Tensor:
    """U8 [m, G]: the codes of `groups` in the low `bits` bits, offset so that the least is 0; `values` is overwritten."""
    torch.div(groups, scales[:, None], out=values)
    if zeros is not None:
        values += zeros[:, None]
    if bits > 4:
        values = values.to(torch.float32)  # between neighbours 1 apart BF16 has room for 128 codes, not for 510
    number, integer, origin = _ROUNDING[values.dtype]
    codes = values.add_(number + 2 ** (bits - 1)).view(integer)
    return codes.clamp_(origin, origin + 2**bits - 1).to(torch.uint8)


def dequantise_packed_integers(
    weight_packed: Tensor,
    weight_scale: Tensor,
    weight_zero_point: Tensor | None,
    weight_shape: Tensor,
    *,
    bits: int = 4,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`dtype` [N, K]: the values that packed codes stand for; the dtype of the scales where none is asked for.

    Computed in F32 and rounded once.  In the dtype of the scales this gives the bits of compressed-tensors, since the
    product of a code and a BF16 or F16 scale is exact in F32.  The group size follows from the shapes.  Beside the
    result this takes a few MB, or some copies of one row where that is more.

    Raises:
        TransformProblem: dtypes or shapes that do not fit, a scale that is not finite, or a value beyond `dtype`.
    """
    _require_bits(bits)
    rows, columns = _require_partners(weight_packed, weight_scale, weight_shape, bits)
    target = weight_scale.dtype if dtype is None else dtype
    require_target(target)
    groups = weight_scale.shape[1]
    zeros = _unpack_zeros(weight_zero_point, rows, groups, bits)
    weight = torch.empty(rows, columns, dtype=target, device=weight_packed.device)
    for span in row_blocks(rows, columns):
        codes = _unpack_rows(weight_packed[span], columns, bits).view(-1, columns // groups)
        codes -= (
            2 ** (bits - 1) if zeros is None else zeros[span].reshape(-1, 1).to(torch.float32).add_(2 ** (bits - 1))
        )
        codes *= weight_scale[span].reshape(-1, 1)
        weight[span].copy_(codes.view(-1, columns))
    if not _reach(weight_scale, bits) <= torch.finfo(target).max:
        require_no_overflow("decoded weight", weight)
    return weight


def _require_partners(packed: Tensor, scale: Tensor, shape: Tensor, bits: int) -> tuple[int, int]:
    """N and K, when dtypes and shapes of the partners fit together."""
    require_matrix("weight_packed", packed, torch.int32)
    require_weight("weight_scale", scale)
    require_dtype("weight_shape", shape, torch.int64)
    require_shape("weight_shape", shape, (2,))
    rows, columns = shape.tolist()
    require_shape("weight_packed", packed, (rows, _words(columns, bits)))
    require_shape("weight_scale", scale, (rows, scale.shape[1]))
    if columns % scale.shape[1]:
        found = f"{scale.shape[1]} scales for {columns} columns"
        raise TransformProblem("group-divides", "weight_scale", expected="groups of one size", found=found)
    require_finite_scale("weight_scale", scale)
    return rows, columns


def _unpack_zeros(packed: Tensor | None, rows: int, groups: int, bits: int) -> Tensor | None:
    """I8 [N, K/G]: the zero points, when there are any."""
    if packed is None:
        return None
    require_matrix("weight_zero_point", packed, torch.int32)
    require_shape("weight_zero_point", packed, (_words(rows, bits), groups))
    return unpack_codes(packed, bits, rows, dim=0)


def _reach(scale: Tensor, bits: int) -> float:
    """More than the greatest magnitude that any code can stand for."""
    return float(scale.abs().amax()) * 2.0**bits


def packed_integers_reach(weight_scale: Tensor, weight_zero_point: Tensor | None, *, bits: int = 4) -> Reach:
    """What these scales and zero points can express, for `measure`: the codes, and half of a step more."""
    half = 2 ** (bits - 1)
    rows, groups = weight_scale.shape
    zeros = _unpack_zeros(weight_zero_point, rows, groups, bits)
    return Reach(weight_scale, -half - 0.5, half - 0.5, zeros)


def pack_codes(codes: Tensor, bits: int = 4, *, dim: int = 1) -> Tensor:
    """I32: signed `codes` (I8 [R, C]) packed along `dim`, which shrinks to ceil(extent * bits / 32); rest bits are 0.

    Scratch: a copy of `codes` as I32 where `dim` is 0, a few MB where it is 1.

    Raises:
        TransformProblem: `codes` is no I8 matrix, or `bits` neither 4 nor 8.
    """
    _require_bits(bits)
    require_matrix("codes", codes, torch.int8)
    half = 2 ** (bits - 1)
    if dim == 1:
        packed = torch.empty(codes.shape[0], _words(codes.shape[1], bits), dtype=torch.int32, device=codes.device)
        for span in row_blocks(*codes.shape):
            _pack_rows((codes[span].to(torch.int16) + half).to(torch.uint8), bits, packed[span])
        return packed
    packed = torch.zeros(_words(codes.shape[0], bits), codes.shape[1], dtype=torch.int32, device=codes.device)
    for place in range(WORD // bits):
        some = codes[place :: WORD // bits].to(torch.int32) + half
        packed[: some.shape[0]] |= some << (bits * place)
    return packed


def unpack_codes(packed: Tensor, bits: int, extent: int, *, dim: int = 1) -> Tensor:
    """I8: the signed codes of `packed` (I32), whose dimension `dim` had `extent` of them.

    Also where a word is only partly filled, or where there is one word only.

    Raises:
        TransformProblem: `packed` is no I32 matrix of that many words, or `bits` neither 4 nor 8.
    """
    _require_bits(bits)
    require_matrix("packed codes", packed, torch.int32)
    other = packed.shape[1 - dim]
    words = _words(extent, bits)
    require_shape("packed codes", packed, (other, words) if dim == 1 else (words, other))
    half, mask = 2 ** (bits - 1), 2**bits - 1
    codes = torch.empty((other, extent) if dim == 1 else (extent, other), dtype=torch.int8, device=packed.device)
    lines = codes if dim == 0 else codes.t()
    along = packed if dim == 0 else packed.t()
    for place in range(min(WORD // bits, extent)):
        some = lines[place :: WORD // bits]
        some.copy_((along[: some.shape[0]] >> (bits * place)).bitwise_and_(mask).sub_(half))
    return codes


def _words(extent: int, bits: int) -> int:
    """Words that hold `extent` codes."""
    return -(-extent * bits // WORD)


def _require_bits(bits: int) -> None:
    if bits not in (4, 8):
        raise TransformProblem("bits", "weight_packed", expected="4 or 8 bits", found=f"{bits}")


def _pack_rows(codes: Tensor, bits: int, packed: Tensor) -> None:
    """Pack `codes`, U8 [r, K] of which the low `bits` bits count, along the rows into `packed`, I32 [r, words]."""
    rest = -codes.shape[1] % (WORD // bits)
    if rest:
        codes = torch.nn.functional.pad(codes, (0, rest))
    stored = packed.view(torch.uint8)
    stored.copy_(pack_nibbles(codes.contiguous()).view(stored.shape) if bits == 4 else codes)


def _unpack_rows(packed: Tensor, columns: int, bits: int) -> Tensor:
    """F32 [r, K]: offset codes of words packed along the rows."""
    codes = packed.contiguous().view(torch.uint8)
    values = unpack_nibbles(codes, UNSIGNED) if bits == 4 else codes.to(torch.float32)
    values = values.view(packed.shape[0], -1)
    return values if values.shape[1] == columns else values[:, :columns].contiguous()
