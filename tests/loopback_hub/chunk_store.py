"""The Xet path: a chunk store in a folder, which the published hf-xet wheel keeps itself.

The wheel takes ``local://FOLDER`` for the address of a chunk store (seen in hf-xet 1.6.0 to 1.8.0).  A commit names a file
by its sha256 only; the Hub finds the file's Xet hash in what the client wrote.  So does this module, out of the shard files:
a header of 48 bytes, then for each file a record of 48 bytes (Xet hash, flags, number of entries), that many entries of 48
bytes, as many again of verification when bit 31 of the flags is set, and one with the sha256 when bit 30 is set; a record
of 32 bytes of 0xff ends them (xet-core, mdb_shard/src/file_structs.rs).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.loopback_hub.contents import PIECE, Contents, OnDisk, whole

_RECORD = 48
_HAS_VERIFICATION, _HAS_SHA256 = 1 << 31, 1 << 30


@dataclass(frozen=True, slots=True)
class ChunkStore:
    """A chunk store in `folder`."""

    folder: Path

    @property
    def address(self) -> str:
        return f"local://{self.folder}"

    def hashes(self) -> dict[str, str]:
        """The Xet hash of every file in the store, by sha256."""
        return dict(
            pair
            for path in sorted((self.folder / "xet" / "xorbs" / "shards").glob("*.mdb"))
            for pair in _files_of(path.read_bytes())
        )

    def put(self, contents: Contents) -> str:
        """Store a file; its Xet hash."""
        import hf_xet

        with hf_xet.XetSession().new_upload_commit(endpoint=self.address) as upload:
            if isinstance(contents, OnDisk):
                handle = upload.start_upload_file(str(contents.path), sha256=hf_xet.COMPUTE_SHA256)
            else:
                handle = upload.start_upload_bytes(whole(contents), sha256=hf_xet.COMPUTE_SHA256)
        return str(handle.result().xet_info.hash)

    def damage(self) -> None:
        """Turn over the bits of a byte in the middle of every block of chunks."""
        for path in (self.folder / "xet" / "xorbs" / "xorbs").glob("default.*"):
            if path.suffix != ".tagset":
                path.chmod(0o600)
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 0xFF
                path.write_bytes(data)


@dataclass(frozen=True, slots=True)
class InChunks:
    """A file that only the chunk store has."""

    store: ChunkStore
    xet_hash: str
    size: int

    def read(self, begin: int, end: int) -> Iterator[bytes]:
        import hf_xet

        group = hf_xet.XetSession().new_download_stream_group(endpoint=self.store.address)
        for block in group.download_stream(hf_xet.XetFileInfo(self.xet_hash, self.size), begin, end):
            for at in range(0, len(block), PIECE):
                yield bytes(block[at : at + PIECE])


def _files_of(shard: bytes) -> Iterator[tuple[str, str]]:
    at = _RECORD
    while at + _RECORD <= len(shard) and shard[at : at + 32] != b"\xff" * 32:
        xet_hash, (flags, entries) = shard[at : at + 32], struct.unpack_from("<II", shard, at + 32)
        at += _RECORD * (1 + entries * (2 if flags & _HAS_VERIFICATION else 1))
        if flags & _HAS_SHA256:
            yield _hex(shard[at : at + 32]), _hex(xet_hash)
            at += _RECORD


def _hex(digest: bytes) -> str:
    """A hash as it is written: each of its four numbers is little-endian in a shard."""
    return struct.pack(">4Q", *struct.unpack("<4Q", digest)).hex()
