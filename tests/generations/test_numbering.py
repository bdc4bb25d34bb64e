"""What becomes a generation, which number it has, and how many are kept."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from overlay.storage.generations import KEPT
from tests.generations.world import (
    GRAFTED,
    HEAD,
    LAYER_2,
    TRIMMED,
    WITH_HEAD,
    WITH_NOTES,
    World,
    tree_of,
)
from tests.support.checkpoints import GRAFT_SHARD


def _different(number: int) -> dict[str, object]:
    return {"files": {f"notes-{number}.txt": {"from": "notes.txt"}}}


def test_a_changed_manifest_makes_the_next_generation_and_the_old_tree_is_kept(world: World) -> None:
    world.apply(GRAFTED)
    first = tree_of(world.target)

    applied = world.apply(WITH_NOTES)

    assert 2 == applied.receipt.generation
    assert [1, 2] == world.numbers
    assert {1: first} == world.kept()
    assert (world.target / "sub" / "notes.txt").exists()


def test_a_changed_way_of_linking_is_a_generation_too(world: World) -> None:
    world.apply(GRAFTED)
    world.link = "copy"

    assert 2 == world.apply(GRAFTED).receipt.generation


def test_the_same_manifest_makes_no_generation(world: World) -> None:
    world.apply(GRAFTED)

    applied = world.apply(GRAFTED)

    assert (False, 1, {}) == (applied.changed, applied.receipt.generation, world.kept())
    assert not world.history_folder.exists()


@pytest.mark.parametrize("damage", ["edited", "deleted", "built shard", "link"])
def test_a_repair_keeps_the_number_and_makes_no_generation(world: World, damage: str) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    whole, kept = {name: node.data for name, node in tree_of(world.target).items()}, world.kept()
    match damage:
        case "edited":
            world.damage("config.json")
        case "deleted":
            (world.target / "LICENSE").unlink()
        case "built shard":
            (world.target / GRAFT_SHARD).unlink()
            (world.target / GRAFT_SHARD).write_bytes(b"not what it was")
        case _:
            (world.target / "model-00001-of-00002.safetensors").unlink()
            os.symlink("/nowhere", world.target / "model-00001-of-00002.safetensors")

    applied = world.apply(WITH_NOTES)

    assert (True, 2) == (applied.changed, applied.receipt.generation)
    assert whole == {name: node.data for name, node in tree_of(world.target).items()}
    assert kept == world.kept()


def test_a_receipt_that_now_says_proven_keeps_its_number(world: World) -> None:
    world.apply(GRAFTED)

    applied = world.apply(GRAFTED, content=True)

    assert (True, 1, []) == (applied.changed, applied.receipt.generation, applied.unproven)
    assert {} == world.kept()


def test_only_so_many_generations_are_kept_beside_the_current_one(world: World) -> None:
    for number in range(1, KEPT + 4):
        world.apply(_different(number))

    assert list(range(3, KEPT + 4)) == world.numbers
    assert KEPT == len(os.listdir(world.history_folder))


def test_applying_after_undo_numbers_on_from_the_highest_number_that_is_known(world: World) -> None:
    for number in (1, 2, 3):
        world.apply(_different(number))
    world.undo(1)

    assert 4 == world.apply(WITH_NOTES).receipt.generation
    assert [1, 2, 3, 4] == world.numbers


def test_the_tree_that_is_replaced_is_kept_however_old_it_is(world: World) -> None:
    for number in range(1, KEPT + 2):
        world.apply(_different(number))
    world.undo(1)
    oldest = tree_of(world.target)

    world.apply(WITH_NOTES)

    assert [1, 3, 4, 5] == world.numbers
    assert oldest == world.kept()[1]


def test_a_deleted_target_comes_back_by_undo(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_HEAD)
    world.apply(TRIMMED)
    newest = world.kept()[2]
    world.delete_target()

    receipt = world.undo()

    assert 2 == receipt.generation
    assert newest == tree_of(world.target)
    assert [1, 2] == world.numbers
    assert ["000001"] == os.listdir(world.history_folder)


def test_an_empty_folder_in_the_target_s_place_gives_way_to_the_newest_generation(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_HEAD)
    world.delete_target()
    world.target.mkdir()

    assert 1 == world.undo().generation
    assert [] == os.listdir(world.history_folder)


@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
def test_a_deleted_target_that_is_applied_again_numbers_on(world: World, empty: bool) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_HEAD)
    world.apply(TRIMMED)
    world.delete_target()
    if empty:
        world.target.mkdir()

    assert 3 == world.apply(WITH_NOTES).receipt.generation
    assert [1, 2, 3] == world.numbers


def test_a_receipt_that_cannot_be_read_is_replaced_by_a_number_that_is_not_taken(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    (world.target / ".overlay" / "receipt.json").write_text("{")

    assert 2 == world.apply(WITH_NOTES).receipt.generation
    assert [1, 2] == world.numbers


def test_undo_replaces_a_target_whose_receipt_cannot_be_read_and_deletes_nothing_of_it(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    (world.target / ".overlay" / "receipt.json").write_text("{")
    broken = tree_of(world.target)

    assert 1 == world.undo().generation
    assert [broken] == [tree_of(entry) for entry in world.history_folder.iterdir()]


def test_unknown_files_of_the_current_target_survive_in_the_kept_tree(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    (world.target / "results.csv").write_text("mine\n")
    (world.target / "logs").mkdir()
    (world.target / "logs" / "run.txt").write_text("mine too\n")
    with_mine = tree_of(world.target)

    world.undo()

    assert with_mine == world.kept()[2]


def test_entries_are_read_by_their_receipts_whatever_they_are_called(world: World) -> None:
    for number in (1, 2, 3):
        world.apply(_different(number))
    trees = world.kept()
    for old, new in (("000001", "x"), ("000002", "000001"), ("x", "000002")):
        os.rename(world.history_folder / old, world.history_folder / new)

    world.undo(1)

    assert trees[1] == tree_of(world.target)
    assert [1, 2, 3] == world.numbers


def test_entries_that_are_no_generations_are_left_alone(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    (world.history_folder / "mine").mkdir()
    (world.history_folder / "mine" / "file").write_text("x")
    (world.history_folder / "note").write_text("y")

    world.apply(WITH_HEAD)
    world.undo()

    assert [1, 2, 3] == world.numbers
    assert "x" == (world.history_folder / "mine" / "file").read_text()
    assert "y" == (world.history_folder / "note").read_text()


def test_an_entry_gets_the_name_of_its_number_after_undo(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)

    world.undo()

    assert ["000002"] == os.listdir(world.history_folder)


def test_undo_is_done_although_the_entry_cannot_be_renamed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(old: str, new: str) -> None:
        raise OSError(5, "Input/output error")

    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        world.undo()

    assert (1, [1, 2]) == (world.current, world.numbers)
    assert 2 == world.undo(2).generation


def test_base_and_donor_are_not_touched_by_any_of_it_nor_by_deleting_everything(world: World) -> None:
    before = world.inputs()

    for changes in (GRAFTED, WITH_NOTES, TRIMMED, WITH_HEAD):
        world.apply(changes)
        assert before == world.inputs()
    for number in (3, 1, 4):
        world.undo(number)
        assert before == world.inputs()
    shutil.rmtree(world.target)
    shutil.rmtree(world.history_folder)

    assert before == world.inputs()


@pytest.mark.parametrize("link", ["hardlink", "copy", "symlink"])
def test_undo_brings_links_and_copies_back_as_they_were(tmp_path: Path, link: str) -> None:
    world = World(tmp_path / "linked", link)  # type: ignore[arg-type]
    world.apply({"grafts": [LAYER_2]})
    first = tree_of(world.target)
    world.apply({"grafts": [LAYER_2, HEAD]})
    second = tree_of(world.target)

    world.undo()
    assert first == tree_of(world.target)
    world.undo(2)
    assert second == tree_of(world.target)


def test_the_receipt_says_the_number(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)

    document = json.loads((world.target / ".overlay" / "receipt.json").read_bytes())

    assert 2 == document["generation"]
