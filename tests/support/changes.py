"""Overlays that replace, drop and patch, alone or in stacks: random ones, and what they must come to.

The model is two mappings, tensor to bytes and file to bytes, with the shard that each tensor lies in.  It is kept here,
step by step, with nothing of the package.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from tests.support import json_model
from tests.support.checkpoints import SINGLE, Checkpoint, Tensor, bases, tensor, tensors, write_files
from tests.support.json_model import text_of

CONFIG = {
    "architectures": ["TinyForCausalLM"],
    "model_type": "tiny",
    "quantization_config": {"ignore": ["lm_head"], "bits": 4},
    "own": {},
}


@dataclass(frozen=True, kw_only=True)
class Graft:
    """A graft: what the manifest says, and what it takes."""

    shard: str
    donor: str
    patterns: list[str] | None
    """None: the donor's shard of that name is taken whole."""
    mode: str
    tensors: list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A pattern of tensors that leave, and which these are."""

    pattern: str
    allow_missing: bool
    names: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change to a sidecar, and the file's bytes after it; None when it is removed."""

    entry: Mapping[str, Any]
    """As it stands in the manifest."""
    brings: bytes | None = None
    """A file that the overlay brings along, to be taken whole."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """One random overlay."""

    name: str
    donors: Mapping[str, Checkpoint] = field(default_factory=dict)
    grafts: Sequence[Graft] = ()
    drops: Sequence[Drop] = ()
    files: Mapping[str, Change] = field(default_factory=dict)

    def manifest(self, base: str) -> str:
        """Its manifest over `base`; JSON is YAML."""
        value = {
            "overlay": 1,
            "name": self.name,
            "base": base,
            "donors": {name: f"{self.name}-{name}" for name in self.donors},
            "grafts": [_graft_entry(graft) for graft in self.grafts],
            "drop": [_drop_entry(drop) for drop in self.drops],
            "files": {name: change.entry for name, change in self.files.items()},
        }
        return json.dumps(value, indent=1)

    def write(self, root: str | Path, base: str) -> Path:
        """The manifest over `base`, the donors and the files that it brings, in the folder `root`."""
        folder = Path(root)
        for name, donor in self.donors.items():
            donor.write(folder / f"{self.name}-{name}")
        write_files(folder / f"{self.name}-files", {n: c.brings for n, c in self.files.items() if c.brings is not None})
        path = folder / f"{self.name}.yaml"
        path.write_text(self.manifest(base))
        return path


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a checkpoint holds: its shards by name, each with its tensors in order, and its sidecars."""

    shards: Mapping[str, Sequence[Tensor]]
    files: Mapping[str, bytes]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {entry.name: entry for entries in self.shards.values() for entry in entries}

    @property
    def homes(self) -> dict[str, str]:
        return {entry.name: shard for shard, entries in self.shards.items() for entry in entries}

    @property
    def total_size(self) -> int:
        return sum(len(entry.data) for entry in self.tensors.values())

    @property
    def total_parameters(self) -> int:
        return sum(entry.elements for entry in self.tensors.values())

    def after(self, overlay: Overlay) -> Model:
        """What it holds when `overlay` is laid over it."""
        placed = {entry.name for graft in overlay.grafts for entry in graft.tensors}
        gone = placed | {name for drop in overlay.drops for name in drop.names}
        left = {shard: [t for t in entries if t.name not in gone] for shard, entries in self.shards.items()}
        shards: dict[str, Sequence[Tensor]] = {shard: entries for shard, entries in left.items() if entries}
        shards |= {graft.shard: graft.tensors for graft in overlay.grafts}
        files = dict(self.files)
        for name, change in overlay.files.items():
            result = _changed(files.get(name), change)
            if result is None:
                del files[name]
            else:
                files[name] = result
        return Model(shards=shards, files=files)

    def named(self) -> Model:
        """With the names that the shards get in a target: a lone file's name must not stay beside another shard."""
        if SINGLE not in self.shards or len(self.shards) == 1:
            return self
        numbered = f"model-00001-of-{len(self.shards):05d}.safetensors"
        return replace(self, shards={numbered if n == SINGLE else n: ts for n, ts in self.shards.items()})


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A base and overlays: each group stands on the one before, those of the last group side by side."""

    base: Checkpoint
    below: Sequence[Overlay]
    tops: Sequence[Overlay]

    @cached_property
    def start(self) -> Model:
        return Model(shards=self.base.shards, files=self.base.sidecars)

    @cached_property
    def model(self) -> Model:
        """What everything together comes to."""
        return after_all(self.start, [*self.below, *sorted(self.tops, key=lambda overlay: overlay.name)]).named()

    @property
    def layers(self) -> list[Overlay]:
        return [*self.below, *self.tops]

    def name_of(self, shard: str) -> str | None:
        """The name that a shard of the base has in the target; None when all its tensors left."""
        held = after_all(self.start, self.layers).shards
        numbered = f"model-00001-of-{len(held):05d}.safetensors"
        return None if shard not in held else numbered if shard == SINGLE and len(held) > 1 else shard

    def write(self, root: str | Path) -> list[Path]:
        """``base``, and every overlay over the manifest below it; gives back the manifests of the last group."""
        folder = Path(root)
        self.base.write(folder / "base")
        base = "base"
        for overlay in self.below:
            base = overlay.write(folder, base).name
        return [overlay.write(folder, base) for overlay in self.tops]

    def inputs(self, root: str | Path) -> list[Path]:
        """The folders that nobody may write to."""
        donors = [Path(root, f"{overlay.name}-{name}") for overlay in self.layers for name in overlay.donors]
        return [Path(root, "base"), *donors]


def after_all(model: Model, overlays: Iterable[Overlay]) -> Model:
    """`model` with one overlay after the other laid over it."""
    for overlay in overlays:
        model = model.after(overlay)
    return model


def described_by(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The names that a tensor pattern describes, by a regular expression."""
    parts = [{"**": r"[\s\S]*", "*": r"[^.]*"}.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*)", pattern)]
    expression = re.compile("".join(parts))
    return frozenset(name for name in names if expression.fullmatch(name))


# Random ones


@st.composite
def stacks(draw: st.DrawFn, *, below: int = 2, tops: int = 3) -> Stack:
    """A base with at most `below` overlays one on the other, and at most `tops` side by side on top."""
    base = draw(bases())
    base = replace(
        base, sidecars={**base.sidecars, "config.json": text_of(CONFIG), "hf_quant_config.json": text_of(CONFIG)}
    )
    model = Model(shards=base.shards, files=base.sidecars)
    lower = []
    for number in range(draw(st.integers(0, below))):
        overlay = draw(overlays_over(model, f"below-{number}", 0, 1))
        lower.append(overlay)
        model = model.after(overlay)
        assume(model.shards)
    count = draw(st.integers(1, tops))
    upper = [draw(overlays_over(model, f"top-{number}", number, count)) for number in range(count)]
    assume(after_all(model, upper).shards)
    return Stack(base=base, below=lower, tops=draw(st.permutations(upper)))


@st.composite
def overlays_over(draw: st.DrawFn, model: Model, name: str, part: int, parts: int) -> Overlay:
    """An overlay over `model` that touches only what belongs to part number `part` of `parts`."""
    mine = [entry for number, entry in enumerate(model.tensors.values()) if number % parts == part]
    drops = draw(_drops([entry.name for entry in mine], model.tensors))
    dropped = frozenset(n for drop in drops for n in drop.names)
    donors, grafts = draw(_grafts(name, mine, dropped))
    return Overlay(name=name, donors=donors, grafts=grafts, drops=drops, files=draw(_changes(model.files, name, part)))


@st.composite
def _drops(draw: st.DrawFn, mine: Sequence[str], everything: Iterable[str]) -> list[Drop]:
    """Patterns that describe nothing outside of `mine`."""
    names = list(everything)
    drops = []
    for chosen in draw(st.lists(st.sampled_from(mine), max_size=2, unique=True)) if mine else []:
        head, _, last = chosen.rpartition(".")
        candidates = (f"{head.rpartition('.')[0]}.**", f"{head}.*", f"**{last}", f"*.*.*.*.{last}", chosen)
        fitting = [p for p in candidates if described_by(p, names) and described_by(p, names) <= set(mine)]
        pattern = draw(st.sampled_from(fitting))
        drops.append(Drop(pattern=pattern, allow_missing=draw(st.booleans()), names=described_by(pattern, names)))
    if draw(st.integers(0, 5)) == 0:
        drops.append(Drop(pattern="nowhere.**", allow_missing=True, names=frozenset()))
    return drops


@st.composite
def _grafts(
    draw: st.DrawFn, overlay: str, mine: Sequence[Tensor], dropped: frozenset[str]
) -> tuple[dict[str, Checkpoint], list[Graft]]:
    """Grafts that add tensors, replace some of `mine`, or put something else in the place of what was dropped."""
    donors: dict[str, Checkpoint] = {}
    grafts = []
    free = [entry for entry in mine if entry.name not in dropped]
    for number in range(draw(st.integers(0, 2))):
        replaced = draw(st.lists(st.sampled_from(free), max_size=4, unique=True)) if free else []
        free = [entry for entry in free if entry not in replaced]
        wanted = draw(tensors(f"new.{overlay}.{number}.", least=0 if replaced else 1, most=3))
        wanted += [draw(_altered(entry)) for entry in replaced]
        if not replaced and dropped and number == 0 and draw(st.booleans()):
            wanted += [tensor(min(dropped), "F32", (2, 3))]
        shard, donor = f"{overlay}-{number}.safetensors", f"donor-{number}"
        whole = draw(st.booleans())
        rest = [
            tensor("unused.weight", "F32", (2,)),
            *([mine[0]] if mine and mine[0].name not in {t.name for t in wanted} else []),
        ]
        pool = draw(st.permutations(wanted))
        if whole:
            shards = {shard: list(pool), "rest.safetensors": rest}
        else:
            pool = draw(st.permutations([*wanted, *rest]))
            cut = draw(st.integers(1, len(pool) - 1))
            shards = {"b.safetensors": list(pool[:cut]), "a.safetensors": list(pool[cut:])}
        donors[donor] = Checkpoint(shards=shards)
        grafts.append(
            Graft(
                shard=shard,
                donor=donor,
                patterns=None if whole else [entry.name for entry in wanted],
                mode="replace" if replaced else "add",
                tensors=wanted,
            )
        )
    return donors, grafts


@st.composite
def _altered(draw: st.DrawFn, entry: Tensor) -> Tensor:
    """Another tensor of the same name: other bytes, and perhaps another dtype and shape."""
    if draw(st.booleans()):
        return replace_data(entry)
    return tensor(
        entry.name, draw(st.sampled_from(["F32", "U8", "I64"])), draw(st.sampled_from([(), (3,), (2, 0), (5, 7)]))
    )


def replace_data(entry: Tensor) -> Tensor:
    """The tensor with every byte another one."""
    return entry._replace(data=bytes(byte ^ 0xA5 for byte in entry.data))


@st.composite
def _changes(draw: st.DrawFn, files: Mapping[str, bytes], overlay: str, part: int) -> dict[str, Change]:
    """Changes that those of another part do not meet: each has a member of its own, and appends to one list."""
    changes: dict[str, Change] = {}
    for name in ("config.json", "hf_quant_config.json"):
        if name in files and draw(st.booleans()):
            changes[name] = draw(_json_change(json.loads(files[name]), overlay, part))
    others = [("chat_template.jinja", 0), ("LICENSE", 1), ("generation_config.json", 2)]
    for name, owner in others:
        if owner == part and draw(st.booleans()):
            if name in files and draw(st.booleans()):
                changes[name] = Change(entry={"remove": True})
            else:
                changes[name] = Change(entry={"from": f"{overlay}-files/{name}"}, brings=f"{overlay}: {name}".encode())
    return changes


@st.composite
def _json_change(draw: st.DrawFn, value: Any, overlay: str, part: int) -> Change:
    own = f"part-{part}"
    kind = draw(st.sampled_from(["patch", "merge", "append"]))
    if kind == "merge":
        return Change(entry={"merge": draw(json_model.merges_on(value, own))})
    if kind == "append" or not isinstance(value.get(own, {}), dict):
        return Change(entry={"patch": [{"op": "add", "path": "/quantization_config/ignore/-", "value": overlay}]})
    first: list[json_model.Operation] = []
    if own not in value:
        first = [{"op": "add", "path": f"/{own}", "value": {"kept": [1, {"a": None}]}}]
    operations = draw(json_model.operations_on(json_model.patched(value, first), f"/{own}"))
    return Change(entry={"patch": [*first, *operations]})


def _changed(before: bytes | None, change: Change) -> bytes | None:
    if change.brings is not None:
        return change.brings
    if "remove" in change.entry:
        return None
    assert before is not None
    value = json.loads(before)
    if "merge" in change.entry:
        return text_of(json_model.merged(value, change.entry["merge"]))
    return text_of(json_model.patched(value, change.entry["patch"]))


def _graft_entry(graft: Graft) -> dict[str, Any]:
    expect = {"tensors": len(graft.tensors), "bytes": sum(len(entry.data) for entry in graft.tensors)}
    entry = {"shard": graft.shard, "from": graft.donor, "mode": graft.mode, "expect": expect}
    return entry if graft.patterns is None else {**entry, "tensors": graft.patterns}


def _drop_entry(drop: Drop) -> str | dict[str, Any]:
    return {"tensors": drop.pattern, "allow-missing": True} if drop.allow_missing else drop.pattern


# Looking


def sidecars_of(target: str | Path) -> dict[str, bytes]:
    """Every file of a target that is neither a shard, nor the index, nor the tool's own."""
    root = Path(target)
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not name.endswith((".safetensors", "safetensors.index.json")) and not name.startswith(".overlay/")
    }


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether both names lead to one inode."""
    return os.path.samefile(one, other)
