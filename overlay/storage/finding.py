"""Find a checkpoint by its content, when the place that it came from is gone: renamed, deleted, or pushed over.

Candidates are the snapshots of the Hub's cache, folders of files that this machine has hashed, and folders that the user
names.  One that is found holds every wanted file under its name, with the wanted size, and with the wanted sha256 as far as
a content-addressed store or this machine's own memory of hashes says it; else with the wanted header.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from overlay.core.checkpoint import FileSeen
from overlay.core.findings import Finding
from overlay.formats.digest import sha256_of
from overlay.storage.files import open_regular, read_exactly
from overlay.storage.hub_cache import cache_root
from overlay.storage.links import resolve, roots_for
from overlay.storage.proofs import ProofStore
from overlay.storage.seen import MAX_SIDECAR_BYTES, digest_header

MAX_FOLDERS: Final = 100_000
"""Folders below those that the user names that are looked at."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a file must be."""

    size: int
    sha256: str = ""
    header_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder that was looked at."""

    folder: str
    held: int
    """Of the wanted shards, those that it holds."""
    beside: int
    """How far the rest is as wanted: small files that it holds, less entries that nobody wants."""


def find_by_content(
    wanted: Mapping[str, Wanted], small: Mapping[str, Wanted], search: Iterable[str] = ()
) -> tuple[Candidate | None, int]:
    """The folder that holds most of `wanted`, then most of `small`, and how many folders held any.

    The search ends at the first that holds all and nothing else.

    Args:
        wanted: name of a shard to what must be there; at least one.
        small: the same of the small files, whose digests are known; they are read.
        search: folders that the user names; those below them are looked at too.

    Costs a stat a file and folder, and 8 + N bytes of files whose digest nobody knows; no weights are read.
    """
    memory = ProofStore()
    best: Candidate | None = None
    looked = 0
    for folder in dict.fromkeys(_candidates(wanted, memory, search)):
        held = sum(_is(name, entry, folder, memory) for name, entry in wanted.items())
        looked += held > 0
        if not held:
            continue
        found = Candidate(folder, held, _beside(folder, small, wanted))
        if best is None or (found.held, found.beside) > (best.held, best.beside):
            best = found
        if found.held == len(wanted) and found.beside == len(small):
            break
    return best, looked


def _beside(folder: str, small: Mapping[str, Wanted], wanted: Mapping[str, Wanted]) -> int:
    with suppress(OSError):
        names = {name for name in os.listdir(folder) if not name.startswith(".")}
        same = sum(_digest_of(os.path.join(folder, *name.split("/"))) == entry.sha256 for name, entry in small.items())
        return same - len(names - small.keys() - wanted.keys())
    return -1


def _digest_of(path: str) -> str:
    """The sha256 of a small file; "" where there is none."""
    try:
        with open_regular(os.path.realpath(path, strict=True)) as descriptor:
            return sha256_of(read_exactly(descriptor, MAX_SIDECAR_BYTES, 0))
    except OSError:
        return ""


def _candidates(wanted: Mapping[str, Wanted], memory: ProofStore, search: Iterable[str]) -> Iterator[str]:
    """Folders worth a look, the most promising first."""
    names = set(wanted)
    yield from _snapshots()
    yield from sorted({os.path.dirname(path) for path in memory.paths() if os.path.basename(path) in names})
    for root in search:
        yield from _below(os.path.realpath(os.path.expanduser(root)), names)


def _snapshots() -> Iterator[str]:
    with suppress(OSError):
        for repository in sorted(os.listdir(cache_root())):
            if repository.startswith("models--"):
                folder = os.path.join(cache_root(), repository, "snapshots")
                with suppress(OSError):
                    yield from (os.path.realpath(os.path.join(folder, commit)) for commit in sorted(os.listdir(folder)))


def _below(root: str, names: set[str]) -> Iterator[str]:
    """The folders at and below `root` that hold a file of one of `names`; links to folders are not followed."""
    for count, (folder, _, files) in enumerate(os.walk(root)):
        if count >= MAX_FOLDERS:
            return
        if not names.isdisjoint(files):
            yield folder


def _is(name: str, wanted: Wanted, folder: str, memory: ProofStore) -> bool:
    """Whether `folder` holds the wanted file under its name."""
    try:
        seen = resolve(roots_for(folder), name)
        if isinstance(seen, Finding) or seen.size != wanted.size:
            return False
        known = _digest(seen, memory)
        if known and wanted.sha256:
            return known == wanted.sha256
        return not wanted.header_sha256 or digest_header(seen) == wanted.header_sha256
    except OSError:
        return False


def _digest(seen: FileSeen, memory: ProofStore) -> str:
    """The sha256 of a file, as far as this machine hashed it or its store states it."""
    _, digests = memory.recall(seen)
    return digests.sha256 if digests is not None else seen.stated_sha256
