"""Killed, failing or interrupted at any instant, no generation is lost, and the next run puts things in order."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from overlay.errors import OverlayError
from overlay.storage import folders
from tests.generations.conftest import World, flip, tree_at
from tests.support.faults import Strike, died, failing, interrupting, killing, nothing, watched

Tree = dict[str, tuple[Any, ...]]


def _trees(world: World) -> dict[str, Tree]:
    """Every whole tree that there is, by the text of its sidecar."""
    folders_ = [world.target, *(world.history / name for name in world.kept())]
    return {
        (folder / "notes.txt").read_text(): tree_at(folder) for folder in folders_ if (folder / "notes.txt").exists()
    }


class _Saved:
    """The folder of the target, to be put back before each fault."""

    def __init__(self, world: World, spare: Path) -> None:
        self._folder, self._spare = world.target.parent, spare
        shutil.copytree(self._folder, spare, symlinks=True)

    def put_back(self) -> None:
        shutil.rmtree(self._folder)
        shutil.copytree(self._spare, self._folder, symlinks=True)


def _each_change(saved: _Saved, action: Callable[[], object]) -> Iterator[int]:
    saved.put_back()  # copies are new inodes, of which nothing is remembered: every round starts alike
    with watched() as changes:
        action()
    for number in range(1, len(changes) + 1):
        saved.put_back()
        yield number


@pytest.fixture
def undoable(world: World, tmp_path: Path) -> tuple[World, _Saved]:
    """A target of generations 1 and 2."""
    world.apply("a")
    world.apply("b")
    return world, _Saved(world, tmp_path / "spare")


def test_undo_killed_at_any_call_leaves_one_or_the_other_and_can_be_carried_on(undoable: tuple[World, _Saved]) -> None:
    world, saved = undoable
    trees = _trees(world)
    for number in _each_change(saved, world.undo):
        assert died(world.undo, killing(number))

        assert _trees(world) == trees, number
        if world.current() == 2:
            world.undo()
        assert (world.current(), _trees(world)) == (1, trees), number
        assert world.undo(to=2) == 2
        assert (world.kept(), world.left_over()) == (["000001"], set()), number


@pytest.mark.parametrize("strike", [lambda at: failing(at, errno.EIO), interrupting], ids=["failing", "interrupted"])
def test_undo_that_fails_at_any_call_leaves_one_or_the_other(
    undoable: tuple[World, _Saved], strike: Callable[[int], Strike]
) -> None:
    world, saved = undoable
    trees = _trees(world)
    for number in _each_change(saved, world.undo):
        said = _said(world.undo, strike(number))

        assert _trees(world) == trees, number
        assert world.current() == 1 or said != "done", number
        assert world.left_over() == set(), number


def test_apply_killed_at_any_call_loses_no_generation(undoable: tuple[World, _Saved]) -> None:
    world, saved = undoable
    trees = _trees(world)
    for number in _each_change(saved, lambda: world.apply("c")):
        assert died(lambda: world.apply("c"), killing(number))
        assert world.current() in (2, 3), number

        world.apply("c")

        assert (world.numbers(), world.kept(), world.left_over()) == ([1, 2, 3], ["000001", "000002"], set()), number
        assert {**_trees(world), **trees} == _trees(world), number


@pytest.mark.parametrize("strike", [lambda at: failing(at, errno.EIO), interrupting], ids=["failing", "interrupted"])
def test_apply_that_fails_at_any_call_loses_no_generation(
    undoable: tuple[World, _Saved], strike: Callable[[int], Strike]
) -> None:
    world, saved = undoable
    trees = _trees(world)
    for number in _each_change(saved, lambda: world.apply("c")):
        _said(lambda: world.apply("c"), strike(number))

        assert {**_trees(world), **trees} == _trees(world), number
        assert world.left_over() == set(), number


def test_dropping_a_generation_killed_at_any_call_never_leaves_half_of_one(world: World, tmp_path: Path) -> None:
    for name in "abcd":
        world.apply(name)
    saved = _Saved(world, tmp_path / "spare")
    for number in _each_change(saved, lambda: world.apply("e")):
        assert died(lambda: world.apply("e"), killing(number))

        world.apply("e")

        assert set(world.kept()) - {"000001"} == {"000002", "000003", "000004"}, number
        assert len(world.kept()) == len(world.numbers()) - 1, number
        if "000001" in world.kept():  # killed before anything of it was dropped: it is whole, and goes next time
            assert world.undo(to=1) == 1
            assert world.status()[0] == ["clean"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "broken")], ids=["interrupted", "failing"])
def test_a_tree_that_could_not_be_put_away_is_adopted_by_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    world.apply("a")
    first = world.tree()

    with monkeypatch.context() as broken:
        broken.setattr("overlay.storage.generations.move", _raising(error))
        assert _said(lambda: world.apply("b")) == ("interrupted" if isinstance(error, KeyboardInterrupt) else "done")
    assert (world.current(), world.numbers(), len(world.left_over())) == (2, [2], 1)
    assert not world.apply("b").changed  # there is nothing to do but this

    assert (world.numbers(), world.left_over()) == ([1, 2], set())
    assert tree_at(world.history / "000001") == first


def test_undo_adopts_a_tree_in_transit_before_it_chooses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply("a")
    first = world.tree()
    with monkeypatch.context() as broken:
        broken.setattr("overlay.storage.generations.move", _raising(OSError(errno.EIO, "broken")))
        world.apply("b")

    assert world.undo() == 1
    assert world.tree() == first


def test_a_stage_that_was_never_committed_is_no_generation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply("a")
    stage = _killed_before_commit(world, monkeypatch, "b")
    assert (stage / ".overlay" / "receipt.json").exists()

    world.apply("c")

    assert (world.numbers(), world.left_over()) == ([1, 2], set())
    assert (world.history / "000001" / "notes.txt").read_text() == "a\n"


def test_a_damaged_tree_whose_repair_was_killed_is_no_generation(world: World, tmp_path: Path) -> None:
    world.apply("a")
    world.apply("b")
    flip(world.target / "config.json")
    saved = _Saved(world, tmp_path / "spare")
    for number in _each_change(saved, lambda: world.apply("b")):
        assert died(lambda: world.apply("b"), killing(number))

        world.apply("b")

        assert (world.numbers(), world.current(), world.left_over()) == ([1, 2], 2, set()), number
        assert world.status()[0] == ["clean"], number


def test_a_stage_that_is_a_link_is_neither_followed_nor_adopted(world: World, tmp_path: Path) -> None:
    world.apply("a")
    world.apply("b")
    other = tmp_path / "other"
    shutil.copytree(world.history / "000001", other, symlinks=True)
    other.chmod(0o555)
    link = world.target.parent / f".serve.overlay-stage-{os.uname().nodename}-1-ffff"
    link.symlink_to(other)
    before = tree_at(other)

    world.apply("c")

    assert tree_at(other) == before
    assert world.numbers() == [1, 2, 3]


def test_a_wrong_name_in_the_history_does_not_matter_and_is_put_right(world: World) -> None:
    for name in "abc":
        world.apply(name)
    (world.history / "000001").rename(world.history / "spare")
    (world.history / "000002").rename(world.history / "000001")
    (world.history / "spare").rename(world.history / "whatever")

    assert world.numbers() == [1, 2, 3]
    assert world.undo() == 2
    assert world.kept() == ["000001", "000003"]
    assert world.undo() == 1


def _killed_before_commit(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """A stage that holds everything, receipt included, and whose process was killed."""

    def kill(*args: object) -> None:
        os.kill(os.getpid(), 9)

    with monkeypatch.context() as killed:
        killed.setattr(folders, "_rename", kill)
        assert died(lambda: world.apply(name), nothing)
    (stage,) = world.left_over()
    return world.target.parent / stage


def _raising(error: BaseException) -> Callable[..., None]:
    def raise_it(*args: object) -> None:
        raise error

    return raise_it


def _said(action: Callable[[], object], strike: Strike | None = None) -> str:
    try:
        if strike is None:
            action()
        else:
            with watched(strike):
                action()
    except KeyboardInterrupt:
        return "interrupted"
    except OverlayError:
        return "refused"
    return "done"
