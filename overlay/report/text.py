"""Text for people: the same words with and without a terminal, readable without colour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Final

from overlay.core.findings import Finding, errors
from overlay.formats.digest import sha256_of
from overlay.formats.names import INDEX_NAME
from overlay.report.blocks import Block, Heading, Marked, Table

if TYPE_CHECKING:  # they are only shown here; a verb imports the one that it has made
    from overlay.core.mending import Mended
    from overlay.core.planning import Action, Plan
    from overlay.formats.lock import Lock
    from overlay.running.applying import Applied
    from overlay.running.mending import Fixed
    from overlay.running.verifying import Verdict

_NO_INDEX: Final = sha256_of(b"")

_FEW: Final = 5
"""Findings of one code that are printed; a JSON document holds all of them."""


def in_bytes(count: int) -> str:
    """A byte count as people read it: exact below 10 kB, then with its exact value left to JSON."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{count} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def plan_lines(plan: Plan, free: int) -> Iterator[Block]:
    """A plan, action by action."""
    yield Heading(f"plan for {plan.target} ({plan.name})")
    if not plan.actions:
        yield "nothing to do: the target is what the manifest describes"
        return
    for reason in plan.reasons:
        yield f"  because {reason}"
    rows = [(a.do, a.name, in_bytes(a.size), _origin_of(a)) for a in plan.actions]
    yield Table(rows, numbers=(2,), kinds=0)
    for note in plan.notes:
        yield Marked("  ", "note", f": {note}")
    yield (
        f"{plan.tensors} tensors, total_size {plan.total_size}; links {in_bytes(plan.bytes_to_link)}, "
        f"writes {in_bytes(plan.bytes_to_write)} of {in_bytes(free)} free"
        + (f"; fetches {in_bytes(plan.bytes_to_fetch)}" if plan.bytes_to_fetch else "")
    )


def _how_to_pin(source: str) -> str:
    if not source:
        return "overlay init writes a manifest of this, overlay lock pins it"
    return f"overlay lock {source} records what was used"


def _origin_of(action: Action) -> str:
    """Where a file comes from, and why it is not simply taken."""
    origin = f"<- {action.source}" if action.source else ""
    return f"{origin} ({action.reason})".strip() if action.reason else origin


def applied_lines(applied: Applied, target: str, source: str) -> Iterator[str]:
    """What applying did, and what it did not prove."""
    receipt = applied.receipt
    if not applied.changed:
        yield f"{target}: nothing to do, it is what the manifest describes"
    else:
        for note in applied.notes:
            yield Marked("", "note", f": {note}")
        how: dict[str, list[int]] = {}
        for placed in receipt.files.values():
            how.setdefault(placed.how, []).append(placed.size)
        parts = ", ".join(f"{len(sizes)} {_PAST[word]} ({in_bytes(sum(sizes))})" for word, sizes in how.items())
        yield f"{target}: {receipt.tensors} tensors, total_size {receipt.total_size}; {parts}"
        if receipt.generation > 1:
            yield f"generation {receipt.generation}; overlay history {target} lists those that are kept"
    if receipt.lock_sha256 is None:
        yield f"nothing is pinned: {_how_to_pin(source)}"
    provable = len(applied.unproven) - len(applied.unpinned_trims)
    if provable:
        yield f"{_count(provable, 'file')} unproven: overlay verify {target} --level content"
    if applied.unpinned_trims:
        count = _count(len(applied.unpinned_trims), "trimmed shard")
        yield f"{count} copied without being read: overlay lock --level content pins what they must be"


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """Findings, then the verdict."""
    yield from finding_lines(verdict.findings)
    what = f"{_count(verdict.shards, 'shard')}, {verdict.tensors} tensors"
    if verdict.level == "content":
        what += f", {in_bytes(verdict.hashed_bytes)} hashed, {_count(verdict.compared, 'digest')} compared"
    if verdict.derived:
        what += f", {_count(verdict.derived, 'graft shard')} made again from donors and compared"
    yield Marked("", "ok" if verdict.ok else "not ok", f" at level {verdict.level}: {verdict.subject} ({what})")
    here = len(verdict.uncompared) - verdict.elsewhere
    if verdict.ok and verdict.level == "content" and verdict.elsewhere:
        yield f"{_count(verdict.elsewhere, 'shard')} elsewhere not read: the sha256 that is listed stands for them"
    if verdict.ok and verdict.level == "content" and here > 0:
        yield f"{_count(here, 'file')} without an expected digest: overlay lock records one"
    elif verdict.ok and verdict.level != "content":
        yield "bytes of tensors were not read: --level content does that"
    if verdict.mendable:
        yield f"an index can mend this: overlay verify {verdict.subject} --fix PATH"


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """A line for each of the first findings of a code, how many more there are, and once what the code means."""
    for code, same in groupby(worst_first(findings), key=lambda f: f.code):
        listed = list(same)
        for finding in listed[:_FEW]:
            yield Marked("", finding.severity.value, f": {finding.line}")
        if len(listed) > _FEW:
            yield f"  and {len(listed) - _FEW:,} more {code}; --json lists all"
        if listed[0].engines:
            yield f"  engines: {_behaviours(listed[0].engines)}"
        yield Marked("  ", "hint", f": {listed[0].hint}")


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes."""
    return sorted(findings, key=lambda f: (f.severity != "error", f.severity != "warning", f))


def _behaviours(engines: Mapping[str, str]) -> str:
    """What each engine does; engines that do the same stand together."""
    alike: dict[str, list[str]] = {}
    for engine, behaviour in engines.items():
        alike.setdefault(behaviour, []).append(engine)
    return "; ".join(f"{', '.join(names)}: {behaviour}" for behaviour, names in alike.items())


def fix_lines(fixed: Fixed) -> Iterator[str]:
    """Findings, then what the new index says otherwise and what to do with it."""
    yield from finding_lines(fixed.verdict.findings)
    mended, label = fixed.mended, fixed.verdict.subject
    if not fixed.written:
        yield f"nothing to mend: {label} needs no other index"
    else:
        yield f"wrote {fixed.path}: {', '.join(_changes(mended))}"
        yield f"{mended.tensors} tensors in {_count(mended.shards, 'shard')}"
    for name in fixed.strays:
        yield f"{name} is not in it: --adopt {name} maps its tensors as well"
    left = errors(fixed.left)
    if left:
        yield f"{_count(len(left), 'error')} that no index can mend: {', '.join(sorted({f.code for f in left}))}"
    if fixed.written:
        repo = label.removeprefix("hf://").partition("@")[0] if label.startswith("hf://") else "ORG/NAME"
        yield f"{label} was not changed; use the new index in a copy of it, or propose it to the repository:"
        yield f"  hf upload {repo} {fixed.path} {INDEX_NAME} --create-pr"


def _changes(mended: Mended) -> Iterator[str]:
    """What a new index says otherwise than the old one."""
    if mended.anew:
        yield "a new index"
    for count, done in ((mended.mapped, "mapped"), (mended.removed, "removed"), (mended.moved, "moved")):
        if count:
            yield f"{_count(count, 'tensor')} {done}"
    for key, (old, new) in mended.metadata.items():
        yield f"{key} {'none' if old is None else old} -> {new}"


def lock_lines(lock: Lock, path: str, written: bool) -> Iterator[str]:
    """What was pinned."""
    verb = "wrote" if written else "unchanged:"
    result = lock.result
    yield f"{verb} {path} (level {lock.level})"
    yield f"{result.tensors} tensors in {_count(result.shards, 'shard')}, total_size {result.total_size}"
    yield (
        f"index sha256 {result.index_sha256}" if result.index_sha256 != _NO_INDEX else "one shard, which needs no index"
    )


_PAST = {
    "reflink": "reflinked",
    "symlink": "symlinked",
    "hardlink": "hard-linked",
    "copy": "copied",
    "write": "written",
    "build": "built",
    "trim": "trimmed",
}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
