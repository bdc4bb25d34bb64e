"""The dtypes of a safetensors header and those of torch, by each other.

Source: `safetensors/bindings/python/py_src/safetensors/torch.py`, table `_TYPES`, release 0.8.0.  F4, whose header shape
differs from torch's, and the two 6-bit dtypes, which torch does not have, are left out.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
"""torch's dtype by the name that a safetensors header has for it."""

_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}

FLOATS: Final = (torch.bfloat16, torch.float16, torch.float32)
"""The dtypes of weights that are not quantised."""


def dtype_name(dtype: torch.dtype) -> str:
    """`dtype` as a safetensors header calls it, or as torch does where a header has no name for it."""
    return _NAMES.get(dtype, str(dtype))


def describe(tensor: Tensor) -> str:
    """Dtype and shape of `tensor` as one reads them in a header: ``BF16 [2048, 6144]``."""
    return f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"
