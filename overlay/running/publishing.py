"""Publishing: read what lies on this machine and what the Hub has, and carry a plan out.

Nothing is written on this machine.  The folder is read as it is: every shard's sha256 is what this machine remembers of the
untouched file, or is computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from overlay.core.checkpoint import FileSeen
from overlay.core.findings import Finding, about
from overlay.core.parts import PatchedFile
from overlay.core.progress import Reporter
from overlay.core.publishing import (
    LOCK_NAME,
    Destination,
    Item,
    Origin,
    PublishPlan,
    Repository,
    named_files,
    result_names,
)
from overlay.errors import InvalidInput, UsageError
from overlay.formats.digest import git_hasher, sha256_of
from overlay.formats.lock import MAX_LOCK_BYTES, Lock, LockProblems, parse_lock
from overlay.formats.manifest import Manifest
from overlay.formats.names import CARD_NAME, INDEX_NAME, REPOSITORY_MANIFEST, SHARD_SUFFIX, lock_path
from overlay.formats.references import HubReference, parse_reference
from overlay.running.locating import Places
from overlay.running.opening import open_manifest, read_manifest
from overlay.running.preparing import manifest_in
from overlay.running.proving import prove
from overlay.storage.files import read_document
from overlay.storage.links import Roots, resolve, roots_for
from overlay.storage.seen import MAX_SIDECAR_BYTES, read_beginning, read_file
from overlay.storage.stores import open_remote

_SKIPPED: Final = (".git", ".cache", ".overlay")
"""Folders that clients keep for themselves in a working copy; nothing of them is published or told."""
_SKIPPED_FILES: Final = (".gitattributes", ".gitignore")
_MAX_CARD_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Published:
    """What came of a plan."""

    plan: PublishPlan
    commit: str | None
    """The commit that was made or proposed; None: nothing was changed."""
    url: str = ""
    """Of the commit, or of the pull request."""


def read_repository(path: str, places: Places, reporter: Reporter) -> Repository:
    """Read the diff-only repository at `path`, a folder or the manifest in it.

    Hashes every file that this machine has not hashed before.  The index and the patched sidecars are composed from the
    base where the folder lacks them, or has others than the lock pins.

    Raises:
        UsageError: `path` is not on this machine, or holds no manifest.
        InvalidInput: the manifest or the lock is malformed.
        EnvironmentFault: something cannot be read.
    """
    manifest_path = _manifest_at(path)
    folder = os.path.dirname(os.path.realpath(manifest_path))
    manifest = read_manifest(manifest_path)
    if not _looks_built(folder, manifest):
        problem = "expected a repository that holds the shards of its grafts, found a manifest alone"
        hint = f"overlay build {path} -o DIR, look at it, then overlay publish DIR"
        raise UsageError(problem, subject=path, hint=hint)
    names = {
        os.path.basename(manifest_path): REPOSITORY_MANIFEST,
        lock_path(os.path.basename(manifest_path)): LOCK_NAME,
    }
    seen, findings = _look(folder, places)
    beginnings = {names.get(f.name, f.name): read_beginning(f, 128) for f in seen if not _is_small(f)}
    files = {names.get(f.name, f.name): item for f, item in _items(seen, names, reporter)}
    repository = Repository(
        path=path,
        manifest=manifest,
        lock=_read_lock(lock_path(manifest_path)),
        files=files,
        beginnings=beginnings,
        findings=tuple(findings),
        private=_private_places(folder),
    )
    return replace(repository, made=_composed(repository, manifest_path, places))


def read_destination(repo: str, *, must_exist: bool) -> Destination:
    """What the repository to publish to holds now.

    Raises:
        InvalidInput: there is none, though a change is to be proposed to it.
        EnvironmentFault: the Hub cannot be reached, or refuses.
    """
    from overlay.storage.hub.publishing import find_head  # the Hub's client takes 0.2 s to import

    head = find_head(repo)
    if head is None:
        if must_exist:
            hint = "check the name; leave --create-pr out to make the repository"
            raise InvalidInput("expected a repository, found none for this user", subject=f"hf://{repo}", hint=hint)
        return Destination(repo=repo)
    files = open_remote(f"hf://{repo}@{head}").listing.files
    return Destination(repo=repo, head=head, files=files, card=read_card(repo, head))


def read_origin(repository: Repository) -> Origin | None:
    """The base's repository at the commit that is pinned; None for a base that is not on the Hub, and for no base.

    Raises:
        EnvironmentFault: the Hub cannot be reached, or has no such repository or commit any more.
    """
    from overlay.storage.hub.opening import resolve_commit  # as above

    manifest, lock = repository.manifest, repository.lock
    reference = parse_reference(manifest.base) if manifest.base is not None else None
    if not isinstance(reference, HubReference):
        return None
    head = resolve_commit(reference)
    pinned = lock.base.commit if lock is not None and lock.base is not None else None
    commit = pinned or head
    files = open_remote(f"hf://{reference.repo}@{commit}").listing.files
    return Origin(reference=reference, commit=commit, head=head, files=files, card=read_card(reference.repo, commit))


def read_donor_cards(repository: Repository) -> dict[str, bytes]:
    """Donor's name to the card of its repository; donors that are not on the Hub are left out.

    Raises:
        EnvironmentFault: the Hub cannot be reached, or has no such repository or commit any more.
    """
    from overlay.storage.hub.opening import resolve_commit  # as above

    lock, cards = repository.lock, {}
    for name, text in sorted(repository.manifest.donors.items()):
        reference = parse_reference(text)
        if not isinstance(reference, HubReference):
            continue
        locked = lock.donors.get(name) if lock is not None else None
        cards[name] = read_card(reference.repo, (locked.commit if locked else None) or resolve_commit(reference))
    return cards


def read_card(repo: str, commit: str) -> bytes:
    """The model card of a repository; empty where there is none.

    Raises:
        EnvironmentFault: the Hub cannot be reached, or refuses.
        InvalidInput: it is larger than a card can be.
    """
    remote = open_remote(f"hf://{repo}@{commit}")
    file = remote.listing.files.get(CARD_NAME)
    if file is None:
        return b""
    if file.size > _MAX_CARD_BYTES:
        problem = f"expected a card of at most {_MAX_CARD_BYTES} bytes, found {file.size}"
        raise InvalidInput(problem, subject=f"hf://{repo}@{commit}/{CARD_NAME}")
    return b"".join(remote.read(CARD_NAME, 0, file.size)) if file.size else b""


def carry_out(plan: PublishPlan, *, bars: bool) -> Published:
    """Do what `plan` says: one commit, unless there is nothing to do.

    Raises:
        Conflict: the repository moved since the plan was made.
        EnvironmentFault: the Hub cannot be reached, or refuses; the repository is what it was.
    """
    if plan.empty:
        return Published(plan, None)
    from overlay.storage.hub.publishing import File, commit, create  # as above

    parent = plan.parent or create(plan.repo, private=plan.private)
    files = [
        File(op.item.path, op.item.data if op.item.data is not None else op.item.source, _proved(op.item))
        for op in plan.operations
        if op.do != "keep"
    ]
    made = commit(
        plan.repo,
        files,
        parent=parent,
        message=plan.message,
        description=plan.description,
        create_pr=plan.create_pr,
        bars=bars,
    )
    return Published(plan, made.commit, made.url)


def _proved(item: Item) -> str:
    """The sha256 of what is sent from a file of this machine; "" for texts and for copies."""
    return item.sha256 if item.data is None and not item.source.startswith("hf://") else ""


def made_item(path: str, data: bytes) -> Item:
    """A file that was made in memory."""
    return Item(path=path, size=len(data), sha256=sha256_of(data), oid=_blob_id(data), data=data)


def _manifest_at(path: str) -> str:
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        hint = "overlay build MANIFEST -o DIR writes one"
        raise UsageError("expected a folder or manifest on this machine, found none", subject=path, hint=hint)
    manifest = manifest_in(path)
    if manifest is None:
        hint = "overlay build MANIFEST -o DIR writes one, and overlay init --derived"
        raise UsageError(f"expected a folder with {REPOSITORY_MANIFEST}, found none in it", subject=path, hint=hint)
    return manifest


def _looks_built(folder: str, manifest: Manifest) -> bool:
    """Whether anything of the grafts lies beside the manifest; what is missing of the rest is for the gate to say."""
    if not manifest.grafts:
        return True
    return any(name.endswith(SHARD_SUFFIX) for name in os.listdir(folder))


def _look(folder: str, places: Places) -> tuple[list[FileSeen], list[Finding]]:
    """Every file below `folder`, and what is wrong with its entries."""
    roots = roots_for(folder, places.allowed_roots)
    seen, findings = [], []
    for name in _names(folder):
        found = _resolved(roots, name)
        if isinstance(found, FileSeen):
            seen.append(found)
        else:
            findings.append(found)
    return seen, findings


def _names(folder: str) -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        relative = os.path.relpath(here, folder)
        prefix = "" if relative == "." else f"{relative}/"
        linked = [name for name in folders if os.path.islink(os.path.join(here, name))]
        folders[:] = sorted(name for name in folders if name not in linked and (prefix or name not in _SKIPPED))
        yield from (prefix + name for name in sorted([*files, *linked]) if prefix or name not in _SKIPPED_FILES)


def _resolved(roots: Roots, name: str) -> FileSeen | Finding:
    try:
        return resolve(roots, name)
    except OSError as error:
        return about("LCK014", name, f"expected a file that can be read, found: {error.strerror}")


def _is_small(file: FileSeen) -> bool:
    return not file.name.endswith(SHARD_SUFFIX) and file.size <= MAX_SIDECAR_BYTES


def _items(seen: list[FileSeen], names: Mapping[str, str], reporter: Reporter) -> Iterator[tuple[FileSeen, Item]]:
    large = [file for file in seen if not _is_small(file)]
    digests = prove(large, {}, content=True, reporter=reporter).digests
    for file in seen:
        path = names.get(file.name, file.name)
        if _is_small(file):
            data = read_file(file)
            yield file, replace(made_item(path, data), source=file.location)
        else:
            sha256 = digests[file.location].sha256
            yield file, Item(path=path, size=file.size, sha256=sha256, source=file.location)


def _composed(repository: Repository, path: str, places: Places) -> dict[str, Item]:
    """Index and patched sidecars that the folder lacks, or has otherwise than pinned; the base is only read for them."""
    lock = repository.lock
    if lock is None or lock.manifest_sha256 != repository.manifest.digest:
        return {}
    changes = repository.manifest.files
    patched = {name for name, change in changes.items() if change.patch is not None or change.merge is not None}
    pinned = {name: lock.files[name].sha256 for name in patched & lock.files.keys()}
    pinned[INDEX_NAME] = lock.result.index_sha256
    wanting = {
        name
        for name in result_names(repository)
        if name in pinned and ((item := repository.files.get(name)) is None or item.sha256 != pinned[name])
    }
    if not wanting or not repository.files.keys() >= {*named_files(repository.manifest), *lock.grafts}:
        return {}  # nothing to compose, or nothing to compose it from: the gate names what is missing
    composition = open_manifest(path, replace(places, confined=True)).compose()
    made = {file.name: file.data for file in composition.sidecars if isinstance(file, PatchedFile)}
    if composition.index:
        made[INDEX_NAME] = composition.index
    return {name: made_item(name, data) for name, data in made.items() if name in wanting}


def _read_lock(path: str) -> Lock | None:
    if not os.path.lexists(path):
        return None
    try:
        return parse_lock(read_document(path, MAX_LOCK_BYTES, "lock"))
    except LockProblems as error:
        first, *others = error.lines
        hint = "remove the lock and run overlay lock again"
        raise InvalidInput(first, subject=path, hint=hint, others=tuple(others)) from None


def _private_places(folder: str) -> tuple[str, ...]:
    """The home and the working folder of this user, and where the repository lies."""
    places = {os.path.expanduser("~"), os.getcwd(), os.path.dirname(folder)}
    return tuple(sorted(f"{place.rstrip('/')}/" for place in places if place.count("/") > 1))


def _blob_id(data: bytes) -> str:
    """The id that git gives these bytes."""
    digest = git_hasher(len(data))
    digest.update(data)
    return str(digest.hexdigest())
