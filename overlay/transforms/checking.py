"""The checks that several formats share; each raises a `TransformProblem` or returns nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from overlay.transforms.blocks import row_blocks
from overlay.transforms.dtypes import FLOATS, describe, dtype_name
from overlay.transforms.problems import TransformProblem


def require_dtype(part: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    """`tensor` has one of `dtypes`."""
    if tensor.dtype not in dtypes:
        expected = " or ".join(map(dtype_name, dtypes))
        raise TransformProblem("dtype", part, expected=expected, found=dtype_name(tensor.dtype))


def require_matrix(part: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    """`tensor` has two dimensions, neither of them empty, and one of `dtypes`."""
    require_dtype(part, tensor, *dtypes)
    if tensor.dim() != 2 or not tensor.numel():
        raise TransformProblem("matrix", part, expected="rows and columns", found=str(list(tensor.shape)))


def require_weight(part: str, tensor: Tensor) -> None:
    """`tensor` is a matrix of BF16, F16 or F32."""
    require_matrix(part, tensor, *FLOATS)


def require_target(dtype: torch.dtype) -> None:
    """`dtype` is one that weights are decoded to: BF16, F16 or F32."""
    if dtype not in FLOATS:
        expected = " or ".join(map(dtype_name, FLOATS))
        raise TransformProblem("dtype", "decoded weight", expected=expected, found=dtype_name(dtype))


def require_shape(part: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """`tensor` has exactly `shape`."""
    if tuple(tensor.shape) != shape:
        raise TransformProblem("shape", part, expected=str(list(shape)), found=describe(tensor))


def require_divides(part: str, group: int, columns: int) -> None:
    """`columns` are a whole number of groups of `group`."""
    if group < 1 or columns % group:
        raise TransformProblem(
            "group-divides", part, expected=f"columns in groups of {group}", found=f"{columns} columns"
        )


def require_finite_scale(part: str, scale: Tensor) -> None:
    """`scale` holds neither NaN nor infinity; F8_E4M3, which torch cannot test, included."""
    if not all_finite(scale):
        raise TransformProblem("finite-scale", part, expected="finite scales", found="NaN or infinity")


def require_tensor_scale(part: str, scale: Tensor) -> None:
    """`scale` is one F32 number for a whole tensor, of shape [] or [1], finite and greater than zero."""
    require_dtype(part, scale, torch.float32)
    if tuple(scale.shape) not in ((), (1,)):
        raise TransformProblem("shape", part, expected="[] or [1]", found=describe(scale))
    require_finite_scale(part, scale)
    if scale.item() <= 0:
        raise TransformProblem("positive-scale", part, expected="more than zero", found=f"{scale.item():g}")


def require_finite_weight(part: str, statistics: Tensor) -> None:
    """`statistics`, minima or maxima of a weight that pass NaN and infinity on, are finite."""
    if not bool(torch.isfinite(statistics).all()):
        raise TransformProblem("finite-weight", part, expected="finite weights", found="NaN or infinity")


def require_no_overflow(part: str, tensor: Tensor) -> None:
    """`tensor`, made of finite values, is still finite."""
    if not all_finite(tensor):
        found = f"values beyond {torch.finfo(tensor.dtype).max:g}"
        raise TransformProblem("overflow", part, expected=f"values that {dtype_name(tensor.dtype)} holds", found=found)


def all_finite(tensor: Tensor) -> bool:
    """Whether `tensor` has no NaN and no infinity.  Scratch: a few MB."""
    flat = tensor.reshape(-1)
    if tensor.dtype == torch.float8_e4m3fn:
        # E4M3 has no infinity, and two NaN: all bits but the sign set.
        codes = flat.view(torch.uint8)
        return not any(bool((codes[span] & 0x7F == 0x7F).any()) for span in row_blocks(codes.numel(), 1))
    # Extremes pass NaN on, and finding them in F32 is many times faster than testing every element.
    spans = row_blocks(flat.numel(), 1)
    return all(bool(torch.isfinite(torch.stack(flat[span].to(torch.float32).aminmax())).all()) for span in spans)
