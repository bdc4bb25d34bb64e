"""The dtypes of safetensors 0.8 and their widths in bits.

Source: `safetensors/src/tensor.rs`, enum `Dtype`, in release 0.8.0.  Order is the library's own: it lays tensors out
from the last of this list to the first, so that wide elements come first and stay aligned.
"""

from __future__ import annotations

from typing import Final

BITS: Final[dict[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits per element."""

RANK: Final[dict[str, int]] = {name: rank for rank, name in enumerate(BITS)}
"""Position in the library's order; a higher rank is laid out first."""

_UINT64 = 2**64 - 1


def count_elements(shape: tuple[int, ...]) -> int:
    """The number of elements of `shape`; 1 for a scalar.

    Raises:
        OverflowError: a partial product leaves 64 bits.  The library multiplies with checks from left to right,
            so ``[2**62, 2**62, 0]`` is refused there, and here.
    """
    count = 1
    for extent in shape:
        count *= extent
        if count > _UINT64:
            raise OverflowError
    return count


def count_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The number of bytes that a tensor occupies.

    Raises:
        KeyError: unknown dtype.
        OverflowError: the size leaves 64 bits.
        ValueError: a sub-byte dtype whose elements do not fill whole bytes.
    """
    bits = count_elements(shape) * BITS[dtype]
    if bits > _UINT64:
        raise OverflowError
    whole, rest = divmod(bits, 8)
    if rest:
        raise ValueError
    return whole
