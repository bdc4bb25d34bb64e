"""A graft of more bytes than `max-shard-size` becomes several shards, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import Checkpoint, read_tensors, read_weight_map, tensor
from tests.support.commands import overlay

BASE = Checkpoint(shards={"model-00001-of-00001.safetensors": [tensor("model.layers.0.a.weight")]})
DONOR = Checkpoint(shards={"all.safetensors": [tensor(f"model.layers.1.{n}.weight", "F32", (300,)) for n in range(7)]})
MANIFEST = """\
overlay: 1
name: split
base: base
donors: {d: donor}
grafts:
  - {shard: model-00002-of-00002.safetensors, from: d, tensors: ["**"], max-shard-size: 3kB}
"""
NAMES = [f"model-0000{n}-of-00005.safetensors" for n in (2, 3, 4, 5)]
"""Seven tensors of 1200 bytes, two of which fit into 3 kB."""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    BASE.write(tmp_path / "base")
    DONOR.write(tmp_path / "donor")
    (tmp_path / "split.yaml").write_text(MANIFEST)
    return tmp_path


def _require_whole(folder: Path) -> None:
    held = read_tensors(folder)
    assert {name: entry for name, (_, entry) in held.items()} == {t.name: t for t in (*BASE.tensors, *DONOR.tensors)}
    assert {name: shard for name, (shard, _) in held.items()} == read_weight_map(folder)


def test_applying_splits_the_graft(world: Path) -> None:
    assert overlay("apply", world / "split.yaml", "-o", world / "serve").code == 0
    _require_whole(world / "serve")
    assert sorted(path.name for path in (world / "serve").glob("model-*-of-00005*")) == NAMES


def test_a_built_repository_holds_the_parts_and_is_applied_without_the_donor(world: Path) -> None:
    assert overlay("build", world / "split.yaml", "-o", world / "repo").code == 0
    assert sorted(path.name for path in (world / "repo").glob("*.safetensors")) == NAMES
    (world / "donor").rename(world / "elsewhere")
    assert overlay("apply", world / "repo", "--base", world / "base", "-o", world / "serve").code == 0
    _require_whole(world / "serve")


def test_a_repository_that_lost_a_part_needs_its_donor_again(world: Path) -> None:
    overlay("build", world / "split.yaml", "-o", world / "repo")
    (world / "repo" / NAMES[1]).unlink()
    (world / "donor").rename(world / "elsewhere")
    ended = overlay("apply", world / "repo", "--base", world / "base", "-o", world / "serve")
    assert ended.code in (3, 5)
    assert not (world / "serve").exists()
    done = overlay(
        "apply", world / "repo", "--base", world / "base", "--donor", f"d={world / 'elsewhere'}", "-o", world / "serve"
    )
    assert done.code == 0
    _require_whole(world / "serve")


def test_one_tensor_larger_than_the_limit_has_a_shard_of_its_own(world: Path) -> None:
    (world / "split.yaml").write_text(MANIFEST.replace("3kB", "1kB"))
    assert overlay("apply", world / "split.yaml", "-o", world / "serve").code == 0
    assert len(list((world / "serve").glob("*-of-00008.safetensors"))) == 7
    _require_whole(world / "serve")


@pytest.mark.parametrize("size", ["0GB", "5", "5 apples", "-1GB", "1.5GB"])
def test_a_size_that_is_none_is_refused(world: Path, size: str) -> None:
    (world / "split.yaml").write_text(MANIFEST.replace("3kB", f'"{size}"'))
    ended = overlay("plan", world / "split.yaml", "-o", world / "serve")
    assert ended.code == 3
    assert ended.refusal is not None
    assert "max-shard-size" in ended.refusal.line
