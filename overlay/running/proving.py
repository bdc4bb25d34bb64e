"""Proving: compare the bytes of large files with what is expected of them, without reading them twice.

A file whose fingerprint is unchanged since this machine hashed it keeps its digest.  One that changed is hashed again.  One
that was never hashed here is taken on trust and said to be unproven, unless the level ``content`` is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from overlay.core.checkpoint import FileSeen
from overlay.core.findings import Finding, about
from overlay.core.progress import Reporter
from overlay.formats.digest import Digests
from overlay.storage.hashing import hash_files
from overlay.storage.proofs import Memory, ProofStore, settle

Level = Literal["structure", "headers", "content"]
LEVELS: tuple[Level, ...] = ("structure", "headers", "content")


@dataclass(frozen=True, slots=True)
class Proofs:
    """What is known of the bytes of some files."""

    digests: Mapping[str, Digests]
    """Real file to digests, for every proven file."""
    findings: tuple[Finding, ...]
    """Files whose bytes are not what is expected."""
    unproven: tuple[str, ...]
    """Names of the files that were taken on trust."""
    trims: Mapping[str, Digests] = field(default_factory=dict)
    """Trimmed shard to what it will be, where its bytes were read."""


def prove(
    files: Iterable[FileSeen],
    expected: Mapping[str, str],
    *,
    content: bool,
    reporter: Reporter,
    jobs: int = 0,
    store: ProofStore | None = None,
) -> Proofs:
    """Establish the digests of `files` and compare them with `expected` (real file to sha256).

    With ``content`` every file is hashed that is not remembered; otherwise only files that changed and of which
    something is expected.

    Raises:
        EnvironmentFault: a file cannot be read.
    """
    memory = store or ProofStore()
    wanted = list({file.location: file for file in files}.values())
    known: dict[str, Digests] = {}
    to_hash: list[FileSeen] = []
    for file in wanted:
        recalled, digests = memory.recall(file)
        if digests is not None:
            known[file.location] = digests
        elif file.is_remote and file.stated_sha256:
            continue  # whoever needs its bytes fetches it, and proves it then
        elif content or (recalled is Memory.CHANGED and file.location in expected):
            to_hash.append(file)
    known.update(_hash(to_hash, memory, reporter, jobs))
    findings = [finding for file in wanted if (finding := _compare(file, known, expected)) is not None]
    unproven = tuple(file.name for file in wanted if file.location not in known)
    return Proofs(known, tuple(sorted(findings)), unproven)


def hash_afresh(
    files: Iterable[FileSeen], reporter: Reporter, jobs: int = 0, store: ProofStore | None = None
) -> dict[str, Digests]:
    """Read and digest every one of `files`, whatever is remembered.

    Raises:
        EnvironmentFault: a file cannot be read.
    """
    return _hash(list({file.location: file for file in files}.values()), store or ProofStore(), reporter, jobs)


def mismatch(file: FileSeen, expected: str, found: str) -> Finding:
    """The finding for a file whose sha256 is not the one expected."""
    return about("LCK001", file.name, f"expected sha256 {expected}, found {found}")


def _hash(files: list[FileSeen], memory: ProofStore, reporter: Reporter, jobs: int) -> dict[str, Digests]:
    if not files:
        return {}
    for file in files:
        settle(file)
    known = {}
    with reporter.task("hashing", sum(file.size for file in files)) as advance:
        for file, digests in hash_files(files, advance, jobs):
            known[file.location] = digests
            memory.remember(file, digests)
    return known


def _compare(file: FileSeen, known: Mapping[str, Digests], expected: Mapping[str, str]) -> Finding | None:
    wanted = expected.get(file.location) or file.stated_sha256
    digests = known.get(file.location)
    if digests is None:
        # A content-addressed store states a digest; it must at least be the one that is expected.
        stated, pinned = file.stated_sha256, expected.get(file.location)
        return mismatch(file, pinned, stated) if stated and pinned and stated != pinned else None
    return mismatch(file, wanted, digests.sha256) if wanted and wanted != digests.sha256 else None
