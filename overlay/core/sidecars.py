"""Sidecars of a composed checkpoint: the base's, changed by the overlays, each a private copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from overlay.core.checkpoint import Checkpoint
from overlay.core.parts import CopiedFile, FileInput, Layer, PatchedFile, SidecarPart
from overlay.core.patching import apply_change, conflicts, touched
from overlay.errors import Conflict
from overlay.formats.digest import sha256_of
from overlay.formats.json_pointer import JsonPointer


def compose_sidecars(base: Checkpoint, groups: Sequence[Sequence[Layer]]) -> tuple[SidecarPart, ...]:
    """The sidecars of the result, in the order of their names.

    Raises:
        Conflict: two overlays of one group touch the same place, a precondition does not hold, or what is to be patched or
            removed is not there.
        InvalidInput: what is to be patched is not JSON.
    """
    parts: dict[str, SidecarPart] = {name: CopiedFile(name, "base", sidecar) for name, sidecar in base.sidecars.items()}
    for group in groups:
        _require_disjoint(group)
        for layer in group:
            for name, changes in layer.files.items():
                for entry in changes:
                    _change(parts, name, entry, layer)
    _require_places(parts)
    return tuple(parts[name] for name in sorted(parts))


def sidecar_notes(base: Checkpoint, groups: Sequence[Sequence[Layer]]) -> Iterator[str]:
    """Which of the base's sidecars do not come out as they were."""
    for group in groups if base.shards else ():  # of a standalone checkpoint every sidecar is new
        for layer in group:
            for name, changes in layer.files.items():
                yield from (_note(base, name, entry, layer.name) for entry in changes if _differs(base, name, entry))


def _require_places(names: Iterable[str]) -> None:
    """A name cannot be a file and the folder of another file.

    Raises:
        Conflict: one is.
    """
    known = set(names)
    for name in sorted(known):
        folder = name.rpartition("/")[0]
        while folder:
            if folder in known:
                problem = f"expected a file or a folder, found both: {name} lies in it"
                raise Conflict(problem, subject=folder, hint="rename one of the two in the manifest")
            folder = folder.rpartition("/")[0]


def _change(parts: dict[str, SidecarPart], name: str, entry: FileInput, layer: Layer) -> None:
    change = entry.change
    if entry.taken is not None:
        parts[name] = CopiedFile(name, "manifest", entry.taken)
        if change.patch is None and change.merge is None:
            return
    present = parts.get(name)
    if present is None:
        raise Conflict(
            f"expected this sidecar in the base, found none for {layer.name} to change",
            subject=name,
            hint="correct the file's name in the manifest, or take the whole file with from",
        )
    if change.remove:
        del parts[name]
        return
    text = present.data if isinstance(present, PatchedFile) else present.sidecar.data
    assert text is not None  # whoever opened the layers read every sidecar that they patch
    data = apply_change(name, text, change)
    before = present.overlays if isinstance(present, PatchedFile) else ()
    parts[name] = PatchedFile(name, data, sha256_of(data), (*before, layer.name))


def _require_disjoint(group: Sequence[Layer]) -> None:
    """Overlays of one group must not touch the same place of a sidecar."""
    for one, other in combinations(group, 2):
        for name in one.files.keys() & other.files.keys():
            pair = conflicts(
                [touch for entry in one.files[name] for touch in touched(entry.change)],
                [touch for entry in other.files[name] for touch in touched(entry.change)],
            )
            if pair is not None:
                place = str(JsonPointer(pair[0].pointer)) or "the whole file"
                raise Conflict(
                    f"expected one overlay to touch {place}, found {one.name} and {other.name}",
                    subject=name,
                    hint="apply one of them alone, or make one the base of the other",
                )


def _differs(base: Checkpoint, name: str, entry: FileInput) -> bool:
    if entry.taken is None:
        return True
    return name not in base.sidecars or base.sidecars[name].sha256 != entry.taken.sha256


def _note(base: Checkpoint, name: str, entry: FileInput, overlay: str) -> str:
    if entry.taken is not None:
        relation = "differs from the base's" if name in base.sidecars else "the base has none"
        return f"{name}: taken from {entry.taken.file.location} by {overlay}, {relation}"
    return f"{name}: {'removed' if entry.change.remove else 'patched'} by {overlay}"
