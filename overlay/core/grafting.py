"""Grafting: which tensors a graft takes, and what its shard is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from overlay.core.checkpoint import NOWHERE, FileSeen, Fingerprint, Shard, TensorSource
from overlay.core.parts import BuiltShard, GraftInput, LinkedShard
from overlay.core.recipe_values import Value
from overlay.core.recipes import Recipe, plan_recipe
from overlay.errors import Conflict, InvalidInput, Mismatch
from overlay.formats.digest import sha256_of
from overlay.formats.header import TensorInfo
from overlay.formats.header_text import layout_order, render_header
from overlay.formats.manifest import Expect, Graft
from overlay.formats.patterns import Pattern, select

BUILT_METADATA = {"format": "pt"}
"""``__metadata__`` of the shards that we write; transformers refuses a shard without a known ``format``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A graft, decided: its tensors, and the file that already holds exactly them, where there is one."""

    graft: Graft
    tensors: tuple[TensorSource, ...]
    """What its shard will hold.  A tensor that is computed lies nowhere yet."""
    whole: Shard | None
    recipe: Recipe | None = None
    """How tensors are computed; None where all are copied."""


def choose(entry: GraftInput) -> Choice:
    """The tensors of a graft, from its donor or, where that is not at hand, from the shard that was built before.

    Raises:
        InvalidInput: a pattern describes no tensor of the donor, the donor lacks the shard, or a step does not fit.
        Mismatch: the graft is not what its ``expect`` says.
        Conflict: the shard that was built before holds other tensors.
    """
    tensors, recipe = tuple(_taken(entry)), None
    if entry.graft.steps and entry.donor is not None:
        recipe = plan_recipe(tensors, entry.graft.steps, entry.context)
        recipe, tensors = (None, recipe.copies) if recipe.is_copy else (recipe, tuple(map(_to_be, recipe.outputs)))
    _require_expected(entry.graft, tensors)
    return Choice(entry.graft, tensors, _whole_shard(entry, tensors), recipe)


def realise(choice: Choice, kept: Sequence[TensorSource] | None = None) -> LinkedShard | BuiltShard:
    """The shard of a graft: linked where a file holds it already, else built.

    Args:
        choice: the graft.
        kept: what is left of its tensors, when a later overlay supersedes some.
    """
    graft = choice.graft
    recipe = choice.recipe
    if recipe is not None and kept is not None:
        names = {tensor.name for tensor in kept}
        recipe = replace(recipe, outputs=tuple(value for value in recipe.outputs if value.name in names))
    if choice.whole is not None and kept is None:
        read = choice.tensors if recipe is None else inputs_of_recipe(recipe)
        return LinkedShard(graft.shard, "graft", choice.whole, graft.from_, read, recipe)
    if recipe is not None:
        header = render_header(recipe.tensors, BUILT_METADATA)
        read = inputs_of_recipe(recipe)
        return BuiltShard(graft.shard, graft.from_, header, sha256_of(header), read, recipe, graft.limits)
    tensors = choice.tensors if kept is None else kept
    ordered = tuple(sorted(tensors, key=lambda tensor: layout_order(tensor.name, tensor.dtype)))
    header = render_header(((t.name, t.dtype, t.shape) for t in ordered), BUILT_METADATA)
    return BuiltShard(graft.shard, graft.from_, header, sha256_of(header), ordered)


def inputs_of_recipe(recipe: Recipe) -> tuple[TensorSource, ...]:
    """Every range of the donor that a recipe reads, each once, by file and offset."""
    read = {source: None for job in recipe.jobs for source in job.inputs} | dict.fromkeys(recipe.copies)
    return tuple(sorted(read, key=lambda source: (source.file.name, source.begin)))


def _to_be(value: Value) -> TensorSource:
    """A tensor that is going to be computed."""
    return TensorSource(value.name, value.dtype, value.shape, _NOWHERE, 0, value.nbytes)


_NOWHERE: Final = FileSeen("", "", Fingerprint(NOWHERE, 0, 0, 0, 0))


def _taken(entry: GraftInput) -> Iterable[TensorSource]:
    graft = entry.graft
    shards = entry.donor.shards if entry.donor is not None else {}
    if entry.donor is None:
        assert entry.built is not None  # opening an overlay finds one of the two, or refuses
        shards = {graft.shard: entry.built}
    if graft.tensors is None:
        if graft.shard not in shards:
            held = ", ".join(shards) or "no shard"
            problem = f"expected the donor {graft.from_!r} to hold this shard, found {held}"
            hint = "choose tensors by pattern, or correct the shard's name"
            raise InvalidInput(problem, subject=graft.shard, hint=hint)
        return _sources(shards[graft.shard], shards[graft.shard].header.names)
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


def _whole_shard(entry: GraftInput, sources: Sequence[TensorSource]) -> Shard | None:
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


def _require_expected(graft: Graft, sources: Sequence[TensorSource]) -> None:
    problems = list(_unexpected(graft.expect, sources))
    if problems:
        raise Mismatch(
            problems[0],
            subject=f"{graft.shard}: expect",
            hint="correct the manifest's expect, or the donor's revision",
            others=tuple(problems[1:]),
        )


def _unexpected(expect: Expect, sources: Sequence[TensorSource]) -> Iterator[str]:
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
