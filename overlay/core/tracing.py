"""Tracing: where a tensor of a checkpoint lies, what belongs to it, and where it came from.

Of a target that overlay assembled the receipt says how each shard was placed and from which file; which tensors of a donor
a built shard is made of stands in the lock alone.  What neither says is said to be unknown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from overlay.core.checkpoint import Checkpoint, Shard, TensorSource
from overlay.core.schemes import Scheme, Stored
from overlay.errors import InvalidInput

OriginKind = Literal["checkpoint", "base", "graft"]

_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
_NEAR: Final = 3
"""Names that are offered instead of one that is not there."""


class Partner(NamedTuple):
    """Another tensor of the same module."""

    name: str
    shard: str
    dtype: str
    shape: tuple[int, ...]


class Held(NamedTuple):
    """A tensor as another file holds it: ``[begin, end)`` counted from the start of the file."""

    file: str
    begin: int
    end: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a tensor came from, as far as anything says so."""

    kind: OriginKind
    """``checkpoint``: overlay did not assemble this; else what the receipt says of the shard."""
    how: str = ""
    """How the shard was placed; "" for a plain checkpoint."""
    link: str = ""
    """The real file behind the shard's own link."""
    commit: str = ""
    """Of the Hub snapshot that holds the checkpoint."""
    source: Held | None = None
    """The tensor in the file that its shard leads to, was copied or trimmed from."""
    donor: str = ""
    """The donor's name in the manifest, as the lock says."""
    reference: str = ""
    """What the manifest calls the donor, and the commit that the lock pinned."""
    donated: Held | None = None
    """The tensor in the donor's shard, as the lock says; None for one that was computed."""
    steps: tuple[str, ...] = ()
    """What was done to compute it, in order."""
    inputs: tuple[Held, ...] = ()
    """The ranges of the donor's shards that it was computed from."""
    superseded: Held | None = None
    """The base's tensor of this name, which the graft took the place of."""
    notes: tuple[str, ...] = ()
    """What is not known, and how it can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Everything about one tensor."""

    tensor: str
    checkpoint: str
    """How the user named it."""
    at: TensorSource
    sha256: str
    """Of the tensor's bytes."""
    module: str
    scheme: Scheme
    partners: tuple[Partner, ...]
    also_in: tuple[str, ...]
    """Further listed shards that hold a tensor of this name; engines load it from each."""
    origin: Origin = field(default_factory=lambda: Origin(kind="checkpoint"))

    def document(self) -> dict[str, Any]:
        """The trace as it stands in JSON documents."""
        origin = self.origin
        return {
            "tensor": self.tensor,
            "checkpoint": self.checkpoint,
            "shard": self.at.file.name,
            "file": self.at.file.location,
            "begin": self.at.begin,
            "end": self.at.end,
            "bytes": self.at.end - self.at.begin,
            "dtype": self.at.dtype,
            "shape": list(self.at.shape),
            "sha256": self.sha256,
            "also_in": list(self.also_in),
            "module": {
                "name": self.module,
                **self.scheme.document(),
                "partners": [{**p._asdict(), "shape": list(p.shape)} for p in self.partners],
            },
            "origin": {
                "kind": origin.kind,
                "how": origin.how,
                "link": origin.link,
                "commit": origin.commit,
                "source": _held_document(origin.source),
                "donor": origin.donor,
                "reference": origin.reference,
                "donated": _held_document(origin.donated),
                "steps": list(origin.steps),
                "inputs": [{"shard": held.file, "begin": held.begin, "end": held.end} for held in origin.inputs],
                "superseded": _held_document(origin.superseded),
                "notes": list(origin.notes),
            },
        }


def find_tensor(checkpoint: Checkpoint, name: str) -> tuple[TensorSource, tuple[str, ...]]:
    """Where the tensor `name` lies, and the further shards that hold one of that name.

    Raises:
        InvalidInput: there is none, or the index maps it to a shard that is not here; near names are the hint.
    """
    mapped = checkpoint.weight_map.get(name)
    holding = [shard for shard, seen in checkpoint.shards.items() if name in seen.header]
    if not holding:
        raise _missing(checkpoint, name, mapped)
    first = mapped if mapped in holding else holding[0]
    return held_in(checkpoint.shards[first], name), tuple(shard for shard in holding if shard != first)


def held_in(shard: Shard, name: str) -> TensorSource:
    """The tensor `name` of `shard`."""
    info, start = shard.header[name], shard.header.data_start
    return TensorSource(name, info.dtype, info.shape, shard.file, start + info.begin, start + info.end)


def held(source: TensorSource) -> Held:
    """`source` by the path of its real file."""
    return Held(source.file.location, source.begin, source.end, source.dtype, source.shape)


def find_partners(checkpoint: Checkpoint, name: str) -> tuple[Partner, ...]:
    """All tensors of the module that `name` belongs to, itself included, in whatever shards they lie."""
    module = name.rpartition(".")[0]
    return tuple(
        Partner(other, shard, seen.header[other].dtype, seen.header[other].shape)
        for shard, seen in checkpoint.shards.items()
        for other in seen.header.names
        if other.startswith(module) and other.rpartition(".")[0] == module
    )


def form_of(partners: Iterable[Partner]) -> frozenset[Stored]:
    """The form of a module, from all its tensors."""
    return frozenset(Stored(p.name.rpartition(".")[2], p.dtype, p.shape) for p in partners)


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that a person may have meant; costs a regular expression a name.

    Names are compared without their numbers first, since a quarter of a million differ in nothing else.
    """
    known = list(names)
    inside = [other for other in known if other.startswith(f"{name}.")]
    if inside:
        return inside[:_NEAR]
    templates: dict[str, list[str]] = {}
    for other in known:
        templates.setdefault(_NUMBER.sub("N", other), []).append(other)
    closest = difflib.get_close_matches(_NUMBER.sub("N", name), templates, n=_NEAR, cutoff=0.7)
    wanted = [int(number[:9]) for number in _NUMBER.findall(name)]
    return [min(templates[template], key=lambda other: _distance(wanted, other)) for template in closest]


def _distance(wanted: list[int], name: str) -> list[int]:
    """How far the numbers of `name` are from those wanted, the first one first."""
    numbers = [int(number[:9]) for number in _NUMBER.findall(name)]
    return [abs(one - other) for one, other in zip(wanted, numbers, strict=False)]


def _missing(checkpoint: Checkpoint, name: str, mapped: str | None) -> InvalidInput:
    subject = f"{checkpoint.label}: {name}"
    if mapped is not None and mapped in checkpoint.shards:
        problem = f"expected the tensor in {mapped}, to which the index maps it, found none there (phantom)"
        return InvalidInput(problem, subject=subject, hint=f"overlay verify {checkpoint.label}")
    if mapped is not None:
        problem = f"expected its shard {mapped} here, found none that can be read"
        hint = "name the assembled target or the base: a diff-only repository holds the new shards alone"
        return InvalidInput(problem, subject=subject, hint=hint)
    near = near_names(name, checkpoint.weight_map)
    hint = f"did you mean {' or '.join(near)}?" if near else f"overlay inspect {checkpoint.label} shows what is there"
    return InvalidInput("expected a tensor of this checkpoint, found none of that name", subject=subject, hint=hint)


def _held_document(place: Held | None) -> dict[str, Any] | None:
    return None if place is None else {**place._asdict(), "shape": list(place.shape)}


def near_codes(text: str, codes: Iterable[str]) -> Iterator[str]:
    """Codes that a person may have meant by `text`."""
    known = list(codes)
    family, number = text.upper()[:3], text[3:]
    meant = f"{family}{int(number):03d}" if number.isascii() and number.isdigit() and len(number) < 4 else ""
    close = difflib.get_close_matches(text.upper(), known, n=_NEAR, cutoff=0.5)
    yield from dict.fromkeys([code for code in known if code == meant] + close)
