"""Locating: from what the user names to a checkpoint that was read.

A reference may be a path, a repository of the Hub, or a folder of an object store.  A repository that is whole in the Hub's
cache is a directory like any other; otherwise it keeps its address, ``hf://org/name@<commit>``, and its files are fetched
when their bytes are needed.  So "a directory" below is a real path or an address; `storage.stores.is_address` tells.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from overlay.core.checking import check, require_sound
from overlay.core.checkpoint import Checkpoint, FileSeen
from overlay.core.findings import Finding, errors
from overlay.core.target import linked_files
from overlay.errors import EnvironmentFault, InvalidInput, UsageError
from overlay.formats.names import SHARD_SUFFIX
from overlay.formats.references import HubReference, PathReference, StoreReference, parse_reference
from overlay.storage.checkpoints import read_checkpoint
from overlay.storage.finding import Wanted, find_by_content
from overlay.storage.hub_cache import is_in_cache, snapshot_folder
from overlay.storage.links import roots_for
from overlay.storage.local import LocalFolder, file_at
from overlay.storage.seen import SharedHeaders
from overlay.storage.stores import RemoteFolder, is_address, open_remote
from overlay.storage.targets import look_at_target

if TYPE_CHECKING:  # models of documents take 0.1 s to import
    from overlay.formats.lock import LockedSource

_DOCUMENTS: Final = (".yaml", ".yml", ".lock.json", ".index.json", SHARD_SUFFIX)
"""Files of a repository that a command may be asked to look at."""


class Moment:
    """What branches meant when a command first asked: they may move while it runs, and it sees one state of each."""

    def __init__(self) -> None:
        self._commits: dict[HubReference, str] = {}

    def commit_of(self, reference: HubReference) -> str:
        """The commit that `reference` means; asked for once.

        Raises:
            EnvironmentFault: the Hub cannot be asked, and the local cache does not know.
        """
        whole = replace(reference, file="")
        if whole not in self._commits:
            from overlay.storage.hub.opening import resolve_commit  # what is given by a path does not wait for it

            self._commits[whole] = resolve_commit(whole)
        return self._commits[whole]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the user says that things are, beyond what a manifest says."""

    base: str | None = None
    """A local copy of the base."""
    donors: Mapping[str, str] = field(default_factory=dict)
    """Donor's name to a local copy."""
    allowed_roots: tuple[str, ...] = ()
    """Folders that a checkpoint's links may reach, and the files that a stranger's manifest takes."""
    confined: bool = False
    """Whether a manifest may only take files out of its own folder: one that came with a repository, and nobody named."""
    search: tuple[str, ...] = ()
    """Folders in which a base that its place no longer has is looked for by content."""
    moment: Moment = field(default_factory=Moment, compare=False, repr=False)
    """What branches mean, for as long as these places are used."""


def locate(reference: str, folder: str, places: Places, commit: str | None = None) -> str:
    """The directory that `reference` means, links resolved, or its address where it is not whole on this machine.

    Args:
        reference: as somebody wrote it.
        folder: what a path is relative to: a directory or an address.
        places: which commits its branches mean.
        commit: the locked one, where there is a lock.

    Raises:
        UsageError: no reference at all.
        InvalidInput: a manifest that came from elsewhere names a place of this machine.
        EnvironmentFault: the Hub cannot be asked, and the local cache does not hold it.
    """
    try:
        parsed = parse_reference(reference)
    except ValueError as error:
        raise UsageError(str(error), subject=reference, hint="name a folder, or hf://org/name[@revision]") from None
    if isinstance(parsed, HubReference):
        if parsed.file:
            raise _no_repository(parsed, reference)
        return locate_repository(parsed, places, commit)
    if isinstance(parsed, StoreReference):
        require_elsewhere(parsed, folder)
        return parsed.address
    if is_foreign(folder):
        return _beside(reference, parsed.path, folder)
    return os.path.realpath(os.path.join(folder, os.path.expanduser(parsed.path)))


def locate_repository(reference: HubReference, places: Places, commit: str | None = None) -> str:
    """The snapshot of a repository, where all of it is on this machine, or its address at a commit.

    Costs a request where `reference` names a branch, and one for the listing of a commit that was never listed here; none
    offline.

    Raises:
        EnvironmentFault: the Hub cannot be asked, and the local cache does not hold it.
    """
    pinned = commit or places.moment.commit_of(reference)
    address, snapshot = f"hf://{reference.repo}@{pinned}", snapshot_folder(reference.repo, pinned)
    try:
        files = open_remote(address).listing.files
    except EnvironmentFault:
        if not os.path.isdir(snapshot):
            raise
        return os.path.realpath(
            snapshot
        )  # nobody can be asked whether it is whole; what is missing will be found missing
    whole = files and all(
        _has_size(os.path.join(snapshot, *path.split("/")), file.size) for path, file in files.items()
    )
    return os.path.realpath(snapshot) if whole else address


def _no_repository(parsed: HubReference, reference: str) -> UsageError:
    problem = f"expected a repository, found the file {parsed.file} in one"
    return UsageError(problem, subject=reference, hint=f"hf://{parsed.repo}@REVISION names a revision")


def _has_size(path: str, size: int) -> bool:
    """Whether a file is there and as long as it is listed; a damaged one is then told, and named, when it is opened."""
    try:
        return os.stat(path).st_size == size
    except OSError:
        return False


def folder_of(path: str) -> str:
    """The folder of the file at a path or address, absolute."""
    return path.rpartition("/")[0] if is_address(path) else os.path.dirname(os.path.abspath(path))


def place_of_document(reference: str, places: Places) -> str:
    """The path or address of what `reference` names, which may be a file of a repository.

    Raises:
        EnvironmentFault: as `locate_repository`.
        UsageError: a file that no command looks at.
    """
    try:
        parsed = parse_reference(reference)
    except ValueError:
        return reference  # who opens it says what is wrong
    if isinstance(parsed, HubReference):
        if parsed.file and not parsed.file.endswith(_DOCUMENTS):
            raise _no_repository(parsed, reference)
        folder = locate_repository(parsed, places)
        return os.path.join(folder, parsed.file) if parsed.file else folder
    return parsed.address if isinstance(parsed, StoreReference) else reference


def is_foreign(folder: str) -> bool:
    """Whether a manifest in `folder` came from elsewhere: from an address, or with a snapshot of the Hub's cache.

    "." stands for what the user types, wherever that is.
    """
    return is_address(folder) or (folder != "." and is_in_cache(folder))


def require_elsewhere(reference: StoreReference, folder: str) -> None:
    """Refuse a server of this machine that a manifest from elsewhere names; without TLS there is no other.

    Raises:
        InvalidInput: it names one.
    """
    if reference.address.startswith("http://") and is_foreign(folder):
        raise _not_for_everybody(str(reference), folder)


def _beside(reference: str, path: str, folder: str) -> str:
    """A path that a manifest from elsewhere names: its repository itself, and nothing else of this machine.

    Raises:
        InvalidInput: it leads out of the repository.
    """
    if os.path.normpath(path) == ".":
        return folder
    raise _not_for_everybody(reference, folder)


def _not_for_everybody(reference: str, folder: str) -> InvalidInput:
    return InvalidInput(
        "expected a reference that means the same for everybody, found a place of one machine",
        subject=f"{folder}: {reference}",
        hint="name where it is on this machine: --base or --donor",
    )


def open_checkpoint(
    label: str,
    directory: str,
    places: Places,
    *,
    partial: bool = False,
    headers: bool = True,
    shared: SharedHeaders | None = None,
) -> Checkpoint:
    """Read the checkpoint in `directory`; what is wrong with it is in its findings."""
    if is_address(directory):
        return read_checkpoint(label, RemoteFolder(directory), partial=partial, headers=headers, shared=shared)
    expected: dict[str, str] = {}
    receipt = look_at_target(directory).receipt if os.path.isdir(directory) else None
    if receipt is not None:  # a target of ours: its links lead where the receipt says
        expected = linked_files(receipt)
    roots = roots_for(directory, places.allowed_roots, expected)
    return read_checkpoint(label, LocalFolder(roots), partial=partial, headers=headers, shared=shared)


def locate_locked(reference: str, folder: str, places: Places, locked: LockedSource) -> str:
    """Where the checkpoint is that a lock pins: in its place, or, when that is gone, wherever a copy is found by content.

    Raises:
        EnvironmentFault: it is in neither; what would satisfy the lock is said.
        UsageError: as `locate`.
    """
    try:
        place = locate(reference, folder, places, locked.commit)
        missing = [name for name in locked.files if not is_address(place) and not _is_in(place, name)]
        if missing and isinstance(parse_reference(reference), HubReference):  # a snapshot that was fetched in part
            problem = f"expected the locked commit in {place}, found it without {missing[0]}"
            raise EnvironmentFault(problem, subject=reference, hint=f"hf download {reference.removeprefix('hf://')}")
        return place
    except EnvironmentFault as fault:
        wanted = {
            name: Wanted(pinned.size, pinned.sha256 or "", pinned.header_sha256 or "")
            for name, pinned in locked.files.items()
            if name.endswith(SHARD_SUFFIX)
        }
        small = {name: Wanted(f.size, f.sha256 or "") for name, f in locked.files.items() if name not in wanted}
        found, looked = find_by_content(wanted, small, places.search) if wanted else (None, 0)
        if found is not None and found.held == len(wanted):
            return found.folder
        best = f"; {found.folder} holds {found.held} of them" if found is not None else ""
        what = (
            f"the lock takes any folder with the same {len(wanted)} shards in place of it (--base, or --look-in ABOVE-IT); "
            f"looked at the Hub's cache and at {looked} folders with some of them{best}"
        )
        raise EnvironmentFault(fault.problem, subject=fault.subject, hint=fault.hint, others=(what,)) from None


def _is_in(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, *name.split("/")))


def open_sound(label: str, directory: str, places: Places, *, partial: bool = False) -> Checkpoint:
    """Read the checkpoint in `directory`, and refuse it when anything is wrong with it.

    Raises:
        InvalidInput: it is not a checkpoint, or has errors; all are named.
    """
    seen = open_checkpoint(label, directory, places, partial=partial)
    require_sound(seen, errors(check(seen)))
    return seen


def named_file(path: str) -> FileSeen:
    """The file at a path or address that the user named; wherever a link leads, it leads there in plain sight.

    Raises:
        InvalidInput: there is no such file.
    """
    if is_address(path):
        return file_of(folder_of(path), os.path.basename(path), os.path.basename(path), Places())
    return file_at(path, os.path.basename(path))


def file_of(folder: str, path: str, name: str, places: Places) -> FileSeen:
    """The file at `path`, seen from `folder`.  A path may lead elsewhere in plain sight; a link in the folder may not.

    Raises:
        InvalidInput: there is no such file, or it is a link that leaves the folder.
    """
    if is_address(folder):
        seen = RemoteFolder(folder).resolve(os.path.normpath(path))
        if isinstance(seen, Finding):
            raise InvalidInput(
                seen.message, subject=f"{folder}/{path}", hint=f"overlay inspect {folder} lists its files"
            )
        return replace(seen, name=name) if not seen.is_remote else seen
    file = file_at(os.path.join(folder, path), name)
    in_plain_sight = not places.confined and (os.path.isabs(path) or os.path.normpath(path).startswith(".."))
    if not in_plain_sight and not roots_for(os.path.realpath(folder), places.allowed_roots).admit(name, file.location):
        raise InvalidInput(
            f"expected a file inside {folder}, found {file.location}",
            subject=os.path.join(folder, path),
            hint="copy the file in, or allow its folder with --allow-root",
        )
    return file


def title_of(reference: str) -> str:
    """A manifest's name for a reference: its last part, in the letters that names may have."""
    last = os.path.basename(reference.rstrip("/")) or "overlay"
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in last if c.isascii())
    return kept.lstrip("._-")[:120] or "overlay"


def portable(reference: str) -> str:
    """`reference` as it can stand in a manifest anywhere on this machine: paths become absolute."""
    parsed = parse_reference(reference)
    return reference if not isinstance(parsed, PathReference) else os.path.abspath(os.path.expanduser(parsed.path))
