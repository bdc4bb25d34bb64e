"""Verifying what has a manifest: the manifest with all that it names, and a repository that was built from one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from overlay.core.findings import Finding
from overlay.core.parts import LinkedShard
from overlay.core.pinning import expected_digests
from overlay.core.progress import Reporter
from overlay.formats.names import INDEX_NAME
from overlay.running.converting import Conversion
from overlay.running.locating import Places, folder_of
from overlay.running.locking import check_made, hold_against_lock
from overlay.running.opening import Opened, open_manifest
from overlay.running.proving import Level, mismatch
from overlay.running.rederiving import check_derived, with_donors
from overlay.running.verifying import Verdict, check_content, verify_directory
from overlay.storage.hashing import hash_file
from overlay.storage.local import file_at
from overlay.storage.stores import is_address, is_file, path_here


def verify_manifest(
    path: str, level: Level, places: Places, reporter: Reporter, jobs: int = 0, *, donors: bool = False
) -> Verdict:
    """Verify what a manifest names: base, donors and grafts are sound, fit together, and are what the lock says.

    With `donors` every graft is made again from its donors, and its bytes are compared with what was built.

    Raises:
        InvalidInput, Conflict, Mismatch: the first step that fails, with everything found in it.
        EnvironmentFault: something cannot be read.
    """
    opened = open_manifest(path, places)
    if donors:
        opened = open_manifest(path, with_donors(opened, places))
    composition = opened.compose()
    hold_against_lock(opened, composition)
    files = [shard.shard.file for shard in composition.shards if isinstance(shard, LinkedShard)]
    expected = expected_digests(opened.lock, composition) if opened.lock is not None else {}
    named = {file.name: expected[file.location] for file in files if file.location in expected}
    findings, hashed = check_content(files, named, reporter, jobs) if level == "content" else ([], 0)
    if level == "content":
        how = Conversion(jobs=jobs, losses=False)
        made = (
            check_derived(opened, composition, reporter, how) if donors else check_made(opened, composition, reporter)
        )
        findings += made
        hashed += sum(shard.size for shard in composition.shards if not isinstance(shard, LinkedShard))
    return Verdict(
        subject=path,
        level=level,
        findings=tuple(findings),
        shards=len(composition.shards),
        tensors=composition.tensors,
        data_bytes=composition.total_size,
        hashed_bytes=hashed,
        compared=sum(f.name in named and not f.is_remote for f in files) if level == "content" else 0,
        uncompared=tuple(f.name for f in files if level != "content" or f.name not in named or f.is_remote),
        elsewhere=sum(f.is_remote for f in files) if level == "content" else 0,
        derived=sum(s.origin == "graft" for s in composition.shards) if donors and level == "content" else 0,
    )


def verify_repository(
    label: str, path: str, level: Level, places: Places, reporter: Reporter, jobs: int = 0, *, donors: bool = False
) -> Verdict:
    """Verify a folder that was built, whose manifest is at `path`: as its manifest, and what lies beside that.

    A standalone checkpoint is verified as a checkpoint, too.

    Raises:
        InvalidInput, Conflict, Mismatch, EnvironmentFault: as `verify_manifest`.
    """
    places = replace(places, confined=True)
    verdict = replace(verify_manifest(path, level, places, reporter, jobs, donors=donors), subject=label)
    opened, folder = (
        open_manifest(path, places),
        os.path.realpath(folder_of(path)) if not is_address(path) else folder_of(path),
    )
    findings = [*verdict.findings, *_check_beside(folder, opened)]
    if opened.manifest.base is None:
        shallow: Level = "structure" if level == "structure" else "headers"
        findings += verify_directory(label, folder, shallow, places, reporter, jobs).findings
    return replace(verdict, findings=tuple(sorted(set(findings))))


def _check_beside(folder: str, opened: Opened) -> Iterator[Finding]:
    """The small files of a repository against its lock: the manifest takes none of those that it patches."""
    assert opened.lock is not None  # or it would be no repository
    wanted = {name: pinned.sha256 for name, pinned in opened.lock.files.items()}
    if opened.manifest.base is None:  # the index of a difference may name its own shards alone
        wanted[INDEX_NAME] = opened.lock.result.index_sha256
    for name, expected in wanted.items():
        path = os.path.join(folder, *name.split("/"))
        if expected and (is_file(path) if is_address(path) else os.path.exists(path)):
            file = file_at(path_here(path), name)
            found = hash_file(file, lambda count: None).sha256
            if found != expected:
                yield mismatch(file, expected, found)
