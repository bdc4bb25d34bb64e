"""Casting between the dtypes of weights that are not quantised.

A cast rounds to the nearest value, ties to even, as IEEE 754 does by default.  It may lose digits, and values too small
for the new dtype become subnormal or zero; what it never does is turn a finite value into infinity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from overlay.transforms.blocks import row_blocks
from overlay.transforms.checking import require_dtype, require_finite_weight, require_no_overflow, require_target
from overlay.transforms.dtypes import FLOATS


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor`, of any shape, as `dtype`; both are BF16, F16 or F32.

    Beside the result this takes a few MB.

    Raises:
        TransformProblem: another dtype, NaN or infinity in `tensor`, or a value beyond `dtype`.
    """
    require_dtype("tensor", tensor, *FLOATS)
    require_target(dtype)
    source = tensor.reshape(-1)
    result = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
    target = result.view(-1)
    for span in row_blocks(source.numel(), 1):
        wide = source[span].to(torch.float32)
        # Rounding keeps the order, so what happens to the extremes happens to all.
        extremes = torch.stack(wide.aminmax())
        require_finite_weight("tensor", extremes)
        require_no_overflow("tensor", extremes.to(dtype))
        target[span].copy_(wide)
    return result
