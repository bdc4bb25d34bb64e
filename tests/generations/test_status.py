"""What became of a target: clean, modified, dangling, base moved, and every mixture of them."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay import api
from overlay.errors import InvalidInput
from overlay.storage.linking import LinkMode
from tests.generations.world import FIRST_SHARD, GRAFTED, SECOND_SHARD, TRIMMED, WITH_NOTES, World, flip_last_byte
from tests.support.checkpoints import GRAFT_SHARD, INDEX, snapshot_of
from tests.support.commands import overlay
from tests.support.damage import append, break_a_byte_of_the_header, change_a_dtype, truncate

Change = Callable[[World], None]


def edit_a_sidecar(world: World) -> None:
    (world.target / "config.json").write_text("{}")


def edit_a_sidecar_without_changing_its_size(world: World) -> None:
    world.damage("LICENSE")


def edit_the_index(world: World) -> None:
    path = world.target / INDEX
    path.write_bytes(path.read_bytes().replace(b"total_size", b"total_SIZE"))


def delete_a_sidecar(world: World) -> None:
    (world.target / "LICENSE").unlink()


def delete_a_link(world: World) -> None:
    (world.target / FIRST_SHARD).unlink()


def turn_a_link_elsewhere(world: World) -> None:
    delete_a_link(world)
    os.symlink(world.root / "base" / SECOND_SHARD, world.target / FIRST_SHARD)


def add_a_file(world: World) -> None:
    (world.target / "mine.txt").write_text("x")


def add_a_file_in_a_folder(world: World) -> None:
    (world.target / "logs").mkdir()
    (world.target / "logs" / "mine.txt").write_text("x")


def damage_the_built_shard(world: World) -> None:
    world.damage(GRAFT_SHARD)


def cut_the_built_shard(world: World) -> None:
    truncate(world.target, GRAFT_SHARD)


def delete_a_base_shard(world: World) -> None:
    (world.root / "base" / FIRST_SHARD).unlink()


def prune_the_cache(world: World) -> None:
    shutil.rmtree(world.root / "base")


def rewrite_a_base_shard_in_place(world: World) -> None:
    flip_last_byte(world.root / "base" / SECOND_SHARD)


def replace_a_base_shard_by_one_of_the_same_size(world: World) -> None:
    path = world.root / "base" / SECOND_SHARD
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def lengthen_a_base_shard(world: World) -> None:
    append(world.root / "base", SECOND_SHARD)


def cut_a_base_shard(world: World) -> None:
    truncate(world.root / "base", SECOND_SHARD)


def change_the_header_of_a_base_shard(world: World) -> None:
    change_a_dtype(world.root / "base", SECOND_SHARD)


def break_the_header_of_a_base_shard(world: World) -> None:
    break_a_byte_of_the_header(world.root / "base", SECOND_SHARD)


MODIFIED: tuple[Change, ...] = (
    edit_a_sidecar,
    edit_a_sidecar_without_changing_its_size,
    edit_the_index,
    delete_a_sidecar,
    delete_a_link,
    turn_a_link_elsewhere,
    add_a_file,
    add_a_file_in_a_folder,
    damage_the_built_shard,
    cut_the_built_shard,
)
DANGLING: tuple[Change, ...] = (delete_a_base_shard, prune_the_cache)
MOVED: tuple[Change, ...] = (
    rewrite_a_base_shard_in_place,
    replace_a_base_shard_by_one_of_the_same_size,
    lengthen_a_base_shard,
    cut_a_base_shard,
    change_the_header_of_a_base_shard,
    break_the_header_of_a_base_shard,
)
ALL = {
    **dict.fromkeys(MODIFIED, "modified"),
    **dict.fromkeys(DANGLING, "dangling"),
    **dict.fromkeys(MOVED, "base moved"),
}


def _states(world: World) -> tuple[str, ...]:
    return api.status(str(world.target)).states


@pytest.fixture
def proven(world: World) -> World:
    """A symlinked target, every shard of which was hashed here."""
    world.link = "symlink"
    world.apply(GRAFTED, content=True)
    return world


@pytest.mark.parametrize("link", ["auto", "symlink", "hardlink", "copy"])
@pytest.mark.parametrize("content", [False, True], ids=["unproven", "proven"])
def test_a_target_as_it_was_assembled_is_clean(tmp_path: Path, link: LinkMode, content: bool) -> None:
    world = World(tmp_path / "linked", link)
    world.apply(TRIMMED, content=content)

    found = api.status(str(world.target))

    assert (("clean",), True, (), 1, ()) == (found.states, found.clean, found.findings, found.generation, found.kept)


@pytest.mark.parametrize("change", ALL, ids=lambda change: change.__name__)
def test_each_change_has_its_name(proven: World, change: Change) -> None:
    change(proven)

    assert (ALL[change],) == _states(proven)


@pytest.mark.parametrize("change", [*MOVED[2:], *DANGLING], ids=lambda change: change.__name__)
def test_what_became_of_a_base_that_nobody_hashed_is_seen_by_size_and_header(world: World, change: Change) -> None:
    world.link = "symlink"
    world.apply(GRAFTED)

    change(world)

    assert (ALL[change],) == _states(world)


@pytest.mark.parametrize(
    ("one", "other"),
    list(
        itertools.chain(
            itertools.product((edit_a_sidecar, damage_the_built_shard, add_a_file), (delete_a_base_shard, *MOVED)),
            itertools.product((delete_a_base_shard,), MOVED),
        )
    ),
    ids=lambda change: change.__name__,
)
def test_changes_of_two_kinds_are_both_named(proven: World, one: Change, other: Change) -> None:
    one(proven)
    other(proven)

    assert (ALL[one], ALL[other]) == _states(proven)


def test_all_three_at_once_are_named_in_one_order(proven: World) -> None:
    rewrite_a_base_shard_in_place(proven)
    delete_a_base_shard(proven)
    edit_the_index(proven)

    found = api.status(str(proven.target))

    assert ("modified", "dangling", "base moved") == found.states
    named = {(finding.code, finding.file) for finding in found.findings}
    assert {("LCK001", INDEX), ("LNK002", FIRST_SHARD), ("LCK007", SECOND_SHARD)} == named


@pytest.mark.parametrize("change", MOVED, ids=lambda change: change.__name__)
def test_a_copied_target_is_whole_although_its_base_moved(tmp_path: Path, change: Change) -> None:
    world = World(tmp_path / "copied", "copy")
    world.apply(GRAFTED, content=True)

    change(world)

    assert ("base moved",) == _states(world)


@pytest.mark.parametrize("change", DANGLING, ids=lambda change: change.__name__)
@pytest.mark.parametrize("link", ["copy", "hardlink"])
def test_a_target_without_links_needs_no_base(tmp_path: Path, link: LinkMode, change: Change) -> None:
    world = World(tmp_path / "whole", link)
    world.apply(GRAFTED)

    change(world)

    assert ("clean",) == _states(world)


def test_writing_to_a_base_that_is_hard_linked_is_writing_to_the_target(tmp_path: Path) -> None:
    world = World(tmp_path / "linked", "hardlink")
    world.apply(GRAFTED, content=True)

    rewrite_a_base_shard_in_place(world)

    assert ("modified", "base moved") == _states(world)


def test_touching_a_base_shard_without_changing_it_is_clean(proven: World) -> None:
    os.utime(proven.root / "base" / FIRST_SHARD, (1, 1))

    assert ("clean",) == _states(proven)


def test_a_deleted_donor_is_no_matter(world: World) -> None:
    world.apply(GRAFTED)
    shutil.rmtree(world.root / "donor")

    assert ("clean",) == _states(world)


def test_status_names_the_kept_generations(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    world.apply(TRIMMED)
    world.undo()

    found = api.status(str(world.target))

    assert (2, (1, 3), ("clean",)) == (found.generation, found.kept, found.states)


@pytest.mark.parametrize("change", [None, edit_the_index, delete_a_base_shard, rewrite_a_base_shard_in_place])
def test_status_and_history_change_nothing(proven: World, change: Change | None) -> None:
    proven.apply(WITH_NOTES, content=True)
    if change is not None:
        change(proven)
    before = snapshot_of(proven.root)

    overlay("status", proven.target)
    overlay("history", proven.target)

    assert before == snapshot_of(proven.root)


def test_status_of_nothing_makes_nothing(world: World) -> None:
    with pytest.raises(InvalidInput):
        api.status(str(world.target))

    assert [] == os.listdir(world.out)
