"""Verifying: is a checkpoint what its index, its headers, its lock or its receipt says?

Three levels, each including the one before: ``structure`` (names, links, sizes, the index, small files), ``headers``
(every header strictly valid and crossed with the index), ``content`` (every byte hashed afresh).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from overlay.core.checking import check, check_draft, check_parameters, check_unlisted
from overlay.core.checkpoint import Checkpoint, FileSeen
from overlay.core.findings import Finding, about, errors
from overlay.core.gaps import check_layers, check_series
from overlay.core.progress import Reporter
from overlay.core.target import TargetSeen, check_target, linked_files, private_files
from overlay.errors import InvalidInput
from overlay.formats import model_config, strict_json
from overlay.formats.names import INDEX_NAME, RECEIPT_NAME, REPOSITORY_MANIFEST, SHARD_SUFFIX, SINGLE_NAME, lock_path
from overlay.running.gathering import can_mend, gather, read_shards
from overlay.running.locating import Places, folder_of, open_checkpoint
from overlay.running.proving import Level, hash_afresh, mismatch
from overlay.storage.files import read_document
from overlay.storage.hashing import hash_file
from overlay.storage.links import resolve, roots_for
from overlay.storage.local import file_at
from overlay.storage.proofs import ProofStore
from overlay.storage.seen import MAX_SIDECAR_BYTES, read_file
from overlay.storage.stores import RemoteFolder, is_address, is_file, names_at, path_here
from overlay.storage.targets import look_at_target

if TYPE_CHECKING:
    from overlay.formats.receipt import Receipt

_LOCK_SUFFIX: Final = ".lock.json"
_BY_KEY: Final = {
    "overlay_receipt": "a receipt",
    "overlay_lock": f"a lock that is not called NAME{_LOCK_SUFFIX}",
    "weight_map": f"an index that is not called {INDEX_NAME}",
}
"""A key that only one kind of document has, to that kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What verifying found."""

    subject: str
    level: Level
    findings: tuple[Finding, ...]
    shards: int
    tensors: int
    data_bytes: int
    hashed_bytes: int
    """Bytes that were read and digested."""
    compared: int
    """Files whose digest was compared with an expected one."""
    uncompared: tuple[str, ...]
    """Files of which no digest is expected, or whose bytes were not read at this level."""
    mendable: bool = False
    """Whether a new index would put something right and can be written; False where headers were not read."""
    elsewhere: int = 0
    """Of the latter, files on other machines: the sha256 that their store states was compared, and no byte was read."""
    derived: int = 0
    """Shards of grafts that were made again from their donors and compared."""

    @property
    def ok(self) -> bool:
        """Whether there is no error among the findings."""
        return not errors(self.findings)

    def document(self) -> dict[str, Any]:
        """The verdict as it stands in JSON documents."""
        return {
            "target": self.subject,
            "level": self.level,
            "ok": self.ok,
            "mendable": self.mendable,
            "shards": self.shards,
            "tensors": self.tensors,
            "total_size": self.data_bytes,
            "hashed_bytes": self.hashed_bytes,
            "derived": self.derived,
            "proof": {"compared": self.compared, "unproven": list(self.uncompared)},
            "findings": [finding.document() for finding in self.findings],
        }


def tell_apart(reference: str) -> tuple[Literal["checkpoint", "repository", "manifest", "shard"], str]:
    """What `reference` is, by its name and by what is there, and the path to look at.

    A lock means the manifest beside it, an index the folder that it lies in, and a folder that was built its manifest.

    Raises:
        InvalidInput: a lock without a manifest beside it, or a JSON document of another kind.
    """
    if not is_file(reference):
        inside = os.path.join(reference, REPOSITORY_MANIFEST)
        if is_file(inside) and is_file(lock_path(inside)):
            return "repository", inside
        dangling = os.path.islink(reference) and not os.path.exists(reference)
        return ("shard" if dangling and reference.endswith(SHARD_SUFFIX) else "checkpoint"), reference
    if reference.endswith(SHARD_SUFFIX):
        return "shard", reference
    if os.path.basename(reference) == INDEX_NAME:
        return "checkpoint", os.path.dirname(reference) or "."
    if reference.endswith(_LOCK_SUFFIX):
        return "manifest", _manifest_of(reference)
    if reference.endswith(".json"):
        _require_manifest(reference)
    return "manifest", reference


def _manifest_of(lock: str) -> str:
    """The manifest beside `lock`."""
    manifests = [lock.removesuffix(_LOCK_SUFFIX) + suffix for suffix in (".yaml", ".yml")]
    for path in manifests:
        if is_file(path):
            return path
    problem = f"expected the manifest {os.path.basename(manifests[0])} beside this lock, found none"
    raise InvalidInput(problem, subject=lock, hint="put the manifest there, or name the target: its receipt is enough")


def _require_manifest(path: str) -> None:
    """Refuse a JSON document that is certainly no manifest; what is wrong with one is said when it is read as such."""
    try:
        document = strict_json.decode_unchecked(read_document(path_here(path), MAX_SIDECAR_BYTES, "JSON document"))
    except strict_json.JsonProblem:
        return
    if isinstance(document, dict) and "overlay" in document:
        return
    found = "JSON that is no object"
    if isinstance(document, dict):
        found = "a JSON object without the key overlay"
        if os.path.basename(path) == model_config.CONFIG_NAME:
            found = f"{model_config.CONFIG_NAME} of a model"
        found = next((kind for key, kind in _BY_KEY.items() if key in document), found)
    problem = f"expected a checkpoint, index, lock, manifest or shard, found {found}"
    raise InvalidInput(problem, subject=path, hint="name the folder that it belongs to")


def verify_directory(
    label: str, directory: str, level: Level, places: Places, reporter: Reporter, jobs: int = 0
) -> Verdict:
    """Verify the checkpoint in `directory`, against its receipt where overlay assembled it.

    Raises:
        InvalidInput: there is no checkpoint.
        EnvironmentFault: something cannot be read.
    """
    target = look_at_target(directory)
    findings = check_receipt(target)
    seen = open_checkpoint(label, directory, places, headers=level != "structure")
    findings += check(seen) + check_parameters(seen) + check_config(seen) + check_gaps(seen)
    findings += _check_headers(seen, target.receipt)
    mendable = False
    if level == "structure":
        findings += _check_unlisted(seen)
    else:
        wanted = gather(seen)  # with an index that cannot be read, the shards that it may have named are looked at here
        findings += wanted.findings
        mendable = can_mend(wanted, findings)
    hashed, compared, uncompared = 0, 0, tuple(shard.file.name for shard in seen.shards.values())
    if level == "content":
        expected = _expected(seen, target.receipt)
        files = [shard.file for shard in seen.shards.values()]
        wrong, hashed = check_content(files, expected, reporter, jobs)
        findings += wrong
        compared = sum(file.name in expected and not file.is_remote for file in files)
        uncompared = tuple(file.name for file in files if file.name not in expected or file.is_remote)
    remote = sum(shard.file.is_remote for shard in seen.shards.values()) if level == "content" else 0
    return Verdict(
        subject=label,
        level=level,
        findings=tuple(_distinct(findings)),
        shards=len(seen.index.shards()) if seen.index is not None else len(seen.shards),
        tensors=len(seen.weight_map),
        data_bytes=seen.data_bytes,
        hashed_bytes=hashed,
        compared=compared,
        uncompared=uncompared,
        elsewhere=remote,
        mendable=mendable,
    )


def verify_shard(path: str, level: Level, reporter: Reporter) -> Verdict:
    """Verify one shard by itself: no index, no sidecars; its sha256 where the Hub cache that it lies in states one.

    Raises:
        InvalidInput: there is no such file.
        EnvironmentFault: it cannot be read.
    """
    folder, name = folder_of(path), os.path.basename(path)
    # The user named it: wherever it leads, it leads there in plain sight.
    roots = roots_for(os.path.realpath(folder), [os.path.dirname(os.path.realpath(path))])
    file = RemoteFolder(folder).resolve(name) if is_address(folder) else resolve(roots, name)
    shards, wrong = read_shards([file] if isinstance(file, FileSeen) and level != "structure" else [])
    wrong += [file] if isinstance(file, Finding) else []
    seen = Checkpoint(label=path, root=folder, index=None, index_file=None, shards=shards, findings=tuple(wrong))
    findings = check(seen)
    files = [shard.file for shard in seen.shards.values()]
    expected = _expected(seen, None)
    hashed = 0
    if level == "content":
        differing, hashed = check_content(files, expected, reporter, 1)
        findings += differing
    compared = bool(files) and level == "content" and name in expected and not files[0].is_remote
    return Verdict(
        subject=path,
        level=level,
        findings=tuple(_distinct(findings)),
        shards=1,
        tensors=len(seen.weight_map),
        data_bytes=seen.data_bytes,
        hashed_bytes=hashed,
        compared=int(compared),
        uncompared=() if compared else (name,),
        elsewhere=sum(file.is_remote for file in files) if level == "content" else 0,
    )


def check_receipt(target: TargetSeen) -> list[Finding]:
    """What a target's entries and small files say against its receipt; nothing for a directory without one."""
    findings = check_target(target)
    if target.receipt is None:
        return findings
    damaged = {finding.file for finding in findings}
    for name, expected in private_files(target.receipt).items():
        if name in damaged:
            continue
        file = file_at(os.path.join(target.path, *name.split("/")), name)
        found = hash_file(file, lambda count: None).sha256
        if found != expected:
            findings.append(mismatch(file, expected, found))
    return findings + list(_check_behind_links(target, target.receipt, damaged))


def check_touched(target: TargetSeen, reporter: Reporter) -> list[Finding]:
    """Large files of a target that were written to since they were hashed here, and no longer hold what the receipt says.

    Costs a stat a file; only a file whose fingerprint changed is read.
    """
    memory = ProofStore()
    findings: list[Finding] = []
    suspects: dict[str, tuple[FileSeen, str]] = {}
    for name, placed in target.receipt.files.items() if target.receipt is not None else ():
        entry = target.entries.get(name)
        if placed.header_sha256 is None or not placed.sha256 or entry is None or not entry.is_file:
            continue
        file = file_at(os.path.join(target.path, name), name)
        _, known = memory.recall(file)
        made_otherwise = placed.recipe and known is None and memory.recipe_of(file) != placed.recipe
        if made_otherwise or memory.was_touched(file):
            suspects[file.location] = (file, placed.sha256)
        elif known is not None and known.sha256 != placed.sha256:
            findings.append(mismatch(file, placed.sha256, known.sha256))
    digests = hash_afresh([file for file, _ in suspects.values()], reporter, store=memory)
    return findings + [
        mismatch(file, expected, digests[location].sha256)
        for location, (file, expected) in suspects.items()
        if digests[location].sha256 != expected
    ]


def _check_behind_links(target: TargetSeen, receipt: Receipt, damaged: AbstractSet[str]) -> Iterator[Finding]:
    """Sizes of the files that a target's links lead to; a link that leads nowhere is found when it is followed."""
    for name in sorted(linked_files(receipt).keys() - damaged):
        try:
            size = os.stat(os.path.join(target.path, name)).st_size
        except OSError:
            continue
        if size != receipt.files[name].size:
            yield about("LCK004", name, f"expected {receipt.files[name].size} bytes behind the link, found {size}")


def _check_unlisted(seen: Checkpoint) -> list[Finding]:
    """Whether shards lie there without an index; their names tell it, before any header is read."""
    names = names_at(seen.root)
    if INDEX_NAME in names or SINGLE_NAME in names:
        return []
    return list(check_unlisted(name for name in names if name.endswith(SHARD_SUFFIX)))


def _check_headers(seen: Checkpoint, receipt: Receipt | None) -> list[Finding]:
    """Headers against the receipt: finds an edited header without reading the data."""
    findings = []
    for name, shard in seen.shards.items():
        placed = receipt.files.get(name) if receipt is not None else None
        if placed is not None and placed.header_sha256 and placed.header_sha256 != shard.header.digest:
            message = f"expected header sha256 {placed.header_sha256}, found {shard.header.digest}"
            findings.append(about("LCK001", name, message))
    return findings


def check_config(seen: Checkpoint) -> list[Finding]:
    """Every JSON sidecar parses, and what the config declares is there."""
    findings: list[Finding] = []
    for name, sidecar in seen.sidecars.items():
        if not name.endswith(".json"):
            continue
        data = read_file(sidecar.file)
        try:
            if name == "config.json":
                config = model_config.parse_model_config(data)
                findings += check_draft(seen, config) if seen.weight_map else []
                findings += check_layers(seen.weight_map, config) if not _is_difference(seen) else []
            else:
                strict_json.decode_unchecked(data)
        except strict_json.JsonProblem as problem:
            findings.append(about("CFG001", name, str(problem)))
    return findings


def check_gaps(seen: Checkpoint) -> list[Finding]:
    """Whether the numbers of the shards have gaps; a manifest may drop whole shards, so that what overlay made may."""
    if _is_difference(seen) or os.path.lexists(os.path.join(seen.root, RECEIPT_NAME)):
        return []
    present = names_at(seen.root)
    if seen.index is not None:
        return check_series(seen.index.shards(), present)
    return check_series([n for n in present if n.endswith(SHARD_SUFFIX)] if SINGLE_NAME not in present else [], present)


def _is_difference(seen: Checkpoint) -> bool:
    """Whether it came with a manifest, which says what belongs to it."""
    return REPOSITORY_MANIFEST in seen.sidecars


def _expected(seen: Checkpoint, receipt: Receipt | None) -> dict[str, str]:
    """File name to the sha256 that its bytes must have, where anything says so."""
    expected = {name: shard.file.stated_sha256 for name, shard in seen.shards.items() if shard.file.stated_sha256}
    for name, placed in receipt.files.items() if receipt is not None else ():
        if placed.sha256:
            expected[name] = placed.sha256
    return expected


def check_content(
    files: list[FileSeen], expected: Mapping[str, str], reporter: Reporter, jobs: int
) -> tuple[list[Finding], int]:
    """The files whose sha256 is not the expected one, where one is, and how many bytes were read.

    A file elsewhere counts by the sha256 that its store states: who wants to see its bytes fetches it.
    """
    digests = hash_afresh([file for file in files if not _is_stated(file)], reporter, jobs)
    findings = []
    for file in files:
        found = file.stated_sha256 if _is_stated(file) else digests[file.location].sha256
        if expected.get(file.name, found) != found:
            findings.append(mismatch(file, expected[file.name], found))
    return findings, sum(digest.size for digest in digests.values())


def _is_stated(file: FileSeen) -> bool:
    return file.is_remote and bool(file.stated_sha256)


_SAID_BETTER: Final = {
    "IDX003": {"LCK002"},
    "IDX010": {"LCK003"},
    "IDX015": {"LCK003"},
    "IDX016": {"LCK003"},
    "LCK002": {"LNK004"},
    "LNK004": {"LNK001", "LNK002", "LNK003"},
    "LNK001": {"LNK005"},
    "LNK002": {"LNK005"},
    "LNK003": {"LNK005"},
    "SHD002": {"LCK004"},
}
"""A code, and those beside which it says nothing new about the same file; all of them are errors."""


def _distinct(findings: list[Finding]) -> list[Finding]:
    """Each fault once, although several checks see it; of a file's digests the first that differs."""
    codes: dict[str, set[str]] = {}
    for finding in findings:
        codes.setdefault(finding.file, set()).add(finding.code)
    kept = {f for f in findings if not _SAID_BETTER.get(f.code, set()) & codes[f.file]}
    digests: dict[str, Finding] = {}
    for finding in findings:
        if finding.code == "LCK001":
            digests.setdefault(finding.file, finding)
    return sorted(f for f in kept if f.code != "LCK001" or digests[f.file] == f)
