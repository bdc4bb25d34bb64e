"""The original layouts of AWQ (GEMM) and GPTQ: codes of a transposed weight in I32 words.

For a weight of N rows and K columns with G columns a group and B bits a code:

===========  ===================================  ===================================================
             AWQ, B = 4                           GPTQ, B = 2, 4 or 8
===========  ===================================  ===================================================
``qweight``  I32 [K, N/8], packed along N, codes  I32 [K*B/32, N], packed along K, code t in bits
             of a word in the order 0 2 4 6 1 3   B*t and up
             5 7
``qzeros``   I32 [K/G, N/8], in the same order    I32 [K/G, N*B/32], code t in bits B*t and up
``scales``   F16 [K/G, N]                         F16 [K/G, N]
``g_idx``    --                                   I32 [K]: the group of each column; may be absent
===========  ===================================  ===================================================

Codes and zero points are unsigned; a code stands for ``(code - zero) * scale``.  GPTQ's first format, the one that files
have unless their config says ``checkpoint_format: gptq_v2``, stores every zero point less one.

Source: AutoAWQ `awq/modules/linear/gemm.py`, AutoGPTQ `auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py`.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from overlay.transforms.blocks import row_blocks
from overlay.transforms.checking import (
    require_dtype,
    require_finite_scale,
    require_matrix,
    require_no_overflow,
    require_shape,
    require_target,
)
from overlay.transforms.dtypes import FLOATS
from overlay.transforms.integer import WORD
from overlay.transforms.nibbles import UNSIGNED, unpack_nibbles
from overlay.transforms.problems import TransformProblem

_AWQ_PLACES: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word of AWQ the code of each of its eight columns lies."""

_LONGEST_UNPACKED: Final = 8
"""Copies of a block that unpacking GPTQ holds at most; its blocks are smaller by that."""


def dequantise_awq(qweight: Tensor, qzeros: Tensor, scales: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`dtype` [N, K]: the values of an AWQ weight; the dtype of the scales where none is asked for.

    Computed in F32 and rounded once, which for the dtype of the scales gives the bits of AutoAWQ.  The group size
    follows from the shapes.  Beside the result this takes a few MB, or some copies of one column where that is more.

    Raises:
        TransformProblem: dtypes or shapes that do not fit, a scale that is not finite, or a value beyond `dtype`.
    """
    require_matrix("qweight", qweight, torch.int32)
    columns, rows = qweight.shape[0], qweight.shape[1] * 8
    target = _require_groups(scales, (columns, rows), dtype)
    require_matrix("qzeros", qzeros, torch.int32)
    require_shape("qzeros", qzeros, (scales.shape[0], rows // 8))
    group = torch.arange(columns, device=qweight.device).div_(columns // scales.shape[0], rounding_mode="floor")
    weight = torch.empty(rows, columns, dtype=target, device=qweight.device)
    for span in row_blocks(columns, rows):
        some = group[span]
        zeros = _awq_codes(qzeros.index_select(0, some))
        values = (_awq_codes(qweight[span]) - zeros).mul_(scales.index_select(0, some))
        weight[:, span].copy_(values.t())
    require_no_overflow("decoded weight", weight)
    return weight


def _awq_codes(words: Tensor) -> Tensor:
    """F32 [r, 8c]: the codes of `words`, I32 [r, c], in the order of columns."""
    codes = unpack_nibbles(words.contiguous().view(torch.uint8), UNSIGNED).view(-1, 8)
    places = torch.tensor(_AWQ_PLACES, device=words.device)
    return codes.index_select(1, places).view(words.shape[0], -1)


def dequantise_gptq(
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    g_idx: Tensor | None = None,
    *,
    bits: int = 4,
    zeros_less_one: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`dtype` [N, K]: the values of a GPTQ weight; the dtype of the scales where none is asked for.

    Args:
        qweight: the packed codes.
        qzeros: the packed zero points.
        scales: the scales of groups.
        g_idx: the group of each column; groups of neighbours where it is absent.
        bits: 2, 4 or 8.
        zeros_less_one: the first format.  A stored zero point of 2^bits - 1 then means 0, as in AutoGPTQ.
        dtype: of the result.

    Computed in F32 and rounded once.  Beside the result this takes a few MB, or some copies of one word of columns
    where that is more.

    Raises:
        TransformProblem: dtypes or shapes that do not fit, a scale that is not finite, or a value beyond `dtype`.
    """
    if bits not in (2, 4, 8):
        raise TransformProblem("bits", "qweight", expected="2, 4 or 8 bits", found=f"{bits}")
    require_matrix("qweight", qweight, torch.int32)
    places = WORD // bits
    columns, rows = qweight.shape[0] * places, qweight.shape[1]
    target = _require_groups(scales, (columns, rows), dtype)
    zeros = _gptq_zeros(qzeros, scales, bits, zeros_less_one=zeros_less_one)
    group = _gptq_groups(g_idx, columns, scales)
    weight = torch.empty(rows, columns, dtype=target, device=qweight.device)
    for words in row_blocks(qweight.shape[0], rows * places * _LONGEST_UNPACKED):
        span = slice(words.start * places, words.stop * places)
        some = group[span]
        codes = _gptq_codes(qweight[words], bits).view(-1, rows).to(torch.float32)
        values = codes.sub_(zeros.index_select(0, some)).mul_(scales.index_select(0, some))
        weight[:, span].copy_(values.t())
    require_no_overflow("decoded weight", weight)
    return weight


def _gptq_codes(words: Tensor, bits: int) -> Tensor:
    """I32 [r, 32 / bits, c]: the codes of `words`, I32 [r, c]."""
    mask = 2**bits - 1
    return torch.stack([(words >> shift).bitwise_and_(mask) for shift in range(0, WORD, bits)], dim=1)


def _gptq_zeros(qzeros: Tensor, scales: Tensor, bits: int, *, zeros_less_one: bool) -> Tensor:
    """I16 [K/G, N]: the zero points."""
    groups, rows = scales.shape
    require_matrix("qzeros", qzeros, torch.int32)
    require_shape("qzeros", qzeros, (groups, -(-rows * bits // WORD)))
    zeros = _gptq_codes(qzeros, bits).transpose(1, 2).reshape(groups, -1)[:, :rows]
    return (zeros + (1 if zeros_less_one else 0)).bitwise_and_(2**bits - 1).to(torch.int16)


def _gptq_groups(g_idx: Tensor | None, columns: int, scales: Tensor) -> Tensor:
    """I32 or I64 [K]: the group of each column."""
    groups = scales.shape[0]
    if g_idx is None:
        return torch.arange(columns, device=scales.device).div_(columns // groups, rounding_mode="floor")
    require_dtype("g_idx", g_idx, torch.int32, torch.int64)
    require_shape("g_idx", g_idx, (columns,))
    least, most = int(g_idx.amin()), int(g_idx.amax())
    if least < 0 or most >= groups:
        found = f"{least} to {most}"
        raise TransformProblem("group-index", "g_idx", expected=f"0 to {groups - 1}", found=found)
    return g_idx


def _require_groups(scales: Tensor, shape: tuple[int, int], dtype: torch.dtype | None) -> torch.dtype:
    """The dtype to decode to, when `scales` [K/G, N] fit a transposed weight of `shape` (K, N)."""
    require_matrix("scales", scales, *FLOATS)
    columns, rows = shape
    require_shape("scales", scales, (scales.shape[0], rows))
    if columns % scales.shape[0]:
        found = f"{scales.shape[0]} scales for {columns} columns"
        raise TransformProblem("group-divides", "scales", expected="groups of one size", found=found)
    require_finite_scale("scales", scales)
    target = scales.dtype if dtype is None else dtype
    require_target(target)
    return target
