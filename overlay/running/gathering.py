"""Gathering: the shards that the index of a checkpoint should list, whether or not there is an index that can be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from overlay.core.checkpoint import Checkpoint, FileSeen, Shard
from overlay.core.findings import Finding, about
from overlay.core.mending import find_forgotten, find_obstacles, is_mendable, listed_shards, salvage_index
from overlay.errors import UsageError
from overlay.formats.header import HeaderProblem
from overlay.formats.index import MAX_INDEX_BYTES
from overlay.formats.names import SHARD_SUFFIX
from overlay.storage.seen import read_file, read_header


def gather(seen: Checkpoint, adopt: Sequence[str] = (), unlisted: AbstractSet[str] = frozenset()) -> Checkpoint:
    """`seen` with the shards that shall be listed: its own, those of an index that is not valid, and the adopted ones.

    Raises:
        UsageError: a name in `adopt` is no stray, or one in `unlisted` is no listed shard.
        EnvironmentFault: the index cannot be read.
    """
    index, names = seen.index, []
    if index is None and seen.index_file is not None:
        index = salvage_index(read_file(seen.index_file, MAX_INDEX_BYTES))
    if seen.index is None and not seen.shards:
        names = listed_shards(index) if index is not None else [n for n in seen.strays if n.endswith(SHARD_SUFFIX)]
    for name in adopt:
        if name not in seen.strays or not name.endswith(SHARD_SUFFIX):
            hint = f"overlay verify {seen.label} lists the strays"
            raise UsageError("expected a shard that the index does not name", subject=f"--adopt {name}", hint=hint)
    if unlisted:
        listed = set(seen.shards) if index is None else set(listed_shards(index))
        for name in sorted(unlisted - listed - set(names)):
            raise UsageError(
                "expected a listed shard", subject=f"--unlist {name}", hint=f"overlay inspect {seen.label}"
            )
    shards, findings = read_shards(seen.strays[name] for name in dict.fromkeys([*names, *adopt]) if name in seen.strays)
    strays = {name: file for name, file in seen.strays.items() if name not in shards}
    everything = (*seen.findings, *findings)
    return replace(seen, index=index, shards={**seen.shards, **shards}, strays=strays, findings=everything)


def can_mend(wanted: Checkpoint, findings: Iterable[Finding]) -> bool:
    """Whether a new index for what was gathered would put one of `findings` right, and nothing stands in its way.

    Reads the headers of strays where it comes to that.
    """
    return is_mendable(findings) and not find_obstacles(wanted) and not forgotten(wanted)


def forgotten(wanted: Checkpoint) -> list[Finding]:
    """Strays that would be left out of a new index although they belong to the checkpoint; reads their headers."""
    return find_forgotten(wanted, read_shards(f for name, f in wanted.strays.items() if name.endswith(SHARD_SUFFIX))[0])


def read_shards(files: Iterable[FileSeen]) -> tuple[dict[str, Shard], list[Finding]]:
    """The headers of `files`, and what is wrong with those that cannot be had."""
    shards: dict[str, Shard] = {}
    findings = []
    for file in files:
        try:
            shards[file.name] = Shard(file, read_header(file))
        except HeaderProblem as problem:
            code = "SHD002" if problem.about_size else "SHD001"
            findings.append(about(code, file.name, str(problem), tensor=problem.tensor))
        except OSError as error:
            findings.append(about("LCK005", file.name, f"expected to read the header, found: {error.strerror}"))
    return shards, findings
