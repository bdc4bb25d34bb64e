"""Extracting: the diff-only repository that turns a base into a derived checkpoint.

Everything that both have is left out: what remains is the tensors that were added or rewritten, the names of those that
were dropped, and the sidecars that differ, as patches where a patch gives the very bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from overlay.core.checkpoint import Checkpoint, Sidecar, TensorSource
from overlay.core.deriving import render_manifest, roll_up
from overlay.core.diffing import Change, diff, source_of
from overlay.core.grafting import BUILT_METADATA
from overlay.core.patching import apply_change, make_patch
from overlay.core.progress import Reporter
from overlay.core.target import TargetState
from overlay.errors import Conflict, InvalidInput, OverlayError
from overlay.formats import strict_json
from overlay.formats.header_text import layout_order, render_header
from overlay.formats.index import new_index
from overlay.formats.manifest import FileChange, Manifest, parse_manifest
from overlay.formats.names import INDEX_NAME, REPOSITORY_MANIFEST, following_shard_names
from overlay.formats.patterns import Pattern, select
from overlay.running.comparing import compare_content
from overlay.storage.seen import read_file
from overlay.storage.shard_writer import write_shard
from overlay.storage.staging import Stage, staged
from overlay.storage.targets import look_at_target

_DONOR = "diff"
_OF_MANIFESTS = (".yaml", ".yml", ".lock.json")
_APART = "sidecars"
"""The folder for sidecars that could be taken for the repository's own manifest or lock."""
_MAX_OPERATIONS = 200
"""Each costs a pass over the text; and nobody reads a longer patch."""
_MAX_PATCH_BYTES = 64 * 1024
"""Of the manifest that holds a patch; all together must stay readable."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was written."""

    manifest: Manifest
    path: str
    """The manifest's file."""
    added: int
    replaced: int
    dropped: int
    data_bytes: int
    """Tensor data bytes of the new shards."""
    sidecars: int


def extract(
    base: Checkpoint, derived: Checkpoint, reference: str, name: str, target: str, reporter: Reporter
) -> Extracted:
    """Write the repository that turns `base` into `derived` into the absent or empty folder `target`.

    Args:
        base: the base, found sound.
        derived: the derived checkpoint, found sound; its shards may be cut otherwise.
        reference: the base's reference, as it shall stand in the manifest.
        name: the manifest's name.
        target: an absolute path; it appears in one step.
        reporter: shows how reading and writing go on.

    Reads both sides of every tensor that headers cannot tell apart, and writes the ones that differ.

    Raises:
        Conflict: there is something at `target`.
        InvalidInput: the two are the same, or a dropped tensor cannot be described by a pattern.
        EnvironmentFault: reading or writing failed; nothing is left at `target`.
    """
    _require_free(target)
    difference = compare_content(diff(base, derived), reporter)
    named = {change: [c.name for c in difference.changes if c.change is change] for change in Change}
    rewritten = {*named[Change.REWRITTEN], *named[Change.RETYPED], *named[Change.RESHAPED]}
    taken = rewritten | set(named[Change.ADDED])
    groups = _by_shard(derived, taken)
    names = following_shard_names(base.shards, len(groups))
    drops = _drops(named[Change.REMOVED], base)
    with staged(target) as stage:
        shards = [_write(stage, shard, sources, reporter) for shard, sources in zip(names, groups, strict=True)]
        if shards:
            mapped = {source.name: shard for shard, sources in zip(names, groups, strict=True) for source in sources}
            stage.write(INDEX_NAME, new_index(mapped, {"total_size": sum(shards)}))
        files = dict(_files(base, derived, stage))
        if not (shards or drops or files):
            raise InvalidInput(
                "expected a checkpoint that differs from the base, found the same", subject=derived.label
            )
        manifest = Manifest.model_validate(
            {
                "overlay": 1,
                "name": name,
                "summary": f"Turns {base.label} into {derived.label}."[:200],
                "base": reference,
                "donors": {_DONOR: "."} if shards else {},
                "grafts": [_graft(shard, sources, rewritten) for shard, sources in zip(names, groups, strict=True)],
                "drop": drops,
                "files": files,
            }
        )
        stage.write(REPOSITORY_MANIFEST, render_manifest(manifest))
        stage.commit()
    return Extracted(
        manifest=manifest,
        path=os.path.join(target, REPOSITORY_MANIFEST),
        added=len(named[Change.ADDED]),
        replaced=len(rewritten),
        dropped=len(named[Change.REMOVED]),
        data_bytes=sum(shards),
        sidecars=len(files),
    )


def _require_free(target: str) -> None:
    """A repository takes the place of nothing."""
    if look_at_target(target).state not in (TargetState.ABSENT, TargetState.EMPTY):
        problem = "expected an absent or empty folder, found something else"
        raise Conflict(problem, subject=target, hint="choose another folder for -o")


def _by_shard(derived: Checkpoint, taken: set[str]) -> list[list[TensorSource]]:
    """The tensors to write, those of one shard of the derived checkpoint together."""
    groups = (
        [source_of(shard, tensor) for tensor in shard.header.names if tensor in taken]
        for shard in derived.shards.values()
    )
    return [sorted(group, key=lambda source: layout_order(source.name, source.dtype)) for group in groups if group]


def _write(stage: Stage, name: str, sources: Sequence[TensorSource], reporter: Reporter) -> int:
    header = render_header(((s.name, s.dtype, s.shape) for s in sources), BUILT_METADATA)
    size = sum(source.end - source.begin for source in sources)
    with reporter.task(f"writing {name}", size) as advance:
        write_shard(stage.path_of(name), header, sources, advance)
    return size


def _graft(shard: str, sources: Sequence[TensorSource], rewritten: set[str]) -> dict[str, Any]:
    dtypes: dict[str, int] = {}
    for source in sources:
        dtypes[source.dtype] = dtypes.get(source.dtype, 0) + 1
    size = sum(source.end - source.begin for source in sources)
    return {
        "shard": shard,
        "from": _DONOR,
        "mode": "replace" if any(source.name in rewritten for source in sources) else "add",
        "expect": {"tensors": len(sources), "bytes": size, "dtypes": dtypes},
    }


def _drops(dropped: Iterable[str], base: Checkpoint) -> list[str]:
    """Patterns for exactly the dropped tensors.

    Raises:
        InvalidInput: a name holds a ``*``, so that the pattern would mean more.
    """
    names = list(dropped)
    patterns = roll_up(names, base.weight_map)
    chosen, _ = select([Pattern(pattern) for pattern in patterns], base.weight_map)
    if set(chosen) != set(names):
        odd = min(set(chosen) - set(names))
        raise InvalidInput(f"expected patterns for the dropped tensors, found that they also describe {odd}")
    return patterns


def _files(base: Checkpoint, derived: Checkpoint, stage: Stage) -> Iterator[tuple[str, dict[str, Any]]]:
    """The changes to sidecars; whole files are written into the stage."""
    for name in sorted(base.sidecars.keys() - derived.sidecars.keys()):
        yield name, {"remove": True}
    for name, sidecar in sorted(derived.sidecars.items()):
        before = base.sidecars.get(name)
        if before is not None and before.sha256 == sidecar.sha256:
            continue
        patch = _patch(name, before, sidecar) if before is not None and name.endswith(".json") else None
        if patch is not None:
            yield name, {"patch": patch}
        else:
            kept = f"{_APART}/{name}" if name.endswith(_OF_MANIFESTS) else name
            stage.write(kept, read_file(sidecar.file))
            yield name, {"from": kept}


def _patch(name: str, before: Sidecar, after: Sidecar) -> list[dict[str, Any]] | None:
    """The patch that gives the very bytes of `after`; None where none does, or where it is no smaller thing to read."""
    old, new = read_file(before.file), read_file(after.file)
    try:
        operations = make_patch(strict_json.decode(old), strict_json.decode(new))
        if len(operations) > _MAX_OPERATIONS:
            return None
        change = FileChange(patch=operations)
        if apply_change(name, old, change) != new or not _survives(name, change):
            return None
    except (strict_json.JsonProblem, OverlayError):
        return None
    return [operation.model_dump(mode="json", by_alias=True, exclude_unset=True) for operation in operations]


def _survives(name: str, change: FileChange) -> bool:
    """Whether `change` can stand in a manifest: YAML has no numbers of 40 digits."""
    text = render_manifest(Manifest(overlay=1, name="x", base=".", files={name: change}))
    return len(text) <= _MAX_PATCH_BYTES and parse_manifest(text).files[name] == change
