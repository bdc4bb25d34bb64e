"""Assembling: the verbs that make things, `init`, `lock`, `plan`, `apply`, `undo`, `history`, `status`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from overlay.core.deriving import render_manifest
from overlay.core.generations import Generation
from overlay.core.pinning import compare
from overlay.core.planning import Plan
from overlay.core.progress import Reporter, Silent
from overlay.formats.digest import sha256_of
from overlay.formats.lock import Lock, LockLevel, render_lock
from overlay.formats.manifest import Manifest, manifest_schema
from overlay.formats.names import lock_path
from overlay.running.applying import Applied, Pins, apply_plan
from overlay.running.examining import Status, assess, require_ours
from overlay.running.extracting import Extracted, extract
from overlay.running.fetching import fetch_files, whole_files, with_files
from overlay.running.locating import Places, locate, open_sound, portable, title_of
from overlay.running.locking import pin, refuse
from overlay.running.opening import open_manifest, open_pair, require_known_donors
from overlay.running.preparing import Request, decide, manifest_in, open_request
from overlay.running.spacing import require_space, require_space_for
from overlay.running.undoing import Undone, undo_target
from overlay.storage.documents import write_document
from overlay.storage.generations import read_generations
from overlay.storage.linking import LinkMode
from overlay.storage.targets import absolute, find_target


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
    one, other = (
        open_sound(base, locate(base, ".", where), where),
        open_sound(derived, locate(derived, ".", where), where),
    )
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
    """Pin what the manifest at `path`, or in this repository, means today; a lock is only replaced with `upgrade`."""
    path = (manifest_in(path) if os.path.isdir(path) else None) or path
    where = places or Places()
    opened = open_manifest(path, where, with_lock=not upgrade)
    require_known_donors(opened, where)
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
    composition = opened.compose()
    elsewhere = whole_files(composition)
    made = decide(opened, composition, where, link, report, content=content and not elsewhere, saved=saved_plan)
    if elsewhere and made.plan.actions:  # decided first: nothing is fetched for what would be refused
        require_space(made.plan)
        require_space_for(elsewhere)
        opened = with_files(opened, fetch_files(elsewhere, report))
        made = decide(opened, opened.compose(), where, link, report, content=content)
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


def schema() -> dict[str, Any]:
    """The JSON Schema of the manifest."""
    return manifest_schema()
