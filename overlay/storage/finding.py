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
from overlay.storage.hub_cache import cache_root
from overlay.storage.links import resolve, roots_for
from overlay.storage.proofs import ProofStore
from overlay.storage.seen import digest_header

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
    """Of the wanted files, those that it holds."""


def find_by_content(wanted: Mapping[str, Wanted], search: Iterable[str] = ()) -> tuple[Candidate | None, int]:
    """The folder that holds most of `wanted`, and how many folders held any; the search ends at the first that holds all.

    Args:
        wanted: name to what must be there; at least one.
        search: folders that the user names; those below them are looked at too.

    Costs a stat a file and folder, and 8 + N bytes of files whose digest nobody knows; no weights are read.
    """
    memory = ProofStore()
    best: Candidate | None = None
    looked = 0
    for folder in dict.fromkeys(_candidates(wanted, memory, search)):
        held = sum(_is(name, entry, folder, memory) for name, entry in wanted.items())
        looked += held > 0
        if held and (best is None or held > best.held):
            best = Candidate(folder, held)
        if held == len(wanted):
            break
    return best, looked


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
