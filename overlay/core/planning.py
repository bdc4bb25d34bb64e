"""Planning: what has to be done at a target, as a value that can be printed, saved and compared.

A plan decides everything that can be decided without acting; `running.applying` carries it out and decides nothing.  Its
`state` is a digest of what the target will be; a target whose receipt bears the same state, and which passes its own
check, has nothing to be done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal

from overlay.core.findings import Finding, about
from overlay.core.parts import (
    BuiltShard,
    Composition,
    LinkedShard,
    PatchedFile,
    ShardPart,
    SidecarPart,
    TrimmedShard,
    target_names,
)
from overlay.core.target import TargetSeen, TargetState
from overlay.errors import Conflict
from overlay.formats import strict_json
from overlay.formats.digest import sha256_of
from overlay.formats.names import INDEX_NAME

Part = ShardPart | SidecarPart | bytes
Do = Literal["link", "build", "trim", "copy", "write"]


@dataclass(frozen=True, slots=True)
class Action:
    """One file of the target, and how it gets there."""

    do: Do
    name: str
    origin: str
    """``base``, ``graft``, ``sidecar`` or ``index``."""
    size: int
    sha256: str = ""
    """Of the bytes, where they are known before they are placed."""
    source: str = ""
    """The real file, for a link, a copy or a trim; the donor's shards, for a build."""
    recipe: str = ""
    """Shards: digest of what the source was when it was looked at; a source that changed gives another one."""
    reason: str = ""
    """Why a file is not simply a link or a copy."""
    part: Part = field(default=b"", repr=False, compare=False)
    """What carrying it out needs; not part of what is printed."""

    def document(self) -> dict[str, Any]:
        """The action as it stands in JSON documents."""
        return {
            "do": self.do,
            "name": self.name,
            "origin": self.origin,
            "bytes": self.size,
            "sha256": self.sha256,
            "source": self.source,
            "recipe": self.recipe,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that applying will do."""

    name: str
    target: str
    link_mode: str
    actions: tuple[Action, ...]
    """In order; the index is written after the shards that it names.  Empty: there is nothing to do."""
    reasons: tuple[str, ...]
    """Why there is something to do."""
    notes: tuple[str, ...]
    state: str
    """Digest of what the target will be."""
    tensors: int
    total_size: int

    @property
    def bytes_to_write(self) -> int:
        """Bytes that will take space on the target's file system, links excluded."""
        linked = self.link_mode == "copy"
        return sum(action.size for action in self.actions if action.do != "link" or linked)

    @property
    def bytes_to_fetch(self) -> int:
        """Bytes that come from other machines: whole shards that are linked or trimmed, and the tensors of new ones."""
        return sum(_elsewhere(action.part) for action in self.actions)

    @property
    def bytes_to_link(self) -> int:
        """Bytes that are in the target without being written."""
        return 0 if self.link_mode == "copy" else sum(action.size for action in self.actions if action.do == "link")

    def document(self) -> dict[str, Any]:
        """The plan as it stands in JSON documents; equal plans give equal bytes."""
        return {
            "name": self.name,
            "target": self.target,
            "link": self.link_mode,
            "empty": not self.actions,
            "reasons": list(self.reasons),
            "actions": [action.document() for action in self.actions],
            "bytes": {
                "linked": self.bytes_to_link,
                "written": self.bytes_to_write,
                "fetched": self.bytes_to_fetch,
            },
            "result": {"tensors": self.tensors, "total_size": self.total_size},
            "notes": list(self.notes),
            "state": self.state,
        }


def make_plan(
    composition: Composition,
    target: TargetSeen,
    findings: Sequence[Finding],
    link_mode: str,
    proven: AbstractSet[str] = frozenset(),
    lock_sha256: str | None = None,
) -> Plan:
    """What brings `target`, which was found to have `findings`, to `composition`.

    Args:
        composition: what the target shall be.
        target: what it is.
        findings: what its own check said.
        link_mode: how shards are placed.
        proven: real files whose digests are known by now, so that the receipt can say so.
        lock_sha256: digest of the lock that pins it all, for the same reason.

    Raises:
        Conflict: the target is not ours, or holds files that we did not place.
    """
    _require_ours(target)
    _require_no_foreign_files(target, findings, composition)
    state = _state(composition, link_mode)
    reasons = tuple(_reasons(target, findings, state, proven, lock_sha256))
    return Plan(
        name=composition.name,
        target=target.path,
        link_mode=link_mode,
        actions=tuple(_actions(composition)) if reasons else (),
        reasons=reasons,
        notes=composition.notes,
        state=state,
        tensors=composition.tensors,
        total_size=composition.total_size,
    )


def require_fresh(saved: Mapping[str, Any], plan: Plan) -> None:
    """Refuse a saved plan that is not what would be planned now.

    Raises:
        Conflict: something moved; everything that did is named.
    """
    moved = moved_since(saved, plan)
    if moved:
        raise Conflict(
            moved[0],
            subject="the saved plan is stale",
            hint="look at the new plan, then save it again: overlay plan … --json > FILE",
            others=tuple(moved[1:20]),
        )


def moved_since(saved: Mapping[str, Any], plan: Plan) -> list[str]:
    """What is no longer as it was in a saved plan's document; empty when `plan` is that very plan."""
    now = plan.document()
    lines: list[str] = []
    planned = saved.get("actions")
    before = {
        str(action.get("name")): action
        for action in (planned if isinstance(planned, list) else ())
        if isinstance(action, dict)
    }
    after = {action["name"]: action for action in now["actions"]}
    lines += [
        f"{name}: expected {_in_words(before.get(name))}, found {_in_words(after.get(name))}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    for key in ("target", "link", "state"):
        if saved.get(key) != now[key] and not (key == "state" and lines):
            lines.append(f"{key}: expected {saved.get(key)}, found {now[key]}")
    return lines


def _in_words(action: Mapping[str, Any] | None) -> str:
    if action is None:
        return "no action"
    details = ", ".join(
        f"{key} {action[key]}" for key in ("bytes", "sha256", "source", "recipe") if action.get(key) not in (None, "")
    )
    return f"{action.get('do')} ({details})"


def recipe_digest(shard: ShardPart) -> str:
    """Digest of what a shard is made from: its header, and the source's ranges by name, size and time of last change.

    The place of the source does not count: a moved donor is still the same one.
    """
    if isinstance(shard, LinkedShard):
        file = shard.shard.file
        ranges = [[file.name, file.size, file.fingerprint.mtime_ns]]
    elif isinstance(shard, TrimmedShard):
        file = shard.shard.file
        ranges = [[file.name, file.size, file.fingerprint.mtime_ns, *run] for run in shard.runs]
    else:
        ranges = [[s.file.name, s.file.size, s.file.fingerprint.mtime_ns, s.begin, s.end] for s in shard.sources]
        if shard.recipe is not None:
            return sha256_of(strict_json.canonical([shard.header_sha256, ranges, shard.recipe.digest]))
    return sha256_of(strict_json.canonical([shard.header_sha256, ranges]))


def _elsewhere(part: Part) -> int:
    """The bytes of `part` that lie on other machines; a sidecar is here when there is a plan."""
    if isinstance(part, LinkedShard | TrimmedShard):
        return part.shard.file.size if part.shard.file.is_remote else 0
    if isinstance(part, BuiltShard):
        return sum(source.end - source.begin for source in part.sources if source.file.is_remote)
    return 0


def _require_ours(target: TargetSeen) -> None:
    if target.state is TargetState.FOREIGN:
        raise Conflict(
            "expected an absent or empty folder, or one that overlay assembled, found something else",
            subject=target.path,
            hint="choose another folder for -o",
        )


def _require_no_foreign_files(target: TargetSeen, findings: Iterable[Finding], composition: Composition) -> None:
    foreign = [finding.line for finding in findings if finding.code == "LCK003"]
    if target.receipt is None:  # a receipt that cannot be read vouches for nothing: only what is written anew may go
        unknown = sorted(target.entries.keys() - set(target_names(composition)))
        message = "expected only files that this plan places, found one more beside a receipt that cannot be read"
        foreign += [about("LCK003", name, message).line for name in unknown]
    if foreign:
        raise Conflict(
            foreign[0],
            subject=target.path,
            hint="move the file out of the target, which is replaced as a whole",
            others=tuple(foreign[1:]),
        )


def _reasons(
    target: TargetSeen,
    findings: Sequence[Finding],
    state: str,
    proven: AbstractSet[str],
    lock_sha256: str | None,
) -> Iterator[str]:
    if target.state in (TargetState.ABSENT, TargetState.EMPTY):
        yield f"the target is {target.state.value}"
    elif target.receipt is not None and target.receipt.state != state:
        yield "the target was assembled from something else"
    elif target.receipt is not None:
        files = target.receipt.files.values()
        since = sum(p.proof == "unproven" and p.how != "trim" and p.source in proven for p in files)
        if since:
            yield f"{since} files were proven since the target was assembled"
        if lock_sha256 not in (None, target.receipt.lock_sha256):
            yield "the lock was written since the target was assembled"
    for finding in findings:
        yield f"repair: {finding.line}"


def _actions(composition: Composition) -> Iterator[Action]:
    for shard in composition.shards:
        yield _shard_action(shard)
    for file in composition.sidecars:
        if isinstance(file, PatchedFile):
            reason = f"patched by {', '.join(file.overlays)}"
            yield Action("write", file.name, "sidecar", file.size, file.sha256, reason=reason, part=file)
        else:
            seen = file.sidecar.file
            yield Action("copy", file.name, "sidecar", seen.size, file.sha256, seen.location, part=file)
    if composition.index:
        size, sha256 = len(composition.index), composition.index_sha256
        yield Action("write", INDEX_NAME, "index", size, sha256, part=composition.index)


def _shard_action(shard: ShardPart) -> Action:
    origin, size, recipe = shard.origin, shard.size, recipe_digest(shard)
    if isinstance(shard, LinkedShard):
        return Action("link", shard.name, origin, size, source=shard.shard.file.location, recipe=recipe, part=shard)
    if isinstance(shard, TrimmedShard):
        location = shard.shard.file.location
        return Action("trim", shard.name, origin, size, "", location, recipe, shard.reason, shard)
    sources = ", ".join(sorted({source.file.name for source in shard.sources}))
    reason = "; ".join(way.line for way in shard.recipe.ways) if shard.recipe is not None else ""
    return Action("build", shard.name, origin, size, "", sources, recipe, reason, shard)


def _state(composition: Composition, link_mode: str) -> str:
    """Digest of the target to be: names, contents as far as they are known, and how files are placed."""
    shards = [
        [s.name, s.shard.file.location, s.size, s.header_sha256, s.shard.file.fingerprint.mtime_ns]
        if isinstance(s, LinkedShard)
        else [s.name, recipe_digest(s)]
        for s in composition.shards
    ]
    sidecars = [[file.name, file.sha256] for file in composition.sidecars]
    return sha256_of(strict_json.canonical([link_mode, shards, sidecars, composition.index_sha256]))
