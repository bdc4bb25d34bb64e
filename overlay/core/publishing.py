"""Publishing: which files a repository on the Hub gets, and where their bytes come from.

What is published is what manifest and lock describe, and nothing that only lies beside them.  Three modes: the *difference*
(what the base lacks, and the composed index, so that the files of both repositories laid over each other are the result),
the *whole* (the base's files as well, copied on the server), and a *change* to the base's own repository.

Nothing here deletes: a file of the repository that the plan does not name stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from overlay.core.findings import Finding
from overlay.core.sidecar_roles import Role, role_of
from overlay.formats.lock import Lock
from overlay.formats.manifest import Manifest
from overlay.formats.names import CARD_NAME, INDEX_NAME, REPOSITORY_MANIFEST, SINGLE_NAME, lock_path
from overlay.formats.references import HubReference, PathReference, parse_reference
from overlay.formats.steps import KeepExpertsStep

Mode = Literal["difference", "whole", "change"]
Do = Literal["upload", "copy", "keep"]

LOCK_NAME: Final = lock_path(REPOSITORY_MANIFEST)
REPORT_NAME: Final = "conversion.json"
"""What `running.building` says of lossy steps."""
_OF_MANIFESTS: Final = (".yaml", ".yml", ".lock.json")
"""A sidecar with such a name could be taken for the repository's own manifest or lock."""
NO_INDEX: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""sha256 of nothing: a result of one shard has no index."""


class Listed(Protocol):
    """A file as a repository on the Hub lists it; `storage.remote.RemoteFile` is one."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> str:
        """Of the bytes, where it is stated: for large files."""

    @property
    def oid(self) -> str:
        """The git blob id: of the bytes for small files, of a pointer for large ones."""

    @property
    def xet_hash(self) -> str:
        """The name in the chunk store; without one the server cannot copy a large file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A file that the repository shall hold, and what its bytes are."""

    path: str
    """Inside the repository."""
    size: int
    sha256: str = ""
    """Of the bytes; "" for a small file of the base, of which only `oid` is known."""
    oid: str = ""
    """The git blob id of the bytes; "" for large files."""
    source: str = ""
    """A path on this machine, ``hf://org/name@<commit>/file`` for a copy on the server, "" for a text that was made."""
    data: bytes | None = None
    """The bytes of a small file of this machine."""

    def equals(self, held: Listed) -> bool:
        """Whether the repository's file has these bytes already."""
        if held.size != self.size:
            return False
        return held.sha256 == self.sha256 if held.sha256 or not self.oid else held.oid == self.oid


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A diff-only repository on this machine, read: its small files whole, its shards by their digests."""

    path: str
    manifest: Manifest
    lock: Lock | None
    files: Mapping[str, Item]
    """Path in the published repository to file: manifest and lock have their usual names."""
    beginnings: Mapping[str, bytes] = field(default_factory=dict)
    """The first bytes of files that were not read whole."""
    made: Mapping[str, Item] = field(default_factory=dict)
    """Index and patched sidecars that the folder lacks, or has otherwise than the lock says; composed from the base."""
    findings: tuple[Finding, ...] = ()
    """What is wrong with the folder's entries themselves: links that leave it, special files."""
    private: tuple[str, ...] = ()
    """Beginnings of paths that mean something on this machine alone."""

    def get(self, name: str) -> Item | None:
        """The file `name` as it shall be published."""
        return self.made.get(name) or self.files.get(name)

    def text_of(self, name: str) -> bytes:
        """The bytes of a small file; empty where there is none."""
        item = self.get(name)
        return item.data if item is not None and item.data is not None else b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The base's repository, as far as publishing has to know it."""

    reference: HubReference
    commit: str
    """The commit that is pinned, or that the reference means now."""
    head: str
    """The commit that the reference means now."""
    files: Mapping[str, Listed]
    """Of `commit`."""
    card: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The repository to publish to, as it stands."""

    repo: str
    head: str | None = None
    """The commit that a new one is laid on; None: there is no such repository yet."""
    files: Mapping[str, Listed] = field(default_factory=dict)
    card: bytes = b""


@dataclass(frozen=True, slots=True)
class Operation:
    """One file of the repository, and how it gets there."""

    do: Do
    item: Item

    def document(self) -> dict[str, Any]:
        """The operation as it stands in JSON documents."""
        item = self.item
        sizes = {"path": item.path, "bytes": item.size, "sha256": item.sha256}
        return {"do": self.do, **sizes, "source": item.source}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPlan:
    """What publishing does; a value that prints."""

    repo: str
    mode: Mode
    parent: str | None
    """The commit that the new one is laid on, and no other; None: the repository is made first."""
    create_pr: bool = False
    private: bool = False
    message: str
    description: str = ""
    operations: tuple[Operation, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return all(operation.do == "keep" for operation in self.operations)

    def bytes_to(self, do: Do) -> int:
        """Bytes of the files to which this is done."""
        return sum(operation.item.size for operation in self.operations if operation.do == do)


def mode_for(manifest: Manifest, repo: str, *, full: bool) -> Mode:
    """How `manifest` is published to `repo`; a standalone checkpoint is always whole."""
    base = parse_reference(manifest.base) if manifest.base is not None else None
    if isinstance(base, HubReference) and base.repo == repo:
        return "change"
    return "whole" if full or manifest.base is None else "difference"


def wanted(repository: Repository, origin: Origin | None, mode: Mode) -> list[Item]:
    """The files that the repository shall hold, those that are missing left out; the card is not among them."""
    names = list(result_names(repository))
    if mode != "change":
        names += [name for name in named_files(repository.manifest) if name not in names]
        names += [name for name in (REPORT_NAME, *licences(repository)) if name in repository.files]
        names += [REPOSITORY_MANIFEST, LOCK_NAME]
    items = {name: item for name in names if (item := repository.get(name)) is not None}
    if mode == "whole" and origin is not None:
        items = {**copies(repository, origin), **items}
    return [items[name] for name in sorted(items, key=_order)]


def result_names(repository: Repository) -> Iterator[str]:
    """What the result has and the base lacks: shards of grafts, the index, sidecars."""
    lock = repository.lock
    if lock is None:
        return
    yield from lock.grafts
    if lock.result.index_sha256 != NO_INDEX:
        yield INDEX_NAME
    yield from (name for name in lock.files if not is_hidden(name) and name != CARD_NAME)


def is_hidden(name: str) -> bool:
    """Whether a sidecar of the result has no place of its own in the repository, because of its name."""
    return name.endswith(_OF_MANIFESTS)


def named_files(manifest: Manifest) -> list[str]:
    """Paths inside the repository that the manifest names: files to take, keep lists, evidence."""
    changes = [*manifest.files.values(), *(f for engine in manifest.engines.values() for f in engine.files.values())]
    taken = [change.from_ for change in changes if change.from_ is not None]
    paths = [parsed.path for text in taken if isinstance(parsed := parse_reference(text), PathReference)]
    steps = (step for graft in manifest.grafts for step in graft.steps if isinstance(step, KeepExpertsStep))
    kept = [step.keep_experts for step in steps if isinstance(step.keep_experts, str)]
    shown = [entry for entry in manifest.evidence if not is_address(entry)]
    return sorted({*paths, *kept, *shown})


def is_address(entry: str) -> bool:
    """Whether an entry of ``evidence`` is a web address and no file."""
    return entry.startswith(("https://", "http://"))


def licences(repository: Repository) -> list[str]:
    """The licence texts that lie in the folder; they are published, whether or not the manifest names them."""
    return sorted(name for name in repository.files if "/" not in name and role_of(name) is Role.LICENCE)


def copies(repository: Repository, origin: Origin) -> dict[str, Item]:
    """What the result takes unchanged from the base: path to file; those that the base lacks are left out."""
    items = {}
    for path, name in base_files(repository).items():
        held = origin.files.get(name)
        if held is not None:
            address = str(HubReference(origin.reference.repo, origin.commit, name))
            oid = "" if held.sha256 else held.oid
            items[path] = Item(path=path, size=held.size, sha256=held.sha256, oid=oid, source=address)
    return items


def base_files(repository: Repository) -> dict[str, str]:
    """Path in the result to the base's file of the same bytes, for shards and sidecars; see `formats.lock`."""
    lock, manifest = repository.lock, repository.manifest
    if lock is None or lock.base is None:
        return {}
    shards = {name for name, file in lock.base.files.items() if file.header_sha256 is not None}
    removed = {name for name, change in manifest.files.items() if change.remove}
    gone = {*shards, *lock.files, *removed, INDEX_NAME, CARD_NAME, *licences(repository)}
    files = {name: name for name in lock.base.files if name not in gone}
    for path in index_shards(repository):
        if path in lock.grafts or path in lock.trims:
            continue
        alone = path not in shards and shards == {SINGLE_NAME}  # it gets a number beside other shards
        files[path] = SINGLE_NAME if alone else path
    return files


def foreign_shards(repository: Repository) -> frozenset[str]:
    """The shards that the index names and that are the base's."""
    lock = repository.lock
    return index_shards(repository) - lock.grafts.keys() if lock is not None else frozenset()


def index_shards(repository: Repository) -> frozenset[str]:
    """The shards that the index of the result names; without an index, those of the grafts."""
    from overlay.formats.index import IndexProblem, parse_index

    data = repository.text_of(INDEX_NAME)
    if not data:
        return frozenset(repository.lock.grafts) if repository.lock is not None else frozenset()
    try:
        return frozenset(parse_index(data).shards())
    except IndexProblem:
        return frozenset()  # its digest is not the lock's, which is told


def notes_for(repository: Repository, mode: Mode) -> list[str]:
    """What a publisher should know beforehand."""
    lock, notes = repository.lock, []
    if lock is not None and lock.trims and mode == "difference":
        count = f"{len(lock.trims)} shards" if len(lock.trims) > 1 else "1 shard"
        notes.append(f"{count} of the base must be written anew: without overlay nobody can put the result together")
    if repository.made:
        notes.append(
            f"composed from the base, since the folder has them not, or otherwise: {', '.join(repository.made)}"
        )
    return notes


def decide(items: Iterable[Item], destination: Destination) -> tuple[Operation, ...]:
    """What has to be done for each of `items`, given what the repository holds."""

    def operation(item: Item) -> Operation:
        held = destination.files.get(item.path)
        if held is not None and item.equals(held):
            return Operation("keep", item)
        return Operation("copy" if item.source.startswith("hf://") else "upload", item)

    return tuple(map(operation, items))


def _order(name: str) -> tuple[int, str]:
    """Shards first, then the index, then the rest: nothing is named before it is there."""
    return (0 if name.endswith(".safetensors") else 1 if name == INDEX_NAME else 2, name)
