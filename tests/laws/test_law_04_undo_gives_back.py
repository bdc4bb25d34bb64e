"""Law 4: undo gives back the previous generation exactly.

A target goes through applying, undoing, redoing and deleting in any order; a model in memory knows every tree that it has
been, down to the inode.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay import api
from overlay.core.generations import KEEP
from overlay.errors import Conflict, InvalidInput
from overlay.storage import proofs
from overlay.storage.generations import history_folder
from overlay.storage.linking import LinkMode
from tests.support.checkpoints import Case, overlays, snapshot_of

LINKS: tuple[LinkMode, ...] = ("auto", "symlink", "hardlink", "copy")

Step = tuple[str, int]


class Node(NamedTuple):
    """One entry of a tree, without its time of last status change: a new name for an inode moves that."""

    mode: int
    mtime_ns: int
    """0 for a folder."""
    link: str
    data: bytes
    inode: int


Tree = dict[str, Node]


def tree_of(folder: str | Path) -> Tree:
    """Everything in `folder`, and the folder itself."""
    nodes = {os.path.relpath(path, folder): (path, seen) for path, seen in snapshot_of(folder).items()}
    return {
        name: Node(
            seen.mode, 0 if stat.S_ISDIR(seen.mode) else seen.mtime_ns, seen.link, seen.data, os.lstat(path).st_ino
        )
        for name, (path, seen) in nodes.items()
    }


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.integers(0, 3)),
        st.tuples(st.just("apply"), st.integers(0, 3)),
        st.tuples(st.just("undo"), st.just(0)),
        st.tuples(st.just("undo"), st.integers(1, 7)),
        st.tuples(st.just("delete"), st.just(0)),
    ),
    min_size=2,
    max_size=12,
)
_any = given(case=overlays(), link=st.sampled_from(LINKS), steps=_steps)


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here changes a file behind our back."""
    monkeypatch.setattr(proofs, "_SETTLING_NS", 0)


class Model:
    """What a target must be."""

    def __init__(self) -> None:
        self.current = 0
        self.trees: dict[int, Tree] = {}
        """By number: the kept generations and the current one."""
        self.variants: dict[int, int] = {}
        self.replaced: dict[int, int] = {}
        """Which generation each took the place of; 0: of none."""

    def applied(self, variant: int, tree: Tree) -> None:
        if self.current and self.variants[self.current] == variant:
            assert self.trees[self.current] == tree
            return
        replaced = self.current
        self.current = max(self.trees, default=0) + 1
        others = sorted(number for number in self.trees if number != replaced)
        for number in others[: 1 - KEEP] if replaced else []:
            del self.trees[number], self.variants[number]
        self.trees[self.current], self.variants[self.current], self.replaced[self.current] = tree, variant, replaced

    def choice(self, wanted: int) -> int:
        """The generation that undo must choose; 0: none."""
        kept = [number for number in self.trees if number != self.current]
        if wanted:
            return wanted if wanted in kept else 0
        if self.replaced.get(self.current) in kept:
            return self.replaced[self.current]
        return max((number for number in kept if number < self.current or not self.current), default=0)

    def deleted(self) -> None:
        if self.current:
            del self.trees[self.current], self.variants[self.current]
        self.current = 0


class Target:
    """The real one, and its model beside it."""

    def __init__(self, case: Case, link: LinkMode, root: str) -> None:
        self.folder = Path(root)
        self.link: LinkMode = link
        self.manifest = case.write(self.folder / "inputs")
        (self.folder / "inputs" / "note.txt").write_text("note\n")
        self.texts = list(_variants(case))
        self.target = self.folder / "serve"
        self.model = Model()
        self.inputs = snapshot_of(self.folder / "inputs" / "base")

    def take(self, step: Step) -> None:
        verb, number = step
        match verb:
            case "apply":
                self._apply(number)
            case "undo":
                self._undo(number)
            case _:
                if self.target.exists():
                    shutil.rmtree(self.target)
                self.model.deleted()

    def check(self) -> None:
        model = self.model
        trees = {number: tree for number, tree in model.trees.items() if number != model.current}
        kept = [tree_of(entry) for entry in Path(history_folder(str(self.target))).glob("*")]
        assert sorted(trees.values(), key=repr) == sorted(kept, key=repr)
        assert not list(self.folder.glob(".serve.overlay-stage*"))
        if model.current:
            assert model.trees[model.current] == tree_of(self.target)
        if model.trees:
            history = api.history(str(self.target))
            expected = [(number, number == model.current) for number in sorted(model.trees)]
            assert expected == [(generation.number, generation.current) for generation in history]
        assert self.inputs == snapshot_of(self.folder / "inputs" / "base")

    def _apply(self, variant: int) -> None:
        self.manifest.write_text(self.texts[variant % len(self.texts)])
        api.apply(api.Request(sources=(str(self.manifest),)), str(self.target), link=self.link)
        self.model.applied(variant % len(self.texts), tree_of(self.target))

    def _undo(self, number: int) -> None:
        expected = self.model.choice(number)
        try:
            undone = api.undo(str(self.target), to=number or None)
        except (Conflict, InvalidInput) as refusal:
            assert not expected, refusal.line
            return
        assert expected == undone.generation.number
        self.model.current = expected


def _variants(case: Case) -> list[str]:
    """Manifests over the same inputs, each with another result."""
    plain = json.loads(case.manifest)
    files = {**plain["files"], "noted.txt": {"from": "note.txt"}}
    variants: list[dict[str, Any]] = [plain, {**plain, "files": files}, {**plain, "grafts": [], "donors": {}}]
    if len(case.base.tensors) > 1:
        variants.append({**plain, "drop": [case.base.tensors[0].name]})
    if not plain["grafts"]:
        del variants[2]
    return [json.dumps(variant) for variant in variants]


def _check(case: Case, link: LinkMode, steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as root:
        target = Target(case, link, root)
        for step in steps:
            target.take(step)

            target.check()


@_any
@settings(max_examples=25, deadline=None)
def test_undo_gives_back_what_was_there_after_any_history(case: Case, link: LinkMode, steps: list[Step]) -> None:
    _check(case, link, steps)


@pytest.mark.slow
@_any
@settings(max_examples=500, deadline=None)
def test_undo_gives_back_what_was_there_at_full_depth(case: Case, link: LinkMode, steps: list[Step]) -> None:
    _check(case, link, steps)


@given(case=overlays(), link=st.sampled_from(LINKS))
@settings(max_examples=20, deadline=None)
def test_undo_after_a_changed_manifest_gives_the_tree_back_and_undo_forward_the_other(
    case: Case, link: LinkMode
) -> None:
    steps = [("apply", 0), ("apply", 1), ("apply", 2), ("undo", 0), ("undo", 0), ("undo", 0), ("undo", 3), ("undo", 2)]
    _check(case, link, steps)
