"""Pinning: write down what a composition was made of, and hold a later one against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from overlay.core.checkpoint import Checkpoint, FileSeen, TensorSource
from overlay.core.findings import Finding, about
from overlay.core.parts import BuiltShard, Composition, CopiedFile, LinkedShard, TrimmedShard
from overlay.formats.digest import Digests, sha256_of
from overlay.formats.lock import (
    Lock,
    LockedFile,
    LockedGraft,
    LockedRange,
    LockedResult,
    LockedSource,
    LockedTensor,
    LockLevel,
)
from overlay.formats.manifest import Manifest
from overlay.formats.names import INDEX_NAME

if TYPE_CHECKING:  # imported where something is computed
    from overlay.core.recipes.values import Value


@dataclass(frozen=True, slots=True)
class Measured:
    """What hashing found; empty at the level ``headers``."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Real file to sha256."""
    shards: Mapping[str, Digests] = field(default_factory=dict)
    """Built or trimmed shard to what it will be, or is."""
    tensors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Graft's shard to tensor to xxh3-128."""
    inputs: Mapping[tuple[str, int, int], str] = field(default_factory=dict)
    """Range of a donor's shard, as file name, begin and end, to the xxh3-128 of its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinnable:
    """What a lock is made of, beside the composition."""

    manifest: Manifest
    stack_sha256: str
    """Digest of the manifest and of those that it stands on."""
    base: Checkpoint
    """The checkpoint at the bottom."""
    donors: Mapping[str, Checkpoint]


def make_lock(inputs: Pinnable, composition: Composition, level: LockLevel, measured: Measured) -> Lock:
    """The lock of `composition`; equal inputs give an equal lock."""
    manifest, base, donors = inputs.manifest, inputs.base, inputs.donors
    grafts = {
        shard.name: _graft(shard, measured)
        for shard in composition.shards
        if not isinstance(shard, TrimmedShard) and shard.origin == "graft"
    }
    return Lock(
        manifest_sha256=inputs.stack_sha256,
        level=level,
        base=_source(manifest.base, base, _base_files(base, measured)) if manifest.base is not None else None,
        donors={
            name: _source(manifest.donors[name], donor, _donor_files(name, composition, measured))
            for name, donor in donors.items()
        },
        grafts=grafts,
        trims={shard.name: _trim(shard, measured) for shard in composition.shards if isinstance(shard, TrimmedShard)},
        files={
            file.name: LockedFile(size=file.size, sha256=file.sha256)
            for file in composition.sidecars
            if not isinstance(file, CopiedFile) or file.origin == "manifest"
        },
        result=LockedResult(
            tensors=composition.tensors,
            shards=len(composition.shards),
            total_size=composition.total_size,
            index_sha256=composition.index_sha256,
        ),
    )


def compare(lock: Lock, fresh: Lock) -> list[Finding]:
    """What moved since `lock`, given the lock that the same inputs would get now.

    Digests that either side does not have are not compared.
    """
    pinned, found = (side.base.files if side.base is not None else {} for side in (lock, fresh))
    findings = list(_compare_files("base", pinned, found))
    for name in lock.donors.keys() & fresh.donors.keys():
        findings += _compare_files(f"donor {name}", lock.donors[name].files, fresh.donors[name].files)
    findings += _compare_files("manifest", lock.files, fresh.files)
    findings += _compare_files("result", lock.trims, fresh.trims)
    for name in lock.grafts.keys() | fresh.grafts.keys():
        findings += _compare_graft(name, lock.grafts.get(name), fresh.grafts.get(name))
    if not findings and lock.result != fresh.result:
        message = f"expected {_words(lock.result)}, found {_words(fresh.result)}"
        findings.append(about("LCK001", INDEX_NAME, message, key="result"))
    return sorted(findings)


def with_lineage(fresh: Lock, old: Lock) -> Lock:
    """`fresh` with what `old` says of grafts whose donors were not at hand, as far as it pins the very bytes."""
    kept = {
        name: old.grafts[name]
        for name, graft in fresh.grafts.items()
        if graft.donor not in fresh.donors
        and name in old.grafts
        and old.grafts[name].sha256
        and not any(_compare_graft(name, old.grafts[name], graft))
    }
    missing = {graft.donor for graft in kept.values()} & old.donors.keys()
    donors = {**fresh.donors, **{name: old.donors[name] for name in missing}}
    update = {"grafts": {**fresh.grafts, **kept}, "donors": dict(sorted(donors.items()))}
    return fresh.model_copy(update=update)


def expected_digests(lock: Lock, composition: Composition) -> dict[str, str]:
    """Real file of every linked shard to the sha256 that the lock pins it to."""
    expected = {}
    for shard in composition.shards:
        if not isinstance(shard, LinkedShard):
            continue
        name = shard.shard.file.name
        base = lock.base.files if lock.base is not None else {}
        pinned = base.get(name) if shard.origin == "base" else lock.grafts.get(shard.name)
        if pinned is not None and pinned.sha256:
            expected[shard.shard.file.location] = pinned.sha256
    return expected


def _source(reference: str, seen: Checkpoint, files: dict[str, LockedFile]) -> LockedSource:
    return LockedSource(reference=reference, commit=seen.commit, files=files)


def _base_files(base: Checkpoint, measured: Measured) -> dict[str, LockedFile]:
    files = {
        name: LockedFile(size=shard.file.size, sha256=_sha256(shard.file, measured), header_sha256=shard.header.digest)
        for name, shard in base.shards.items()
    }
    if base.index is not None:
        files[INDEX_NAME] = LockedFile(size=len(base.index.raw), sha256=sha256_of(base.index.raw))
    for name, sidecar in base.sidecars.items():
        files[name] = LockedFile(size=sidecar.file.size, sha256=sidecar.sha256)
    return dict(sorted(files.items()))


def _donor_files(donor: str, composition: Composition, measured: Measured) -> dict[str, LockedFile]:
    """The shards of a donor that give something to a built shard."""
    used: dict[str, FileSeen] = {}
    for shard in composition.shards:
        if not isinstance(shard, TrimmedShard) and shard.origin == "graft" and shard.donor == donor:
            used.update({source.file.name: source.file for source in shard.sources})
    return {name: LockedFile(size=file.size, sha256=_sha256(file, measured)) for name, file in sorted(used.items())}


def _trim(shard: TrimmedShard, measured: Measured) -> LockedFile:
    known = measured.shards.get(shard.name)
    sha256 = known.sha256 if known is not None else None
    return LockedFile(size=shard.size, sha256=sha256, header_sha256=shard.header_sha256)


def _graft(shard: LinkedShard | BuiltShard, measured: Measured) -> LockedGraft:
    digests = measured.tensors.get(shard.name, {})
    if isinstance(shard, BuiltShard):
        known = measured.shards.get(shard.name)
        sha256 = known.sha256 if known is not None else None
    else:
        sha256 = _sha256(shard.shard.file, measured)
    tensors = (
        {source.name: _copied(source, digests) for source in sorted(shard.sources)}
        if shard.recipe is None
        else {value.name: _computed(value, digests, measured) for value in sorted(shard.recipe.outputs, key=_name_of)}
    )
    return LockedGraft(
        donor=shard.donor,
        size=shard.size,
        header_sha256=shard.header_sha256,
        sha256=sha256,
        whole=isinstance(shard, LinkedShard),
        tensors=tensors,
    )


def _copied(source: TensorSource, digests: Mapping[str, str]) -> LockedTensor:
    return LockedTensor(
        dtype=source.dtype,
        shape=list(source.shape),
        xxh3_128=digests.get(source.name),
        file=source.file.name,
        begin=source.begin,
        end=source.end,
    )


def _computed(value: Value, digests: Mapping[str, str], measured: Measured) -> LockedTensor:
    """A tensor of a recipe: one that no step touched is copied all the same."""
    from overlay.core.recipes.values import calls_below, inputs_of

    if value.source is not None:
        return _copied(value.source, digests)
    assert value.call is not None  # it is one or the other
    inputs = [
        LockedRange(
            file=source.file.name,
            begin=source.begin,
            end=source.end,
            xxh3_128=measured.inputs.get((source.file.name, source.begin, source.end)),
        )
        for source in inputs_of(calls_below([value]))
    ]
    shape = list(value.shape)
    digest = digests.get(value.name)
    return LockedTensor(dtype=value.dtype, shape=shape, xxh3_128=digest, steps=list(value.steps), inputs=inputs)


def _name_of(value: Value) -> str:
    return value.name


def _sha256(file: FileSeen, measured: Measured) -> str | None:
    """What was measured, else what the file's content-addressed store says."""
    return measured.files.get(file.location) or file.stated_sha256 or None


def _compare_files(
    whose: str, expected: Mapping[str, LockedFile], found: Mapping[str, LockedFile]
) -> Iterator[Finding]:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield about("LCK001", name, f"expected it in the {whose}, found none since the lock")
        elif name not in expected:
            yield about("LCK001", name, f"expected no such file in the {whose}, found one since the lock")
        else:
            yield from _compare_file(name, whose, expected[name], found[name])


def _compare_file(name: str, whose: str, expected: LockedFile, found: LockedFile) -> Iterator[Finding]:
    if expected.size != found.size:
        yield about("LCK004", name, f"expected {expected.size} bytes in the {whose}, found {found.size}")
    elif expected.header_sha256 and found.header_sha256 and expected.header_sha256 != found.header_sha256:
        message = f"expected header sha256 {expected.header_sha256} in the {whose}, found {found.header_sha256}"
        yield about("LCK001", name, message)
    elif expected.sha256 and found.sha256 and expected.sha256 != found.sha256:
        yield about("LCK001", name, f"expected sha256 {expected.sha256} in the {whose}, found {found.sha256}")


def _compare_graft(name: str, expected: LockedGraft | None, found: LockedGraft | None) -> Iterator[Finding]:
    if expected is None or found is None:
        yield about("LCK001", name, "expected the grafts of the lock, found others")
        return
    if expected.size != found.size:
        yield about("LCK004", name, f"expected {expected.size} bytes in the graft, found {found.size}")
    elif expected.header_sha256 != found.header_sha256:
        message = f"expected header sha256 {expected.header_sha256} in the graft, found {found.header_sha256}"
        yield about("LCK001", name, message)
    elif expected.sha256 and found.sha256 and expected.sha256 != found.sha256:
        yield about("LCK001", name, f"expected sha256 {expected.sha256} in the graft, found {found.sha256}")
    for tensor, pinned in expected.tensors.items():
        now = found.tensors.get(tensor)
        if now is not None and pinned.xxh3_128 and now.xxh3_128 and pinned.xxh3_128 != now.xxh3_128:
            message = f"expected xxh3-128 {pinned.xxh3_128}, found {now.xxh3_128}"
            yield about("LCK001", name, message, tensor=tensor)


def _words(result: LockedResult) -> str:
    return (
        f"{result.tensors} tensors, {result.shards} shards, total_size {result.total_size}, "
        f"index sha256 {result.index_sha256}"
    )
