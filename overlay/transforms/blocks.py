"""How a tensor is worked through: in blocks of rows that stay in the cache and bound the scratch memory.

Every transform allocates what it returns, and beside that some scratch of the size of one block.  Blocks also make the
work about three times faster than whole-tensor expressions, whose temporaries leave the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

BLOCK_ELEMENTS: Final = 1 << 18
"""Elements of a block, unless one row has more.  A block takes 1 MiB in F32, which the caches of a core hold; a transform
has fewer than ten such at a time."""


def row_blocks(rows: int, columns: int, *, multiple: int = 1, blocks: int = 1) -> Iterator[slice]:
    """The rows of a matrix in order, as slices of about `BLOCK_ELEMENTS` elements and a multiple of `multiple` rows.

    Stripes of several `blocks` are for what is small beside the elements, and slow to do in many small steps.
    """
    step = block_rows(rows, columns, multiple) * blocks
    return (slice(start, min(start + step, rows)) for start in range(0, rows, max(1, step)))


def block_rows(rows: int, columns: int, multiple: int = 1) -> int:
    """How many of `rows` rows the first block of a matrix has."""
    return min(rows, max(1, BLOCK_ELEMENTS // max(1, columns) // multiple) * multiple)


def lookup(table: Tensor, codes: Tensor) -> Tensor:
    """``table[codes]`` for unsigned bytes `codes`, flat.

    Indices of 32 bits take half the memory of the 64 that indexing by brackets would make of them.
    """
    return table.index_select(0, codes.reshape(-1).to(torch.int32))


def e4m3_table(device: torch.device) -> Tensor:
    """F32 [256]: the value of every F8_E4M3 byte.  A look-up is many times faster than torch's cast on a CPU."""
    return torch.arange(256, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn).to(torch.float32)


def largest(tensor: Tensor) -> Tensor:
    """F32 []: the greatest magnitude in `tensor`; NaN if it holds one."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    peaks = [rows[span].abs().amax().to(torch.float32) for span in row_blocks(*rows.shape)]
    return torch.stack(peaks).amax()
