"""Struck at any change, the target is one of its generations, none of them is lost, and a later run finishes the work."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlay.errors import OverlayError
from overlay.storage.generations import KEPT
from tests.generations.world import GRAFTED, TRIMMED, WITH_HEAD, WITH_NOTES, World
from tests.support.checkpoints import contents_of
from tests.support.faults import Strike, died, failing, interrupting, killing, nothing, watched

Contents = dict[str, tuple[int, str, bytes]]
Strikes = Callable[[int], Strike]

_FAULTS: dict[str, tuple[Strikes, Strikes]] = {
    "full": (lambda at: failing(at, errno.ENOSPC), lambda at: nothing),
    "interrupt before": (interrupting, lambda at: nothing),
    "interrupt after": (lambda at: nothing, interrupting),
}


class Scene:
    """A target with a history, put back before each strike, and one verb that is struck."""

    def __init__(self, root: Path, generations: int, act: Callable[[World], object]) -> None:
        self.world = World(root / "world")
        self._act = act
        for number in range(1, generations):
            self.world.apply({"files": {f"notes-{number}.txt": {"from": "notes.txt"}}})
        self.world.apply(GRAFTED)
        self.old_number = self.world.current
        self._saved = root / "saved"
        shutil.copytree(self.world.out, self._saved, symlinks=True)
        self.old = self._trees()
        self.old_target = contents_of(self.world.target)
        self.act()
        self.new = self._trees()
        self.new_target = contents_of(self.world.target)
        self.new_number = self.world.current
        self.put_back()
        assert self.old_target != self.new_target

    def act(self) -> None:
        self._act(self.world)

    def put_back(self) -> None:
        shutil.rmtree(self.world.out)
        shutil.copytree(self._saved, self.world.out, symlinks=True)

    def each_change(self) -> Iterator[int]:
        """The number of each change that the verb makes, everything being old at each."""
        self.put_back()
        with watched() as changes:
            self.act()
        for number in range(1, len(changes) + 1):
            self.put_back()
            yield number

    def is_new(self) -> bool:
        return contents_of(self.world.target) == self.new_target

    def check(self, note: object) -> None:
        """The target is old or new, and all that must be kept is whole, be it under a stage's name."""
        target = contents_of(self.world.target)
        assert target in (self.old_target, self.new_target), note
        must = dict(self.new if self.is_new() else self.old)
        found = self._trees(stages=True)
        assert must.items() <= found.items(), note

    def check_in_order(self, note: object) -> None:
        """Nothing is left to do, and nothing is left over."""
        assert self.new_target == contents_of(self.world.target), note
        assert [] == self.world.stages(), note
        assert self.new.items() <= self._trees().items(), note
        assert set(self._trees()) <= {*self.old, *self.new}, note

    def _trees(self, *, stages: bool = False) -> dict[int, Contents]:
        """The kept trees by number; with `stages` those that still wait to be kept too."""
        world = self.world
        folders = sorted(world.history_folder.iterdir()) if world.history_folder.exists() else []
        if stages:
            folders += [world.out / name for name in world.stages()]
        trees = {}
        for folder in folders:
            contents = contents_of(folder)
            number = _number_in(folder)
            if contents is not None and number:
                contents["."] = (0, "", b"")  # a stage that is being filled has a mode of its own
                trees[number] = contents
        return trees


def _number_in(folder: Path) -> int:
    try:
        return int(json.loads((folder / ".overlay" / "receipt.json").read_bytes())["generation"])
    except (OSError, ValueError):
        return 0


_ACTS: dict[str, tuple[int, Callable[[World], object]]] = {
    "second apply": (1, lambda world: world.apply(WITH_HEAD)),
    "apply over a full history": (KEPT + 1, lambda world: world.apply({**WITH_NOTES, **TRIMMED})),
}


@pytest.fixture(params=_ACTS)
def applying(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(tmp_path, *_ACTS[request.param])


@pytest.fixture(params=["previous", "oldest"])
def undoing(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(tmp_path, 3, lambda world: world.undo(None if request.param == "previous" else 1))


@pytest.mark.parametrize(
    "fault",
    ["full", *(pytest.param(fault, marks=pytest.mark.slow) for fault in _FAULTS if fault != "full")],
)
def test_a_failing_apply_loses_no_generation_and_a_rerun_finishes(applying: Scene, fault: str) -> None:
    _check_faults(applying, fault, lambda: applying.act())


def test_a_killed_apply_loses_no_generation_and_a_rerun_finishes(applying: Scene) -> None:
    for number in applying.each_change():
        assert died(applying.act, killing(number))
        applying.check(number)

        applying.act()

        applying.check_in_order(number)


def test_a_generation_whose_deletion_was_cut_short_is_forgotten_by_the_next_change(tmp_path: Path) -> None:
    scene = Scene(tmp_path, *_ACTS["apply over a full history"])
    for number in scene.each_change():
        assert died(scene.act, killing(number))
        if not scene.is_new():
            continue
        scene.act()

        scene.world.apply(WITH_HEAD)

        assert list(range(3, KEPT + 4)) == scene.world.numbers, number
        assert scene.new[KEPT + 1] == scene._trees()[KEPT + 1]
        assert KEPT == len(os.listdir(scene.world.history_folder)), number


def test_undo_of_a_killed_apply_gives_back_what_was_there(tmp_path: Path) -> None:
    scene = Scene(tmp_path, *_ACTS["second apply"])
    undone = 0
    for number in scene.each_change():
        assert died(scene.act, killing(number))
        if not scene.is_new():
            continue
        undone += 1

        assert 1 == scene.world.undo().generation

        assert scene.old_target == contents_of(scene.world.target)
        assert [1, 2] == scene.world.numbers
        assert [] == scene.world.stages()
    assert undone


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_failing_undo_loses_no_generation_and_a_rerun_finishes(undoing: Scene, fault: str) -> None:
    _check_faults(undoing, fault, lambda: _go_to_new(undoing))


def test_a_killed_undo_loses_no_generation_and_a_rerun_finishes(undoing: Scene) -> None:
    for number in undoing.each_change():
        assert died(undoing.act, killing(number))
        undoing.check(number)

        _go_to_new(undoing)

        undoing.check_in_order(number)
        assert [1, 2, 3] == undoing.world.numbers


def test_an_undo_that_was_refused_changed_nothing_or_everything(undoing: Scene) -> None:
    for number in undoing.each_change():
        with watched(failing(number, errno.EIO)):
            said = _said(undoing.act)

        assert said in ("done", "refused")
        assert said == "refused" or undoing.is_new(), number


def test_a_killed_undo_of_a_deleted_target_brings_it_back_or_leaves_it_in_the_history(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    for changes in (GRAFTED, WITH_NOTES, WITH_HEAD):
        world.apply(changes)
    world.delete_target()
    newest = world.kept()[2]
    with watched() as changes_made:
        world.undo()
    for number in range(1, len(changes_made) + 1):
        shutil.copytree(world.target, world.history_folder / "back", symlinks=True)
        world.delete_target()

        assert died(world.undo, killing(number))

        assert [1, 2] == world.numbers, number
        if not world.target.exists():
            world.undo()
        assert newest.keys() == contents_of(world.target).keys()  # type: ignore[union-attr]


def _go_to_new(scene: Scene) -> None:
    if scene.world.current != scene.new_number:
        scene.act()


def _check_faults(scene: Scene, fault: str, again: Callable[[], object]) -> None:
    before, after = _FAULTS[fault]
    for number in scene.each_change():
        with watched(before(number), after(number)):
            said = _said(scene.act)
        scene.check((number, said))
        assert scene.is_new() or said != "done", number

        again()

        scene.check_in_order((number, said))


def _said(action: Callable[[], object]) -> str:
    try:
        action()
    except KeyboardInterrupt:
        return "interrupted"
    except OverlayError:
        return "refused"
    return "done"
