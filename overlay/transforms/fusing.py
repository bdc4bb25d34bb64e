"""Fusing and splitting of experts and of gate and up projections.

transformers 5 holds the experts of a layer in two tensors, ``experts.gate_up_proj`` [E, 2N, K] (gate first) and
``experts.down_proj`` [E, K, N]; checkpoints mostly hold three matrices an expert.  Fusing and splitting move bytes and
compute nothing, and work on codes, group scales and zero points alike; a scale of a whole tensor must be shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overlay.transforms.dtypes import describe
from overlay.transforms.problems import TransformProblem


def fuse_experts(experts: Sequence[Tensor]) -> Tensor:
    """[E, …]: `experts` in their order, each of one shape.

    Raises:
        TransformProblem: there are none, or dtype or shape differ.
    """
    _require_alike("experts", experts)
    return torch.stack(tuple(experts))


def split_experts(fused: Tensor) -> tuple[Tensor, ...]:
    """The experts of `fused`, [E, …], each as a view.

    Raises:
        TransformProblem: `fused` has no dimension to split.
    """
    if fused.dim() < 1:
        raise TransformProblem("same-parts", "experts", expected="a dimension of experts", found=describe(fused))
    return tuple(fused.unbind(0))


def fuse_rows(*parts: Tensor, interleave: bool = False) -> Tensor:
    """[…, n*N, K]: the rows of `parts`, each […, N, K], one part after the other; gate first, then up.

    Args:
        parts: what is fused.
        interleave: first the first row of each part, then the second of each, as GPT-OSS has them.

    Raises:
        TransformProblem: there are none, dtype or shape differ, or they have no rows.
    """
    _require_alike("rows", parts)
    if parts[0].dim() < 2:
        raise TransformProblem("same-parts", "rows", expected="matrices", found=describe(parts[0]))
    if not interleave:
        return torch.cat(parts, dim=-2)
    return torch.stack(parts, dim=-2).flatten(-3, -2)


def split_rows(fused: Tensor, parts: int = 2, *, interleave: bool = False) -> tuple[Tensor, ...]:
    """The `parts` that `fuse_rows` fused, each as a view.

    Raises:
        TransformProblem: the rows of `fused` are not a multiple of `parts`.
    """
    if fused.dim() < 2 or parts < 1 or fused.shape[-2] % parts:
        raise TransformProblem("same-parts", "rows", expected=f"a multiple of {parts} rows", found=describe(fused))
    if interleave:
        return tuple(fused[..., part::parts, :] for part in range(parts))
    return tuple(fused.chunk(parts, dim=-2))


def fuse_shared(part: str, *scales: Tensor) -> Tensor:
    """The one scale of a whole tensor that all of `scales` are.

    Raises:
        TransformProblem: there are none, or they differ: the parts must be encoded anew with a scale that they share.
    """
    _require_alike(part, scales)
    if any(not torch.equal(scale, scales[0]) for scale in scales):
        found = ", ".join(f"{scale.item():g}" if scale.numel() == 1 else describe(scale) for scale in scales)
        raise TransformProblem("shared-scale", part, expected="one scale for all parts", found=found)
    return scales[0]


def _require_alike(part: str, tensors: Sequence[Tensor]) -> None:
    if len({(tensor.dtype, tuple(tensor.shape)) for tensor in tensors}) != 1:
        found = ", ".join(dict.fromkeys(map(describe, tensors))) or "none"
        raise TransformProblem("same-parts", part, expected="tensors of one dtype and shape", found=found)
