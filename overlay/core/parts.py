"""Parts: what each file of a composed checkpoint is.

A shard is linked as it is, built from ranges of a donor's shards, or trimmed: rewritten without the tensors that
something else supersedes.  A sidecar is copied, or written with patches in it.  All of them are values; carrying them out
is the business of `running.applying`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from overlay.core.checkpoint import Checkpoint, Shard, Sidecar, TensorSource
from overlay.formats.digest import sha256_of
from overlay.formats.manifest import FileChange, Graft, Limits, Manifest
from overlay.formats.names import INDEX_NAME

if TYPE_CHECKING:  # recipes take 50 ms to import that most overlays need not wait for
    from overlay.core.recipes.recipe import Context, Recipe

Origin = Literal["base", "graft"]


@dataclass(frozen=True, slots=True)
class LinkedShard:
    """A shard of the base or of a donor that is placed as it is."""

    name: str
    origin: Origin
    shard: Shard
    donor: str = ""
    """The donor's name in the manifest; grafts only."""
    sources: tuple[TensorSource, ...] = ()
    """Where the donor says that the tensors come from; grafts only."""
    recipe: Recipe | None = None
    """How they were computed, where they were; then `sources` is what was read."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.shard.file.size

    @property
    def data_bytes(self) -> int:
        """Tensor data bytes."""
        return self.shard.header.data_bytes

    @property
    def header_sha256(self) -> str:
        """Digest of the header."""
        return self.shard.header.digest


@dataclass(frozen=True, slots=True)
class BuiltShard:
    """A new shard: our header, and what follows in its order: ranges of donors' shards, or what a recipe makes of them."""

    name: str
    donor: str
    header: bytes
    header_sha256: str
    sources: tuple[TensorSource, ...]
    """What is read: without a recipe, the tensors themselves in the order of the header."""
    recipe: Recipe | None = None
    """How tensors are computed; None where all are copied."""
    limits: Limits | None = None
    """What the recipe may lose."""
    origin: Origin = "graft"

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + self.data_bytes

    @property
    def data_bytes(self) -> int:
        """Tensor data bytes."""
        if self.recipe is not None:
            return self.recipe.nbytes
        return sum(source.end - source.begin for source in self.sources)


class Run(NamedTuple):
    """A stretch of kept bytes: ``[begin, end)`` of the source, counted from the start of the file."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class TrimmedShard:
    """A shard without the tensors that are superseded or dropped; the other bytes are copied in their order.

    The header is not kept, since 62 of them are 40 MB: `core.trimming.header_of` renders it again.
    """

    name: str
    origin: Origin
    shard: Shard
    removed: frozenset[str]
    """The tensors that are left out."""
    runs: tuple[Run, ...]
    header_bytes: int
    """Length of the new header, 8 + N, padded so that most bytes keep their place within a block."""
    header_sha256: str
    reason: str
    """Why it is rewritten, for people."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.header_bytes + self.data_bytes

    @property
    def data_bytes(self) -> int:
        """Tensor data bytes."""
        return sum(run.end - run.begin for run in self.runs)


ShardPart = LinkedShard | BuiltShard | TrimmedShard


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A sidecar; always a private copy, so that editing it reaches nobody else."""

    name: str
    origin: Literal["base", "manifest"]
    sidecar: Sidecar

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.sidecar.file.size

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return self.sidecar.sha256


@dataclass(frozen=True, slots=True)
class PatchedFile:
    """A sidecar whose text was patched."""

    name: str
    data: bytes
    sha256: str
    overlays: tuple[str, ...]
    """Names of the manifests that patch it."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.data)


SidecarPart = CopiedFile | PatchedFile


@dataclass(frozen=True, slots=True)
class GraftInput:
    """A graft of a manifest and what was found of it."""

    graft: Graft
    donor: Checkpoint | None
    """None when the donor is not at hand; then `built` must be."""
    built: Mapping[str, Shard]
    """The graft's shards that lie beside the manifest, built before: all of them, or none."""
    context: Context | None = None
    """What its steps refer to; None where it has none, or its donor is not at hand."""


@dataclass(frozen=True, slots=True)
class FileInput:
    """A change to a sidecar, and the file that it takes, where it takes a whole one."""

    change: FileChange
    taken: Sidecar | None = None
    engine: str = ""
    """The engine that it is made for; "" for a change that is always made."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One overlay: a manifest, and what was found of what it names."""

    manifest: Manifest
    grafts: tuple[GraftInput, ...] = ()
    files: Mapping[str, tuple[FileInput, ...]] = field(default_factory=dict)
    """Sidecar to its changes, the engine's after the manifest's own."""

    @property
    def name(self) -> str:
        """The manifest's name."""
        return self.manifest.name


@dataclass(frozen=True, kw_only=True)
class Composition:
    """The checkpoint that a stack of manifests describes."""

    name: str
    shards: tuple[ShardPart, ...]
    sidecars: tuple[SidecarPart, ...]
    index: bytes
    tensors: int
    total_size: int
    """Tensor data bytes of all shards."""
    notes: tuple[str, ...] = ()
    """What a person should know before applying."""

    @cached_property
    def index_sha256(self) -> str:
        """Digest of the index text; computed once, since the text is 22 MB."""
        return sha256_of(self.index)


def target_names(composition: Composition) -> list[str]:
    """Every file name of the target, the receipt's folder excluded."""
    names = [shard.name for shard in composition.shards] + [file.name for file in composition.sidecars]
    return [*names, INDEX_NAME] if composition.index else names
