"""A composition seen as the checkpoint that it would be, before anything of it is written.

So that `diff`, `audit` and `inspect` take a manifest where they take a directory.  Shards that would be linked are the
files they link to; those that would be built or trimmed are headers alone, in no file that could be read.
"""

from __future__ import annotations

from overlay.core.checkpoint import NOWHERE, Checkpoint, FileSeen, Fingerprint, Shard, Sidecar
from overlay.core.parts import BuiltShard, Composition, CopiedFile, LinkedShard, ShardPart, SidecarPart
from overlay.core.trimming import header_of
from overlay.formats.header import parse_header
from overlay.formats.index import parse_index
from overlay.formats.names import INDEX_NAME


def as_checkpoint(composition: Composition, label: str, root: str) -> Checkpoint:
    """The checkpoint that `composition` describes.

    Args:
        composition: what a manifest makes of its base.
        label: how the user named it.
        root: the folder of the manifest.

    Costs the parsing of one index, and of the headers of shards that would be built or trimmed.
    """
    shards = {part.name: _shard(part, number) for number, part in enumerate(composition.shards)}
    sidecars = {part.name: _sidecar(part, len(shards) + number) for number, part in enumerate(composition.sidecars)}
    index = parse_index(composition.index) if composition.index else None
    return Checkpoint(
        label=label,
        root=root,
        index=index,
        index_file=_imagined(INDEX_NAME, len(composition.index), -1) if index is not None else None,
        shards=shards,
        sidecars=sidecars,
    )


def _shard(part: ShardPart, number: int) -> Shard:
    if isinstance(part, LinkedShard):
        return Shard(_named(part.shard.file, part.name), part.shard.header)
    raw = part.header if isinstance(part, BuiltShard) else header_of(part)
    return Shard(_imagined(part.name, part.size, number), parse_header(raw, part.size))


def _sidecar(part: SidecarPart, number: int) -> Sidecar:
    if isinstance(part, CopiedFile):
        return Sidecar(_named(part.sidecar.file, part.name), part.sha256, part.sidecar.data)
    return Sidecar(_imagined(part.name, part.size, number), part.sha256, part.data)


def _named(file: FileSeen, name: str) -> FileSeen:
    return FileSeen(name, file.location, file.fingerprint, file.via_link, file.stated_sha256)


def _imagined(name: str, size: int, number: int) -> FileSeen:
    """A file that is nowhere; `number` tells it from the others."""
    return FileSeen(name, "", Fingerprint(NOWHERE, number, size, 0, 0))
