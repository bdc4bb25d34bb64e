"""Fetching: bring to this machine what a plan links, trims or converts and what lies elsewhere; nothing more.

Whole shards go where every tool of the machine finds them, the Hub's cache.  Tensors of a graft are fetched as ranges,
straight into the new shard.  What a recipe reads is fetched into a shard of its own first, which is kept until the
conversion is done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from overlay.core.checkpoint import Checkpoint, FileSeen, Shard, TensorSource
from overlay.core.grafting import BUILT_METADATA
from overlay.core.parts import BuiltShard, Composition, GraftInput, Layer, LinkedShard, TrimmedShard
from overlay.core.planning import recipe_digest
from overlay.core.progress import Advance, Reporter
from overlay.errors import Mismatch
from overlay.formats.digest import Digests, sha256_of
from overlay.formats.header_text import layout_order, render_header
from overlay.running.opening import Opened
from overlay.storage.drafts import Drafts
from overlay.storage.fetching import fetch_shard
from overlay.storage.local import file_at
from overlay.storage.parallel import in_parallel
from overlay.storage.proofs import cache_folder
from overlay.storage.seen import digest_header
from overlay.storage.shard_file import Here
from overlay.storage.shard_writer import WrittenShard
from overlay.storage.stores import download

_AT_ONCE: Final = 4
"""Files that are fetched at once; the Hub's client opens several connections for each."""


def whole_files(composition: Composition) -> list[FileSeen]:
    """The shards elsewhere that are linked, copied or trimmed."""
    parts = (part for part in composition.shards if isinstance(part, LinkedShard | TrimmedShard))
    return list({part.shard.file.location: part.shard.file for part in parts if part.shard.file.is_remote}.values())


def fetch_files(files: Iterable[FileSeen], reporter: Reporter) -> dict[str, FileSeen]:
    """Address to file of this machine, for every one of `files`.

    What is here already is not fetched again; what was fetched was compared with the sha256 that its listing states.  An
    interrupt, or the first that fails, ends it at once; the others stop with their next piece.

    Raises:
        EnvironmentFault: one cannot be fetched; those that were stay.
        Mismatch: the bytes are not what the listing states.
    """
    wanted = {file.location: file for file in files}
    lock, stop = threading.Lock(), threading.Event()
    with reporter.task("fetching", sum(file.size for file in wanted.values())) as advance:

        def report(count: int) -> None:
            with lock:
                if stop.is_set():
                    raise _Stopped
                advance(count)

        try:
            return in_parallel(lambda location: download(wanted[location], report), list(wanted), _AT_ONCE)
        finally:
            with lock:
                stop.set()


class _Stopped(Exception):
    """Nobody waits for this file any more; it is raised where a piece of it has come."""


def with_files(opened: Opened, here: Mapping[str, FileSeen]) -> Opened:
    """`opened`, with files of this machine in the place of those elsewhere.

    Raises:
        Mismatch: the header that was read from elsewhere is not the file's.
    """

    def layer(entry: Layer) -> Layer:
        return replace(entry, grafts=tuple(map(graft, entry.grafts)))

    def graft(entry: GraftInput) -> GraftInput:
        donor = _with_files(entry.donor, here) if entry.donor is not None else None
        built = {name: _moved(shard, here) for name, shard in entry.built.items()}
        return replace(entry, donor=donor, built=built)

    return replace(
        opened,
        base=_with_files(opened.base, here),
        donors={name: _with_files(donor, here) for name, donor in opened.donors.items()},
        groups=tuple(tuple(map(layer, group)) for group in opened.groups),
    )


def lies_elsewhere(part: BuiltShard) -> bool:
    """Whether anything that a new shard is made from lies on another machine."""
    return any(source.file.is_remote for source in part.sources)


def fetch_graft(part: BuiltShard, drafts: Drafts, advance: Advance) -> WrittenShard:
    """Make the draft of a shard whose tensors are copied from elsewhere; goes on where an earlier run stopped.

    Raises:
        EnvironmentFault, Mismatch: as `storage.fetching.fetch_shard`; what came so far is kept.
    """
    return _fetch(part.name, part.header, part.sources, recipe_digest(part), drafts, advance)


def fetch_inputs(part: BuiltShard, drafts: Drafts, reporter: Reporter) -> Here:
    """The tensors that a shard's recipe reads, where they lie after they were fetched; {} where none is elsewhere.

    Raises:
        EnvironmentFault, Mismatch: as `fetch_graft`.
    """
    wanted = {source.extent: source for source in part.sources if source.file.is_remote}
    if not wanted:
        return {}
    # Two donors may have a tensor of one name.
    named = [source._replace(name=f"{number}.{source.name}") for number, source in enumerate(wanted.values())]
    sources = sorted(named, key=lambda source: layout_order(source.name, source.dtype))
    header = render_header(((s.name, s.dtype, s.shape) for s in sources), BUILT_METADATA)
    name, recipe = f"inputs-of-{part.name}", sha256_of(f"{recipe_digest(part)}".encode())
    with reporter.task(f"fetching what {part.name} is made from", sum(source.size for source in sources)) as advance:
        _fetch(name, header, sources, recipe, drafts, advance)
    file = file_at(drafts.path_of(name), name)
    here: dict[tuple[str, int, int], TensorSource] = {}
    at = len(header)
    for source in sources:
        here[source.extent] = source._replace(file=file, begin=at, end=at + source.size)
        at += source.size
    return here


def _fetch(
    name: str, header: bytes, sources: Sequence[TensorSource], recipe: str, drafts: Drafts, advance: Advance
) -> WrittenShard:
    """The draft `name`, made of `sources`, unless an earlier run has made it and it was not touched since."""
    noted = drafts.find(name, recipe)
    if noted is not None:
        advance(sum(source.size for source in sources))
        return WrittenShard(Digests(*noted["digests"]), dict(noted["tensors"]))
    written = fetch_shard(drafts.resume(name), header, sources, recipe, advance)
    digests = [written.digests.size, written.digests.sha256, written.digests.xxh3_128]
    drafts.finish(name, recipe, {"digests": digests, "tensors": written.tensors})
    return written


def _with_files(seen: Checkpoint, here: Mapping[str, FileSeen]) -> Checkpoint:
    return replace(seen, shards={name: _moved(shard, here) for name, shard in seen.shards.items()})


def _moved(shard: Shard, here: Mapping[str, FileSeen]) -> Shard:
    file = here.get(shard.file.location)
    if file is None:
        return shard
    # The file's sha256 was compared; its header came by a range that nothing vouches for, perhaps in an earlier command.
    found = digest_header(file)
    if found != shard.header.digest:
        problem = f"expected the header that was read before (sha256 {shard.header.digest}), found {found} in the file"
        hint = f"rm -r {os.path.join(cache_folder(), 'headers')}, then run the command again"
        raise Mismatch(problem, subject=shard.file.location, hint=hint)
    return Shard(replace(file, name=shard.file.name), shard.header)
