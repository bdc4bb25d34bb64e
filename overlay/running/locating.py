"""Locating: from what the user names to a directory that was read.

A reference may be a path or a repository of the Hub; the latter is looked up in the local cache, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from overlay.core.checking import check, require_sound
from overlay.core.checkpoint import Checkpoint, FileSeen
from overlay.core.findings import errors
from overlay.core.target import linked_files
from overlay.errors import InvalidInput, UsageError
from overlay.formats.references import HubReference, parse_reference
from overlay.storage.hub_cache import find_snapshot
from overlay.storage.links import roots_for
from overlay.storage.local import SharedHeaders, file_at, read_checkpoint
from overlay.storage.targets import look_at_target


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
        if parsed.file:
            problem = f"expected a repository, found the file {parsed.file} in one"
            raise UsageError(problem, subject=reference, hint=f"hf://{parsed.repo}@REVISION names a revision")
        return os.path.realpath(find_snapshot(parsed, commit))
    return os.path.realpath(os.path.join(folder, os.path.expanduser(parsed.path)))


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
    expected: dict[str, str] = {}
    receipt = look_at_target(directory).receipt if os.path.isdir(directory) else None
    if receipt is not None:  # a target of ours: its links lead where the receipt says
        expected = linked_files(receipt)
    roots = roots_for(directory, places.allowed_roots, expected)
    return read_checkpoint(label, roots, partial=partial, headers=headers, shared=shared)


def open_sound(label: str, directory: str, places: Places, *, partial: bool = False) -> Checkpoint:
    """Read the checkpoint in `directory`, and refuse it when anything is wrong with it.

    Raises:
        InvalidInput: it is not a checkpoint, or has errors; all are named.
    """
    seen = open_checkpoint(label, directory, places, partial=partial)
    require_sound(seen, errors(check(seen)))
    return seen


def file_of(folder: str, path: str, name: str, places: Places) -> FileSeen:
    """The file at `path`, seen from `folder`.  A path may lead elsewhere in plain sight; a link in the folder may not.

    Raises:
        InvalidInput: there is no such file, or it is a link that leaves the folder.
    """
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
    return reference if isinstance(parsed, HubReference) else os.path.abspath(os.path.expanduser(parsed.path))
