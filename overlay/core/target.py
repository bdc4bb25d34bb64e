"""A target as it was seen, and what its receipt says against that."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final

from overlay.core.checkpoint import Fingerprint
from overlay.core.findings import Finding, about
from overlay.formats.names import RECEIPT_NAME, SHARD_SUFFIX

if TYPE_CHECKING:
    from overlay.formats.receipt import PlacedFile, Receipt


class TargetState(Enum):
    """Whose a target is."""

    ABSENT = "absent"
    EMPTY = "empty"
    OURS = "assembled by overlay"
    FOREIGN = "not made by overlay"


class Standing(StrEnum):
    """How a target stands against its receipt; several of the bad ones may hold at once."""

    CLEAN = "clean"
    MODIFIED = "modified"
    DANGLING = "dangling"
    BASE_MOVED = "base moved"
    ABSENT = "absent"


_STANDINGS: Final = {
    **dict.fromkeys(("LCK005", "LNK002", "LNK003"), Standing.DANGLING),
    **dict.fromkeys(("LCK007", "LCK008", "LNK001"), Standing.BASE_MOVED),
    "LCK009": Standing.ABSENT,
}
"""What a finding says of a target; every other one says that it was modified."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a target, its own link not followed."""

    mode: int
    fingerprint: Fingerprint
    link: str = ""
    """Where it points, when it is a link."""

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file, and no link to one."""
        return stat.S_ISREG(self.mode)


@dataclass(frozen=True, slots=True)
class TargetSeen:
    """What is at a target's path."""

    path: str
    """Absolute, the parent's links resolved, its own not."""
    state: TargetState
    receipt: Receipt | None = None
    receipt_problem: str = ""
    """Why there is a receipt and it cannot be used."""
    entries: Mapping[str, Entry] = field(default_factory=dict)
    """Everything below it but ``.overlay``, by its relative name; folders are left out."""


def check_target(seen: TargetSeen) -> list[Finding]:
    """What the directory entries of a target say against its receipt: names, kinds, sizes and links, no contents."""
    if seen.receipt is None:
        return [about("LCK006", RECEIPT_NAME, seen.receipt_problem)] if seen.receipt_problem else []
    findings = []
    for name, placed in seen.receipt.files.items():
        entry = seen.entries.get(name)
        if entry is None:
            findings.append(about("LCK002", name, "expected this file, found nothing of that name"))
        else:
            findings += _check_entry(name, placed, entry)
    for name in sorted(seen.entries.keys() - seen.receipt.files.keys()):
        findings.append(about("LCK003", name, "expected only files of the receipt, found one more"))
    return sorted(findings)


def standings(findings: Iterable[Finding]) -> tuple[Standing, ...]:
    """What `findings` come to, in the order of `Standing`."""
    held = {_STANDINGS.get(finding.code, Standing.MODIFIED) for finding in findings}
    return tuple(standing for standing in Standing if standing in held) or (Standing.CLEAN,)


def private_files(receipt: Receipt) -> dict[str, str]:
    """The small files of a target that are its own, with their sha256: sidecars and the index."""
    return {
        name: placed.sha256
        for name, placed in receipt.files.items()
        if placed.origin in ("sidecar", "index") and placed.sha256
    }


def linked_files(receipt: Receipt) -> dict[str, str]:
    """The links of a target, with the real file that each leads to.

    Only shards are ever linked: a receipt that says so of another file is not one that we wrote.
    """
    shards = {name: placed for name, placed in receipt.files.items() if name.endswith(SHARD_SUFFIX)}
    return {name: placed.source for name, placed in shards.items() if placed.how == "symlink" and placed.source}


def _check_entry(name: str, placed: PlacedFile, entry: Entry) -> Iterator[Finding]:
    if placed.how == "symlink":
        if entry.link != placed.source:
            found = f"a link to {entry.link}" if entry.link else "no link"
            yield about("LNK005", name, f"expected a link to {placed.source}, found {found}")
    elif not entry.is_file:
        found = f"a link to {entry.link}" if entry.link else "something else"
        yield about("LNK004", name, f"expected a regular file, found {found}")
    elif entry.fingerprint.size != placed.size:
        yield about("LCK004", name, f"expected {placed.size} bytes, found {entry.fingerprint.size}")
