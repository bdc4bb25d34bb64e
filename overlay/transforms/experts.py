"""Keeping some of the experts of a layer: the rows of a router, of its bias, or of stacked experts.

Which experts stay, what the others are called then, and what the config has to say is decided in `core.recipes.experts`;
here is only what has to be done to bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overlay.transforms.dtypes import describe
from overlay.transforms.problems import TransformProblem


def keep_rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """The `rows` of `tensor`, [experts, …], in this order.

    Raises:
        TransformProblem: `tensor` does not have one of them.
    """
    if tensor.dim() < 1 or not all(0 <= row < tensor.shape[0] for row in rows):
        expected = f"a row for each expert, {max(rows, default=0)} among them"
        raise TransformProblem("expert-rows", "tensor", expected=expected, found=describe(tensor))
    return tensor.index_select(0, torch.tensor(list(rows), device=tensor.device))
