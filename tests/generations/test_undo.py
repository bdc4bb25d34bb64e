"""Undo gives back the previous generation exactly, or changes nothing and says why."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.core.generations import KEEP
from overlay.errors import Conflict, EnvironmentFault, InvalidInput
from overlay.formats.names import RECEIPT_NAME
from overlay.storage import folders
from overlay.storage.staging import locked
from tests.generations.conftest import World, flip, tree_at
from tests.support.checkpoints import GRAFT_SHARD, snapshot_of

BASE_SHARD = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize("link", ["symlink", "hardlink", "copy"])
def test_the_previous_tree_comes_back_exactly_and_the_undone_one_is_kept_exactly(world: World, link: str) -> None:
    world.apply("a", link=link)
    (world.target / "LICENSE").chmod(0o600)
    world.target.chmod(0o750)
    first = world.tree()
    world.apply("b", "lm_head.weight", link=link)
    second = world.tree()

    assert world.undo() == 1

    assert world.tree() == first
    assert tree_at(world.history / "000002") == second
    assert (world.numbers(), world.current(), world.kept()) == ([1, 2], 1, ["000002"])


def test_undoing_twice_goes_back_twice_and_to_goes_forward_again(world: World) -> None:
    trees = {}
    for number, name in enumerate("abc", 1):
        world.apply(name)
        trees[number] = world.tree()

    assert [world.undo(), world.undo()] == [2, 1]
    assert world.tree() == trees[1]
    assert world.undo(to=3) == 3
    assert world.tree() == trees[3]
    assert (world.numbers(), world.kept()) == ([1, 2, 3], ["000001", "000002"])


def test_any_walk_of_apply_and_undo_finds_every_generation_as_it_was(world: World) -> None:
    chance = random.Random(7)
    trees: dict[int, dict[str, tuple[Any, ...]]] = {}
    for step in range(40):
        known = world.numbers() if trees else []
        if len(known) < 2 or chance.random() < 0.4:
            number = world.apply(f"m{step}", chance.choice(["model.layers.2.**", "lm_head.weight"])).receipt.generation
            trees[number] = world.tree()
        else:
            number = world.undo(to=chance.choice([n for n in known if n != world.current()]))
        assert (world.current(), world.tree()) == (number, trees[number])
        assert len(world.kept()) <= KEEP
        for name in world.kept():
            assert tree_at(world.history / name) == trees[int(name)]
        assert world.left_over() == set()


def test_a_target_that_was_removed_comes_back_as_its_newest_generation(world: World) -> None:
    for name in "abc":
        world.apply(name)
    kept = tree_at(world.history / "000002")
    shutil.rmtree(world.target)

    undone = api.undo(str(world.target))

    assert (undone.generation.number, undone.replaced) == (2, None)
    assert (world.tree(), world.kept()) == (kept, ["000001"])


def test_an_emptied_target_comes_back_as_its_newest_generation(world: World) -> None:
    world.apply("a")
    first = world.tree()
    world.apply("b")
    shutil.rmtree(world.target)
    world.target.mkdir()

    assert world.undo() == 1
    assert (world.tree(), world.kept()) == (first, [])


def test_without_a_generation_before_it_undo_is_a_conflict_with_a_hint(world: World) -> None:
    world.apply("a")
    before = world.tree()

    with pytest.raises(Conflict, match="expected to have kept a generation before 1, found none") as caught:
        world.undo()

    assert caught.value.hint
    assert world.tree() == before


@pytest.mark.parametrize(
    ("number", "problem"),
    [(2, "which is current"), (9, "expected to have kept generation 9, found 1$")],
)
def test_a_generation_that_cannot_be_brought_back_is_a_conflict(world: World, number: int, problem: str) -> None:
    world.apply("a")
    world.apply("b")

    with pytest.raises(Conflict, match=problem):
        world.undo(to=number)

    assert world.current() == 2


def _remove_shard(world: World) -> None:
    (world.history / "000001" / GRAFT_SHARD).unlink()


def _damage_shared_shard(world: World) -> None:
    flip(world.graft)


def _damage_sidecar(world: World) -> None:
    flip(world.history / "000001" / "config.json")


def _retarget_link(world: World) -> None:
    link = world.history / "000001" / BASE_SHARD
    link.unlink()
    link.symlink_to("/dev/null")


def _lose_base(world: World) -> None:
    (world.root / "base" / BASE_SHARD).unlink()


def _change_base(world: World) -> None:
    data = bytearray((world.root / "base" / BASE_SHARD).read_bytes())
    data[20] ^= 1
    (world.root / "base" / BASE_SHARD).write_bytes(data)


DAMAGE = [
    (_remove_shard, "LCK002"),
    (_damage_shared_shard, "LCK001"),
    (_damage_sidecar, "LCK001"),
    (_retarget_link, "LNK005"),
    (_lose_base, "LNK002"),
    (_change_base, "LCK007"),
]


@pytest.mark.parametrize(("damage", "code"), DAMAGE, ids=lambda value: getattr(value, "__name__", value))
def test_a_damaged_generation_is_refused_by_name_and_comes_back_only_by_force(
    world: World, damage: Any, code: str
) -> None:
    world.base_may_change = True
    world.apply("a")
    world.apply("b")
    damage(world)
    before = snapshot_of(world.target, world.history)

    with pytest.raises(Conflict, match=f"expected generation 1 to be as it was, found {code} ") as caught:
        world.undo()

    assert "--force" in caught.value.hint
    assert snapshot_of(world.target, world.history) == before
    old = tree_at(world.history / "000001")
    assert code in {finding.code for finding in api.undo(str(world.target), force=True).findings}
    assert world.tree() == old


def test_what_overlay_did_not_place_stays_in_the_undone_tree_and_comes_back_with_it(world: World) -> None:
    world.apply("a")
    world.apply("b")
    (world.target / "mine.txt").write_text("mine\n")
    second = world.tree()

    undone = api.undo(str(world.target))

    assert undone.left == ("mine.txt",)
    assert not (world.target / "mine.txt").exists()
    assert world.undo(to=2) == 2
    assert world.tree() == second


def test_copies_come_back_although_their_base_is_gone(world: World) -> None:
    world.base_may_change = True
    world.apply("a", link="copy")
    first = world.tree()
    world.apply("b", link="copy")
    shutil.rmtree(world.root / "base")

    assert world.undo() == 1
    assert world.tree() == first


def test_a_change_is_noticed_in_a_tree_that_undo_put_away(world: World) -> None:
    world.apply("a")
    world.apply("b", "lm_head.weight")
    world.undo()
    flip(world.history / "000002" / GRAFT_SHARD)

    with pytest.raises(Conflict, match=f"found LCK001 {GRAFT_SHARD}"):
        world.undo(to=2)


def test_a_target_whose_receipt_cannot_be_read_is_left_alone(world: World) -> None:
    world.apply("a")
    world.apply("b")
    (world.target / RECEIPT_NAME).write_text("{")
    before = world.tree()

    with pytest.raises(Conflict, match="expected a receipt that can be read"):
        world.undo()

    assert world.tree() == before


@pytest.mark.parametrize("what", ["absent", "empty", "foreign", "file", "parentless"])
def test_what_is_not_a_target_is_invalid_and_gets_nothing_laid_beside_it(world: World, what: str) -> None:
    if what == "empty":
        world.target.mkdir()
    elif what == "foreign":
        world.target.mkdir()
        (world.target / "file").write_text("x")
    elif what == "file":
        world.target.write_text("x")
    elif what == "parentless":
        world.target.parent.rmdir()

    for verb in (api.undo, api.history, api.status):
        with pytest.raises(InvalidInput, match="expected a target that overlay assembled"):
            verb(str(world.target))

    assert not world.target.parent.exists() or world.left_over() == set()
    assert not world.target.parent.exists() or set(os.listdir(world.target.parent)) <= {"serve"}


def test_undo_through_a_link_to_the_target_acts_on_the_target(world: World, tmp_path: Path) -> None:
    world.apply("a")
    first = world.tree()
    world.apply("b")
    link = tmp_path / "current"
    link.symlink_to(world.target)

    api.undo(str(link))

    assert link.is_symlink()
    assert world.tree() == first


def test_undo_waits_for_nobody(world: World) -> None:
    world.apply("a")
    world.apply("b")

    with locked(str(world.target)), pytest.raises(Conflict, match="expected to be alone"):
        world.undo()


def test_a_file_system_that_cannot_exchange_folders_keeps_both(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply("a")
    world.apply("b")
    before = snapshot_of(world.target, world.history)
    monkeypatch.setattr(folders, "_rename", folders._rename_without_flags)

    with pytest.raises(EnvironmentFault, match="cannot exchange two folders"):
        world.undo()

    assert snapshot_of(world.target, world.history) == before


@pytest.mark.parametrize("repaired", [False, True])
def test_a_copy_that_was_written_to_before_it_was_put_away_does_not_come_back_silently(
    world: World, repaired: bool
) -> None:
    """Its path is a new one then, and only its inode tells that it is the file that was hashed."""
    world.apply("a")
    world.apply("b", link="copy", level="content")
    if repaired:
        flip(world.target / BASE_SHARD)
        world.apply("b", link="copy", level="content")
    flip(world.target / BASE_SHARD)
    assert world.undo() == 1

    with pytest.raises(Conflict) as refused:
        world.undo(to=2)

    assert BASE_SHARD in " ".join([refused.value.line, *refused.value.others])
    assert world.current() == 1
