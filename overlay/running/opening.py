"""Opening: read everything that a manifest names, once, before anything is decided."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from overlay.core.checkpoint import Checkpoint, Shard, Sidecar, TensorSource
from overlay.core.composing import compose
from overlay.core.deriving import Derived, derive
from overlay.core.parts import Composition, FileInput, GraftInput, Layer
from overlay.core.pinning import Pinnable
from overlay.errors import Conflict, InvalidInput, UsageError
from overlay.formats import strict_json, yaml_text
from overlay.formats.digest import sha256_of
from overlay.formats.header import HeaderProblem
from overlay.formats.lock import MAX_LOCK_BYTES, Lock, LockProblems, parse_lock
from overlay.formats.manifest import Graft, Manifest, ManifestProblems, parse_manifest
from overlay.formats.names import find_split, lock_path
from overlay.formats.references import HubReference, PathReference, StoreReference, parse_reference
from overlay.running.locating import (
    Places,
    file_of,
    folder_of,
    is_foreign,
    locate,
    locate_locked,
    locate_repository,
    open_sound,
    portable,
    require_elsewhere,
    title_of,
)
from overlay.storage.files import read_document
from overlay.storage.ranges import equal_ranges
from overlay.storage.seen import read_file, read_header
from overlay.storage.stores import is_address, is_file, names_at, path_here

if TYPE_CHECKING:  # imported where a graft has steps
    from overlay.core.recipes.recipe import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A manifest, or several, and everything that they name."""

    path: str
    """The manifest's file, or the graft that it was derived from."""
    manifest: Manifest
    lock: Lock | None
    lock_sha256: str | None
    """Of the lock's text."""
    base: Checkpoint
    """The checkpoint at the bottom."""
    donors: Mapping[str, Checkpoint]
    groups: tuple[tuple[Layer, ...], ...]
    """The overlays, from the bottom up; those of one group were made for the same tree."""
    left_out: tuple[str, ...] = ()
    """Files of a diff-only repository without a manifest that are not taken."""

    @property
    def name(self) -> str:
        """Name of the result: the top manifests' names, joined."""
        return "+".join(sorted(layer.name for layer in self.groups[-1]))

    @property
    def stack_sha256(self) -> str:
        """Digest of all manifests; of one that stands on a checkpoint it is the manifest's own."""
        digests = [sorted(layer.manifest.digest for layer in group) for group in self.groups]
        return digests[0][0] if [*map(len, digests)] == [1] else sha256_of(strict_json.canonical(digests))

    @property
    def roots(self) -> set[str]:
        """Folders of the base and of all donors, those of manifests further down included."""
        below = {graft.donor.root for group in self.groups for layer in group for graft in layer.grafts if graft.donor}
        return {self.base.root, *below, *(donor.root for donor in self.donors.values())} - {""}

    @property
    def pinnable(self) -> Pinnable:
        """What a lock of this is made of."""
        return Pinnable(manifest=self.manifest, stack_sha256=self.stack_sha256, base=self.base, donors=self.donors)

    def without_engine(self) -> Opened:
        """The same without the changes that are only made for an engine: what a lock pins."""
        groups = tuple(tuple(_without_engine(layer) for layer in group) for group in self.groups)
        return self if groups == self.groups else replace(self, groups=groups)

    def compose(self) -> Composition:
        """The checkpoint that the manifests describe; raises what `core.composing.compose` raises."""
        return compose(self.base, self.groups, self.name)


def open_manifest(
    path: str,
    places: Places,
    *,
    with_lock: bool = True,
    engine: str = "",
    above: Lock | None = None,
    below: tuple[str, ...] = (),
) -> Opened:
    """Read the manifest at `path`, its lock, its base, its donors and the sidecars that it takes from elsewhere.

    Args:
        path: the manifest's file.
        places: where things are on this machine; a `base` there is the one at the bottom.
        with_lock: whether to read the lock beside it.
        engine: also take the changes that the manifest makes for this engine.
        above: the lock of the manifest that stands on this one: it pins the commit of the checkpoint at the bottom.
        below: the manifests that stand on this one, to notice a circle.

    Raises:
        InvalidInput: the manifest, the lock or a checkpoint is malformed, or manifests stand on each other in a circle.
        EnvironmentFault: something cannot be read, or a repository is not on this machine.
    """
    real = path if is_address(path) else os.path.realpath(path)
    if real in below:
        circle = " -> ".join(os.path.basename(p) for p in (*below[below.index(real) :], real))
        problem = f"expected a base that is a checkpoint in the end, found the circle {circle}"
        raise InvalidInput(problem, subject=path, hint="let the lowest of them name a checkpoint as its base")
    manifest = read_manifest(path)
    lock, lock_sha256 = _read_lock(lock_path(path)) if with_lock else (None, None)
    folder = folder_of(path)
    parent = _parent_manifest(manifest, folder)
    if parent is not None:
        pinned = lock or above
        under = open_manifest(parent, places, with_lock=False, engine=engine, above=pinned, below=(*below, real))
        base, groups = under.base, under.groups
    else:
        base, groups = _open_base(manifest, folder, places, lock or above), ()
    layer, donors = _open_layer(manifest, folder, places, lock, engine)
    return Opened(
        path=path,
        manifest=manifest,
        lock=lock,
        lock_sha256=lock_sha256,
        base=_with_texts(base, (*groups, (layer,))),
        donors=donors,
        groups=(*groups, (layer,)),
    )


def stack(opened: Sequence[Opened]) -> Opened:
    """Several manifests for one tree, as one; a manifest that another stands on already is not laid twice.

    Raises:
        Conflict: they were made for different bases.
    """
    below = {layer.manifest.digest for one in opened for group in one.groups[:-1] for layer in group}
    tops = [one for one in opened if one.manifest.digest not in below]
    first = tops[0]
    for other in tops[1:]:
        if other.base.root != first.base.root or _digests(other.groups[:-1]) != _digests(first.groups[:-1]):
            raise Conflict(
                f"expected overlays for one base, found {first.base.root} and {other.base.root}",
                subject=f"{first.path}, {other.path}",
                hint="name a manifest as base: in the one that is to be laid over it",
            )
    layers = {layer.manifest.digest: layer for one in tops for layer in one.groups[-1]}
    groups = (*first.groups[:-1], tuple(layers.values()))
    if len(layers) == 1:
        return first
    donors = {f"{one.manifest.name}.{name}": donor for one in tops for name, donor in one.donors.items()}
    locks = [one.lock_sha256 for one in tops if one.lock_sha256 is not None]
    pinned = sha256_of(strict_json.canonical(sorted(locks))) if len(locks) == len(tops) else None
    base = _with_texts(first.base, groups)
    return replace(first, lock=None, lock_sha256=pinned, base=base, donors=donors, groups=groups)


def require_known_donors(opened: Opened, places: Places) -> None:
    """Refuse a local copy of a donor that no manifest names.

    Raises:
        UsageError: there is one; the names that there are, are said.
    """
    known = {name for group in opened.groups for layer in group for name in layer.manifest.donors}
    unknown = sorted(places.donors.keys() - known)
    if unknown:
        names = ", ".join(sorted(known)) or "it names none"
        problem = f"expected a donor of the manifest ({names}), found {unknown[0]}"
        raise UsageError(problem, subject=opened.path, hint="--donor NAME=PATH, with a name that stands under donors:")


def open_pair(base: str, graft: str, places: Places, name: str = "") -> Opened:
    """Read a base and a diff-only repository without a manifest, and derive the manifest that joins them.

    Raises:
        Conflict: the repository was made for another base.
        InvalidInput, EnvironmentFault: as `open_manifest`.
    """
    base_seen = open_sound(base, locate(base, ".", places), places)
    graft_seen = open_sound(graft, locate(graft, ".", places), places, partial=True)
    changed = frozenset(_changed_shards(base_seen, graft_seen))
    title = name or title_of(graft)
    derived = derive(base_seen, graft_seen, changed, name=title, refs=(portable(base), portable(graft)))
    return _opened_pair(graft, derived, base_seen, graft_seen)


def read_manifest(path: str) -> Manifest:
    """The manifest at `path`.

    Raises:
        InvalidInput: it is missing or malformed; every problem is named with line and column.
    """
    data = read_document(path_here(path), yaml_text.MAX_BYTES, "manifest")
    try:
        return parse_manifest(data)
    except ManifestProblems as error:
        first, *others = (f"{path}:{line}" for line in error.lines())
        raise InvalidInput(
            first, hint="overlay schema prints the manifest's JSON Schema", others=tuple(others)
        ) from None


def _digests(groups: Sequence[Sequence[Layer]]) -> list[list[str]]:
    return [[layer.manifest.digest for layer in group] for group in groups]


def _parent_manifest(manifest: Manifest, folder: str) -> str | None:
    """The manifest that stands in for a base, when the base's reference is a YAML file."""
    if manifest.base is None or is_foreign(folder) or not isinstance(parse_reference(manifest.base), PathReference):
        return None
    path = os.path.join(folder, os.path.expanduser(manifest.base))
    return path if path.endswith((".yaml", ".yml")) and os.path.isfile(path) else None


def _open_layer(
    manifest: Manifest, folder: str, places: Places, lock: Lock | None, engine: str
) -> tuple[Layer, dict[str, Checkpoint]]:
    """A manifest with its donors and sidecars; a donor whose shard was built before need not be at hand."""
    wanted = {graft.from_ for graft in manifest.grafts}
    built = {graft.shard: _built_beside(folder, graft, places) for graft in manifest.grafts}
    donors = {
        name: _open_donor(name, manifest.donors[name], folder, places, lock)
        for name in sorted(wanted)
        if any(not built[g.shard] for g in manifest.grafts if g.from_ == name) or name in places.donors
    }
    contexts = (
        _contexts(manifest, folder, places, lock, donors) if any(graft.steps for graft in manifest.grafts) else {}
    )
    grafts = tuple(
        GraftInput(graft, donors.get(graft.from_), built[graft.shard], contexts.get(graft.shard))
        for graft in manifest.grafts
    )
    return Layer(manifest, grafts, _file_inputs(manifest, folder, places, engine)), donors


def _contexts(
    manifest: Manifest, folder: str, places: Places, lock: Lock | None, donors: Mapping[str, Checkpoint]
) -> dict[str, Context]:
    """What the steps of each graft refer to, where its donor is at hand."""
    from overlay.running.contexts import Reading, read_context

    reading = Reading(manifest, folder, places, lock)
    stepped = (graft for graft in manifest.grafts if graft.steps and graft.from_ in donors)
    return {graft.shard: read_context(graft, reading) for graft in stepped}


def _file_inputs(manifest: Manifest, folder: str, places: Places, engine: str) -> dict[str, tuple[FileInput, ...]]:
    """The changes to each sidecar: the manifest's own, then those for the engine."""
    inputs: dict[str, tuple[FileInput, ...]] = {}
    profile = manifest.engines.get(engine)
    for needed_by, files in (("", manifest.files), (engine, profile.files if profile is not None else {})):
        for name, change in files.items():
            taken = _taken(name, change.from_, folder, places) if change.from_ else None
            inputs[name] = (*inputs.get(name, ()), FileInput(change, taken, needed_by))
    return inputs


def _without_engine(layer: Layer) -> Layer:
    files = {name: tuple(entry for entry in entries if not entry.engine) for name, entries in layer.files.items()}
    return replace(layer, files={name: entries for name, entries in files.items() if entries})


def _with_texts(base: Checkpoint, groups: Sequence[Sequence[Layer]]) -> Checkpoint:
    """`base` with the text of every sidecar that an overlay patches."""
    patched = {name for group in groups for layer in group for name in layer.files} & base.sidecars.keys()
    texts = {name: replace(base.sidecars[name], data=read_file(base.sidecars[name].file)) for name in patched}
    return replace(base, sidecars={**base.sidecars, **texts}) if texts else base


def _open_base(manifest: Manifest, folder: str, places: Places, lock: Lock | None) -> Checkpoint:
    """The checkpoint at the bottom; an empty one for a standalone checkpoint, which has no base."""
    if manifest.base is None:
        if places.base is not None:
            hint = "leave --base out: this manifest describes a standalone checkpoint"
            raise UsageError("expected no base for base: null, found one", subject=places.base, hint=hint)
        return Checkpoint(label="nothing", root="", index=None, index_file=None, shards={})
    reference = places.base or manifest.base
    if lock is not None and lock.base is not None and places.base is None:
        directory = locate_locked(reference, folder, places, lock.base)
    else:
        directory = locate(reference, "." if places.base else folder, places)
    return open_sound(reference, directory, places)


def _open_donor(name: str, reference: str, folder: str, places: Places, lock: Lock | None) -> Checkpoint:
    """A donor may be a diff-only repository, so that it need not be whole; the tensors that are taken must be there."""
    given = places.donors.get(name)
    locked = lock.donors.get(name) if lock is not None and given is None else None
    directory = locate(given or reference, "." if given else folder, places, locked.commit if locked else None)
    return open_sound(given or reference, directory, places, partial=True)


def _built_beside(folder: str, graft: Graft, places: Places) -> dict[str, Shard]:
    """The graft's shards, when they lie beside the manifest as they do in a diff-only repository."""
    if graft.tensors is None:
        return {}
    present = names_at(folder) if graft.max_shard_size else [graft.shard]
    names = [name for name in find_split(graft.shard, present) if _is_there(os.path.join(folder, name))]
    return {name: _built(folder, name, places) for name in names}


def _built(folder: str, name: str, places: Places) -> Shard:
    file = file_of(folder, name, name, places)
    try:
        return Shard(file, read_header(file))
    except HeaderProblem as problem:
        path = os.path.join(folder, name)
        raise InvalidInput(str(problem), subject=path, hint="remove this shard to have it built again") from None


def _taken(name: str, reference: str, folder: str, places: Places) -> Sidecar:
    """The file that `reference` means, to be known as `name`."""
    parsed = parse_reference(reference)
    if isinstance(parsed, HubReference):
        file = file_of(locate_repository(parsed, places), parsed.file, name, places)
    elif isinstance(parsed, StoreReference):
        require_elsewhere(parsed, folder)
        folder, _, path = parsed.address.rpartition("/")
        file = file_of(folder, path, name, places)
    else:
        file = file_of(folder, os.path.expanduser(parsed.path), name, places)
    data = read_file(file)
    return Sidecar(file, sha256_of(data), data)


def _is_there(path: str) -> bool:
    """Whether there is anything at a path, a dangling link included, or a file at an address."""
    return is_file(path) if is_address(path) else os.path.lexists(path)


def _read_lock(path: str) -> tuple[Lock | None, str | None]:
    if not _is_there(path):
        return None, None
    data = read_document(path_here(path), MAX_LOCK_BYTES, "lock")
    try:
        return parse_lock(data), sha256_of(data)
    except LockProblems as error:
        first, *others = error.lines
        raise InvalidInput(
            first, subject=path, hint="remove the lock and run overlay lock again", others=tuple(others)
        ) from None


def _opened_pair(graft: str, derived: Derived, base: Checkpoint, donor: Checkpoint) -> Opened:
    manifest = derived.manifest
    grafts = tuple(GraftInput(entry, donor, {}) for entry in manifest.grafts)
    files = {name: (FileInput(change, donor.sidecars[name]),) for name, change in manifest.files.items()}
    return Opened(
        path=graft,
        manifest=manifest,
        lock=None,
        lock_sha256=None,
        base=base,
        donors=dict.fromkeys(manifest.donors, donor),
        groups=((Layer(manifest, grafts, files),),),
        left_out=derived.left_out,
    )


def _changed_shards(base: Checkpoint, graft: Checkpoint) -> list[str]:
    """Shards that both have under one name, with other bytes; reads both only when size and header agree."""
    shared = [name for name in graft.shards if name in base.shards]
    return [name for name in shared if not _same_bytes(base.shards[name], graft.shards[name])]


def _same_bytes(one: Shard, other: Shard) -> bool:
    if one.file.fingerprint[:2] == other.file.fingerprint[:2]:
        return True
    if one.file.size != other.file.size or one.header.digest != other.header.digest:
        return False
    if one.file.stated_sha256 and other.file.stated_sha256 and (one.file.is_remote or other.file.is_remote):
        return one.file.stated_sha256 == other.file.stated_sha256
    left, right = (TensorSource(s.file.name, "", (), s.file, 0, s.file.size) for s in (one, other))
    return equal_ranges(left, right)
