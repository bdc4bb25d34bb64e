"""Write a layout to disk: with data, or as files of the right size that hold nothing.

`write_dense` fills every tensor with numbers that depend on the seed, the name, the dtype and the size.  So two
runs give equal bytes, and a tensor that base and donor share is equal in both, as it is in the published pair.
`write_sparse` writes headers and leaves holes: 1.5 TB of checkpoint take some MB of disk.

Neither overwrites a file, and so neither writes through a link into somebody else's cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b, shake_256
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from overlay.demo.layout import Layout, TensorSpec
from overlay.formats.header_text import render_header
from overlay.formats.names import INDEX_NAME

STAMP_BYTES: Final = 16
_MODE: Final = 0o644

# What the byte with sign and upper exponent bits may become, so that all numbers are finite and of a weight's size.
_SIGNED_TOP: Final = bytes(0x3C | byte & 0x81 for byte in range(256))
"""For BF16: 2^-7 <= abs(x) < 2^-3."""
_POSITIVE_TOP: Final = bytes(0x3C | byte & 0x01 for byte in range(256))
"""For F32, of which the family stores scales and router corrections: 2^-7 <= x < 2^-3."""
_SCALE: Final = bytes(0x30 | byte & 0x0F for byte in range(256))
"""For F8_E4M3, whole: 0.5 <= x < 2, far from its NaN codes 0x7F and 0xFF."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a call has written."""

    shards: int
    tensors: int
    data_bytes: int
    """Tensor data, headers excluded."""
    file_bytes: int
    """Sizes of all files together; of sparse files the disk holds less."""


def write_dense(layout: Layout, folder: Path, seed: int) -> Written:
    """Write `layout` into `folder` with pseudo-random data.

    Raises:
        FileExistsError: a file is in the way.
    """
    return _write(layout, folder, partial(_fill_with_numbers, seed))


def write_sparse(layout: Layout, folder: Path, *, stamp: bool = False, stamp_prefix: str = "") -> Written:
    """Write `layout` into `folder` with holes for data.

    Args:
        layout: what to write.
        folder: where; made when it is not there.
        stamp: begin tensors with `name_stamp`, so that a copy can be told from a hole and from another tensor.
        stamp_prefix: stamp only tensors whose names start so; every stamp costs a block of the disk.

    Raises:
        FileExistsError: a file is in the way.
    """
    return _write(layout, folder, partial(_leave_holes, stamp_prefix if stamp else None))


def name_stamp(name: str) -> bytes:
    """The bytes that a stamped tensor called `name` begins with."""
    return blake2b(name.encode(), digest_size=STAMP_BYTES).digest()


_Fill: TypeAlias = Callable[[BinaryIO, list[TensorSpec]], None]
"""Brings a file that ends with its header to its full size."""


def _write(layout: Layout, folder: Path, fill: _Fill) -> Written:
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for name, tensors in layout.files.items():
        with _create(folder / name) as file:
            file.write(render_header(tensors, layout.metadata))
            fill(file, tensors)
            written += file.seek(0, os.SEEK_END)
    # The index comes last: a folder that was cut short is then not taken for a checkpoint.
    for name, text in {**layout.sidecars, INDEX_NAME: layout.index}.items():
        with _create(folder / name) as file:
            written += file.write(text)
    return Written(
        shards=len(layout.files),
        tensors=sum(len(tensors) for tensors in layout.files.values()),
        data_bytes=layout.total_size,
        file_bytes=written,
    )


def _create(path: Path) -> BinaryIO:
    file = path.open("xb")
    # A umask of 077 would leave a replica that only its maker can serve.
    os.fchmod(file.fileno(), _MODE)
    return file


def _fill_with_numbers(seed: int, file: BinaryIO, tensors: list[TensorSpec]) -> None:
    file.writelines(_numbers(tensor, seed) for tensor in tensors)


def _leave_holes(stamp_prefix: str | None, file: BinaryIO, tensors: list[TensorSpec]) -> None:
    begin = file.tell()
    for tensor in tensors:
        if stamp_prefix is not None and tensor.name.startswith(stamp_prefix):
            file.seek(begin)
            file.write(name_stamp(tensor.name)[: tensor.nbytes])
        begin += tensor.nbytes
    file.truncate(begin)


def _drawn_for(name: str) -> str:
    """What a tensor's numbers are drawn for: its name.  Gate and up share their scales over the whole tensor, since engines
    fuse the two and keep one of each; ModelOpt exports them so.
    """
    shared = name.endswith((".weight_scale_2", ".input_scale"))
    return name.replace(".gate_proj.", ".gate_up_proj.").replace(".up_proj.", ".gate_up_proj.") if shared else name


def _numbers(tensor: TensorSpec, seed: int) -> bytes:
    """The data of `tensor`: finite, whatever its dtype.

    A hash and not `random`, whose sequences may differ between releases of Python.

    Raises:
        ValueError: a dtype that the family does not use.
    """
    key = f"{seed}:{_drawn_for(tensor.name)}:{tensor.dtype}".encode()
    data = bytearray(shake_256(key).digest(tensor.nbytes))
    match tensor.dtype:
        case "BF16":
            data[1::2] = data[1::2].translate(_SIGNED_TOP)
        case "F32":
            data[3::4] = data[3::4].translate(_POSITIVE_TOP)
        case "F8_E4M3":
            data = data.translate(_SCALE)
        case "U8":
            pass  # two FP4 numbers, and every code of FP4 is one
        case other:
            raise ValueError(f"tensor {tensor.name!r}: expected BF16, F32, F8_E4M3 or U8, found {other}")
    return bytes(data)
