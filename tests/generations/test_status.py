"""Status says in a word how a target stands, and why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay import api
from overlay.formats.names import RECEIPT_NAME
from tests.generations.conftest import World, flip
from tests.support.checkpoints import GRAFT_SHARD, snapshot_of

BASE_SHARD = "model-00001-of-00002.safetensors"


def _nothing(world: World) -> None:
    pass


def _remove_sidecar(world: World) -> None:
    (world.target / "config.json").unlink()


def _edit_sidecar(world: World) -> None:
    flip(world.target / "config.json")


def _add_file(world: World) -> None:
    (world.target / "mine.txt").write_text("mine\n")


def _flip_graft(world: World) -> None:
    flip(world.graft)


def _edit_header_unknown_to_the_cache(world: World) -> None:
    _forget(world)
    _change_byte(world.graft, 12)


def _cut_graft(world: World) -> None:
    os.truncate(world.graft, 40)


def _graft_becomes_a_link(world: World) -> None:
    world.graft.rename(world.root / "moved")
    world.graft.symlink_to(world.root / "moved")


def _retarget_link(world: World) -> None:
    _replace_link(world, world.root / "base" / "model-00002-of-00002.safetensors")


def _retarget_link_to_nothing(world: World) -> None:
    _replace_link(world, world.root / "nothing")


def _break_receipt(world: World) -> None:
    (world.target / RECEIPT_NAME).write_text("{")


def _lose_base_shard(world: World) -> None:
    _base(world).unlink()


def _lose_the_way_to_the_base(world: World) -> None:
    shutil.rmtree(world.root / "base")
    (world.root / "base").write_text("not a folder")


def _loop(world: World) -> None:
    _base(world).unlink()
    _base(world).symlink_to(_base(world))


def _move_base_behind_a_link(world: World) -> None:
    _base(world).rename(world.root / "moved")
    _base(world).symlink_to(world.root / "moved")


def _grow_base_shard(world: World) -> None:
    with _base(world).open("ab") as stream:
        stream.write(b"more")


def _edit_base_header(world: World) -> None:
    _change_byte(_base(world), 12)


def _flip_hashed_base_shard(world: World) -> None:
    api.verify(str(world.target), level="content")
    world.apply("b", level="content")
    flip(_base(world))


def _touch_hashed_base_shard(world: World) -> None:
    world.apply("b", level="content")
    _base(world).touch()


def _edit_base_sidecar(world: World) -> None:
    flip(world.root / "base" / "config.json")


def _damage_and_lose(world: World) -> None:
    _edit_sidecar(world)
    _lose_base_shard(world)
    _edit_base_sidecar(world)


def _remove_target(world: World) -> None:
    world.apply("b")
    shutil.rmtree(world.target)


def _base(world: World) -> Path:
    world.base_may_change = True
    return world.root / "base" / BASE_SHARD


def _replace_link(world: World, to: Path) -> None:
    (world.target / BASE_SHARD).unlink()
    (world.target / BASE_SHARD).symlink_to(to)


def _change_byte(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    with path.open("r+b") as stream:
        stream.write(data)


def _forget(world: World) -> None:
    shutil.rmtree(os.environ["OVERLAY_CACHE"])


TABLE: list[tuple[Callable[[World], None], list[str], set[tuple[str, str]]]] = [
    (_nothing, ["clean"], set()),
    (_remove_sidecar, ["modified"], {("LCK002", "config.json")}),
    (_edit_sidecar, ["modified"], {("LCK001", "config.json")}),
    (_add_file, ["modified"], {("LCK003", "mine.txt")}),
    (_flip_graft, ["modified"], {("LCK001", GRAFT_SHARD)}),
    (_edit_header_unknown_to_the_cache, ["modified"], {("LCK001", GRAFT_SHARD)}),
    (_cut_graft, ["modified"], {("LCK001", GRAFT_SHARD), ("LCK004", GRAFT_SHARD)}),
    (_graft_becomes_a_link, ["modified"], {("LNK004", GRAFT_SHARD)}),
    (_retarget_link, ["modified"], {("LNK005", BASE_SHARD)}),
    (_retarget_link_to_nothing, ["modified", "dangling"], {("LNK002", BASE_SHARD), ("LNK005", BASE_SHARD)}),
    (_break_receipt, ["modified"], {("LCK006", RECEIPT_NAME)}),
    (_lose_base_shard, ["dangling"], {("LNK002", BASE_SHARD)}),
    (_loop, ["dangling"], {("LNK003", BASE_SHARD)}),
    (_move_base_behind_a_link, ["base moved"], {("LNK001", BASE_SHARD)}),
    (_grow_base_shard, ["base moved"], {("LCK007", BASE_SHARD)}),
    (_edit_base_header, ["base moved"], {("LCK007", BASE_SHARD)}),
    (_flip_hashed_base_shard, ["base moved"], {("LCK007", BASE_SHARD)}),
    (_touch_hashed_base_shard, ["clean"], set()),
    (
        _damage_and_lose,
        ["modified", "dangling", "base moved"],
        {("LCK001", "config.json"), ("LNK002", BASE_SHARD), ("LCK008", "config.json")},
    ),
    (_edit_base_sidecar, ["base moved"], {("LCK008", "config.json")}),
]


@pytest.mark.parametrize(("change", "states", "findings"), TABLE, ids=lambda value: getattr(value, "__name__", ""))
def test_a_change_is_told_by_its_word_and_its_findings(
    world: World, change: Callable[[World], None], states: list[str], findings: set[tuple[str, str]]
) -> None:
    world.base_may_change = change.__name__ == "_edit_base_sidecar" or change is _damage_and_lose
    world.apply("a")

    change(world)

    assert world.status() == (states, findings)


def test_a_base_that_became_something_else_dangles_for_every_link(world: World) -> None:
    world.base_may_change = True
    world.apply("a")

    _lose_the_way_to_the_base(world)

    states, findings = world.status()
    assert states == ["dangling"]
    assert {code for code, _ in findings} == {"LNK002"}


@pytest.mark.parametrize("link", ["copy", "hardlink"])
@pytest.mark.parametrize(
    ("change", "state"),
    [(_lose_base_shard, "clean"), (_nothing, "clean"), (_edit_base_sidecar, "base moved")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_is_no_link_outlives_its_base(
    world: World, link: str, change: Callable[[World], None], state: str
) -> None:
    world.base_may_change = True
    world.apply("a", link=link)

    change(world)

    assert world.status()[0] == [state]


@pytest.mark.parametrize("link", ["copy", "hardlink"])
def test_a_base_shard_that_was_replaced_is_told_of_a_copy_too(world: World, link: str) -> None:
    world.apply("a", link=link)
    shard = _base(world)
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data + b"more")

    assert world.status() == (["base moved"], {("LCK008", BASE_SHARD)})


def test_a_removed_target_is_absent_as_long_as_a_generation_is_kept(world: World) -> None:
    world.apply("a")
    _remove_target(world)

    status = api.status(str(world.target))

    assert [state.value for state in status.states] == ["absent"]
    assert (status.generation, status.generations) == (None, (1,))
    assert [finding.code for finding in status.findings] == ["LCK009"]


def test_status_names_the_current_generation_and_all_that_there_are(world: World) -> None:
    for name in "abc":
        world.apply(name)
    world.undo()

    status = api.status(str(world.target))

    assert (status.generation, status.generations) == (2, (1, 2, 3))


def test_looking_changes_nothing(world: World) -> None:
    for name in "ab":
        world.apply(name)
    before = snapshot_of(world.root / "out")

    api.status(str(world.target))
    api.history(str(world.target))

    assert snapshot_of(world.root / "out") == before


def test_a_write_into_a_base_that_is_hard_linked_is_a_write_into_the_target(world: World) -> None:
    world.base_may_change = True
    world.apply("a", link="hardlink", level="content")

    flip(_base(world))

    assert world.status() == (["modified"], {("LCK001", BASE_SHARD)})
