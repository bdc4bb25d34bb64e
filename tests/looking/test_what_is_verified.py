"""``overlay verify`` takes a checkpoint, a target, a manifest, a lock, an index, or a single shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay import api
from overlay.errors import InvalidInput
from overlay.running.proving import LEVELS, Level
from tests.support import damage
from tests.support.checkpoints import INDEX, sharded, tensor, write_graft, write_hub_cache
from tests.support.commands import overlay
from tests.support.damage import Damage

FIRST, SECOND = sharded().shards


@pytest.mark.parametrize("level", LEVELS)
def test_a_single_shard_is_verified_by_itself(level: Level, tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    damage.truncate(folder, SECOND)  # of no concern

    verdict = api.verify(str(folder / FIRST), level=level)

    assert (verdict.findings, verdict.shards) == ((), 1)
    assert verdict.tensors == (0 if level == "structure" else 2)
    assert (FIRST,) == verdict.uncompared
    assert 0 == overlay("verify", folder / FIRST, "--level", level).code


ALONE: dict[str, tuple[Damage, str, str]] = {
    "a broken header": (damage.break_a_byte_of_the_header, "", "SHD001"),
    "cut": (damage.truncate, "", "SHD002"),
    "padded": (damage.append, "", "SHD002"),
    "a dangling link": (damage.replace_the_shard_by_a_dangling_link, "LNK002", "LNK002"),
    "an empty name": (damage.give_a_tensor_an_empty_name, "", "SHD003"),
    "a link elsewhere": (damage.replace_the_shard_by_a_link_out, "", ""),
}


@pytest.mark.parametrize("what", ALONE)
def test_damage_to_a_single_shard_is_found(what: str, tmp_path: Path) -> None:
    act, structure, headers = ALONE[what]
    folder = sharded().write(tmp_path / "base")
    act(folder, FIRST)

    found = [{f.code for f in api.verify(str(folder / FIRST), level=level).findings} for level in LEVELS]

    assert [set(structure.split()), set(headers.split()), set(headers.split())] == found


def test_a_single_shard_of_the_cache_is_compared_with_the_digest_in_its_blob_s_name(tmp_path: Path) -> None:
    snapshot = write_hub_cache(tmp_path / "cache", sharded())

    sound = api.verify(str(snapshot / FIRST), level="content")
    damage.flip_last_data_byte(snapshot, FIRST)
    damaged = api.verify(str(snapshot / FIRST), level="content")

    assert (sound.ok, sound.compared, sound.uncompared) == (True, 1, ())
    assert ["LCK001"] == [finding.code for finding in damaged.findings]


def test_a_lock_means_the_manifest_beside_it(tmp_path: Path) -> None:
    manifest = write_graft(tmp_path)
    api.lock(str(manifest))

    verdict = api.verify(str(tmp_path / "overlay.lock.json"))

    assert verdict.ok
    assert str(manifest) == verdict.subject
    assert verdict == api.verify(str(manifest))


def test_a_lock_without_its_manifest_is_refused_by_name(tmp_path: Path) -> None:
    manifest = write_graft(tmp_path)
    api.lock(str(manifest))
    manifest.rename(tmp_path / "other.yaml")

    with pytest.raises(InvalidInput, match=r"expected the manifest overlay\.yaml beside this lock"):
        api.verify(str(tmp_path / "overlay.lock.json"))


def test_an_index_means_the_checkpoint_that_it_lies_in(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    damage.forget_a_tensor(folder, FIRST)

    assert ["IDX005"] == [finding.code for finding in api.verify(str(folder / INDEX)).findings]


@pytest.mark.parametrize("name", ["model.layers.0.größe", "a" * 512, "x y", "é.weight", "..", "/"])
def test_a_tensor_name_that_is_merely_unusual_is_no_finding(name: str, tmp_path: Path) -> None:
    checkpoint = sharded()
    (first, entries), *others = checkpoint.shards.items()
    shards = dict([(first, [*entries, tensor(name)]), *others])

    folder = type(checkpoint)(shards=shards).write(tmp_path / "base")

    assert () == api.verify(str(folder)).findings


OTHERS: dict[str, tuple[str, str]] = {
    "receipt.json": ('{"overlay_receipt": 1, "files": {}}', "a receipt"),
    "config.json": ('{"architectures": [], "model_type": "tiny"}', "config.json of a model"),
    "tokenizer.json": ('{"version": "1.0"}', "a JSON object without the key overlay"),
    "list.json": ("[1, 2]", "JSON that is no object"),
    "fixed.json": ('{"weight_map": {}, "metadata": {}}', f"an index that is not called {INDEX}"),
    "pinned.json": ('{"overlay_lock": 1}', r"a lock that is not called NAME.lock.json"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_document_of_another_kind_is_called_that_in_one_line(name: str, tmp_path: Path) -> None:
    text, what = OTHERS[name]
    (tmp_path / name).write_text(text)

    ended = overlay("verify", tmp_path / name)

    assert 3 == ended.code
    assert ended.refusal is not None
    assert f"expected a checkpoint, index, lock, manifest or shard, found {what}" == ended.refusal.problem
    assert () == tuple(ended.refusal.others)


def test_a_manifest_in_json_is_one_whatever_it_is_called(tmp_path: Path) -> None:
    manifest = write_graft(tmp_path)
    renamed = manifest.rename(tmp_path / "tiny.json")

    assert api.verify(str(renamed)).ok
