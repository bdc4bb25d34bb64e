"""Composing: a base and a stack of overlays become one checkpoint, on paper.

Theory of operation:

1. Overlays come in groups.  Those of one group were made for the same tree and must not touch the same tensor or the
   same place of a sidecar; then their order does not matter, and they are taken in the order of their names, so that any
   order that the user gives comes to the same bytes.
2. Each overlay's effect is decided against the tree that its group started from: tensors that it adds, and tensors
   that it supersedes, by replacing or dropping them.  A name that is taken without being declared is a conflict.
3. A shard that lost all its tensors is gone, one that lost some is trimmed, every other stays a link.
4. The index is the base's text with the difference spliced in; the base's own bytes when nothing changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from overlay.core.checkpoint import Checkpoint, Shard
from overlay.core.grafting import Choice, choose, realise
from overlay.core.parts import BuiltShard, Composition, Layer, LinkedShard, Origin, ShardPart
from overlay.core.sidecars import compose_sidecars, sidecar_notes
from overlay.core.trimming import trim
from overlay.errors import Conflict, InvalidInput, shortened
from overlay.formats.dtypes import count_elements
from overlay.formats.index import IndexEdit, new_index, rewrite
from overlay.formats.names import SINGLE_NAME, find_case_collisions, next_shard_name
from overlay.formats.patterns import Pattern, select


def compose(base: Checkpoint, groups: Sequence[Sequence[Layer]], name: str) -> Composition:
    """Lay `groups` of overlays over `base`, one group after the other.

    Costs time in the number of tensors that are grafted or superseded, one pass over the names for each drop, and one copy
    of the index text.

    Raises:
        InvalidInput: a pattern describes no tensor, or a sidecar that is patched is not JSON.
        Mismatch: a graft is not what its ``expect`` says.
        Conflict: two owners for one tensor, file name or place in a sidecar, or a precondition that does not hold.
    """
    tree = _Tree(base)
    ordered = [sorted(group, key=lambda layer: (layer.name, layer.manifest.digest)) for group in groups]
    for group in ordered:
        effects = [_effect(layer, tree) for layer in group]
        _require_disjoint(effects)
        for effect in effects:
            tree.take(effect)
    shards = tree.shards()
    sidecars = compose_sidecars(base, ordered)
    recipes = [part.recipe for part in shards if isinstance(part, (BuiltShard, LinkedShard)) and part.recipe]
    if not base.shards and recipes:  # nothing but the grafts: the config has to say what became of them
        from overlay.core.recipes.declaring import declare_recipes

        sidecars = declare_recipes(sidecars, recipes)
    return Composition(
        name=name,
        shards=tuple(shards),
        sidecars=sidecars,
        index=tree.index(shards),
        tensors=tree.count,
        total_size=sum(shard.data_bytes for shard in shards),
        notes=(*_stray_notes(base), *sidecar_notes(base, ordered)),
    )


@dataclass(frozen=True, slots=True)
class _Effect:
    """What one overlay does to the tree that it was made for."""

    layer: Layer
    choices: tuple[Choice, ...]
    superseded: dict[str, str]
    """Tensor that leaves its shard, to the reason."""


@dataclass(slots=True)
class _Member:
    """A shard of the tree while overlays are laid over it."""

    name: str
    origin: Origin
    overlay: str
    """Name of the overlay that added it; "" for the base's."""
    shard: Shard | None
    choice: Choice | None = None
    removed: set[str] = field(default_factory=set)
    reasons: dict[str, int] = field(default_factory=dict)
    """Why tensors were removed, and how many."""

    def count(self) -> int:
        """Tensors that it held before any was removed."""
        if self.choice is not None:
            return len(self.choice.tensors)
        assert self.shard is not None
        return len(self.shard.header)

    def remove(self, tensor: str, reason: str) -> None:
        self.removed.add(tensor)
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def part(self) -> ShardPart | None:
        """What it comes to; None when nothing is left of it."""
        if not self.removed:
            if self.choice is not None:
                return realise(self.choice)
            assert self.shard is not None
            return LinkedShard(self.name, self.origin, self.shard)
        if len(self.removed) == self.count():
            return None
        whole = self.choice.whole if self.choice is not None else self.shard
        if whole is None:
            assert self.choice is not None
            return realise(self.choice, [s for s in self.choice.tensors if s.name not in self.removed])
        reason = "; ".join(f"{count} of {self.count()} tensors {why}" for why, count in sorted(self.reasons.items()))
        return trim(self.name, self.origin, whole, frozenset(self.removed), reason)


class _Tree:
    """The checkpoint as far as it is composed."""

    def __init__(self, base: Checkpoint) -> None:
        self.base = base
        self.members = {name: _Member(name, "base", "", shard) for name, shard in base.shards.items()}
        self.homes: dict[str, str] = {}
        """Tensor to shard, for the tensors that overlays placed."""
        self.gone: set[str] = set()
        """Base tensors that left the base's shards."""

    @property
    def count(self) -> int:
        """Tensors in all."""
        return len(self.base.weight_map) - len(self.gone) + len(self.homes)

    def home_of(self, tensor: str) -> _Member | None:
        """The shard that holds `tensor`."""
        home = self.homes.get(tensor)
        if home is None and tensor not in self.gone:
            home = self.base.weight_map.get(tensor)
        return self.members[home] if home is not None else None

    def names(self) -> Iterator[str]:
        """All tensors: the base's in the order of its index, then those that overlays placed."""
        yield from (name for name in self.base.weight_map if name not in self.gone)
        yield from self.homes

    def take(self, effect: _Effect) -> None:
        """Lay one overlay over the tree."""
        for tensor, reason in effect.superseded.items():
            home = self.home_of(tensor)
            assert home is not None  # the effect was decided against this tree
            home.remove(tensor, reason)
            if self.homes.pop(tensor, None) is None:
                self.gone.add(tensor)
        for choice in effect.choices:
            self._add(choice, effect.layer.name)

    def _add(self, choice: Choice, overlay: str) -> None:
        name = choice.shard
        owner = self.members.get(name)
        if owner is not None and len(owner.removed) < owner.count():
            whose = f"the overlay {owner.overlay}" if owner.overlay else "the base"
            raise Conflict(
                f"expected a new shard name for the graft of {overlay}, found that {whose} has this shard",
                subject=name,
                hint=f"name the graft's shard {next_shard_name(self.members)}",
            )
        if name == SINGLE_NAME and self.members:
            raise Conflict(
                "expected a numbered shard name, found the name that loaders prefer to any index",
                subject=name,
                hint=f"name the graft's shard {next_shard_name(self.members)}",
            )
        self.members[name] = _Member(name, "graft", overlay, None, choice)
        for source in choice.tensors:
            self.homes[source.name] = name

    def shards(self) -> list[ShardPart]:
        """The shards of the result, in the order of their names.

        A lone ``model.safetensors`` gets a numbered name as soon as another shard joins it: loaders prefer the single file
        to an index beside it, and would never open the graft.
        """
        living = [
            member for member in self.members.values() if len(member.removed) < member.count() or not member.count()
        ]
        if self.base.index is None and len(living) > 1:
            for member in living:
                if member.name == SINGLE_NAME:
                    member.name = f"model-00001-of-{len(living):05d}.safetensors"
        for one, other in find_case_collisions(member.name for member in living):
            problem = f"expected names that differ in more than case, found {one} as well"
            raise Conflict(problem, subject=other, hint="rename the graft's shard; macOS and Windows cannot hold both")
        if len({member.name for member in living}) < len(living):
            raise Conflict(
                "expected a shard name other than the one that the base's single shard gets",
                subject=f"model-00001-of-{len(living):05d}.safetensors",
                hint="name the graft's shard otherwise",
            )
        parts = [part for member in sorted(living, key=lambda m: m.name) if (part := member.part()) is not None]
        if not parts:
            problem = "expected at least one tensor to stay, found that everything is dropped"
            raise Conflict(problem, subject=self.base.label, hint="correct the patterns under drop")
        return parts

    def index(self, shards: Sequence[ShardPart]) -> bytes:
        """The index text; b"" for a checkpoint of one shard that has none."""
        if self.base.index is None:
            return self._new_index(shards)
        known = self.base.index.weight_map
        placed = sorted(self.homes.items(), key=lambda item: (item[1], item[0]))
        if not (placed or self.gone):
            return self.base.index.raw
        edit = IndexEdit(
            add={name: shard for name, shard in placed if name not in known},
            remap={name: shard for name, shard in placed if known.get(name, shard) != shard},
            remove=self.gone - self.homes.keys(),
            metadata=self._metadata(shards),
        )
        return rewrite(self.base.index, edit)

    def _new_index(self, shards: Sequence[ShardPart]) -> bytes:
        """An index where loaders need one: for several shards, and for a graft, whose name no loader looks for."""
        if len(shards) == 1 and (not self.homes or shards[0].name == SINGLE_NAME):
            return b""
        mapped = dict(self.homes)
        for member in self.members.values():
            if member.shard is not None:
                mapped.update((name, member.name) for name in member.shard.header.names if name not in member.removed)
        return new_index(mapped, {"total_size": sum(shard.data_bytes for shard in shards)})

    def _metadata(self, shards: Sequence[ShardPart]) -> dict[str, int]:
        """What the index's metadata must say; ``total_parameters`` only where it was said before."""
        assert self.base.index is not None
        change = {"total_size": sum(shard.data_bytes for shard in shards)}
        stated = (self.base.index.metadata or {}).get("total_parameters")
        if type(stated) is int:
            placed = (s for m in self.members.values() if m.choice for s in m.choice.tensors if s.name not in m.removed)
            added = sum(count_elements(source.shape) for source in placed)
            change["total_parameters"] = max(0, stated + added - sum(map(self._elements, self.gone)))
        return change

    def _elements(self, tensor: str) -> int:
        """Elements of a tensor of the base."""
        return self.base.shards[self.base.weight_map[tensor]].header[tensor].elements


def _effect(layer: Layer, tree: _Tree) -> _Effect:
    """Decide what `layer` does to `tree`."""
    choices = tuple(choice for entry in layer.grafts for choice in choose(entry))
    superseded = _dropped(layer, tree)
    own: dict[str, str] = {}
    problems = []
    for choice in choices:
        replaces = 0
        for source in choice.tensors:
            home = tree.home_of(source.name)
            if source.name in own:
                problems.append(_two_owners(source.name, f"{own[source.name]} of another graft", choice.shard))
                replaces += 1  # one problem is enough
            elif home is not None and choice.graft.mode == "replace":
                superseded[source.name] = f"replaced by {layer.name}"
                replaces += 1
            elif home is not None and source.name not in superseded:
                whose = f"of the overlay {home.overlay}" if home.overlay else "of the base"
                problems.append(_two_owners(source.name, f"{home.name} {whose}", choice.shard))
            own[source.name] = choice.shard
        if choice.graft.mode == "replace" and not replaces:
            problems.append(f"{choice.shard}: expected tensors to replace, found that the base has none of them")
    if problems:
        raise Conflict(
            problems[0],
            subject=layer.name,
            hint="choose other tensors, or declare the change with mode: replace",
            others=tuple(shortened(problems[1:])),
        )
    return _Effect(layer, choices, superseded)


def _dropped(layer: Layer, tree: _Tree) -> dict[str, str]:
    """The tensors that a layer drops; every pattern must describe one, unless it is allowed to be missing."""
    if not layer.manifest.drop:
        return {}
    patterns = {Pattern(entry.tensors): entry.allow_missing for entry in layer.manifest.drops}
    chosen, idle = select(patterns, tree.names())
    missing = [str(pattern) for pattern in idle if not patterns[pattern]]
    if missing:
        raise InvalidInput(
            f"expected a tensor of the base for each pattern, found none for {', '.join(missing)}",
            subject=f"{layer.name}: drop",
            hint="correct the pattern, or allow it: {tensors: PATTERN, allow-missing: true}",
        )
    return dict.fromkeys(chosen, f"dropped by {layer.name}")


def _require_disjoint(effects: Sequence[_Effect]) -> None:
    """Overlays of one group must not touch the same tensor."""
    owners: dict[str, str] = {}
    problems = []
    for effect in effects:
        touched = dict.fromkeys([*effect.superseded, *(s.name for c in effect.choices for s in c.tensors)])
        for tensor in touched:
            if tensor in owners:
                problems.append(
                    f"{tensor}: expected one overlay to touch it, found {owners[tensor]} and {effect.layer.name}"
                )
            owners[tensor] = effect.layer.name
    if problems:
        raise Conflict(
            problems[0],
            hint="apply one of them alone, or make one the base of the other",
            others=tuple(shortened(problems[1:])),
        )


def _two_owners(tensor: str, owner: str, graft: str) -> str:
    return f"{tensor}: expected one owner, found shard {owner} and the graft's shard {graft}"


def _stray_notes(base: Checkpoint) -> Iterator[str]:
    for name in base.strays:
        yield f"{name}: left out, the base's index does not name it"
    for name in base.left_out:
        if not name.startswith("."):
            yield f"{name}: left out, not part of a checkpoint"
