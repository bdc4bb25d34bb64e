"""Files for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from overlay.core.checkpoint import FileSeen
from overlay.core.parts import TensorSource
from overlay.storage.local import file_at

MB = 1 << 20


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes without a period that a block could hide."""
    return (b"".join(number.to_bytes(4, "little") for number in range(seed, seed + size // 4 + 1)))[:size]


def seen(path: Path, data: bytes | None = None) -> FileSeen:
    """The file at `path`, written first when `data` is given."""
    if data is not None:
        path.write_bytes(data)
    return file_at(str(path), path.name)


def sparse(path: Path, size: int, pieces: Sequence[tuple[int, bytes]]) -> FileSeen:
    """A file of holes, with `pieces` of data in it."""
    with path.open("wb") as stream:
        stream.truncate(size)
        for offset, data in pieces:
            os.pwrite(stream.fileno(), data, offset)
    return file_at(str(path), path.name)


def source(file: FileSeen, name: str, begin: int, end: int) -> TensorSource:
    """A tensor of bytes."""
    return TensorSource(name, "U8", (end - begin,), file, begin, end)


def on_disk(path: Path) -> int:
    """Bytes of disk that a file takes."""
    return path.stat().st_blocks * 512


def silent(count: int) -> None:
    """Progress that nobody looks at."""
