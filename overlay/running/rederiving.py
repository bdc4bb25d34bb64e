"""Rederiving: make every graft again from its donors, writing nothing, and hold what was built against that.

Shards are compared tensor by tensor, and what is read of a donor with what was read of it when the shard was built, so that
it is told apart which of the two changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

from overlay.core.diffing import source_of
from overlay.core.findings import Finding, about
from overlay.core.parts import Composition, LinkedShard
from overlay.core.progress import Reporter
from overlay.formats.lock import LockedGraft, LockedRange, LockedTensor
from overlay.running.converting import Conversion
from overlay.running.locating import Places, locate
from overlay.running.locking import Inputs, measure_made
from overlay.running.opening import Opened
from overlay.storage.shard_writer import digest_shard


def with_donors(opened: Opened, places: Places) -> Places:
    """`places`, with one for every donor of the manifest: a graft that was built would do without.

    Raises:
        EnvironmentFault: a donor is not on this machine.
    """
    manifest, lock = opened.manifest, opened.lock
    folder = os.path.dirname(os.path.abspath(opened.path))
    found = {}
    for name in sorted({graft.from_ for graft in manifest.grafts} - places.donors.keys()):
        locked = lock.donors.get(name) if lock is not None else None
        found[name] = locate(manifest.donors[name], folder, places, locked.commit if locked is not None else None)
    return replace(places, donors={**found, **places.donors})


def check_derived(opened: Opened, composition: Composition, reporter: Reporter, how: Conversion) -> list[Finding]:
    """What the grafts, made again from their donors, say of the shards that were built and of the lock.

    Raises:
        InvalidInput: a donor's tensors are not what a step needs.
        EnvironmentFault: a file cannot be read.
    """
    derived = measure_made(composition, reporter, how)
    pinned = opened.lock.grafts if opened.lock is not None else {}
    findings: list[Finding] = []
    for shard in composition.shards:
        made = derived.tensors.get(shard.name)
        if made is None:
            continue
        locked = pinned.get(shard.name)
        changed = _changed_inputs(locked, derived.inputs, made) if locked is not None else {}
        findings += _donors_that_changed(changed)
        known = _digests_in(locked) if locked is not None else {}
        expected = {name: known.get(name, digest) if name in changed else digest for name, digest in made.items()}
        findings += _differing(shard.name, "lock", expected, known)
        if isinstance(shard, LinkedShard):
            findings += _differing(shard.name, "shard", expected, _digests_of(shard, reporter))
    return findings


Changed = dict[str, list[tuple[LockedRange, str]]]
"""Tensor to the ranges of donors that it is made from and that changed, with the digest that they have now."""


def _changed_inputs(locked: LockedGraft, inputs: Inputs, made: Mapping[str, str]) -> Changed:
    changed: Changed = {}
    for name, tensor in locked.tensors.items():
        for entry in _ranges(tensor):
            found = made.get(name) if tensor.file else inputs.get((entry.file, entry.begin, entry.end))
            if found and entry.xxh3_128 and found != entry.xxh3_128:
                changed.setdefault(name, []).append((entry, found))
    return changed


def _ranges(tensor: LockedTensor) -> list[LockedRange]:
    """What a tensor is made from; of a copied one, where it lies."""
    if tensor.file is None or tensor.begin is None or tensor.end is None:
        return tensor.inputs
    return [LockedRange(file=tensor.file, begin=tensor.begin, end=tensor.end, xxh3_128=tensor.xxh3_128)]


def _donors_that_changed(changed: Changed) -> Iterator[Finding]:
    """Each range once, whatever is made from it."""
    seen = set()
    for name, ranges in sorted(changed.items()):
        for entry, found in ranges:
            if (place := (entry.file, entry.begin, entry.end)) not in seen:
                seen.add(place)
                where = f"bytes {entry.begin} to {entry.end} of the donor's shard"
                message = f"expected xxh3-128 {entry.xxh3_128} in {where}, found {found}"
                yield about("LCK001", entry.file, message, tensor=name)


def _digests_in(locked: LockedGraft) -> dict[str, str]:
    return {name: tensor.xxh3_128 for name, tensor in locked.tensors.items() if tensor.xxh3_128}


def _digests_of(shard: LinkedShard, reporter: Reporter) -> dict[str, str]:
    """Tensor to the digest of its bytes in the shard that was built."""
    sources = [source_of(shard.shard, name) for name in shard.shard.header.names]
    with reporter.task(f"digesting {shard.name}", shard.data_bytes) as advance:
        return digest_shard(b"", sources, advance).tensors


def _differing(shard: str, where: str, expected: Mapping[str, str], found: Mapping[str, str]) -> Iterator[Finding]:
    for tensor in sorted(expected.keys() & found.keys()):
        if expected[tensor] != found[tensor]:
            message = f"expected xxh3-128 {expected[tensor]}, made from the donor, found {found[tensor]} in the {where}"
            yield about("LCK001", shard, message, tensor=tensor)
