"""Preparing: from what the user asked for to a plan; nothing is written on the way."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from overlay.core.parts import Composition
from overlay.core.planning import Plan, make_plan, require_fresh
from overlay.core.progress import Reporter
from overlay.core.target import TargetSeen
from overlay.errors import Conflict, EnvironmentFault, InvalidInput, UsageError
from overlay.formats import strict_json
from overlay.formats.front_matter import read_front_matter
from overlay.formats.names import CARD_NAME, RECEIPT_NAME, REPOSITORY_MANIFEST, lock_path
from overlay.running.locating import Places, place_of_document
from overlay.running.locking import hold_against_lock, prove_composition
from overlay.running.opening import Opened, open_manifest, open_pair, require_known_donors, stack
from overlay.running.proving import Proofs
from overlay.running.verifying import check_receipt, check_touched
from overlay.storage.files import read_document
from overlay.storage.generations import history_folder
from overlay.storage.linking import LinkMode
from overlay.storage.seen import MAX_SIDECAR_BYTES
from overlay.storage.stores import is_address, is_file, is_folder, names_at, path_here
from overlay.storage.targets import look_at_target

_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_MAX_PLAN_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to assemble: manifests, a diff-only repository, or a base and a graft by name."""

    sources: tuple[str, ...] = ()
    """Manifests' files or diff-only repositories' folders; several are laid over one base."""
    graft: str | None = None
    """A diff-only repository without a manifest, when there is no source."""
    engine: str = ""
    """Also make the changes that the manifests name for this serving engine."""
    places: Places = field(default_factory=Places)


def open_request(request: Request) -> Opened:
    """Read everything that `request` means.

    Raises:
        UsageError: it names nothing, or an engine that no manifest knows.
        Conflict: several manifests do not go together, or one is not what was locked.
        InvalidInput, EnvironmentFault: as `open_manifest`.
    """
    opened = [_open_source(source, request) for source in request.sources or ("",)]
    if len(opened) > 1:
        for one in opened:  # each lock pins its own manifest alone
            if one.lock is not None:
                hold_against_lock(one, one.compose())
    stacked = stack(opened)
    require_known_donors(stacked, request.places)
    known = sorted({engine for group in stacked.groups for layer in group for engine in layer.manifest.engines})
    if request.engine and request.engine not in known:
        raise UsageError(
            f"expected an engine of the manifest ({', '.join(known) or 'it names none'}), found {request.engine}",
            subject=stacked.path,
            hint="name one of the manifest's engines, or leave --engine out",
        )
    return stacked


@dataclass(frozen=True, slots=True)
class Decision:
    """What will be done, and what was looked at to decide it."""

    plan: Plan
    target: TargetSeen
    proofs: Proofs


def decide(
    opened: Opened,
    composition: Composition,
    target: str,
    link: LinkMode,
    reporter: Reporter,
    *,
    content: bool = False,
    saved: Mapping[str, Any] | None = None,
) -> Decision:
    """The plan for `target`, which `storage.targets.absolute` gave.

    With `content` every shard is hashed first; `saved` is a plan's document that must still be the plan.

    Raises:
        Mismatch: something is not what the lock says.
        Conflict: the target is not ours, or lies in or around one of the checkpoints that it is made from, or the plan is
            not the saved one any more.
    """
    require_apart(target, opened.roots)
    seen = look_at_target(target)
    findings = check_receipt(seen)
    findings += check_touched(seen, reporter)
    if saved is not None:
        require_fresh(saved, make_plan(composition, seen, findings, link))
    hold_against_lock(opened, composition)
    proofs = prove_composition(opened, composition, content=content, reporter=reporter)
    return Decision(
        make_plan(composition, seen, findings, link, proofs.digests.keys(), opened.lock_sha256), seen, proofs
    )


def read_plan(path: str) -> Mapping[str, Any]:
    """The plan in a file that ``overlay plan --json`` printed.

    Raises:
        InvalidInput: there is no such file, or it is no plan.
    """
    data = read_document(path, _MAX_PLAN_BYTES, "plan")
    try:
        document = strict_json.decode(data)
    except strict_json.JsonProblem as problem:
        raise InvalidInput(str(problem), subject=path, hint="overlay plan … --json > FILE") from None
    if not isinstance(document, dict) or document.get("kind") != "plan" or not isinstance(document.get("plan"), dict):
        raise InvalidInput("expected a document of the kind plan", subject=path, hint="overlay plan … --json > FILE")
    plan: Mapping[str, Any] = document["plan"]
    return plan


def _open_source(source: str, request: Request) -> Opened:
    place = place_of_document(source, request.places) if source else ""
    folder = is_folder(place)
    if source and not folder:
        confined = request.places.confined or is_address(place)
        return open_manifest(place, replace(request.places, confined=confined), engine=request.engine)
    manifest = manifest_in(place) if source else None
    if manifest is not None:
        return open_manifest(manifest, replace(request.places, confined=True), engine=request.engine)
    if folder and not is_address(place) and os.path.lexists(os.path.join(place, RECEIPT_NAME)):
        hint = f"overlay status {source}, or name the manifest that it was made from"
        raise UsageError("expected a manifest or a diff-only repository, found a target", subject=source, hint=hint)
    graft = source or request.graft
    named = base_model_of(place) if folder and request.places.base is None else None
    base = request.places.base or named
    if base is None or graft is None:
        raise UsageError(
            "expected a manifest, or both --base and --graft",
            subject=source,
            hint="overlay apply --base BASE --graft GRAFT -o DIR; a card that names base_model stands for --base",
        )
    try:
        return open_pair(base, graft, request.places)
    except EnvironmentFault as fault:
        said = (f"the card of {source} names it as base_model; --base says otherwise",) if named else ()
        raise EnvironmentFault(
            fault.problem, subject=fault.subject, hint=fault.hint, others=(*fault.others, *said)
        ) from None


def manifest_in(folder: str) -> str | None:
    """The manifest of a diff-only repository: the YAML file whose lock lies beside it, or ``overlay.yaml``."""
    for name in sorted(name for name in names_at(folder) if name.endswith((".yaml", ".yml"))):
        if name == REPOSITORY_MANIFEST or is_file(lock_path(os.path.join(folder, name))):
            return os.path.join(folder, name)
    return None


def base_model_of(folder: str) -> str | None:
    """The base that the card of a repository names, where it names one: ``base_model`` in its front matter.

    Raises:
        EnvironmentFault: the card cannot be read.
    """
    card = os.path.join(folder, CARD_NAME)
    if not is_file(card):
        return None
    named = read_front_matter(read_document(path_here(card), MAX_SIDECAR_BYTES, "card")).get("base_model", "")
    return f"hf://{named}" if _REPOSITORY.fullmatch(named) else None


def require_apart(target: str, roots: Iterable[str]) -> None:
    """A target inside a base, or around one, would write into it or lose it; so would a history around one.

    Raises:
        Conflict: it lies so.
    """
    real, kept = os.path.realpath(target), history_folder(target)
    for root in (root for root in roots if not is_address(root)):
        if os.path.commonpath([real, root]) in (real, root) or os.path.commonpath([kept, root]) == kept:
            raise Conflict(
                f"expected a folder apart from {root}, found one that lies in it or around it",
                subject=target,
                hint="choose another folder for -o",
            )
