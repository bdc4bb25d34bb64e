"""What undo, status and history refuse: by which code, naming what, and changing nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from overlay import api
from overlay.errors import Conflict
from overlay.running import applying
from overlay.storage import shard_writer
from tests.generations.world import (
    FIRST_SHARD,
    GRAFTED,
    HEAD_SHARD,
    PLAIN,
    TRIMMED,
    WITH_HEAD,
    WITH_NOTES,
    World,
    flip_last_byte,
    tree_of,
)
from tests.support.checkpoints import GRAFT_SHARD, INDEX, snapshot_of
from tests.support.commands import Ended, overlay


def _refused(world: World, *arguments: str) -> Ended:
    """The command, which must change nothing but lock files."""
    before = {path: seen for path, seen in snapshot_of(world.root).items() if _counts(path, world)}
    ended = overlay(*arguments)
    assert before == {path: seen for path, seen in snapshot_of(world.root).items() if _counts(path, world)}
    assert ended.refusal is not None
    return ended


def _counts(path: str, world: World) -> bool:
    return not path.endswith(".overlay.lock") and path != str(world.out)


def _said(ended: Ended) -> tuple[int, str, str]:
    assert ended.refusal is not None
    return ended.code, ended.refusal.line, ended.refusal.hint


def test_undo_of_the_first_generation_finds_no_earlier_one(world: World) -> None:
    world.apply(GRAFTED)

    ended = _refused(world, "undo", str(world.target))

    message = "expected an earlier generation, found none beside the current 1"
    assert (4, f"{world.target}: {message}", f"overlay history {world.target}") == _said(ended)


def test_undo_to_a_number_that_is_not_kept_names_those_that_are(world: World) -> None:
    for changes in (GRAFTED, WITH_NOTES, TRIMMED):
        world.apply(changes)

    ended = _refused(world, "undo", str(world.target), "--to", "9")

    message = "expected generation 9, found 1, 2 beside the current 3"
    assert (4, f"{world.target}: {message}", f"overlay history {world.target}") == _said(ended)


def test_undo_to_the_current_number_is_refused(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)

    ended = _refused(world, "undo", str(world.target), "--to", "2")

    assert (4, 2) == (ended.code, world.current)


def test_undo_at_the_oldest_generation_points_forward_nowhere(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    world.undo()

    ended = _refused(world, "undo", str(world.target))

    assert 4 == ended.code
    assert "expected an earlier generation, found 2 beside the current 1" in _said(ended)[1]


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_a_number_that_is_none_is_a_matter_of_usage(world: World, number: str) -> None:
    world.apply(GRAFTED)

    assert 2 == overlay("undo", world.target, "--to", number).code


@pytest.mark.parametrize("verb", ["status", "history", "undo"])
@pytest.mark.parametrize("kind", ["absent", "empty", "foreign", "file", "link", "unreadable receipt"])
def test_what_overlay_did_not_assemble_is_refused(world: World, verb: str, kind: str) -> None:
    match kind:
        case "empty":
            world.target.mkdir()
        case "foreign":
            shutil.copytree(world.root / "base", world.target)
        case "file":
            world.target.write_text("x")
        case "link":
            world.target.symlink_to(world.root / "base")
        case "unreadable receipt":
            world.apply(GRAFTED)
            (world.target / ".overlay" / "receipt.json").write_text("{")
        case _:
            pass
    locks = sorted(os.listdir(world.out))

    ended = _refused(world, verb, str(world.target))

    assert (3, "name the folder that was given to overlay apply -o") == (ended.code, _said(ended)[2])
    assert locks == sorted(os.listdir(world.out))


def test_a_folder_without_a_parent_is_a_matter_of_usage(world: World) -> None:
    for verb in ("status", "history", "undo"):
        assert 2 == overlay(verb, world.out / "gone" / "serve").code


@pytest.mark.parametrize("kind", ["foreign", "file", "link"])
def test_undo_does_not_take_the_place_of_something_foreign(world: World, kind: str) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    world.delete_target()
    if kind == "foreign":
        shutil.copytree(world.root / "base", world.target)
    elif kind == "file":
        world.target.write_text("x")
    else:
        world.target.symlink_to(world.root / "base")

    for arguments in (["undo"], ["undo", "--force"], ["undo", "--to", "1"]):
        assert 3 == _refused(world, *arguments, str(world.target)).code
    assert 0 == overlay("history", world.target).code


def test_a_damaged_generation_is_refused_and_brought_back_by_force(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    flip_last_byte(world.history_folder / "000001" / "LICENSE")

    ended = _refused(world, "undo", str(world.target))

    assert 4 == ended.code
    assert f"{world.target}: generation 1: LCK001 LICENSE: expected sha256 " in _said(ended)[1]
    assert "overlay undo --force" in _said(ended)[2]
    damaged = world.kept()[1]
    assert 0 == overlay("undo", world.target, "--force").code
    assert damaged == tree_of(world.target)


@pytest.mark.parametrize(
    ("name", "code"), [("config.json", "LCK002"), (INDEX, "LCK002"), (GRAFT_SHARD, "LCK002"), (FIRST_SHARD, "LCK002")]
)
def test_a_generation_that_lost_a_file_is_refused(world: World, name: str, code: str) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    (world.history_folder / "000001" / name).unlink()

    ended = _refused(world, "undo", str(world.target))

    assert 4 == ended.code
    assert f"{code} {name}: " in _said(ended)[1]


def test_every_finding_of_a_damaged_generation_is_named(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    for name in ("LICENSE", "config.json", INDEX):
        (world.history_folder / "000001" / name).unlink()

    ended = _refused(world, "undo", str(world.target))

    assert ended.refusal is not None
    assert 3 == len((ended.refusal.line, *ended.refusal.others))


def test_a_built_shard_that_was_written_to_in_the_history_is_found(world: World) -> None:
    world.apply(WITH_HEAD)
    world.apply(PLAIN)
    flip_last_byte(world.history_folder / "000001" / HEAD_SHARD)

    ended = _refused(world, "undo", str(world.target))

    assert 4 == ended.code
    assert f"LCK001 {HEAD_SHARD}" in _said(ended)[1]


def test_damage_to_a_shard_that_generations_share_is_damage_to_each(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    world.damage(GRAFT_SHARD)

    ended = _refused(world, "undo", str(world.target))

    assert 4 == ended.code
    assert f"LCK001 {GRAFT_SHARD}" in _said(ended)[1]
    assert world.apply(WITH_NOTES).changed
    assert ("clean",) == api.status(str(world.target)).states


@pytest.mark.parametrize("change", ["gone", "moved"])
def test_a_generation_over_a_base_that_changed_is_refused(world: World, change: str) -> None:
    world.link = "symlink"
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    base = world.root / "base" / FIRST_SHARD
    if change == "gone":
        base.unlink()
    else:
        base.write_bytes(base.read_bytes() + b"\0")

    ended = _refused(world, "undo", str(world.target))

    assert 4 == ended.code
    assert ("LNK002" if change == "gone" else "LCK004") in _said(ended)[1]


def test_a_generation_with_a_file_of_the_user_comes_back_only_by_force(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    (world.target / "mine.txt").write_text("x")
    world.undo()

    ended = _refused(world, "undo", str(world.target), "--to", "2")

    assert (4, True) == (ended.code, "LCK003 mine.txt" in _said(ended)[1])
    world.undo(2, force=True)
    assert "x" == (world.target / "mine.txt").read_text()


def test_undo_while_another_run_is_at_work_is_refused(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)

    with world.locked_by_another():
        ended = _refused(world, "undo", str(world.target))
        assert 0 == overlay("status", world.target).code
        assert 0 == overlay("history", world.target).code

    assert (4, 2) == (ended.code, world.current)
    assert 0 == overlay("undo", world.target).code


def test_a_run_that_planned_before_another_one_finished_does_not_replace_its_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply(GRAFTED)
    real = applying._require_space

    def meanwhile(plan: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(applying, "_require_space", real)
            world.apply(WITH_NOTES)
        real(plan)  # type: ignore[arg-type]

    monkeypatch.setattr(applying, "_require_space", meanwhile)

    with pytest.raises(Conflict, match="found one that changed since"):
        world.apply(WITH_HEAD)

    assert ([1, 2], 2, []) == (world.numbers, world.current, world.stages())
    assert (world.target / "sub" / "notes.txt").exists()


@pytest.mark.parametrize("existing", [False, True], ids=["absent", "existing"])
def test_a_file_that_came_while_the_stage_was_filled_is_not_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    if existing:
        world.apply(GRAFTED)
    real = shard_writer.write_shard

    def meanwhile(path: str, *rest: object) -> object:
        world.target.mkdir(exist_ok=True)
        (world.target / "mine.txt").write_text("x")
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(applying, "write_shard", meanwhile)

    with pytest.raises(Conflict, match="found one that changed since"):
        world.apply(WITH_HEAD)

    assert "x" == (world.target / "mine.txt").read_text()
    assert [] == world.stages()


def test_a_target_that_was_moved_away_has_no_history_there(world: World) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_NOTES)
    moved: Path = world.out / "elsewhere"
    os.rename(world.target, moved)

    assert [2] == [receipt.generation for receipt in api.history(str(moved)).receipts]
    assert 4 == overlay("undo", moved).code
    assert 1 == world.undo().generation
