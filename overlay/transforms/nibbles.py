"""Two 4-bit codes in a byte: the code of the even column in the low half, that of the odd column in the high half.

NVFP4, MXFP4 and INT4 all pack so on disk.  An I32 word of eight codes, code t in bits 4t and up, is four such bytes in
little-endian order, so one pair of functions serves all of them.  The host must be little-endian, as the file is.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from torch import Tensor

from overlay.transforms.blocks import lookup

E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The values of the sixteen E2M1 codes; bit 3 is the sign, and code 8 is minus zero (OCP Microscaling 1.0, §5.3.3)."""

UNSIGNED: Final = tuple(float(code) for code in range(16))
"""The values of the sixteen codes read as unsigned numbers."""


def unpack_nibbles(packed: Tensor, values: tuple[float, ...]) -> Tensor:
    """F32 [2n]: the value of each code in the n bytes of `packed`, in the order of columns."""
    return lookup(_pairs(values, packed.device), packed).view(torch.float32)


@cache
def _pairs(values: tuple[float, ...], device: torch.device) -> Tensor:
    """I64 [256]: for every byte its two F32 values side by side, so that one look-up brings both."""
    single = torch.tensor(values, dtype=torch.float32, device=device)
    byte = torch.arange(256, device=device)
    return torch.stack((single[byte & 15], single[byte >> 4]), dim=1).view(torch.int64).reshape(-1)


def pack_nibbles(codes: Tensor) -> Tensor:
    """I16 [n/2]: the n codes of `codes`, the low halves of contiguous U8 values, two to the *low byte* of each element.

    What is above the low byte is left over; a copy to U8 drops it, and that copy can as well be the one to its place.
    """
    pairs = codes.view(-1).view(torch.int16) & 0x0F0F
    return pairs.bitwise_or_(pairs >> 4)


def encode_e2m1(values: Tensor) -> Tensor:
    """U8, of the shape of `values` (F32): the nearest E2M1 code, ties to the even code, beyond 6 to 6.

    A negative value that rounds to zero keeps its sign; minus zero itself loses it.  Both are what modelopt
    (`NVFP4QTensor._cast_fp4`) and compressed-tensors (`cast_to_fp4`) do.
    """
    magnitude = values.abs().clamp_(max=6)
    # Steps of 0.5 below 2, of 1 up to 4, of 2 beyond: each line rounds in its own step, and the least code is right.
    code = (magnitude * 2).round_()
    code = torch.minimum(code, magnitude.round().add_(2))
    code = torch.minimum(code, magnitude.mul_(0.5).round_().add_(4))
    return code.to(torch.uint8).bitwise_or_((values < 0).to(torch.uint8) << 3)
