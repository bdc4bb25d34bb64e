"""Fixing: write the manifest with which engines load a checkpoint; the checkpoint itself is never changed."""

from __future__ import annotations

import os
from dataclasses import replace

from overlay.core.checking import check
from overlay.core.deriving import render_manifest
from overlay.core.findings import errors
from overlay.core.mending import is_mendable
from overlay.engines.fixing import plan_fix
from overlay.errors import Conflict, InvalidInput, UsageError
from overlay.formats.manifest import Manifest
from overlay.running.linting import Lint, lint_reference
from overlay.running.locating import Places, locate, open_checkpoint, portable, title_of
from overlay.storage.documents import write_document
from overlay.storage.stores import is_address


def write_fix(found: Lint, places: Places, path: str) -> Lint:
    """Write the manifest with what a manifest can mend of `found` to the new file `path`, and predict again with it.

    Raises:
        UsageError: a name that is none of a manifest, or a draft that is looked at beside a target.
        Conflict: there is a file already, or it would lie in the checkpoint.
        InvalidInput: the checkpoint has errors that no manifest mends: `verify --fix` comes first.
    """
    folder = locate(found.subject, ".", places)
    if not path.endswith((".yaml", ".yml")):
        raise UsageError("expected a name that ends in .yaml", subject=path, hint="--fix -o fixed.yaml")
    if found.subject.endswith((".yaml", ".yml")) or found.target is not None:
        what = "a draft beside a target" if found.target is not None else "a manifest, which can be edited"
        hint = "name a checkpoint alone, such as the folder that apply made"
        raise UsageError(
            f"expected a checkpoint to lay a manifest over, found {what}", subject=found.subject, hint=hint
        )
    if not is_address(folder) and os.path.commonpath([os.path.realpath(path), folder]) == folder:
        raise Conflict("expected a place outside of the checkpoint", subject=path, hint="name a file elsewhere")
    if os.path.lexists(path):
        raise Conflict("expected a new file, found one of this name", subject=path, hint="name another file")
    _require_sound(found.subject, folder, places)
    name = title_of(os.path.basename(path).rpartition(".")[0])
    manifest = plan_fix(name, portable(found.subject), found.predictions, found.facts, asked=found.asked)
    write_document(path, render_manifest(Manifest.model_validate(manifest)))
    engines = [prediction.engine for prediction in found.predictions]
    again = lint_reference(path, engines, places, tensor_parallel=found.tensor_parallel, asked=found.asked)
    return replace(again, need_draft=found.need_draft, written=path, profiles=tuple(manifest.get("engines", ())))


def _require_sound(reference: str, folder: str, places: Places) -> None:
    """Refuse a checkpoint on which no manifest can stand, and name the command that mends it where one does."""
    seen = open_checkpoint(reference, folder, places)
    findings = check(seen)
    broken = [finding.line for finding in errors(findings)]
    if broken:
        hint = (
            f"overlay verify {reference} --fix fixed.index.json"
            if is_mendable(findings)
            else f"overlay verify {reference}"
        )
        problem = f"expected a checkpoint that a manifest can stand on, found {broken[0]}"
        raise InvalidInput(problem, subject=reference, hint=hint, others=tuple(broken[1:]))
