"""The story: one short function a verb.  Read this first.

Every verb looks (`running.opening`), decides (`core`), and acts (`running`, `storage`) in that order; nothing is written
before everything was decided, and the base is never opened for writing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from overlay.core.checking import check
from overlay.core.composing import Composition
from overlay.core.deriving import render_manifest
from overlay.core.describing import Description, describe
from overlay.core.findings import Finding
from overlay.core.pinning import compare
from overlay.core.planning import Plan, make_plan
from overlay.core.progress import Reporter, Silent
from overlay.core.target import TargetSeen
from overlay.errors import Conflict, UsageError
from overlay.formats.digest import sha256_of
from overlay.formats.lock import Lock, LockLevel, render_lock
from overlay.formats.manifest import Manifest, manifest_schema
from overlay.formats.model_config import parse_model_config
from overlay.running.applying import Applied, Pins, apply_plan
from overlay.running.locking import hold_against_lock, pin, prove_composition, refuse, write_document
from overlay.running.opening import Opened, Places, locate, lock_path, open_checkpoint, open_manifest, open_pair
from overlay.running.proving import Level
from overlay.running.verifying import Verdict, check_receipt, check_touched, verify_directory, verify_manifest
from overlay.storage.linking import LinkMode
from overlay.storage.local import read_file
from overlay.storage.targets import absolute, look_at_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to assemble: a manifest, a diff-only repository, or a base and a graft by name."""

    source: str | None = None
    """A manifest's file, or a diff-only repository's folder."""
    graft: str | None = None
    """A diff-only repository, when there is no `source`."""
    places: Places = field(default_factory=Places)


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
    opened = _open(request)
    return _plan(opened, opened.compose(), absolute(target), link, Silent())[0]


def apply(
    request: Request,
    target: str,
    *,
    link: LinkMode = "auto",
    level: Literal["headers", "content"] = "headers",
    reporter: Reporter | None = None,
) -> Applied:
    """Assemble `target`; it is the old tree or the new one at every instant."""
    opened = _open(request)
    composition = opened.compose()
    report = reporter or Silent()
    decided, seen = _plan(opened, composition, absolute(target), link, report)
    proofs = prove_composition(opened, composition, content=level == "content", reporter=report)
    pins = Pins(manifest_sha256=opened.manifest.digest, lock=opened.lock, lock_sha256=opened.lock_sha256)
    return apply_plan(decided, seen, proofs, pins, report)


def verify(
    reference: str,
    *,
    level: Level = "headers",
    jobs: int = 0,
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Verdict:
    """Is it what its index, lock or receipt says?"""
    where, report = places or Places(), reporter or Silent()
    if os.path.isfile(reference) and not reference.endswith(".safetensors"):
        return verify_manifest(reference, level, where, report, jobs)
    return verify_directory(reference, locate(reference, "."), level, where, report, jobs)


def inspect(reference: str, *, places: Places | None = None) -> tuple[Description, list[Finding]]:
    """What a checkpoint is made of, and what is wrong with it."""
    seen = open_checkpoint(reference, locate(reference, "."), places or Places(), partial=True)
    sidecar = seen.sidecars.get("config.json")
    config = parse_model_config(read_file(sidecar.file)) if sidecar is not None else None
    return describe(seen, config), check(seen)


def schema() -> dict[str, Any]:
    """The JSON Schema of the manifest."""
    return manifest_schema()


def _open(request: Request) -> Opened:
    """The manifest that `request` means."""
    source = request.source
    if source is None or os.path.isdir(source):
        manifest = _manifest_in(source) if source is not None else None
        if manifest is not None:
            return open_manifest(manifest, request.places)
        base, graft = request.places.base, source or request.graft
        if base is None or graft is None:
            raise UsageError(
                "expected a manifest, or both --base and --graft",
                subject=source or "",
                hint="overlay apply --base BASE --graft GRAFT -o DIR",
            )
        return open_pair(base, graft, request.places)
    return open_manifest(source, request.places)


def _manifest_in(folder: str) -> str | None:
    """The manifest of a diff-only repository: the one YAML file in it whose lock lies beside it, or ``overlay.yaml``."""
    names = sorted(name for name in os.listdir(folder) if name.endswith((".yaml", ".yml")))
    for name in names:
        if name == "overlay.yaml" or os.path.exists(lock_path(os.path.join(folder, name))):
            return os.path.join(folder, name)
    return None


def _plan(
    opened: Opened, composition: Composition, target: str, link: LinkMode, reporter: Reporter
) -> tuple[Plan, TargetSeen]:
    """The plan for `target`, and the target as it was seen."""
    hold_against_lock(opened, composition)
    roots = [opened.base.root, *(donor.root for donor in opened.donors.values())]
    _require_apart(target, roots)
    seen = look_at_target(target)
    findings = check_receipt(seen)
    return make_plan(composition, seen, findings + check_touched(seen, reporter), link), seen


def _require_apart(target: str, roots: list[str]) -> None:
    """A target inside a base, or around one, would write into it or lose it."""
    real = os.path.realpath(target)
    for root in roots:
        if os.path.commonpath([real, root]) in (real, root):
            raise Conflict(
                f"expected a folder apart from {root}, found one that lies in it or around it",
                subject=target,
                hint="choose another folder for -o",
            )
