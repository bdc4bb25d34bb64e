"""A checkpoint as it was seen: what its directory held, and what was read of it.

Values only.  `storage.local` makes them; everything in core judges and combines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

from overlay.core.findings import Finding
from overlay.formats.header import Header
from overlay.formats.index import Index

NOWHERE: Final = -1
"""The device of files that a plan describes and nobody made; the kernel's begin at 0."""

ELSEWHERE: Final = -2
"""The device of files on another machine: their location is an address, their inode a digest of it and of what the store
says changes with their bytes."""


class Fingerprint(NamedTuple):
    """What the kernel says of an inode; equal fingerprints mean that its bytes were not touched.

    ``ctime`` cannot be set back by a program, ``mtime`` can.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class FileSeen:
    """A regular file, links resolved."""

    name: str
    """Its name in the checkpoint, with ``/`` between folders."""
    location: str
    """The real file: an absolute path without links, or the address of a file elsewhere (`storage.remote`)."""
    fingerprint: Fingerprint
    via_link: bool = False
    stated_sha256: str = ""
    """What a content-addressed store says of it: the Hub cache names LFS blobs by their sha256."""

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.fingerprint.size

    @property
    def label(self) -> str:
        """Its name for people who look at several checkpoints: the real path, and the name where that does not show it."""
        return self.location if self.location.endswith(self.name) else f"{self.name} ({self.location})"

    @property
    def exists(self) -> bool:
        """Whether there is such a file, and not only the plan of one."""
        return self.fingerprint.device != NOWHERE

    @property
    def is_remote(self) -> bool:
        """Whether it lies on another machine."""
        return self.fingerprint.device == ELSEWHERE


class TensorSource(NamedTuple):
    """A tensor's bytes: ``[begin, end)`` of a donor's shard, counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: FileSeen
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin

    @property
    def extent(self) -> tuple[str, int, int]:
        """Which bytes they are: location, begin and end.  An empty tensor begins where another one does."""
        return self.file.location, self.begin, self.end


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard whose header is valid."""

    file: FileSeen
    header: Header


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A small file that is not a shard; read whole."""

    file: FileSeen
    sha256: str
    data: bytes | None = field(default=None, repr=False, compare=False)
    """Its text, where somebody is going to patch it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a directory holds."""

    label: str
    """How the user named it."""
    root: str
    """Real path of the directory, or the address of a repository elsewhere."""
    index: Index | None
    index_file: FileSeen | None
    shards: Mapping[str, Shard]
    """The readable shards: those the index names, or the only one there is."""
    strays: Mapping[str, FileSeen] = field(default_factory=dict)
    """Files of weights that the index does not name."""
    sidecars: Mapping[str, Sidecar] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Entries that are no part of a checkpoint: folders, dot files, and files too large for a sidecar."""
    findings: tuple[Finding, ...] = ()
    """What was wrong while reading."""
    commit: str | None = None
    """The commit, when it is a snapshot of the Hub cache."""

    @cached_property
    def weight_map(self) -> Mapping[str, str]:
        """Tensor to shard: the index's, or, without an index, what the shards hold."""
        if self.index is not None:
            return self.index.weight_map
        return {name: shard for shard, seen in self.shards.items() for name in seen.header.names}

    @cached_property
    def is_bijective(self) -> bool:
        """Whether weight map and shards agree: every tensor is mapped to the one shard that holds it, and nothing else is.

        Costs a look-up a tensor, once.
        """
        mapped = self.weight_map
        held = sum(len(shard.header) for shard in self.shards.values())
        return held == len(mapped) and all(
            [*map(mapped.get, shard.header.names)].count(name) == len(shard.header)
            for name, shard in self.shards.items()
        )

    @cached_property
    def data_bytes(self) -> int:
        """Tensor data bytes of all shards."""
        return sum(shard.header.data_bytes for shard in self.shards.values())
