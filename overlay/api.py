"""The story: one short function a verb.  Read this first.

Every verb looks (`running.opening`), decides (`core`), and acts (`running`, `storage`) in that order; nothing is written
before everything was decided, and the base is never opened for writing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from overlay.core.codes import CODES, Meaning
from overlay.core.deriving import render_manifest
from overlay.core.describing import Description
from overlay.core.findings import Finding
from overlay.core.generations import Generation
from overlay.core.pinning import compare
from overlay.core.planning import Plan
from overlay.core.progress import Reporter, Silent
from overlay.core.tracing import Trace, near_codes
from overlay.core.view import View
from overlay.errors import UsageError
from overlay.formats.digest import sha256_of
from overlay.formats.lock import Lock, LockLevel, render_lock
from overlay.formats.manifest import Manifest, manifest_schema
from overlay.running.applying import Applied, Pins, apply_plan
from overlay.running.auditing import Question, audit_checkpoint
from overlay.running.diffing import diff_checkpoints
from overlay.running.examining import Status, assess, require_ours
from overlay.running.extracting import Extracted, extract
from overlay.running.inspecting import inspect_reference
from overlay.running.locating import Places, locate, open_sound, portable, title_of
from overlay.running.locking import pin, refuse, write_document
from overlay.running.mending import Fixed, fix_index
from overlay.running.opening import lock_path, open_manifest, open_pair
from overlay.running.preparing import Request, decide, open_request
from overlay.running.proving import Level
from overlay.running.tracing import trace_tensor
from overlay.running.undoing import Undone, undo_target
from overlay.running.verifying import Verdict, tell_apart, verify_directory, verify_manifest, verify_shard
from overlay.storage.generations import read_generations
from overlay.storage.linking import LinkMode
from overlay.storage.targets import absolute, find_target

__all__ = [
    "Locked",
    "Places",
    "Question",
    "Request",
    "apply",
    "audit",
    "diff",
    "explain_code",
    "history",
    "init",
    "init_derived",
    "inspect",
    "lock",
    "mend",
    "plan",
    "schema",
    "status",
    "trace",
    "undo",
    "verify",
    "write_page",
]


@dataclass(frozen=True, slots=True)
class Locked:
    """A lock, and whether its file changed."""

    lock: Lock
    path: str
    written: bool


def init(base: str, graft: str, *, name: str = "", places: Places | None = None) -> tuple[Manifest, bytes]:
    """Write down what lays the diff-only repository `graft` over `base`: the manifest and its YAML text."""
    opened = open_pair(base, graft, places or Places(), name)
    opened.compose()
    return opened.manifest, render_manifest(opened.manifest)


def init_derived(
    base: str,
    derived: str,
    target: str,
    *,
    name: str = "",
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Extracted:
    """Write the diff-only repository that turns `base` into the full checkpoint `derived` into the folder `target`."""
    where = places or Places()
    one, other = open_sound(base, locate(base, "."), where), open_sound(derived, locate(derived, "."), where)
    title = name or title_of(derived)
    return extract(one, other, portable(base), title, absolute(target), reporter or Silent())


def lock(
    path: str,
    *,
    level: LockLevel = "content",
    upgrade: bool = False,
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Locked:
    """Pin what the manifest at `path` means today; an existing lock is only replaced with `upgrade`."""
    opened = open_manifest(path, places or Places(), with_lock=not upgrade)
    fresh = pin(opened, opened.compose(), level, reporter or Silent())
    old = opened.lock
    if old is not None and old.manifest_sha256 == fresh.manifest_sha256:
        refuse(compare(old, fresh), path)
        if old.level == "content" and level == "headers":
            return Locked(old, lock_path(path), False)
    data = render_lock(fresh)
    written = opened.lock_sha256 != sha256_of(data)
    if written:
        write_document(lock_path(path), data)
    return Locked(fresh, lock_path(path), written)


def plan(request: Request, target: str, *, link: LinkMode = "auto") -> Plan:
    """What `apply` would do; changes nothing."""
    opened = open_request(request)
    return decide(opened, opened.compose(), absolute(target), link, Silent()).plan


def apply(
    request: Request,
    target: str,
    *,
    link: LinkMode = "auto",
    level: Literal["headers", "content"] = "headers",
    saved_plan: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Applied:
    """Assemble `target`; it is the old tree or the new one at every instant.  A saved plan must still be the plan."""
    opened, report = open_request(request), reporter or Silent()
    content, where = level == "content", absolute(target)
    made = decide(opened, opened.compose(), where, link, report, content=content, saved=saved_plan)
    pins = Pins(manifest_sha256=opened.stack_sha256, lock=opened.lock, lock_sha256=opened.lock_sha256)
    return apply_plan(made.plan, made.target, made.proofs, pins, report)


def undo(target: str, *, to: int | None = None, force: bool = False, reporter: Reporter | None = None) -> Undone:
    """Bring back the generation before the current one, or generation `to`; what is current now is kept."""
    return undo_target(find_target(target), to, force, reporter or Silent())


def history(target: str) -> list[Generation]:
    """The generations of `target` that there are, by number; one of them is current, unless the target is gone."""
    known = read_generations(find_target(target))
    require_ours(find_target(target), known)
    return known


def status(target: str, *, reporter: Reporter | None = None) -> Status:
    """How `target` stands: clean, modified, dangling, or left behind by its base."""
    return assess(find_target(target), reporter or Silent())


def verify(
    reference: str,
    *,
    level: Level = "headers",
    jobs: int = 0,
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Verdict:
    """Is it what its index, lock or receipt says?  A checkpoint, a target, a manifest, its lock, or a single shard."""
    where, report = places or Places(), reporter or Silent()
    kind, path = tell_apart(reference)
    if kind == "shard":
        return verify_shard(path, level, report)
    if kind == "manifest":
        return verify_manifest(path, level, where, report, jobs)
    return verify_directory(reference, locate(path, "."), level, where, report, jobs)


def mend(
    reference: str,
    path: str,
    *,
    adopt: Sequence[str] = (),
    unlist: Sequence[str] = (),
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Fixed:
    """Write the index that the checkpoint should have to the new file `path`; the checkpoint is only read."""
    kind, checkpoint = tell_apart(reference)
    if kind != "checkpoint":
        problem = f"expected a checkpoint, which has an index, found a {kind}"
        raise UsageError(problem, subject=reference, hint="name the folder of the checkpoint")
    directory = locate(checkpoint, ".")
    where, report = places or Places(), reporter or Silent()
    return fix_index(reference, directory, path, where, report, adopt=adopt, unlist=unlist)


def inspect(reference: str, *, places: Places | None = None) -> tuple[Description, list[Finding]]:
    """What a checkpoint, or a single shard, is made of, and what is wrong with it."""
    return inspect_reference(reference, places or Places())


def explain_code(code: str) -> tuple[str, Meaning]:
    """The registered code that `code` means, whatever its case, and what it stands for."""
    meaning = CODES.get(code.upper())
    if meaning is None:
        near = " or ".join(near_codes(code, CODES))
        hint = f"did you mean {near}?" if near else "overlay explain lists every code"
        raise UsageError("expected the code of a finding, found none of that name", subject=code, hint=hint)
    return code.upper(), meaning


def trace(
    tensor: str,
    reference: str,
    *,
    lock: str = "",
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Trace:
    """Where a tensor of a checkpoint lies, the digest of its bytes, and where it came from."""
    return trace_tensor(tensor, reference, lock, places or Places(), reporter or Silent())


def diff(
    old: str,
    new: str,
    *,
    content: bool = False,
    jobs: int = 0,
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> View:
    """How the checkpoint `new` differs from `old`; bytes are only compared with `content`."""
    where = places or Places()
    return diff_checkpoints(old, new, where, content=content, jobs=jobs, reporter=reporter or Silent())


def audit(question: Question, *, reporter: Reporter | None = None) -> View:
    """What a checkpoint adds to its base, which claims hold, and what in it can do harm."""
    return audit_checkpoint(question, reporter or Silent())


def write_page(view: View, path: str) -> None:
    """Write the page that shows a difference or an audit; it replaces a page of that name in one step.

    Raises:
        UsageError: the name is none of a page, so that a slip of the hand could replace a shard.
    """
    if not path.endswith((".html", ".htm")):
        raise UsageError("expected a name that ends in .html", subject=path, hint="--html report.html")
    from overlay.report.html import render_page  # Jinja2 takes 50 ms that no other verb need wait for

    write_document(path, render_page(view).encode())


def schema() -> dict[str, Any]:
    """The JSON Schema of the manifest."""
    return manifest_schema()
