"""Examining: how a target, or an old generation of it, stands against its receipt and against what it was made from.

Reads names, small files and headers; of large files only those whose fingerprint changed since they were hashed here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from overlay.core.checkpoint import FileSeen
from overlay.core.findings import Finding, about
from overlay.core.generations import Generation
from overlay.core.progress import Reporter
from overlay.core.target import Standing, TargetSeen, TargetState, linked_files, standings
from overlay.errors import EnvironmentFault, InvalidInput
from overlay.formats.receipt import PlacedFile
from overlay.running.proving import hash_afresh
from overlay.running.verifying import check_receipt, check_touched
from overlay.storage.generations import read_generations
from overlay.storage.hashing import hash_file
from overlay.storage.links import Roots, resolve, roots_for
from overlay.storage.local import file_at
from overlay.storage.proofs import Memory, ProofStore
from overlay.storage.seen import digest_header
from overlay.storage.targets import look_at_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a target stands."""

    target: str
    states: tuple[Standing, ...]
    """``clean`` alone, or whatever else holds."""
    generation: int | None
    """The current one's number; None where the receipt cannot be read or the target is absent."""
    generations: tuple[int, ...]
    """Every generation there is, the current one included."""
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return self.states == (Standing.CLEAN,)

    def document(self) -> dict[str, Any]:
        """The status as it stands in JSON documents."""
        return {
            "target": self.target,
            "state": [state.value for state in self.states],
            "generation": self.generation,
            "generations": list(self.generations),
            "findings": [finding.document() for finding in self.findings],
        }


def assess(target: str, reporter: Reporter) -> Status:
    """How the target at the real path `target` stands.

    Raises:
        InvalidInput: overlay did not assemble it.
        EnvironmentFault: something in it cannot be read.
    """
    known = read_generations(target)
    seen = require_ours(target, known)
    if seen.state is TargetState.OURS:
        findings = examine(seen, reporter)
    else:
        newest = max(generation.number for generation in known)
        findings = [about("LCK009", target, f"expected a target, found none; generation {newest} is the newest kept")]
    return Status(
        target=target,
        states=standings(findings),
        generation=next((generation.number for generation in known if generation.current), None),
        generations=tuple(generation.number for generation in known),
        findings=tuple(findings),
    )


def require_ours(target: str, known: list[Generation]) -> TargetSeen:
    """The target, which overlay must have assembled; it may be gone as long as generations of it are kept.

    Raises:
        InvalidInput: it is somebody else's, or nothing at all.
    """
    seen = look_at_target(target)
    gone = seen.state in (TargetState.ABSENT, TargetState.EMPTY)
    if seen.state is TargetState.FOREIGN or (gone and not known):
        found = {TargetState.ABSENT: "nothing there", TargetState.EMPTY: "an empty folder"}
        raise InvalidInput(
            f"expected a target that overlay assembled, found {found.get(seen.state, 'something else')}",
            subject=target,
            hint="name the folder that was given to overlay apply -o",
        )
    return seen


def examine(tree: TargetSeen, reporter: Reporter) -> list[Finding]:
    """What is wrong with a tree of ours: entries, small files, headers, links, and inputs that changed since.

    Raises:
        EnvironmentFault: something in the tree cannot be read.
    """
    links = linked_files(tree.receipt) if tree.receipt is not None else {}
    findings = [finding for finding in check_receipt(tree) if finding.code != "LCK004" or finding.file not in links]
    findings += check_touched(
        tree, reporter
    )  # a size behind a link is left out above, and compared with its source below
    wrong = {finding.file for finding in findings}
    findings += [finding for finding in _check_headers(tree) if finding.file not in wrong]
    sources: list[_Source] = []
    for seen in _sources(tree):
        if isinstance(seen, Finding):
            findings.append(seen)
        elif (changed := _compare(seen)) is not None:
            findings.append(changed)
        else:
            sources.append(seen)
    return sorted(findings + _compare_bytes(sources, reporter))


class _Source(NamedTuple):
    """A file that something in a tree links to or was copied from."""

    file: FileSeen
    placed: PlacedFile
    code: str
    """Of the finding, should it have changed."""


def _check_headers(tree: TargetSeen) -> Iterator[Finding]:
    """The headers of the tree's own shards: finds an edit also where nobody knows the digest of the bytes."""
    for name, placed in tree.receipt.files.items() if tree.receipt is not None else ():
        entry = tree.entries.get(name)
        if placed.header_sha256 and entry is not None and entry.is_file:
            found = digest_header(file_at(os.path.join(tree.path, name), name))
            if found != placed.header_sha256:
                yield about("LCK001", name, f"expected header sha256 {placed.header_sha256}, found {found}")


def _sources(tree: TargetSeen) -> Iterator[_Source | Finding]:
    """What the files of a tree lead to or were copied from, as far as it is there; of a link it has to be."""
    if tree.receipt is None:
        return
    links = linked_files(tree.receipt)
    roots = roots_for(tree.path, (), links)
    for name, placed in tree.receipt.files.items():
        entry = tree.entries.get(name)
        if entry is None or placed.source is None:
            continue
        if name in links:
            seen = _follow(roots, name)
            if entry.link == placed.source or (isinstance(seen, Finding) and seen.code == "LNK002"):
                yield seen if isinstance(seen, Finding) else _Source(seen, placed, "LCK007")
        elif placed.how in ("copy", "reflink", "hardlink"):
            with suppress(InvalidInput, EnvironmentFault):  # a copy does not need what it was made from
                file = file_at(placed.source, name)
                if file.fingerprint[:2] != entry.fingerprint[:2]:  # a hard link to the same inode cannot differ from it
                    yield _Source(file, placed, "LCK008")


def _follow(roots: Roots, name: str) -> FileSeen | Finding:
    """The real file under a link of ours, or what is wrong with it."""
    try:
        return resolve(roots, name)
    except NotADirectoryError:
        found = os.readlink(os.path.join(roots.own, name))
        return about("LNK002", name, f"expected a file, found a dangling link to {found}")
    except OSError as error:
        return about("LCK005", name, f"expected to follow the link, the system says: {error.strerror}")


def _compare(source: _Source) -> Finding | None:
    """What size and header say: a few kilobytes a shard."""
    file, placed, code = source
    if file.size != placed.size:
        return about(code, file.name, f"expected {placed.size} bytes at {file.location}, found {file.size}")
    if placed.header_sha256 is None:
        return None
    try:
        found = digest_header(file)
    except OSError as error:
        return about("LCK005", file.name, f"expected to read the header of {file.location}, found: {error.strerror}")
    if found != placed.header_sha256:
        message = f"expected header sha256 {placed.header_sha256} at {file.location}, found {found}"
        return about(code, file.name, message)
    return None


def _compare_bytes(sources: list[_Source], reporter: Reporter) -> list[Finding]:
    """What digests say, where one is expected: of small files, and of those that changed since they were hashed here."""
    store = ProofStore()
    known: dict[str, str] = {}
    suspects: list[FileSeen] = []
    for file, placed, _ in sources:
        recalled, digests = store.recall(file)
        if digests is not None:
            known[file.location] = digests.sha256
        elif placed.sha256 and placed.header_sha256 is None:
            known[file.location] = hash_file(file, lambda count: None).sha256
        elif placed.sha256 and recalled is Memory.CHANGED:
            suspects.append(file)
    known.update((at, found.sha256) for at, found in hash_afresh(suspects, reporter, store=store).items())
    return [
        about(code, file.name, f"expected sha256 {placed.sha256} at {file.location}, found {known[file.location]}")
        for file, placed, code in sources
        if placed.sha256 and known.get(file.location, placed.sha256) != placed.sha256
    ]
