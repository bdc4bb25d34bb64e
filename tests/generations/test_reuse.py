"""Built and trimmed shards that a tree of the target already holds are taken over, not made again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from overlay.running import applying
from overlay.storage import hashing, shard_writer
from tests.generations.world import (
    GRAFTED,
    HEAD,
    HEAD_SHARD,
    PLAIN,
    SECOND_SHARD,
    TRIMMED,
    TRIMMED_WITH_NOTES,
    WITH_HEAD,
    WITH_NOTES,
    World,
    tree_of,
)
from tests.support.checkpoints import GRAFT_SHARD


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that are written, not taken over."""
    names: list[str] = []

    def noted(write: Any) -> Any:
        def make(path: str, *rest: Any) -> Any:
            names.append(os.path.basename(path))
            return write(path, *rest)

        return make

    monkeypatch.setattr(applying, "write_shard", noted(shard_writer.write_shard))
    monkeypatch.setattr(applying, "write_trimmed", noted(shard_writer.write_trimmed))
    return names


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the large files that are read to be digested."""
    names: list[str] = []
    real = hashing.hash_file

    def noted(file: Any, *rest: Any) -> Any:
        names.append(file.name)
        return real(file, *rest)

    monkeypatch.setattr(hashing, "hash_file", noted)
    return names


def test_a_built_shard_is_one_file_in_both_generations(world: World, made: list[str], hashed: list[str]) -> None:
    world.apply(GRAFTED)
    world.apply(WITH_HEAD)

    assert world.kept()[1][GRAFT_SHARD] == tree_of(world.target)[GRAFT_SHARD]
    assert [GRAFT_SHARD, HEAD_SHARD] == made
    assert [] == [name for name in hashed if name.endswith(".safetensors")]


def test_a_trimmed_shard_is_one_file_in_both_generations(world: World, made: list[str]) -> None:
    world.apply(TRIMMED)
    world.apply(TRIMMED_WITH_NOTES)

    assert world.kept()[1][SECOND_SHARD] == tree_of(world.target)[SECOND_SHARD]
    assert [SECOND_SHARD, GRAFT_SHARD] == made


def test_shards_are_taken_over_after_undo_and_by_applying_forward_again(
    world: World, made: list[str], hashed: list[str]
) -> None:
    world.apply(GRAFTED)
    world.apply({**WITH_HEAD, **TRIMMED})
    second = tree_of(world.target)
    world.undo()
    made.clear()

    world.apply({**WITH_HEAD, **TRIMMED})

    shards = (GRAFT_SHARD, HEAD_SHARD, SECOND_SHARD)
    assert {name: second[name] for name in shards} == {name: tree_of(world.target)[name] for name in shards}
    assert [] == made
    assert [] == [name for name in hashed if name.endswith(".safetensors")]


def test_a_shard_that_left_and_comes_back_is_taken_from_the_history(world: World, made: list[str]) -> None:
    world.apply(WITH_HEAD)
    head = tree_of(world.target)[HEAD_SHARD]
    world.apply(GRAFTED)
    made.clear()

    world.apply({**WITH_HEAD, **WITH_NOTES})

    assert head == tree_of(world.target)[HEAD_SHARD]
    assert [] == made


def test_a_shard_under_another_name_is_taken_over(world: World, made: list[str]) -> None:
    world.apply(WITH_HEAD)
    head = tree_of(world.target)[HEAD_SHARD]
    made.clear()

    world.apply({"grafts": [{**HEAD, "shard": "head.safetensors"}]})

    assert head == tree_of(world.target)["head.safetensors"]
    assert [] == made


def test_a_deleted_target_is_assembled_with_the_shards_of_its_history(world: World, made: list[str]) -> None:
    world.apply(WITH_HEAD)
    world.apply(PLAIN)
    world.delete_target()
    made.clear()

    world.apply(WITH_HEAD)

    assert [] == made


def test_a_shard_that_was_written_to_is_built_again(world: World, made: list[str]) -> None:
    world.apply(GRAFTED)
    whole = (world.target / GRAFT_SHARD).read_bytes()
    world.apply(WITH_NOTES)
    world.damage(GRAFT_SHARD)
    made.clear()

    world.apply(WITH_NOTES)

    assert [GRAFT_SHARD] == made
    assert whole == (world.target / GRAFT_SHARD).read_bytes()


def test_a_trimmed_shard_that_was_written_to_is_made_again(world: World, made: list[str]) -> None:
    world.apply(TRIMMED)
    whole = (world.target / SECOND_SHARD).read_bytes()
    world.damage(SECOND_SHARD)
    made.clear()

    world.apply(TRIMMED_WITH_NOTES)

    assert [SECOND_SHARD] == made
    assert whole == (world.target / SECOND_SHARD).read_bytes()


def test_a_shard_that_a_link_replaced_is_not_followed(world: World, made: list[str], tmp_path: Path) -> None:
    world.apply(GRAFTED)
    outside = tmp_path / "outside.safetensors"
    os.rename(world.target / GRAFT_SHARD, outside)
    os.symlink(outside, world.target / GRAFT_SHARD)
    made.clear()

    world.apply(GRAFTED)

    assert [GRAFT_SHARD] == made
    assert not (world.target / GRAFT_SHARD).is_symlink()


def test_forgetting_a_generation_that_shares_a_shard_leaves_it_known(
    world: World, made: list[str], hashed: list[str]
) -> None:
    for number in range(6):
        world.apply({"files": {f"notes-{number}.txt": {"from": "notes.txt"}}})
    world.apply(WITH_NOTES)

    assert [GRAFT_SHARD] == made
    assert [] == [name for name in hashed if name.endswith(".safetensors")]


def test_a_donor_that_was_written_to_is_another_recipe(world: World, made: list[str]) -> None:
    world.apply(GRAFTED)
    made.clear()
    donor = world.root / "donor" / "model-00003-of-00003.safetensors"
    status = donor.stat()
    os.utime(donor, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))

    world.apply(WITH_NOTES)

    assert [GRAFT_SHARD] == made


def test_undo_reads_neither_base_nor_donor_data(world: World, hashed: list[str]) -> None:
    world.apply(GRAFTED, content=True)
    world.apply(PLAIN, content=True)
    hashed.clear()

    world.undo()

    assert [] == [name for name in hashed if name.endswith(".safetensors")]
