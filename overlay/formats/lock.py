"""The lock: what a manifest's words meant when it was locked (machine-written JSON, beside the manifest).

Byte-identical for the same inputs: it holds no times, no host names and no paths but those of the manifest itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, ValidationError, model_serializer

from overlay.formats import strict_json
from overlay.formats.digest import SHA256_HEX
from overlay.formats.names import explain_shard_name, explain_target_name
from overlay.formats.problems import Document, FormatOne, dotted, explain

MAX_LOCK_BYTES = 256 * 1024 * 1024

Sha256 = Annotated[str, StringConstraints(pattern=f"^{SHA256_HEX.pattern}$")]
Xxh3 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Size = Annotated[int, Field(ge=0)]
LockLevel = Literal["headers", "content"]


class LockProblems(ValueError):
    """Everything wrong with a lock or receipt; one line a problem."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        super().__init__("; ".join(lines))


class LockedFile(Document):
    """One file of a base or donor."""

    size: Size
    sha256: Sha256 | None = None
    """Of the whole file; None where only the header was pinned."""
    header_sha256: Sha256 | None = None
    """Of the first 8 + N bytes; shards only."""


class LockedSource(Document):
    """A base or donor, and those of its files that the overlay uses."""

    reference: str
    commit: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    """The 40-hex commit that a branch or tag of a Hub reference meant."""
    files: dict[str, LockedFile]


class LockedRange(Document):
    """A stretch of a donor's shard, counted from the start of the file."""

    file: str
    begin: Size
    end: Size
    xxh3_128: Xxh3 | None = None
    """Of its bytes; None where only headers were pinned."""


class LockedTensor(Document):
    """One tensor of a graft shard and where its bytes come from."""

    dtype: str
    shape: list[Size]
    xxh3_128: Xxh3 | None = None
    """Of the tensor's bytes; None where they were not read or computed."""
    file: str | None = None
    """The donor's shard, for a tensor that is copied."""
    begin: Size | None = None
    end: Size | None = None
    """Byte range in the donor's shard, counted from the start of the file."""
    steps: list[str] = []
    """What was done to make a tensor that is computed, in order, with parameters."""
    inputs: list[LockedRange] = []
    """What a tensor that is computed was made from."""

    @model_serializer(mode="wrap")
    def _one_of_two(self, render: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A copied tensor has a file and a range, a computed one steps and inputs."""
        rendered: dict[str, Any] = render(self)
        absent = ("steps", "inputs") if self.file is not None else ("file", "begin", "end")
        return {key: value for key, value in rendered.items() if key not in absent}


class LockedGraft(Document):
    """A shard that the overlay adds."""

    donor: str
    size: Size
    header_sha256: Sha256
    sha256: Sha256 | None = None
    whole: bool
    """True: the donor's shard as it is.  False: a new shard, built from the ranges of `tensors`."""
    tensors: dict[str, LockedTensor]


class LockedResult(Document):
    """What the target comes to."""

    tensors: Size
    shards: Size
    total_size: Size
    index_sha256: Sha256


class Lock(Document):
    """The whole lock."""

    overlay_lock: FormatOne = 1
    manifest_sha256: Sha256
    """Digest of the manifest that was locked, and of those that it stands on."""
    level: LockLevel
    base: LockedSource | None
    """None for a standalone checkpoint."""
    donors: dict[str, LockedSource]
    grafts: dict[str, LockedGraft]
    trims: dict[str, LockedFile] = {}
    """Shards that are rewritten without the tensors that the overlay supersedes, as they come out."""
    files: dict[str, LockedFile]
    """Sidecars that are not the base's own, as they come out."""
    result: LockedResult


def parse_lock(data: bytes) -> Lock:
    """Parse a lock.

    Raises:
        LockProblems: with every problem found.
    """
    try:
        value = strict_json.decode(data)
    except strict_json.JsonProblem as error:
        raise LockProblems([str(error)]) from None
    if isinstance(value, dict) and type(value.get("overlay_lock")) is int and value["overlay_lock"] > 1:
        raise LockProblems(
            [f"overlay_lock: expected format 1, found {value['overlay_lock']}: it needs a newer overlay"]
        )
    try:
        lock = Lock.model_validate(value)
    except ValidationError as error:
        raise LockProblems(
            [f"{dotted(path) or 'document'}: {message}" for path, message in explain(error, value)]
        ) from None
    problems = [
        f"{dotted(('grafts', name))}: {problem}"
        for name in lock.grafts
        if (problem := explain_shard_name(name) or explain_target_name(name))
    ]
    if problems:
        raise LockProblems(problems)
    return lock


def render_lock(lock: Lock) -> bytes:
    """The one text of `lock`."""
    return strict_json.encode(lock.model_dump(mode="json"))
