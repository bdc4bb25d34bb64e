"""Composing: a base and grafts become one checkpoint, on paper.

The result says for every file of the target what it is: a shard that is linked as it is, a shard that is built from ranges
of a donor's shards, a sidecar that is copied, or the index, whose text is made here.  Contradictions are conflicts and
stop everything; nothing is overridden silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from overlay.core.checkpoint import Checkpoint, FileSeen, Shard, Sidecar
from overlay.errors import Conflict, InvalidInput, Mismatch
from overlay.formats.digest import sha256_of
from overlay.formats.header import TensorInfo, layout_order, render_header
from overlay.formats.index import IndexEdit, new_index, rewrite
from overlay.formats.manifest import Expect, Graft, Manifest
from overlay.formats.names import INDEX_NAME, SINGLE_NAME, find_case_collisions, next_shard_name
from overlay.formats.patterns import Pattern, select

BUILT_METADATA = {"format": "pt"}
"""``__metadata__`` of the shards that we write; transformers refuses a shard without a known ``format``."""

MAX_NAMED = 20
"""Problems of one kind that are spelled out; the rest is counted."""


class TensorSource(NamedTuple):
    """A tensor's bytes: ``[begin, end)`` of a donor's shard, counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: FileSeen
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class LinkedShard:
    """A shard of the base or of a donor that is placed as it is."""

    name: str
    origin: Literal["base", "graft"]
    shard: Shard
    donor: str = ""
    """The donor's name in the manifest; grafts only."""
    sources: tuple[TensorSource, ...] = ()
    """Where the donor says that the tensors come from; grafts only."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.shard.file.size

    @property
    def header_sha256(self) -> str:
        """Digest of the header."""
        return self.shard.header.digest


@dataclass(frozen=True, slots=True)
class BuiltShard:
    """A new shard: our header, and ranges of donors' shards in its order."""

    name: str
    donor: str
    header: bytes
    header_sha256: str
    sources: tuple[TensorSource, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + self.data_bytes

    @property
    def data_bytes(self) -> int:
        """Tensor data bytes."""
        return sum(source.end - source.begin for source in self.sources)


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A sidecar; always a private copy, so that editing it reaches nobody else."""

    name: str
    origin: Literal["base", "manifest"]
    sidecar: Sidecar


@dataclass(frozen=True, slots=True)
class GraftInput:
    """A graft of the manifest and what was found of it."""

    graft: Graft
    donor: Checkpoint | None
    """None when the donor is not at hand; then `built` must be."""
    built: Shard | None
    """A shard of the graft's name that lies beside the manifest, built before."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """The checkpoint that a manifest describes."""

    name: str
    shards: tuple[LinkedShard | BuiltShard, ...]
    sidecars: tuple[CopiedFile, ...]
    index: bytes
    tensors: int
    total_size: int
    """Tensor data bytes of all shards."""
    notes: tuple[str, ...] = ()
    """What a person should know before applying."""

    @cached_property
    def index_sha256(self) -> str:
        """Digest of the index text; computed once, since the text is 22 MB."""
        return sha256_of(self.index)


def compose(
    manifest: Manifest, base: Checkpoint, grafts: Sequence[GraftInput], carried: Mapping[str, Sidecar]
) -> Composition:
    """Lay `grafts` and `carried` sidecars over `base`.

    Costs time in the number of tensors that are grafted, and one copy of the index text.

    Raises:
        InvalidInput: a pattern describes no tensor of its donor.
        Mismatch: a graft is not what its ``expect`` says.
        Conflict: two owners for one tensor or one file name.
    """
    kept = _base_shards(base, len(grafts))
    added = [_realise(entry) for entry in grafts]
    _require_free_names(kept, added)
    _require_free_tensors(base, added)
    shards = (*kept, *added)
    total_size = base.data_bytes + sum(_data_bytes(shard) for shard in added)
    tensors = len(base.weight_map) + sum(len(shard.sources) for shard in added)
    return Composition(
        name=manifest.name,
        shards=shards,
        sidecars=_sidecars(base, carried),
        index=_index(base, kept, added, total_size),
        tensors=tensors,
        total_size=total_size,
        notes=tuple(_notes(base, carried)),
    )


def require_sound(checkpoint: Checkpoint, findings: Iterable[object]) -> None:
    """Refuse a checkpoint with errors, naming them all.

    Raises:
        InvalidInput: `findings` is not empty.
    """
    lines = [getattr(finding, "line", str(finding)) for finding in findings]
    if lines:
        raise InvalidInput(
            lines[0],
            subject=checkpoint.label,
            hint=f"overlay verify {checkpoint.label}",
            others=tuple(_shortened(lines[1:])),
        )


def _shortened(lines: list[str]) -> list[str]:
    rest = len(lines) - MAX_NAMED
    return lines if rest <= 0 else [*lines[:MAX_NAMED], f"and {rest} more"]


def _base_shards(base: Checkpoint, grafts: int) -> list[LinkedShard]:
    """The base's shards under the names that they have in the target.

    A lone ``model.safetensors`` gets a numbered name as soon as a graft joins it: loaders prefer the single file to an
    index beside it, and would never open the graft.
    """
    if base.index is None and grafts:
        count = grafts + 1
        return [LinkedShard(f"model-00001-of-{count:05d}.safetensors", "base", shard) for shard in base.shards.values()]
    return [LinkedShard(name, "base", shard) for name, shard in base.shards.items()]


def _realise(entry: GraftInput) -> LinkedShard | BuiltShard:
    """Decide what a graft's shard is made of."""
    graft = entry.graft
    sources = _choose(entry)
    _require_expected(graft, sources)
    whole = _whole_shard(entry, sources)
    if whole is not None:
        return LinkedShard(graft.shard, "graft", whole, graft.from_, tuple(sources))
    ordered = tuple(sorted(sources, key=lambda source: layout_order(source.name, source.dtype)))
    header = render_header(((s.name, s.dtype, s.shape) for s in ordered), BUILT_METADATA)
    return BuiltShard(graft.shard, graft.from_, header, sha256_of(header), ordered)


def _choose(entry: GraftInput) -> list[TensorSource]:
    """The tensors of a graft, from its donor or, where that is not at hand, from the shard built before."""
    graft = entry.graft
    shards = entry.donor.shards if entry.donor is not None else {}
    if entry.donor is None:
        assert entry.built is not None  # opening an overlay finds one of the two, or refuses
        shards = {graft.shard: entry.built}
    if graft.tensors is None:
        if graft.shard not in shards:
            held = ", ".join(shards) or "no shard"
            raise InvalidInput(
                f"expected the donor {graft.from_!r} to hold this shard, found {held}",
                subject=graft.shard,
                hint="choose tensors by pattern, or correct the shard's name",
            )
        return list(_sources(shards[graft.shard], shards[graft.shard].header.names))
    patterns = [Pattern(text) for text in graft.tensors]
    chosen, idle = select(patterns, (name for shard in shards.values() for name in shard.header.names))
    if idle:
        raise InvalidInput(
            f"expected a tensor of the donor {graft.from_!r} for each pattern, found none for "
            + ", ".join(str(pattern) for pattern in idle),
            subject=graft.shard,
            hint="correct the pattern: * stays within a dotted part, ** goes across parts",
        )
    wanted = set(chosen)
    return [s for shard in shards.values() for s in _sources(shard, (n for n in shard.header.names if n in wanted))]


def _sources(shard: Shard, names: Iterable[str]) -> Iterator[TensorSource]:
    start = shard.header.data_start
    for name in names:
        info: TensorInfo = shard.header[name]
        yield TensorSource(name, info.dtype, info.shape, shard.file, start + info.begin, start + info.end)


def _whole_shard(entry: GraftInput, sources: list[TensorSource]) -> Shard | None:
    """The file that already is the graft's shard: taken whole from the donor, or built before."""
    if entry.graft.tensors is None:
        donor = entry.donor.shards if entry.donor is not None else {}
        return donor.get(entry.graft.shard) or entry.built
    if entry.built is None:
        return None
    wanted = {source.name: (source.dtype, source.shape) for source in sources}
    found = {name: (info.dtype, info.shape) for name, info in entry.built.header.items()}
    if wanted != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise Conflict(
            f"expected the {len(wanted)} tensors that the manifest chooses, found a shard that differs in "
            f"{len(differing)}, first {differing[0]}",
            subject=entry.built.file.location,
            hint="remove this shard to have it built again",
        )
    return entry.built


def _require_expected(graft: Graft, sources: list[TensorSource]) -> None:
    problems = list(_unexpected(graft.expect, sources))
    if problems:
        raise Mismatch(
            problems[0],
            subject=f"{graft.shard}: expect",
            hint="correct the manifest's expect, or the donor's revision",
            others=tuple(problems[1:]),
        )


def _unexpected(expect: Expect, sources: list[TensorSource]) -> Iterator[str]:
    if expect.tensors is not None and expect.tensors != len(sources):
        yield f"expected {expect.tensors} tensors, found {len(sources)}"
    size = sum(source.end - source.begin for source in sources)
    if expect.bytes is not None and expect.bytes != size:
        yield f"expected {expect.bytes} bytes, found {size}"
    counts = Counter(source.dtype for source in sources)
    if expect.dtypes is not None and {k: v for k, v in expect.dtypes.items() if v} != counts:
        found = ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items()))
        wanted = ", ".join(f"{count} {dtype}" for dtype, count in sorted(expect.dtypes.items()))
        yield f"expected dtypes {wanted}, found {found}"


def _require_free_names(kept: Sequence[LinkedShard], added: Sequence[LinkedShard | BuiltShard]) -> None:
    taken = {shard.name: shard for shard in kept}
    for shard in added:
        if shard.name in taken:
            owner = taken[shard.name]
            whose = "the base" if isinstance(owner, LinkedShard) and owner.origin == "base" else "another graft"
            raise Conflict(
                f"expected a new shard name for the graft, found that {whose} has this shard",
                subject=shard.name,
                hint=f"name the graft's shard {next_shard_name(taken)}",
            )
        if shard.name == SINGLE_NAME and kept:
            raise Conflict(
                "expected a numbered shard name, found the name that loaders prefer to any index",
                subject=shard.name,
                hint=f"name the graft's shard {next_shard_name(taken)}",
            )
        taken[shard.name] = shard  # type: ignore[assignment]  # only the name and the origin are looked at
    for one, other in find_case_collisions(taken):
        problem = f"expected names that differ in more than case, found {one} as well"
        raise Conflict(problem, subject=other, hint="rename the graft's shard; macOS and Windows cannot hold both")


def _require_free_tensors(base: Checkpoint, added: Sequence[LinkedShard | BuiltShard]) -> None:
    """In ``mode: add`` nothing that is there already may come again: engines would load both copies."""
    owners: dict[str, str] = {}
    problems = []
    for shard in added:
        for source in shard.sources:
            if source.name in base.weight_map:
                problems.append(_two_owners(source.name, base.weight_map[source.name], "of the base", shard.name))
            elif source.name in owners:
                problems.append(_two_owners(source.name, owners[source.name], "of another graft", shard.name))
            owners[source.name] = shard.name
    if problems:
        raise Conflict(
            problems[0],
            hint="choose other tensors, or declare the change with mode: replace",
            others=tuple(_shortened(problems[1:])),
        )


def _two_owners(tensor: str, owner: str, whose: str, graft: str) -> str:
    return f"{tensor}: expected one owner, found shard {owner} {whose} and the graft's shard {graft}"


def _data_bytes(shard: LinkedShard | BuiltShard) -> int:
    return shard.data_bytes if isinstance(shard, BuiltShard) else shard.shard.header.data_bytes


def _index(
    base: Checkpoint, kept: Sequence[LinkedShard], added: Sequence[LinkedShard | BuiltShard], total_size: int
) -> bytes:
    """The index of the composed checkpoint; the base's own bytes when nothing is added."""
    new = {source.name: shard.name for shard in added for source in shard.sources}
    if base.index is not None:
        if not new:
            return base.index.raw
        return rewrite(base.index, IndexEdit(add=new, metadata=_metadata(base, added, total_size)))
    if not new:
        return b""
    mapped = {name: shard.name for shard in kept for name in shard.shard.header.names}
    return new_index({**mapped, **new}, {"total_size": total_size})


def _metadata(base: Checkpoint, added: Sequence[LinkedShard | BuiltShard], total_size: int) -> dict[str, int]:
    """What the index's metadata must say; ``total_parameters`` only where it was said before."""
    assert base.index is not None
    change = {"total_size": total_size}
    stated = (base.index.metadata or {}).get("total_parameters")
    if type(stated) is int:
        infos = (TensorInfo(s.dtype, s.shape, s.begin, s.end) for shard in added for s in shard.sources)
        change["total_parameters"] = stated + sum(info.elements for info in infos)
    return change


def _sidecars(base: Checkpoint, carried: Mapping[str, Sidecar]) -> tuple[CopiedFile, ...]:
    own = [CopiedFile(name, "base", sidecar) for name, sidecar in base.sidecars.items() if name not in carried]
    return tuple(sorted([*own, *(CopiedFile(n, "manifest", s) for n, s in carried.items())], key=lambda f: f.name))


def _notes(base: Checkpoint, carried: Mapping[str, Sidecar]) -> Iterator[str]:
    for name, sidecar in carried.items():
        if name in base.sidecars and base.sidecars[name].sha256 != sidecar.sha256:
            yield f"{name}: taken from {sidecar.file.location}, differs from the base's"
    for name in base.strays:
        yield f"{name}: left out, the base's index does not name it"
    for name in base.left_out:
        if not name.startswith("."):
            yield f"{name}: left out, not part of a checkpoint"


def target_names(composition: Composition) -> list[str]:
    """Every file name of the target, the receipt's folder excluded."""
    names = [shard.name for shard in composition.shards] + [file.name for file in composition.sidecars]
    return [*names, INDEX_NAME] if composition.index else names
