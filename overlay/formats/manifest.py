"""The manifest: what a derived checkpoint consists of, written by hand (YAML, format 1).

`docs/manifest.md` is the reference for people; the models below are the reference for machines, and ``overlay schema``
prints them as a JSON Schema.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from overlay.formats import dtypes, strict_json
from overlay.formats.digest import sha256_of
from overlay.formats.names import INDEX_NAME, SHARD_SUFFIX, explain_target_name, find_case_collisions
from overlay.formats.problems import Document, FormatOne, Path, dotted, explain
from overlay.formats.references import parse_reference
from overlay.formats.steps import MAX_STEPS, PatternText, Step, check_step
from overlay.formats.yaml_text import YamlProblem, YamlProblems, read_yaml

FORMAT = 1


class ManifestProblems(ValueError):
    """Everything wrong with a manifest; each line reads ``line:column: path: expected …, found …``."""

    def __init__(self, problems: list[YamlProblem]) -> None:
        self.problems = sorted(problems)
        super().__init__("; ".join(self.lines()))

    def lines(self) -> list[str]:
        """One line a problem, in the order of the text."""
        return [
            f"{p.place.line}:{p.place.column}: {dotted(p.path) + ': ' if p.path else ''}{p.message}"
            for p in self.problems
        ]


def _checked_reference(text: str) -> str:
    parse_reference(text)
    return text


def _checked_shard(name: str) -> str:
    problem = explain_target_name(name)
    if problem or "/" in name:
        raise ValueError(problem or f"expected a bare file name, found {name!r}")
    if not name.endswith(SHARD_SUFFIX):
        raise ValueError(f"expected a name that ends in {SHARD_SUFFIX}, found {name!r}")
    return name


def _checked_file(name: str) -> str:
    problem = explain_target_name(name)
    if problem:
        raise ValueError(problem)
    if name == INDEX_NAME or name.endswith(SHARD_SUFFIX):
        raise ValueError(f"expected a sidecar, found {name!r} (shards come from grafts, the index is written)")
    return name


_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_size(text: str) -> int:
    """The bytes that ``5GB`` or ``512 MiB`` means.

    Raises:
        ValueError: it is no size above 0.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,11}) ?([kMGT]B|[KMGT]iB)", text)
    if match is None:
        raise ValueError(f"expected a size such as 5GB or 512MiB, found {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def _checked_size(text: str) -> str:
    parse_size(text)
    return text


def _checked_dtype(name: str) -> str:
    if name not in dtypes.BITS:
        raise ValueError(f"expected a dtype of safetensors 0.8, found {name!r}")
    return name


def _checked_steps(steps: list[Step]) -> list[Step]:
    if len(steps) > MAX_STEPS:
        raise ValueError(f"expected at most {MAX_STEPS} steps, found {len(steps)}")
    return steps


ReferenceText = Annotated[str, AfterValidator(_checked_reference)]
ShardName = Annotated[str, AfterValidator(_checked_shard)]
FileName = Annotated[str, AfterValidator(_checked_file)]
Dtype = Annotated[str, AfterValidator(_checked_dtype)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Expect(Document):
    """What a graft must come to; a difference stops the command before anything is written."""

    tensors: Count | None = None
    bytes: Count | None = None
    """Tensor data bytes, the header excluded."""
    dtypes: dict[Dtype, Count] | None = None
    """Tensors of each dtype; dtypes that are not named must not occur."""


class Limits(Document):
    """What a graft's lossy steps may lose, for each class of modules; more stops the build."""

    relative_rms: Annotated[float, Field(gt=0)] | None = None
    """Root mean square of the error, as a fraction of that of the weights."""
    relative_max: Annotated[float, Field(gt=0)] | None = None
    """Greatest error, as a fraction of the greatest magnitude."""
    saturated: Fraction | None = None
    """Elements beyond what the scale of their group can express, as a fraction of all."""
    vanished: Fraction | None = None
    """Groups of which nothing but zeros is left though they were not zero, as a fraction of all."""


class Graft(Document):
    """A shard that the overlay adds."""

    shard: ShardName
    """The name of the shard in the target."""
    from_: Word = Field(alias="from")
    """The donor, by its name under `donors`."""
    tensors: Annotated[list[PatternText], Field(min_length=1)] | None = None
    """Which of the donor's tensors; without it the donor's shard of that very name is taken whole, as a link."""
    mode: Literal["add", "replace"] = "add"
    """`add`: a name that the base has is a conflict.  `replace`: it takes the base tensor's place."""
    steps: Annotated[list[Step], AfterValidator(_checked_steps)] = []
    """Conversions in order; empty: the bytes are copied unchanged."""
    limits: Limits | None = None
    """What the steps may lose; without it they may lose anything."""
    max_shard_size: Annotated[str, AfterValidator(_checked_size)] | None = Field(default=None, alias="max-shard-size")
    """Bytes of tensors in a shard, such as ``5GB``; a graft of more is split into several, numbered on from `shard`."""
    expect: Expect = Expect()

    @model_serializer(mode="wrap")
    def _without_absent(self, render: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """No limit leaves no trace, so that the digests of manifests without one are those of older versions."""
        rendered: dict[str, Any] = render(self)
        absent = {"limits": self.limits, "max-shard-size": self.max_shard_size, "max_shard_size": self.max_shard_size}
        return {key: value for key, value in rendered.items() if absent.get(key, "") is not None}

    @property
    def max_bytes(self) -> int | None:
        """`max_shard_size` as a number."""
        return parse_size(self.max_shard_size) if self.max_shard_size is not None else None


class Drop(Document):
    """Tensors to leave out of the base."""

    tensors: PatternText
    allow_missing: bool = Field(default=False, alias="allow-missing")
    """Whether the pattern may describe no tensor; otherwise that is an error."""


class PatchOperation(Document):
    """One operation of RFC 6902."""

    op: Literal["add", "remove", "replace", "move", "copy", "test"]
    path: str
    from_: str | None = Field(default=None, alias="from")
    value: JsonValue = None

    @model_serializer(mode="wrap")
    def _with_null(self, render: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A `value` that is null is one, and not the default that may be left out."""
        rendered: dict[str, Any] = render(self)
        return rendered | {"value": self.value} if "value" in self.model_fields_set else rendered


class FileChange(Document):
    """What happens to one sidecar: it is taken from elsewhere, changed, both in this order, or removed."""

    from_: ReferenceText | None = Field(default=None, alias="from")
    """Take the whole file from here."""
    patch: list[PatchOperation] | None = None
    """RFC 6902 operations on a JSON file."""
    merge: dict[str, JsonValue] | None = None
    """RFC 7396 merge into a JSON file."""
    remove: Literal[True] | None = None
    """Leave the file out of the target."""

    @model_validator(mode="after")
    def _one_thing(self) -> FileChange:
        changes = sum(value is not None for value in (self.patch, self.merge, self.remove))
        if changes > 1 or (self.from_ is None and changes == 0) or (self.from_ is not None and self.remove):
            raise ValueError("expected exactly one of from, patch, merge, remove; or from with patch or merge")
        return self


class EngineProfile(Document):
    """What one serving engine needs in addition; applied only with ``--engine NAME``."""

    files: dict[FileName, FileChange] = {}
    launch: dict[str, JsonValue] = {}


class Publish(Document):
    """Where the difference is published."""

    repo: str


class Manifest(Document):
    """A derived checkpoint: a base, and what is grafted, dropped and patched."""

    overlay: FormatOne
    """Version of this format."""
    name: Word
    summary: str = ""
    license: str = ""
    base: ReferenceText | None
    """The checkpoint that everything else is laid over; null: a standalone checkpoint."""
    donors: dict[Word, ReferenceText] = {}
    grafts: list[Graft] = []
    drop: list[PatternText | Drop] = []
    """Patterns of base tensors to leave out."""
    files: dict[FileName, FileChange] = {}
    engines: dict[Word, EngineProfile] = {}
    evidence: list[str] = []
    publish: Publish | None = None

    @property
    def drops(self) -> list[Drop]:
        """`drop`, each entry in its long form."""
        return [Drop(tensors=entry) if isinstance(entry, str) else entry for entry in self.drop]

    @property
    def digest(self) -> str:
        """sha256 of the meaning: comments, order of keys and layout do not count, everything else does."""
        return sha256_of(strict_json.canonical(self.model_dump(mode="json", by_alias=True)))


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        ManifestProblems: with every problem found in the text, its keys and its cross-references.
    """
    try:
        document = read_yaml(data)
    except YamlProblems as error:
        raise ManifestProblems(error.problems) from None
    problems = list(document.problems)
    if not isinstance(document.value, dict):
        found = "an empty file" if document.value is None else type(document.value).__name__
        problem = YamlProblem(
            document.place_of(()), (), f"expected a mapping that begins with 'overlay: 1', found {found}"
        )
        raise ManifestProblems([*problems, problem])
    _require_version(document.value, document.place_of(("overlay",)), problems)
    manifest, shape = _validate(document.value)
    problems += [YamlProblem(document.place_of(path), path, message) for path, message in shape]
    if manifest is not None:
        problems += [YamlProblem(document.place_of(path), path, message) for path, message in _cross_check(manifest)]
    if problems or manifest is None:
        raise ManifestProblems(problems)
    return manifest


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema of the manifest."""
    schema = Manifest.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "overlay-manifest-1", **schema}


def _require_version(value: dict[str, Any], place: Any, problems: list[YamlProblem]) -> None:
    """A newer format stops at once: what else it says is not ours to judge."""
    version = value.get("overlay")
    if type(version) is int and version > FORMAT:
        message = f"expected format {FORMAT}, found {version}: this manifest needs a newer overlay"
        raise ManifestProblems([*problems, YamlProblem(place, ("overlay",), message)])


def _validate(value: dict[str, Any]) -> tuple[Manifest | None, list[tuple[Path, str]]]:
    try:
        return Manifest.model_validate(value), []
    except ValidationError as error:
        return None, explain(error, value)


def _cross_check(manifest: Manifest) -> list[tuple[Path, str]]:
    """What one key says about another."""
    problems: list[tuple[Path, str]] = []
    for number, graft in enumerate(manifest.grafts):
        if graft.from_ not in manifest.donors:
            known = ", ".join(manifest.donors) or "none"
            problems.append((("grafts", number, "from"), f"expected a donor ({known}), found {graft.from_!r}"))
        for position, step in enumerate(graft.steps):
            at: Path = ("grafts", number, "steps", position)
            problems += [((*at, *path), message) for path, message in check_step(step, manifest.donors)]
    shards = [graft.shard for graft in manifest.grafts]
    for number, shard in enumerate(shards):
        if shard in shards[:number]:
            problems.append((("grafts", number, "shard"), f"expected each shard once, found {shard!r} again"))
    for one, other in find_case_collisions([*shards, *manifest.files]):
        problems.append((("grafts",), f"expected names that differ in more than case, found {one!r} and {other!r}"))
    if manifest.base is None and not manifest.grafts:
        problems.append((("base",), "expected a base or at least one graft, found neither"))
    return problems
