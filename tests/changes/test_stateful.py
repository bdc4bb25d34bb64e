"""Apply, apply again, undo, damage, repair and verify in any order, against a model in memory.

The base stays what it is whatever happens; an undamaged target is what the model says; verifying finds damage at the level
that can see it, and nothing where there is none.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from overlay import api
from overlay.core.codes import Severity
from overlay.errors import Conflict
from overlay.running.applying import Applied
from overlay.running.proving import LEVELS, Level
from overlay.storage.linking import LinkMode
from tests.support import small
from tests.support.changes import Change, Drop, Graft, Model, Overlay, after_all, sidecars_of
from tests.support.checkpoints import INDEX, read_tensors, read_weight_map, snapshot_of, tensor

EXTRA = tensor("model.layers.2.extra", "U8", (9,))
DONORS = {"new": small.donor()}


def _taking(overlay: str, *names: str, mode: str = "replace") -> dict[str, object]:
    taken = [entry for entry in small.donor().tensors if entry.name in names]
    graft = Graft(shard=f"{overlay}.safetensors", donor="new", patterns=list(names), mode=mode, tensors=taken)
    return {"name": overlay, "donors": DONORS, "grafts": [graft]}


def _dropping(pattern: str) -> Drop:
    names = [entry.name for entry in small.base().tensors]
    return Drop(
        pattern=pattern, allow_missing=False, names=frozenset(n for n in names if n.startswith(pattern.rstrip("*")))
    )


REPLACE = Overlay(**_taking("replace", small.PROJ, "model.layers.1.norm.weight"))  # type: ignore[arg-type]
ADD = Overlay(**_taking("add", EXTRA.name, mode="add"), files={"LICENSE": Change(entry={"remove": True})})  # type: ignore[arg-type]
DROP = Overlay(name="drop", drops=[_dropping("model.layers.2.**"), _dropping("model.layers.1.proj.weight")])
PATCH = Overlay(name="patch", files={"config.json": Change(entry={"patch": small.PATCH})})


class Choice(NamedTuple):
    """What can be applied: manifests side by side, the last of them standing on others."""

    below: tuple[Overlay, ...]
    tops: tuple[Overlay, ...]


CHOICES = {
    "replace": Choice((), (REPLACE,)),
    "drop": Choice((), (DROP,)),
    "add on replace on patch": Choice((PATCH, REPLACE), (ADD,)),
    "patch, add and drop": Choice((), (PATCH, ADD, DROP)),
}


class Serving(RuleBasedStateMachine):
    """One target, its base, and what happens to them."""

    @initialize()
    def write(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        os.environ["OVERLAY_CACHE"] = str(self.root / "overlay-cache")  # each run its own, or the last reads all before
        self.target = self.root / "serve"
        self.manifests: dict[str, tuple[str, ...]] = {}
        self.models: dict[str, Model] = {}
        for name, choice in CHOICES.items():
            self._write(name, choice)
        self.inputs = snapshot_of(*self._inputs())
        self.applied: tuple[str, LinkMode] | None = None
        self.damaged: dict[str, Level] = {}
        """Damaged file to the cheapest level that can see it."""
        self.was_damaged = False
        """Whether anything ever was, so that a kept generation may be damaged too."""
        self.made: dict[int, tuple[str, LinkMode]] = {}
        """Every generation, by number."""

    def _write(self, name: str, choice: Choice) -> None:
        folder = self.root / name.replace(" ", "-").replace(",", "")
        small.base().write(folder / "base")
        base = "base"
        for overlay in choice.below:
            base = overlay.write(folder, base).name
        tops = [str(overlay.write(folder, base)) for overlay in choice.tops]
        if len(tops) == 1:
            api.lock(tops[0])
        start = Model(shards=small.base().shards, files=small.base().sidecars)
        self.manifests[name] = tuple(tops)
        self.models[name] = after_all(start, [*choice.below, *sorted(choice.tops, key=lambda overlay: overlay.name)])

    def _inputs(self) -> list[Path]:
        return [
            path
            for path in sorted(self.root.iterdir())
            if not path.name.endswith(("serve", ".lock")) and "overlay" not in path.name
        ]

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    # --- what people do

    @rule(name=st.sampled_from(sorted(CHOICES)), link=st.sampled_from(["auto", "copy"]))
    def apply(self, name: str, link: LinkMode) -> None:
        self._apply(name, link)

    @precondition(lambda self: self.applied and not self.damaged)
    @rule()
    def apply_again(self) -> None:
        assert self.applied is not None
        before = snapshot_of(self.target)

        assert not self._apply(*self.applied).changed
        assert before == snapshot_of(self.target)

    @precondition(lambda self: self.damaged)
    @rule()
    def repair(self) -> None:
        assert self.applied is not None
        assert self._apply(*self.applied).changed

    @precondition(lambda self: self.applied)
    @rule(level=st.sampled_from(LEVELS))
    def verify(self, level: Level) -> None:
        verdict = api.verify(str(self.target), level=level)

        visible = {name for name, cheapest in self.damaged.items() if LEVELS.index(cheapest) <= LEVELS.index(level)}
        found = {finding.file for finding in verdict.findings if finding.severity is not Severity.NOTE}
        assert visible <= found
        assert (bool(visible), not visible) == (bool(found), verdict.ok), verdict.findings

    @precondition(lambda self: self.applied)
    @rule(to=st.sampled_from([None, 1, 2, 3, 4]))
    def undo(self, to: int | None) -> None:
        known = {generation.number: generation.current for generation in api.history(str(self.target))}
        kept = {number for number, current in known.items() if not current}
        earlier = {number for number in kept if number < max(known.keys() - kept)}
        before = snapshot_of(self.target)
        try:
            number = api.undo(str(self.target), to=to).generation.number
        except Conflict:
            # Only what was damaged is refused; a built shard is one file in several generations, so that damage spreads.
            assert self.was_damaged or not (earlier if to is None else kept & {to})
            assert before == snapshot_of(self.target)
            return
        assert number in kept
        assert to in (None, number)
        self.applied, self.damaged = self.made[number], {}

    # --- what happens to a target

    @precondition(lambda self: self.applied and len(self.damaged) < 3)
    @rule(data=st.data(), kind=st.sampled_from(["flip", "delete", "cut", "append"]))
    def damage(self, data: st.DataObject, kind: str) -> None:
        self.was_damaged = True
        whole = [path for path in sorted(self.target.iterdir()) if path.name not in (*self.damaged, ".overlay")]
        files = [path for path in whole if not path.is_symlink()]
        links = [path for path in whole if path.is_symlink()]
        if kind == "delete" or not files:
            path = data.draw(st.sampled_from(whole))
            path.unlink()
        elif kind == "append":
            path = data.draw(st.sampled_from(files))
            path.write_bytes(path.read_bytes() + b" ")
        elif kind == "cut" and links:
            path = data.draw(st.sampled_from(links))
            path.unlink()
            path.symlink_to(self.root / "nowhere")
        else:
            path = data.draw(st.sampled_from([path for path in files if path.suffix == ".safetensors"] or files))
            raw = path.read_bytes()
            path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
            self.damaged[path.name] = "content" if path.suffix == ".safetensors" else "structure"
            return
        self.damaged[path.name] = "structure"

    # --- what holds at all times

    @invariant()
    def inputs_are_what_they_were(self) -> None:
        if hasattr(self, "inputs"):
            assert self.inputs == snapshot_of(*self._inputs())

    @invariant()
    def an_undamaged_target_is_what_the_model_says(self) -> None:
        if not getattr(self, "applied", None) or self.damaged:
            return
        assert self.applied is not None
        model = self.models[self.applied[0]]
        held = read_tensors(self.target)
        assert model.tensors == {name: entry for name, (_, entry) in held.items()}
        assert model.homes == {name: shard for name, (shard, _) in held.items()} == read_weight_map(self.target)
        assert dict(model.files) == sidecars_of(self.target)
        assert (self.target / INDEX).is_file()

    def _apply(self, name: str, link: LinkMode) -> Applied:
        locked = len(self.manifests[name]) == 1
        request = api.Request(sources=self.manifests[name])
        done = api.apply(request, str(self.target), link=link, level="headers" if locked else "content")
        self.applied, self.damaged = (name, link), {}
        self.made[done.receipt.generation] = self.applied
        return done


def test_whatever_happens_base_and_target_are_what_the_model_says() -> None:
    run_state_machine_as_test(Serving, settings=settings(max_examples=12, stateful_step_count=14, deadline=None))


@pytest.mark.slow
def test_whatever_happens_base_and_target_are_what_the_model_says_at_full_depth() -> None:
    run_state_machine_as_test(Serving, settings=settings(max_examples=150, stateful_step_count=30, deadline=None))
