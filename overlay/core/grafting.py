"""Grafting: which tensors a graft takes, and what its shard is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

from overlay.core.checkpoint import Shard, TensorSource
from overlay.core.parts import BuiltShard, GraftInput, LinkedShard
from overlay.errors import Conflict, InvalidInput, Mismatch
from overlay.formats.digest import sha256_of
from overlay.formats.header import TensorInfo
from overlay.formats.header_text import layout_order, render_header
from overlay.formats.manifest import Expect, Graft
from overlay.formats.names import split_names
from overlay.formats.patterns import Pattern, select

if TYPE_CHECKING:  # imported where a graft has steps
    from overlay.core.recipes.recipe import Recipe

BUILT_METADATA = {"format": "pt"}
"""``__metadata__`` of the shards that we write; transformers refuses a shard without a known ``format``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A graft, decided: its tensors, and the file that already holds exactly them, where there is one."""

    graft: Graft
    shard: str
    """The shard's name: the graft's, unless it is split."""
    tensors: tuple[TensorSource, ...]
    """What its shard will hold.  A tensor that is computed lies nowhere yet."""
    whole: Shard | None
    recipe: Recipe | None = None
    """How tensors are computed; None where all are copied."""


def choose(entry: GraftInput) -> tuple[Choice, ...]:
    """The shards of a graft, from its donor or, where that is not at hand, from those that were built before.

    Raises:
        InvalidInput: a pattern describes no tensor of the donor, the donor lacks the shard, or a step does not fit.
        Mismatch: the graft is not what its ``expect`` says.
        Conflict: a shard that was built before holds other tensors.
    """
    graft = entry.graft
    if entry.donor is None:
        found = {name: tuple(_sources(shard, shard.header.names)) for name, shard in entry.built.items()}
        _require_expected(graft, [tensor for tensors in found.values() for tensor in tensors])
        return tuple(Choice(graft, name, tensors, entry.built[name]) for name, tensors in found.items())
    tensors, recipe = tuple(_taken(entry)), None
    if entry.context is not None:
        from overlay.core.recipes.grafts import to_be
        from overlay.core.recipes.recipe import plan_recipe

        recipe = plan_recipe(tensors, graft.steps, entry.context)
        recipe, tensors = (None, recipe.copies) if recipe.is_copy else (recipe, tuple(map(to_be, recipe.outputs)))
    _require_expected(graft, tensors)
    chunks = _split(tensors, recipe, graft.max_bytes)
    names = split_names(graft.shard, len(chunks))
    return tuple(
        Choice(graft, name, chunk, _whole_shard(entry, name, chunk), part)
        for name, chunk, part in zip(names, chunks, _parts(recipe, chunks), strict=True)
    )


def _split(
    tensors: tuple[TensorSource, ...], recipe: Recipe | None, limit: int | None
) -> list[tuple[TensorSource, ...]]:
    """Stretches of `tensors` of at most `limit` bytes, unless one tensor, or what is computed together, is larger."""
    if limit is None or sum(tensor.size for tensor in tensors) <= limit:
        return [tensors]
    by_name = {tensor.name: tensor for tensor in tensors}
    together = [[by_name[value.name] for value in job.outputs] for job in recipe.jobs] if recipe is not None else []
    computed = {tensor.name for group in together for tensor in group}
    groups = [*together, *([tensor] for tensor in tensors if tensor.name not in computed)]
    chunks: list[list[TensorSource]] = [[]]
    room = limit
    for group in sorted(groups, key=lambda group: min(tensor.name for tensor in group)):
        size = sum(tensor.size for tensor in group)
        if size > room and chunks[-1]:
            chunks.append([])
            room = limit
        chunks[-1] += group
        room -= size
    return [tuple(chunk) for chunk in chunks]


def _parts(recipe: Recipe | None, chunks: Sequence[Sequence[TensorSource]]) -> Iterator[Recipe | None]:
    """What of `recipe` makes each of `chunks`."""
    if recipe is None:
        yield from repeat(None, len(chunks))
        return
    from overlay.core.recipes.grafts import part_of

    yield from (part_of(recipe, chunk) for chunk in chunks)


def realise(choice: Choice, kept: Sequence[TensorSource] | None = None) -> LinkedShard | BuiltShard:
    """The shard of a graft: linked where a file holds it already, else built.

    Args:
        choice: the graft.
        kept: what is left of its tensors, when a later overlay supersedes some.
    """
    graft = choice.graft
    if choice.recipe is not None:
        return _realise_recipe(choice, choice.recipe, kept)
    if choice.whole is not None and kept is None:
        return LinkedShard(choice.shard, "graft", choice.whole, graft.from_, choice.tensors)
    tensors = choice.tensors if kept is None else kept
    ordered = tuple(sorted(tensors, key=lambda tensor: layout_order(tensor.name, tensor.dtype)))
    header = render_header(((t.name, t.dtype, t.shape) for t in ordered), BUILT_METADATA)
    return BuiltShard(choice.shard, graft.from_, header, sha256_of(header), ordered)


def _realise_recipe(choice: Choice, recipe: Recipe, kept: Sequence[TensorSource] | None) -> LinkedShard | BuiltShard:
    from overlay.core.recipes.grafts import inputs_of_recipe, part_of

    graft = choice.graft
    if choice.whole is not None and kept is None:
        return LinkedShard(choice.shard, "graft", choice.whole, graft.from_, inputs_of_recipe(recipe), recipe)
    if kept is not None:
        recipe = part_of(recipe, kept)
    header, read = render_header(recipe.tensors, BUILT_METADATA), inputs_of_recipe(recipe)
    return BuiltShard(choice.shard, graft.from_, header, sha256_of(header), read, recipe, graft.limits)


def _taken(entry: GraftInput) -> Iterable[TensorSource]:
    graft = entry.graft
    shards = entry.donor.shards if entry.donor is not None else {}
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


def _whole_shard(entry: GraftInput, name: str, sources: Sequence[TensorSource]) -> Shard | None:
    """The file that already is the graft's shard: taken whole from the donor, or built before."""
    if entry.graft.tensors is None:
        donor = entry.donor.shards if entry.donor is not None else {}
        return donor.get(name) or entry.built.get(name)
    built = entry.built.get(name)
    if built is None:
        return None
    wanted = {source.name: (source.dtype, source.shape) for source in sources}
    found = {name: (info.dtype, info.shape) for name, info in built.header.items()}
    if wanted != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise Conflict(
            f"expected the {len(wanted)} tensors that the manifest chooses, found a shard that differs in "
            f"{len(differing)}, first {differing[0]}",
            subject=built.file.location,
            hint="remove this shard to have it built again",
        )
    return built


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
