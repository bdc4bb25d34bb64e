"""Linting: read a checkpoint as engines meet it, and predict what each of them will do with it.

Reads headers, the index, the small files, and a few bytes of scales and shapes.  What overlay itself refuses, such as an
index whose values are paths, is read all the same, since the question is what an engine makes of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from overlay.core.checkpoint import Checkpoint, FileSeen
from overlay.engines.explaining import Load, explain_load
from overlay.engines.pairing import predict_pair
from overlay.engines.predicting import Facts, Prediction, predict
from overlay.engines.subject import NO_METADATA, Subject
from overlay.engines.values import wanted_values
from overlay.engines.versions import Engine
from overlay.errors import OverlayError
from overlay.formats.header import Header, HeaderProblem
from overlay.formats.index import MAX_INDEX_BYTES
from overlay.formats.model_config import CONFIG_NAME
from overlay.formats.names import REPOSITORY_MANIFEST, SHARD_SUFFIX
from overlay.formats.quant_config import QUANT_CONFIG_NAME
from overlay.running.diffing import manifest_of, text_of
from overlay.running.locating import Places, folder_of, locate, open_checkpoint
from overlay.storage.files import open_regular, read_exactly
from overlay.storage.local import file_at
from overlay.storage.seen import paused_gc, read_file, read_header
from overlay.storage.stores import is_address

_MOST_NESTED: Final = 2000
"""Files below folders that are looked at; checkpoints have a handful."""
_MOST_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Lint:
    """What lint found."""

    subject: str
    target: str | None
    """The target that a draft was held against, as it was named."""
    predictions: tuple[Prediction, ...]
    facts: Mapping[str, Facts]
    """Engine to what it was told; for explanations."""
    asked: bool = True
    """Whether the user named the engines."""
    tensor_parallel: int = 1
    """Ranks that weights are cut for."""
    need_draft: bool = False
    """Whether an engine without a draft layer is one that fails."""
    unread: int = 0
    """Scales and shapes that rules ask for and that were not read: they lie elsewhere, or are not made yet."""

    written: str = ""
    """The manifest that was written, with --fix."""
    profiles: tuple[str, ...] = ()
    """Engines for which that manifest has changes of its own."""

    @property
    def failing(self) -> list[Prediction]:
        """The predictions for which lint fails."""
        return [one for one in self.predictions if one.fails(asked=self.asked) or self._lacks(one)]

    def _lacks(self, prediction: Prediction) -> bool:
        return self.need_draft and prediction.draft == "absent"

    @property
    def ok(self) -> bool:
        """Whether every engine loads it, and there is no error among the findings."""
        return not self.failing

    def loads(self) -> dict[str, Load]:
        """Engine to what it would load."""
        return {one.engine.name: explain_load(one, self.facts[one.engine.name]) for one in self.predictions}

    def document(self, *, loads: bool = False) -> dict[str, Any]:
        """The result as it stands in JSON documents, with what each engine `loads`."""
        engines = {prediction.engine.name: prediction.document() for prediction in self.predictions}
        if loads:
            engines = {name: {**engines[name], "load": load.document()} for name, load in self.loads().items()}
        head = {"checkpoint": self.subject, "against": self.target, "ok": self.ok, "unread": self.unread}
        return {**head, "engines": engines}


def lint_reference(
    reference: str,
    engines: Sequence[Engine],
    places: Places,
    *,
    target: str | None = None,
    tensor_parallel: int = 1,
    asked: bool = True,
) -> Lint:
    """Predict what `engines` do with `reference`: a directory, a repository, or a manifest with its changes for each.

    Args:
        reference: what to look at; with `target`, a standalone draft.
        engines: each at a version.
        places: where things are.
        target: the checkpoint that the draft is served beside.
        tensor_parallel: ranks that weights are cut for.
        asked: whether the user named the engines.

    Raises:
        InvalidInput: it is no checkpoint, or a manifest is malformed.
        EnvironmentFault: something cannot be read.
    """
    reader, known = Reader(places, tensor_parallel), Reader(places, tensor_parallel)
    predictions, told = [], {}
    with paused_gc():  # what is read holds no cycles
        for engine in engines:
            facts = told[engine.name] = reader.facts(reference, engine)
            if target is None:
                predictions.append(predict(engine, facts))
            else:
                predictions.append(predict_pair(engine, known.facts(target, engine), facts))
    unread = reader.unread + (known.unread if target is not None else 0)
    return Lint(
        subject=reference,
        target=target,
        predictions=tuple(predictions),
        facts=told,
        asked=asked,
        tensor_parallel=tensor_parallel,
        unread=unread,
    )


class Reader:
    """Reads subjects, each once, whatever the number of engines."""

    def __init__(self, places: Places, tensor_parallel: int) -> None:
        self._places = places
        self._tensor_parallel = tensor_parallel
        self._known: dict[str, Facts] = {}
        self.unread = 0
        """As `Lint.unread`."""

    def facts(self, reference: str, engine: Engine) -> Facts:
        """What is known of `reference`; of a manifest, with its changes for `engine`."""
        manifest = self._manifest(reference)
        key = engine.name if manifest else ""
        if key not in self._known:
            seen = _compose(reference, manifest, engine, self._places) if manifest else _open(reference, self._places)
            subject = replace(seen[0], tensor_parallel=self._tensor_parallel)
            self._known[key], unread = _with_values(subject, seen[1])
            self.unread = max(self.unread, unread)
        return self._known[key]

    def _manifest(self, reference: str) -> str:
        """The manifest whose result is looked at: the one that is named, or, with --base, that of a diff-only repository,
        which is otherwise looked at as it lies there; "" for none."""
        is_file = reference.endswith((".yaml", ".yml"))
        return manifest_of(reference, self._places) if is_file or self._places.base is not None else ""


Read = tuple[Subject, Mapping[str, FileSeen]]
"""A subject, and the real file of each of its shards."""


def _compose(reference: str, path: str, engine: Engine, places: Places) -> Read:
    from overlay.core.composed import as_checkpoint  # manifests take 0.1 s to import
    from overlay.running.opening import open_manifest

    opened = open_manifest(path, replace(places, confined=path != reference), engine=engine.name)
    folder = folder_of(path)
    seen = as_checkpoint(opened.compose(), reference, folder)
    subject, files = _subject_of(seen, folder, {shard: shard_seen.header for shard, shard_seen in seen.shards.items()})
    return replace(subject, path=""), files


def _open(reference: str, places: Places) -> Read:
    directory = locate(reference, ".", places)
    local = not is_address(directory)
    if local:
        followed = tuple(sorted({*places.allowed_roots, *_behind_links(directory)}))
        places = replace(places, allowed_roots=followed)
    seen = open_checkpoint(reference, directory, places, partial=True)
    headers = {name: shard.header for name, shard in seen.shards.items()}
    strays, broken = _read_headers(seen.strays)
    subject, files = _subject_of(seen, directory, {**headers, **strays})
    files = {**files, **{name: file for name, file in seen.strays.items() if name in strays}}
    unreadable = {f.file: f.code for f in seen.findings if f.file.endswith(SHARD_SUFFIX) and f.code[:3] in _BROKEN}
    subject = replace(subject, unreadable={**unreadable, **broken})
    if seen.index is None and seen.index_file is not None:
        subject = _with_loose_index(subject, read_file(seen.index_file, MAX_INDEX_BYTES))
    return (_with_nested(subject, directory), files) if local else (subject, files)


_BROKEN: Final = frozenset({"SHD", "LNK", "LCK"})


def _subject_of(seen: Checkpoint, path: str, headers: Mapping[str, Header]) -> Read:
    files = {name: shard.file for name, shard in seen.shards.items()}
    names = {*seen.sidecars, *seen.strays, *seen.shards} | ({seen.index_file.name} if seen.index_file else set())
    index = seen.index
    subject = Subject(
        label=seen.label,
        path=path,
        names=tuple(sorted(name for name in names if "/" not in name)),
        headers=headers,
        identities={name: file.location for name, file in {**seen.strays, **files}.items() if file.location},
        weight_map=index.weight_map if index is not None else None,
        metadata=index.metadata if index is not None and index.metadata is not None else NO_METADATA,
        config=_sidecar(seen, CONFIG_NAME),
        hf_quant=_sidecar(seen, QUANT_CONFIG_NAME),
        difference=REPOSITORY_MANIFEST in seen.sidecars,
        findings=seen.findings,
    )
    return subject, files


def _sidecar(seen: Checkpoint, name: str) -> Mapping[str, Any] | None:
    return _json(text_of(seen.sidecars[name])) if name in seen.sidecars else None


def _json(data: bytes) -> Mapping[str, Any] | None:
    """A JSON object, read as forgivingly as engines read it; None where there is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _with_loose_index(subject: Subject, data: bytes) -> Subject:
    """The index of which overlay refuses a part, as engines take it."""
    value = _json(data)
    weight_map = value.get("weight_map") if value is not None else None
    if value is None or not isinstance(weight_map, dict):
        return replace(subject, index_broken=True)
    mapped = {name: shard for name, shard in weight_map.items() if isinstance(shard, str)}
    return replace(subject, weight_map=mapped, metadata=value.get("metadata", NO_METADATA))


def _read_headers(strays: Mapping[str, FileSeen]) -> tuple[dict[str, Header], dict[str, str]]:
    """Headers of shards that no index names, and the codes of those that have none."""
    headers, broken = {}, {}
    for name, file in strays.items():
        if not name.endswith(SHARD_SUFFIX):
            continue
        try:
            headers[name] = read_header(file)
        except HeaderProblem as problem:
            broken[name] = "SHD002" if problem.about_size else "SHD001"
        except OSError:
            broken[name] = "LCK005"
    return headers, broken


def _behind_links(directory: str) -> Iterator[str]:
    """Folders that the links at the top lead to: engines follow them, and lint asks what engines do."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink() and entry.name.endswith((SHARD_SUFFIX, ".json")) and os.path.isfile(entry.path):
            yield os.path.dirname(os.path.realpath(entry.path))


def _with_nested(subject: Subject, directory: str) -> Subject:
    """Weight files below folders, and the headers of those that the index names by a path."""
    nested = []
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(folder, directory)
        if inside != ".":
            nested += [f"{inside}/{name}" for name in sorted(names) if name.endswith(SHARD_SUFFIX)]
        if len(nested) > _MOST_NESTED:
            break
    headers, unreadable = dict(subject.headers), dict(subject.unreadable)
    for value in {*subject.listed} - headers.keys() - unreadable.keys():
        if "/" in value and "\x00" not in value and value.endswith(SHARD_SUFFIX):
            try:
                headers[value] = read_header(file_at(os.path.join(directory, value), value))
            except HeaderProblem as problem:
                unreadable[value] = "SHD002" if problem.about_size else "SHD001"
            except (OSError, ValueError, OverlayError):
                continue  # nothing there, or a name that no file can have: no engine finds a header either
    return replace(subject, nested=tuple(nested), headers=headers, unreadable=unreadable)


def _with_values(subject: Subject, files: Mapping[str, FileSeen]) -> tuple[Facts, int]:
    """`subject` with the bytes that rules about values ask for, and how many tensors were not read: those in files
    elsewhere, of which each would be a request, or in files that are not made yet."""
    facts = Facts(subject)
    here = {name: file for name, file in files.items() if file.exists and not file.is_remote}
    wanted = _by_shard(subject, files, wanted_values(subject, facts.seen(tuple(sorted(files)))))
    values = dict(_read_values(subject, here, {shard: names for shard, names in wanted.items() if shard in here}))
    return facts.with_values(values), sum(len(names) for shard, names in wanted.items() if shard not in here)


def _by_shard(subject: Subject, files: Mapping[str, FileSeen], wanted: Iterable[str]) -> dict[str, list[str]]:
    by_shard: dict[str, list[str]] = {}
    holders = subject.weight_map
    for name in wanted:
        shard = (
            holders.get(name) if holders is not None else next((s for s in files if name in subject.headers[s]), None)
        )
        if shard is not None and shard in files:
            by_shard.setdefault(shard, []).append(name)
    return by_shard


def _read_values(
    subject: Subject, files: Mapping[str, FileSeen], wanted: Mapping[str, list[str]]
) -> Iterator[tuple[str, bytes]]:
    for shard, names in wanted.items():
        header = subject.headers[shard]
        try:
            with open_regular(files[shard].location) as descriptor:
                at = 0
                for name in names:
                    at = _find(header, name, at, many=len(names) > _FEW)
                    info = header.at(at) if at >= 0 else None
                    if info is not None and info.nbytes <= _MOST_BYTES:
                        yield name, read_exactly(descriptor, info.nbytes, header.data_start + info.begin)
        except OSError:
            continue  # what cannot be read is found where it is opened


_FEW: Final = 50
"""Look-ups in one header that are cheaper without a table of all its names."""


_NEAR: Final = 64
"""Entries before the last one that was found: what belongs together is written together."""


def _find(header: Header, name: str, last: int, *, many: bool) -> int:
    """The position of `name` in `header`, looked for around `last` first; -1 where it is not there."""
    if many:
        return header.positions.get(name, -1)
    for begin in (max(last - _NEAR, 0), 0):
        try:
            return header.names.index(name, begin)
        except ValueError:
            continue
    return -1
