"""Where the bytes of a file are: in memory, on a disk, or in a chunk store.

Nothing here reads more than it is asked for, so that a sparse file of hundreds of gigabytes costs nothing to serve a
header of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PIECE = 1 << 16
"""Bytes a piece: small, so that what a client broke off is counted closely."""


class Contents(Protocol):
    """The bytes of one file."""

    @property
    def size(self) -> int: ...

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        """The bytes ``[begin, end)`` in pieces of at most `PIECE` bytes."""


@dataclass(frozen=True, slots=True)
class InMemory:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        end = min(end, len(self.data))
        for at in range(begin, end, PIECE):
            yield self.data[at : min(at + PIECE, end)]


@dataclass(frozen=True, slots=True)
class OnDisk:
    path: Path
    size: int

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        with self.path.open("rb") as stream:
            stream.seek(begin)
            while begin < end and (piece := stream.read(min(PIECE, end - begin))):
                begin += len(piece)
                yield piece


def contents_of(data: bytes | Path) -> Contents:
    """`data` itself, or the file at the path: it is not read, and has to stay as it is."""
    return InMemory(data) if isinstance(data, bytes) else OnDisk(data, data.stat().st_size)


def whole(contents: Contents) -> bytes:
    return b"".join(contents.read(0, contents.size))


def sha256_of(contents: Contents) -> str:
    digest = hashlib.sha256()
    for piece in contents.read(0, contents.size):
        digest.update(piece)
    return digest.hexdigest()


def blob_id(data: bytes) -> str:
    """The git object id of a file with these bytes (git-hash-object)."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """What git holds in place of a large file (git-lfs, docs/spec.md)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
