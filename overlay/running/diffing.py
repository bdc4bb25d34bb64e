"""Diffing: read two checkpoints and say how they differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from overlay.core.checking import check
from overlay.core.checkpoint import Checkpoint, Sidecar
from overlay.core.codes import Severity
from overlay.core.diffing import diff
from overlay.core.findings import Finding
from overlay.core.progress import Reporter
from overlay.core.sidecar_diffing import SidecarChange, added_file, diff_sidecar, removed_file, role_of
from overlay.core.view import View
from overlay.errors import InvalidInput
from overlay.formats.names import REPOSITORY_MANIFEST
from overlay.running.comparing import compare_content
from overlay.running.locating import Places, folder_of, locate, open_checkpoint, place_of_document
from overlay.storage.local import sizes_of
from overlay.storage.seen import SharedHeaders, read_file
from overlay.storage.stores import is_address, is_file, sizes_at

if TYPE_CHECKING:
    from overlay.running.opening import Opened

_FOLDER: Final = "a folder; not read"


def diff_checkpoints(old: str, new: str, places: Places, *, content: bool, jobs: int = 0, reporter: Reporter) -> View:
    """How the checkpoint `new` differs from `old`.

    Reads every header and the sidecars that differ; with `content` also both sides of every tensor that headers cannot
    tell apart.

    Raises:
        InvalidInput: one of them is no checkpoint, or a shard of it cannot be read.
        EnvironmentFault: something cannot be read.
    """
    shared: SharedHeaders = {}
    before, after = (open_whole(reference, places, shared=shared) for reference in (old, new))
    difference = diff(before, after)
    if content:
        difference = compare_content(difference, reporter, renames=True, jobs=jobs)
    findings = [*_of(before, check(before)), *_of(after, check(after))]
    return View(kind="diff", difference=difference, sidecars=diff_sidecars(before, after), findings=tuple(findings))


def open_whole(reference: str, places: Places, *, shared: SharedHeaders | None = None) -> Checkpoint:
    """The checkpoint that `reference` means, whose shards can all be read; what else is wrong is in its findings.

    A manifest means the checkpoint that it describes.

    Raises:
        InvalidInput: it is no checkpoint, or a listed shard is missing or broken: no comparison would mean anything.
        Conflict: a manifest that contradicts its base.
    """
    manifest = manifest_of(reference, places)
    if manifest:
        from overlay.running.opening import open_manifest  # manifests take 0.1 s to import that few comparisons need

        return composed(open_manifest(manifest, replace(places, confined=manifest != reference)), reference)
    seen = open_checkpoint(reference, locate(reference, ".", places), places, shared=shared)
    require_whole(seen)
    return seen


def manifest_of(reference: str, places: Places) -> str:
    """The manifest that `reference` means: the file itself, or the one in a diff-only repository; "" for none.

    Raises:
        EnvironmentFault: it is elsewhere, and cannot be asked for.
    """
    place = place_of_document(reference, places)
    if place.endswith((".yaml", ".yml")) and is_file(place):
        return place
    inside = os.path.join(place, REPOSITORY_MANIFEST)
    return inside if is_file(inside) else ""


def composed(opened: Opened, label: str) -> Checkpoint:
    """The checkpoint that a manifest describes."""
    from overlay.core.composed import as_checkpoint  # as above

    return as_checkpoint(opened.compose(), label, folder_of(opened.path))


def require_whole(seen: Checkpoint) -> None:
    """Refuse a checkpoint of which a shard or the index could not be read.

    Raises:
        InvalidInput: naming every such file.
    """
    broken = [finding.line for finding in sorted(seen.findings) if finding.severity is Severity.ERROR]
    if broken:
        hint = f"overlay verify {seen.label}"
        if seen.shards and all(finding.code == "IDX003" for finding in seen.findings):  # it may hold a difference alone
            hint = f"overlay audit {seen.label} --against BASE, if the other shards are a base's"
        raise InvalidInput(broken[0], subject=seen.label, hint=hint, others=tuple(broken[1:]))


def diff_sidecars(old: Checkpoint, new: Checkpoint) -> tuple[SidecarChange, ...]:
    """How the small files differ, and which other files came or went; reads those whose digests differ."""
    changes = []
    for name in sorted(old.sidecars.keys() | new.sidecars.keys()):
        before, after = old.sidecars.get(name), new.sidecars.get(name)
        if before is not None and after is not None and before.sha256 == after.sha256:
            continue
        texts = (text_of(sidecar) if sidecar is not None else None for sidecar in (before, after))
        change = diff_sidecar(name, *texts)
        if change is not None:
            changes.append(change)
    gone, come = others(old), others(new)
    changes += [_added(name, come[name]) for name in sorted(come.keys() - gone.keys())]
    changes += [_removed(name, gone[name]) for name in sorted(gone.keys() - come.keys())]
    changes += [
        SidecarChange(name, "changed", role_of(name), f"{_size(gone[name])} to {_size(come[name])}; not read")
        for name in sorted(gone.keys() & come.keys())
        if gone[name] != come[name]
    ]
    return tuple(changes)


def text_of(sidecar: Sidecar) -> bytes:
    """The bytes of a sidecar, read unless they are at hand.

    Raises:
        EnvironmentFault: it cannot be read.
    """
    return sidecar.data if sidecar.data is not None else read_file(sidecar.file)


def others(seen: Checkpoint) -> Mapping[str, int | None]:
    """Entries that are neither listed shards nor sidecars, with their sizes in bytes, None for a folder; no dot files."""
    sizes: dict[str, int | None] = {name: file.size for name, file in seen.strays.items()}
    names = [name for name in seen.left_out if not name.startswith(".")]
    return sizes | (sizes_at(seen.root, names) if is_address(seen.root) else sizes_of(seen.root, names))


def _added(name: str, size: int | None) -> SidecarChange:
    return added_file(name, size) if size is not None else SidecarChange(name, "added", role_of(name), _FOLDER)


def _removed(name: str, size: int | None) -> SidecarChange:
    return removed_file(name, size) if size is not None else SidecarChange(name, "removed", role_of(name), _FOLDER)


def _size(size: int | None) -> str:
    return "a folder" if size is None else f"{size} bytes"


def _of(seen: Checkpoint, findings: list[Finding]) -> list[Finding]:
    """`findings` that say which of two checkpoints they are about."""
    return [replace(finding, subject=f"{seen.label}/{finding.subject}") for finding in findings]
