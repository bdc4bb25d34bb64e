"""Opening: read everything that a manifest names, once, before anything is decided."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from overlay.core.checking import check
from overlay.core.checkpoint import Checkpoint, FileSeen, Shard, Sidecar
from overlay.core.composing import Composition, GraftInput, compose, require_sound
from overlay.core.deriving import Derived, derive
from overlay.core.findings import errors
from overlay.core.target import linked_files
from overlay.errors import InvalidInput, UsageError
from overlay.formats import yaml_text
from overlay.formats.digest import sha256_of
from overlay.formats.header import HeaderProblem
from overlay.formats.lock import MAX_LOCK_BYTES, Lock, LockProblems, parse_lock
from overlay.formats.manifest import Graft, Manifest, ManifestProblems, parse_manifest
from overlay.formats.references import HubReference, parse_reference
from overlay.storage.files import read_document
from overlay.storage.hub_cache import find_snapshot
from overlay.storage.links import roots_for
from overlay.storage.local import file_at, read_checkpoint, read_file, read_header
from overlay.storage.targets import look_at_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the user says that things are, beyond what a manifest says."""

    base: str | None = None
    """A local copy of the base."""
    donors: Mapping[str, str] = field(default_factory=dict)
    """Donor's name to a local copy."""
    allowed_roots: tuple[str, ...] = ()
    """Folders that a checkpoint's links may reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A manifest and everything that it names."""

    path: str
    """The manifest's file, or the graft that it was derived from."""
    manifest: Manifest
    lock: Lock | None
    lock_sha256: str | None
    """Of the lock's text."""
    base: Checkpoint
    donors: Mapping[str, Checkpoint]
    grafts: tuple[GraftInput, ...]
    carried: Mapping[str, Sidecar]
    left_out: tuple[str, ...] = ()
    """Files of a diff-only repository without a manifest that are not taken."""

    def compose(self) -> Composition:
        """The checkpoint that the manifest describes; raises what `core.composing.compose` raises."""
        return compose(self.manifest, self.base, self.grafts, self.carried)


def lock_path(manifest_path: str) -> str:
    """``NAME.lock.json`` beside the manifest ``NAME.yaml``."""
    return os.path.splitext(manifest_path)[0] + ".lock.json"


def open_manifest(path: str, places: Places, *, with_lock: bool = True) -> Opened:
    """Read the manifest at `path`, its lock, its base, its donors and the sidecars that it takes from elsewhere.

    Raises:
        InvalidInput: the manifest, the lock or a checkpoint is malformed; every problem is named.
        EnvironmentFault: something cannot be read, or a repository is not on this machine.
    """
    manifest = read_manifest(path)
    _require_supported(manifest, path)
    lock, lock_sha256 = _read_lock(lock_path(path)) if with_lock else (None, None)
    folder = os.path.dirname(os.path.abspath(path))
    base = _open_base(manifest, folder, places, lock)
    wanted = {graft.from_ for graft in manifest.grafts}
    built = {graft.shard: _built_beside(folder, graft, places) for graft in manifest.grafts}
    donors = {
        name: _open_donor(name, manifest.donors[name], folder, places, lock)
        for name in sorted(wanted)
        if any(built[g.shard] is None for g in manifest.grafts if g.from_ == name) or name in places.donors
    }
    return Opened(
        path=path,
        manifest=manifest,
        lock=lock,
        lock_sha256=lock_sha256,
        base=base,
        donors=donors,
        grafts=tuple(GraftInput(graft, donors.get(graft.from_), built[graft.shard]) for graft in manifest.grafts),
        carried=_carried(manifest, folder, places),
    )


def open_pair(base: str, graft: str, places: Places, name: str = "") -> Opened:
    """Read a base and a diff-only repository without a manifest, and derive the manifest that joins them.

    Raises:
        Conflict: the repository was made for another base.
        InvalidInput, EnvironmentFault: as `open_manifest`.
    """
    base_seen = _open_sound(base, locate(base, "."), places)
    graft_seen = _open_sound(graft, locate(graft, "."), places, partial=True)
    changed = frozenset(_changed_shards(base_seen, graft_seen))
    title = name or _title(graft)
    derived = derive(base_seen, graft_seen, changed, name=title, refs=(_portable(base), _portable(graft)))
    return _opened_pair(graft, derived, base_seen, graft_seen)


def read_manifest(path: str) -> Manifest:
    """The manifest at `path`.

    Raises:
        InvalidInput: it is missing or malformed; every problem is named with line and column.
    """
    data = read_document(path, yaml_text.MAX_BYTES, "manifest")
    try:
        return parse_manifest(data)
    except ManifestProblems as error:
        first, *others = (f"{path}:{line}" for line in error.lines())
        raise InvalidInput(
            first, hint="overlay schema prints the manifest's JSON Schema", others=tuple(others)
        ) from None


def locate(reference: str, folder: str, commit: str | None = None) -> str:
    """The directory on this machine that `reference` means, links resolved.

    Raises:
        UsageError: no reference at all.
        EnvironmentFault: a Hub reference that the local cache does not hold.
    """
    try:
        parsed = parse_reference(reference)
    except ValueError as error:
        raise UsageError(str(error), subject=reference, hint="name a folder, or hf://org/name[@revision]") from None
    if isinstance(parsed, HubReference):
        return os.path.realpath(find_snapshot(parsed, commit))
    return os.path.realpath(os.path.join(folder, os.path.expanduser(parsed.path)))


def open_checkpoint(
    label: str, directory: str, places: Places, *, partial: bool = False, headers: bool = True
) -> Checkpoint:
    """Read the checkpoint in `directory`; what is wrong with it is in its findings."""
    expected: dict[str, str] = {}
    receipt = look_at_target(directory).receipt if os.path.isdir(directory) else None
    if receipt is not None:  # a target of ours: its links lead where the receipt says
        expected = linked_files(receipt)
    roots = roots_for(directory, places.allowed_roots, expected)
    return read_checkpoint(label, roots, partial=partial, headers=headers)


def _open_sound(label: str, directory: str, places: Places, *, partial: bool = False) -> Checkpoint:
    seen = open_checkpoint(label, directory, places, partial=partial)
    require_sound(seen, errors(check(seen)))
    return seen


def _open_base(manifest: Manifest, folder: str, places: Places, lock: Lock | None) -> Checkpoint:
    reference = places.base or str(manifest.base)
    commit = lock.base.commit if lock is not None and places.base is None else None
    directory = locate(reference, "." if places.base else folder, commit)
    return _open_sound(reference, directory, places)


def _open_donor(name: str, reference: str, folder: str, places: Places, lock: Lock | None) -> Checkpoint:
    """A donor may be a diff-only repository, so that it need not be whole; the tensors that are taken must be there."""
    given = places.donors.get(name)
    locked = lock.donors.get(name) if lock is not None and given is None else None
    directory = locate(given or reference, "." if given else folder, locked.commit if locked else None)
    return _open_sound(given or reference, directory, places, partial=True)


def _built_beside(folder: str, graft: Graft, places: Places) -> Shard | None:
    """The graft's shard, when it lies beside the manifest as it does in a diff-only repository."""
    path = os.path.join(folder, graft.shard)
    if graft.tensors is None or not os.path.lexists(path):
        return None
    file = _file_of(folder, graft.shard, graft.shard, places)
    try:
        return Shard(file, read_header(file))
    except HeaderProblem as problem:
        raise InvalidInput(str(problem), subject=path, hint="remove this shard to have it built again") from None


def _carried(manifest: Manifest, folder: str, places: Places) -> dict[str, Sidecar]:
    carried = {}
    for name, change in manifest.files.items():
        parsed = parse_reference(str(change.from_))
        if isinstance(parsed, HubReference):
            file = _file_of(find_snapshot(HubReference(parsed.repo, parsed.revision)), parsed.file, name, places)
        else:
            file = _file_of(folder, os.path.expanduser(parsed.path), name, places)
        carried[name] = Sidecar(file, sha256_of(read_file(file)))
    return carried


def _file_of(folder: str, path: str, name: str, places: Places) -> FileSeen:
    """The file at `path`, seen from `folder`.  A path may lead elsewhere in plain sight; a link in the folder may not.

    Raises:
        InvalidInput: there is no such file, or it is a link that leaves the folder.
    """
    file = file_at(os.path.join(folder, path), name)
    in_plain_sight = os.path.isabs(path) or os.path.normpath(path).startswith("..")
    if not in_plain_sight and not roots_for(os.path.realpath(folder), places.allowed_roots).admit(name, file.location):
        raise InvalidInput(
            f"expected a file inside {folder}, found a link to {file.location}",
            subject=os.path.join(folder, path),
            hint="copy the file in, or allow its folder with --allow-root",
        )
    return file


def _read_lock(path: str) -> tuple[Lock | None, str | None]:
    if not os.path.lexists(path):
        return None, None
    data = read_document(path, MAX_LOCK_BYTES, "lock")
    try:
        return parse_lock(data), sha256_of(data)
    except LockProblems as error:
        first, *others = error.lines
        raise InvalidInput(
            first, subject=path, hint="remove the lock and run overlay lock again", others=tuple(others)
        ) from None


def _require_supported(manifest: Manifest, path: str) -> None:
    """Refuse, before anything is read, what this version does not carry out."""
    unsupported = []
    if manifest.base is None:
        unsupported.append("base: null")
    if manifest.drop:
        unsupported.append("drop")
    unsupported += [f"grafts[{n}].mode: replace" for n, g in enumerate(manifest.grafts) if g.mode != "add"]
    unsupported += [f"grafts[{n}].steps" for n, g in enumerate(manifest.grafts) if g.steps]
    unsupported += [f"files[{name!r}]: other than from" for name, change in manifest.files.items() if not change.from_]
    if unsupported:
        raise InvalidInput(
            f"{unsupported[0]}: this version carries out grafts in mode add, without steps, and files taken whole",
            subject=path,
            hint="remove the key, or use a newer overlay",
            others=tuple(unsupported[1:]),
        )


def _opened_pair(graft: str, derived: Derived, base: Checkpoint, donor: Checkpoint) -> Opened:
    manifest = derived.manifest
    return Opened(
        path=graft,
        manifest=manifest,
        lock=None,
        lock_sha256=None,
        base=base,
        donors=dict.fromkeys(manifest.donors, donor),
        grafts=tuple(GraftInput(entry, donor, None) for entry in manifest.grafts),
        carried={name: donor.sidecars[name] for name in manifest.files},
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
    return filecmp.cmp(one.file.location, other.file.location, shallow=False)


def _title(reference: str) -> str:
    """A manifest's name for a reference: its last part, in the letters that names may have."""
    last = os.path.basename(reference.rstrip("/")) or "overlay"
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in last if c.isascii())
    return kept.lstrip("._-")[:120] or "overlay"


def _portable(reference: str) -> str:
    """`reference` as it can stand in a manifest anywhere on this machine: paths become absolute."""
    parsed = parse_reference(reference)
    return reference if isinstance(parsed, HubReference) else os.path.abspath(os.path.expanduser(parsed.path))
