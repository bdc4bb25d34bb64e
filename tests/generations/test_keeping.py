"""Applying something else keeps the tree that it replaces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.core.generations import KEEP
from overlay.errors import Conflict
from overlay.formats.names import RECEIPT_NAME
from overlay.running import applying
from overlay.storage.targets import read_receipt
from tests.generations.conftest import World, flip, tree_at
from tests.support.checkpoints import GRAFT_SHARD, manifest_text


def test_the_first_tree_is_generation_1_and_nothing_is_kept(world: World) -> None:
    assert world.apply("a").receipt.generation == 1
    assert world.numbers() == [1]
    assert not world.history.exists()


def test_a_replaced_tree_is_kept_as_it_was_under_its_number(world: World) -> None:
    world.apply("a")
    (world.target / "config.json").chmod(0o640)
    (world.target / "added.txt").write_text("mine\n")
    (world.target / "added.txt").rename(world.target.parent / "added.txt")  # a foreign file would be refused
    first = world.tree()

    assert world.apply("b").receipt.generation == 2

    assert tree_at(world.history / "000001") == first
    assert (world.numbers(), world.current()) == ([1, 2], 2)
    assert world.left_over() == {"added.txt"}


def test_a_tree_that_was_modified_is_kept_with_its_modification(world: World) -> None:
    world.apply("a")
    (world.target / "config.json").write_text('{"edited": true}')

    world.apply("b")

    assert (world.history / "000001" / "config.json").read_text() == '{"edited": true}'


def test_applying_the_same_again_makes_no_generation(world: World) -> None:
    world.apply("a")
    world.apply("b")

    assert not world.apply("b").changed
    assert world.numbers() == [1, 2]


def test_a_repair_keeps_the_number_and_not_the_damaged_tree(world: World) -> None:
    world.apply("a")
    first = world.tree()
    world.apply("b")
    flip(world.graft)

    repaired = world.apply("b")

    assert (repaired.changed, repaired.receipt.generation, world.numbers()) == (True, 2, [1, 2])
    assert (world.left_over(), world.kept()) == (set(), ["000001"])
    assert world.undo(force=True) == 1
    assert world.tree()["notes.txt"] == first["notes.txt"]


def test_only_the_newest_old_generations_are_kept(world: World) -> None:
    for name in "abcdef":
        world.apply(name)

    assert KEEP == 3
    assert world.numbers() == [3, 4, 5, 6]
    assert world.kept() == ["000003", "000004", "000005"]


def test_a_tree_that_was_replaced_just_now_is_kept_whatever_its_number(world: World) -> None:
    for name in "abcd":
        world.apply(name)
    world.undo(to=1)

    world.apply("e")

    assert world.numbers() == [1, 3, 4, 5]


def test_read_only_trees_are_dropped_like_others(world: World) -> None:
    for name in "abcde":
        world.apply(name)
        world.target.chmod(0o555)

    assert world.numbers() == [2, 3, 4, 5]
    assert all((world.history / name).stat().st_mode & 0o777 == 0o555 for name in world.kept())


def test_a_target_that_was_removed_continues_the_numbers(world: World) -> None:
    world.apply("a")
    world.apply("b")
    shutil.rmtree(world.target)

    assert world.apply("c").receipt.generation == 2  # 1 is the highest that is left
    assert world.numbers() == [1, 2]


def test_a_generation_made_after_an_undo_takes_a_new_number(world: World) -> None:
    for name in "abc":
        world.apply(name)
    world.undo(to=1)

    assert world.apply("d").receipt.generation == 4
    assert world.numbers() == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [0, -1, True, "1", None])
def test_a_generation_that_is_no_number_makes_a_receipt_invalid(world: World, number: object) -> None:
    world.apply("a")
    path = world.target / RECEIPT_NAME
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "generation": number}))

    receipt, problem = read_receipt(str(world.target))

    assert receipt is None
    assert problem.startswith("generation: expected")


def test_a_tree_whose_receipt_cannot_be_read_is_replaced_and_not_kept(world: World) -> None:
    world.apply("a")
    world.apply("b")
    (world.target / RECEIPT_NAME).write_text("{")

    assert world.apply("c").receipt.generation == 2
    assert (world.kept(), world.left_over()) == (["000001"], set())


def test_a_built_shard_that_did_not_change_is_the_same_inode_in_both(world: World) -> None:
    world.apply("a")
    inode = world.graft.stat().st_ino

    world.apply("b")

    assert world.graft.stat().st_ino == (world.history / "000001" / GRAFT_SHARD).stat().st_ino == inode


def test_a_built_shard_of_a_kept_generation_is_used_again_without_being_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply("a")
    world.apply("b", "lm_head.weight")
    inode = (world.history / "000001" / GRAFT_SHARD).stat().st_ino
    assert world.graft.stat().st_ino != inode
    monkeypatch.setattr("overlay.running.applying.write_shard", _never)
    monkeypatch.setattr("overlay.running.proving.hash_files", _never)

    world.apply("c")
    assert world.graft.stat().st_ino == inode
    world.undo()
    world.apply("d")

    assert world.graft.stat().st_ino == inode
    assert world.status()[0] == ["clean"]


def test_a_shared_shard_that_was_written_to_is_built_anew(world: World) -> None:
    world.apply("a")
    whole = world.graft.read_bytes()
    world.apply("b")
    flip(world.history / "000001" / GRAFT_SHARD)

    world.apply("c")

    assert world.graft.read_bytes() == whole


def test_dropping_a_generation_does_not_make_the_others_be_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcde":  # all share one inode, whose ctime moves whenever a name of it goes
        world.apply(name)
    monkeypatch.setattr("overlay.running.proving.hash_files", _never)

    assert world.status()[0] == ["clean"]
    assert world.undo() == 4
    assert world.undo() == 3


def test_a_base_in_the_history_of_the_target_is_refused(world: World) -> None:
    world.apply("a")
    world.apply("b")
    manifest = world.root / "c.yaml"
    manifest.write_text(manifest_text(base=str(world.history / "000001"), grafts=[], files={}))

    with pytest.raises(Conflict, match="expected a folder apart from"):
        api.plan(api.Request(sources=(str(manifest),)), str(world.target))


def test_a_history_that_is_a_link_is_not_followed(world: World, tmp_path: Path) -> None:
    world.apply("a")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "000001").mkdir(parents=True)
    world.history.symlink_to(elsewhere)

    world.apply("b")

    assert world.current() == 2
    assert [path.name for path in elsewhere.rglob("*")] == ["000001"]


def test_an_apply_that_was_planned_over_another_generation_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply("a")
    flip(world.graft)
    from overlay.running import applying

    real = applying.require_space

    def meanwhile(plan: object) -> None:
        monkeypatch.setattr(applying, "require_space", real)
        world.apply("b")

    monkeypatch.setattr(applying, "require_space", meanwhile)

    with pytest.raises(Conflict, match="found one that changed since"):
        world.apply("a")

    assert (world.current(), world.numbers()) == (2, [1, 2])


def _never(*args: object, **kwargs: object) -> None:
    raise AssertionError("expected that nothing is built or hashed")


@pytest.mark.parametrize("repair", [False, True], ids=["new tree", "repair"])
def test_a_file_that_came_while_the_stage_was_filled_is_not_replaced_with_the_tree(
    world: World, monkeypatch: pytest.MonkeyPatch, repair: bool
) -> None:
    world.apply("a")
    flip(world.target / "LICENSE")
    real = applying._recheck

    def meanwhile(*arguments: Any) -> None:
        (world.target / "mine.txt").write_text("mine")
        real(*arguments)

    monkeypatch.setattr(applying, "_recheck", meanwhile)

    with pytest.raises(Conflict, match="found one that changed since"):
        world.apply("a" if repair else "b")

    assert "mine" == (world.target / "mine.txt").read_text()
    assert set() == world.left_over()
