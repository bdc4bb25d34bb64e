"""Building: make the shards of a manifest's grafts, and the repository that holds the difference and nothing else.

A shard that is finished is kept when a build is interrupted, and taken over by the next one if it would be made from the
same; the repository itself appears in one step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from overlay.core.checkpoint import Checkpoint
from overlay.core.deriving import render_manifest, roll_up
from overlay.core.parts import BuiltShard, Composition, LinkedShard, PatchedFile, TrimmedShard
from overlay.core.pinning import Measured, make_lock
from overlay.core.planning import recipe_digest
from overlay.core.progress import Reporter
from overlay.core.target import TargetState
from overlay.errors import Conflict, InvalidInput
from overlay.formats import strict_json
from overlay.formats.digest import Digests, sha256_of
from overlay.formats.lock import Lock, render_lock
from overlay.formats.manifest import Manifest
from overlay.formats.names import CARD_NAME, INDEX_NAME, REPOSITORY_MANIFEST, explain_target_name, lock_path
from overlay.formats.references import PathReference, parse_reference
from overlay.formats.steps import KeepExpertsStep
from overlay.running.converting import Conversion, convert, require_accuracy
from overlay.running.fetching import fetch_graft, fetch_inputs, lies_elsewhere
from overlay.running.locating import Places, folder_of
from overlay.running.opening import Opened, open_manifest
from overlay.running.preparing import require_apart
from overlay.storage.drafts import Drafts
from overlay.storage.files import read_document
from overlay.storage.seen import MAX_SIDECAR_BYTES, read_beginning, read_file
from overlay.storage.shard_writer import write_shard
from overlay.storage.staging import Stage, staged
from overlay.storage.stores import is_address, path_here
from overlay.storage.targets import look_at_target

REPORT_NAME: Final = "conversion.json"
"""What the lossy steps lost, class by class."""

ENGINES: Final = "engines"
"""Folder of the files that a manifest takes for an engine alone."""
_MAX_EVIDENCE_BYTES: Final = 256 * 1024 * 1024
_MAX_KEEP_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Made:
    """A shard that was made, or taken over."""

    name: str
    digests: Digests
    tensors: Mapping[str, str]
    """Tensor to the xxh3-128 of its bytes."""
    inputs: Mapping[tuple[str, int, int], str] = field(default_factory=dict)
    """Range of a donor's shard to the xxh3-128 of its bytes."""
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    """Class of tensors to what its lossy steps lost."""
    taken_over: bool = False
    """Whether an interrupted build had finished it."""


@dataclass(frozen=True, slots=True)
class Built:
    """What a build made."""

    path: str
    lock: Lock
    shards: tuple[Made, ...]
    tensors: int
    data_bytes: int
    """Tensor data bytes of the shards that were made."""


def build_repository(opened: Opened, target: str, how: Conversion, places: Places, reporter: Reporter) -> Built:
    """Write the repository of the manifest that was opened into the absent or empty folder `target`.

    It holds the manifest, its lock, the shards of its grafts, the index of the result, and the sidecars that it changes; of
    a standalone checkpoint that is everything.

    Raises:
        Conflict: there is something at `target`, it lies in a base or donor, or a donor changed meanwhile.
        InvalidInput: a tensor cannot be converted.
        Mismatch: a step loses more than the manifest allows.
        EnvironmentFault: torch is missing, or reading or writing failed; finished shards are kept for the next build.

    Whatever is raised, nothing is at `target`.
    """
    if look_at_target(target).state not in (TargetState.ABSENT, TargetState.EMPTY):
        problem = "expected an absent or empty folder, found something else"
        hint = "choose another folder for -o"
        if os.path.isfile(os.path.join(target, REPOSITORY_MANIFEST)):
            hint += f"; overlay verify {target} says whether this is the repository, whole"
        raise Conflict(problem, subject=target, hint=hint)
    require_apart(target, opened.roots)
    composition = opened.compose()
    grafts = [part for part in composition.shards if not isinstance(part, TrimmedShard) and part.origin == "graft"]
    if not grafts:
        hint = f"overlay apply {opened.path} -o DIR needs no build"
        raise InvalidInput("expected a graft to build, found none", subject=opened.path, hint=hint)
    drafts = Drafts(target)
    with staged(target) as stage:
        with drafts.kept_for_another_build():
            made = tuple(_make(part, drafts, how, reporter) for part in grafts)
        for shard in made:
            drafts.hand_over(shard.name, stage.path_of(shard.name))
        _write_rest(opened, composition, made, stage)
        lock = _lock(opened, stage, places, made)
        stage.write(os.path.basename(lock_path(REPOSITORY_MANIFEST)), render_lock(lock))
        stage.commit()
    drafts.remove()
    size = sum(part.data_bytes for part in grafts)
    return Built(target, lock, made, sum(len(shard.tensors) for shard in made), size)


def _make(part: LinkedShard | BuiltShard, drafts: Drafts, how: Conversion, reporter: Reporter) -> Made:
    """Make one shard as a draft, unless a finished one is there that was made from the same, within the same limits."""
    limits = part.limits.model_dump() if isinstance(part, BuiltShard) and part.limits is not None else None
    recipe = sha256_of(strict_json.canonical([recipe_digest(part), limits]))
    noted = drafts.find(part.name, recipe)
    if noted is not None:
        return _recalled(part.name, noted)
    made = _convert(part, drafts, how, reporter)
    drafts.finish(part.name, recipe, _note(made))
    return made


def _convert(part: LinkedShard | BuiltShard, drafts: Drafts, how: Conversion, reporter: Reporter) -> Made:
    if isinstance(part, BuiltShard) and part.recipe is None and lies_elsewhere(part):
        with reporter.task(f"fetching {part.name}", part.data_bytes) as advance:
            fetched = fetch_graft(part, drafts, advance)
        return Made(part.name, fetched.digests, fetched.tensors)
    path = drafts.begin(part.name)
    if isinstance(part, BuiltShard) and part.recipe is not None:
        how = replace(how, here=fetch_inputs(part, drafts, reporter))
        with reporter.task(f"converting {part.name}", part.size) as advance:
            done = convert(part.header, part.recipe, path, how, advance)
        require_accuracy(done.accuracy, part.limits, part.name)
        assert done.written.digests is not None  # it was written
        accuracy = {name: report.document() for name, report in done.accuracy.items()}
        return Made(part.name, done.written.digests, done.written.tensors, done.inputs, accuracy)
    header = part.header if isinstance(part, BuiltShard) else _header_of(part)
    sources = part.sources if isinstance(part, BuiltShard) else sorted(part.sources, key=lambda source: source.begin)
    with reporter.task(f"writing {part.name}", part.size) as advance:
        written = write_shard(path, header, sources, advance)
    return Made(part.name, written.digests, written.tensors)


def _header_of(part: LinkedShard) -> bytes:
    return read_beginning(part.shard.file, part.shard.header.data_start)


def _note(made: Made) -> dict[str, Any]:
    """A shard as it is noted for the next build."""
    inputs = [[*place, digest] for place, digest in made.inputs.items()]
    sizes = [made.digests.size, made.digests.sha256, made.digests.xxh3_128]
    return {"digests": sizes, "tensors": dict(made.tensors), "inputs": inputs, "accuracy": dict(made.accuracy)}


def _recalled(name: str, noted: Mapping[str, Any]) -> Made:
    inputs = {(file, begin, end): digest for file, begin, end, digest in noted["inputs"]}
    return Made(name, Digests(*noted["digests"]), noted["tensors"], inputs, noted["accuracy"], taken_over=True)


def _write_rest(opened: Opened, composition: Composition, made: tuple[Made, ...], stage: Stage) -> None:
    """Manifest, index, sidecars and report."""
    standalone = opened.manifest.base is None
    for file in composition.sidecars:
        if isinstance(file, PatchedFile):
            stage.write(file.name, file.data)
        elif standalone or file.origin == "manifest":
            stage.write(file.name, read_file(file.sidecar.file))
    if composition.index:
        stage.write(INDEX_NAME, composition.index)
    folder = folder_of(opened.path)
    for name in _keep_files(opened.manifest):
        stage.write(name, read_document(path_here(os.path.join(folder, name)), _MAX_KEEP_BYTES, "keep list"))
    for name, reference in _engine_files(opened.manifest):
        stage.write(name, read_document(path_here(os.path.join(folder, reference)), MAX_SIDECAR_BYTES, "file"))
    for name in _evidence(opened):
        if not os.path.exists(stage.path_of(name)):
            stage.write(name, read_document(path_here(os.path.join(folder, name)), _MAX_EVIDENCE_BYTES, "evidence"))
    stage.write(REPOSITORY_MANIFEST, render_manifest(_published(opened, folder)))
    accuracy = {shard.name: dict(shard.accuracy) for shard in made if shard.accuracy}
    if accuracy:
        stage.write(REPORT_NAME, strict_json.encode(accuracy))
    if not os.path.exists(stage.path_of(CARD_NAME)):
        stage.write(CARD_NAME, _card(opened.manifest).encode())


def _published(opened: Opened, folder: str) -> Manifest:
    """The manifest as it stands in the repository: files that it takes lie beside it, and paths are absolute.

    A shard that was taken whole is no longer the donor's, so that its tensors have to be chosen.
    """
    manifest = opened.manifest
    document = manifest.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    document["base"] = _absolute(manifest.base, folder) if manifest.base is not None else None
    document["donors"] = {name: _absolute(reference, folder) for name, reference in manifest.donors.items()}
    for name, change in manifest.files.items():
        if change.from_ is not None or (manifest.base is None and not change.remove):
            document["files"][name] = {"from": name}
    for name, _ in _engine_files(manifest):
        _, engine, file = name.split("/", 2)
        document["engines"][engine]["files"][file]["from"] = name
    for graft, entry in zip(manifest.grafts, document["grafts"], strict=True):
        if graft.tensors is None:
            entry["tensors"] = _choosing(graft.shard, opened.donors[graft.from_])
    return Manifest.model_validate(document)


def _choosing(shard: str, donor: Checkpoint) -> list[str]:
    """Patterns for the tensors of one of a donor's shards."""
    return roll_up(donor.shards[shard].header.names, (n for other in donor.shards.values() for n in other.header.names))


def _engine_files(manifest: Manifest) -> list[tuple[str, str]]:
    """Files on this machine that are only taken for an engine: their place in the repository, and their path."""
    return [
        (f"{ENGINES}/{engine}/{name}", os.path.expanduser(change.from_))
        for engine, profile in sorted(manifest.engines.items())
        for name, change in sorted(profile.files.items())
        if change.from_ is not None and isinstance(parse_reference(change.from_), PathReference)
    ]


def _evidence(opened: Opened) -> list[str]:
    """Files of measured results; web addresses stay what they are.

    Raises:
        InvalidInput: an entry leaves the folder, or takes the name of a file that is written here.
    """
    names = sorted({entry for entry in opened.manifest.evidence if not is_address(entry)})
    for name in names:
        if explain_target_name(name) or name in (REPOSITORY_MANIFEST, lock_path(REPOSITORY_MANIFEST), REPORT_NAME):
            problem = f"expected a file beside the manifest, in letters, digits and ._+-, found {name!r}"
            hint = "copy the file to the manifest's folder"
            raise InvalidInput(problem, subject=f"{opened.path}: evidence", hint=hint)
    return names


def _absolute(reference: str, folder: str) -> str:
    parsed = parse_reference(reference)
    if not isinstance(parsed, PathReference):
        return reference
    if is_address(folder):
        return folder if os.path.normpath(parsed.path) == "." else f"{folder}/{parsed.path}"
    return os.path.normpath(os.path.join(folder, os.path.expanduser(parsed.path)))


def _keep_files(manifest: Manifest) -> list[str]:
    steps = (step for graft in manifest.grafts for step in graft.steps if isinstance(step, KeepExpertsStep))
    return sorted({step.keep_experts for step in steps if isinstance(step.keep_experts, str)})


def _lock(opened: Opened, stage: Stage, places: Places, made: tuple[Made, ...]) -> Lock:
    """The lock of the repository in `stage`: everything that was made is pinned to the byte, the base to its headers."""
    donors = {**{name: donor.root for name, donor in opened.donors.items()}, **places.donors}
    there = replace(places, donors=donors)  # a shard that is there would do without its donor, and without lineage
    finished = open_manifest(stage.path_of(REPOSITORY_MANIFEST), there, with_lock=False)
    measured = Measured(
        files={os.path.realpath(stage.path_of(shard.name)): shard.digests.sha256 for shard in made},
        shards={shard.name: shard.digests for shard in made},
        tensors={shard.name: shard.tensors for shard in made},
        inputs={place: digest for shard in made for place, digest in shard.inputs.items()},
    )
    return make_lock(finished.pinnable, finished.compose(), "headers", measured)


def _card(manifest: Manifest) -> str:
    """A stub for people to write in; publishing adds what can be counted."""
    licence = f"license: {manifest.license}\n" if manifest.license else ""
    return f"---\n{licence}---\n# {manifest.name}\n\n{manifest.summary}\n"
