"""``overlay publish --full``: the base's shards are copied by the server, and not a byte of them is moved."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.loopback_hub import LoopbackHub
from tests.publishing.cases import BASE, REPO, SHARD, build, codes, done, publish, published, seed
from tests.support.checkpoints import INDEX, SINGLE, sharded, single_file, write_files
from tests.support.commands import overlay


def test_a_whole_repository_moves_no_weight_of_the_base(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    hub = xet_hub
    seed(hub)
    built = build(tmp_path)
    hub.log.clear()

    ended = publish(built, f"hf://{REPO}", "--full")

    base = sharded()
    assert sorted([*base.shards, "LICENSE", "chat_template.jinja"]) == sorted(done(ended, "copy"))
    assert sorted([SHARD, INDEX, "config.json", "overlay.yaml", "overlay.lock.json", "README.md"]) == sorted(
        done(ended, "upload")
    )
    for name, data in {**base.files(), SHARD: (built / SHARD).read_bytes()}.items():
        if name not in (INDEX, "config.json"):
            assert data == hub.read(REPO, name), name
    assert 0 == hub.log.bytes_of("*.safetensors")
    assert [] == hub.log.about(method="PUT")
    assert set(base.shards) == {name for name in hub.files(REPO) if name in base.shards}


def test_it_loads_without_the_base(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(xet_hub)
    published(publish(build(tmp_path), f"hf://{REPO}", "--full"))

    assert 0 == overlay("verify", f"hf://{REPO}", "--level", "headers").code
    shards = set(json.loads(xet_hub.read(REPO, INDEX))["weight_map"].values())
    assert shards == {name for name in xet_hub.files(REPO) if name.endswith(".safetensors")}


def test_a_second_run_has_nothing_to_do(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(xet_hub)
    built = build(tmp_path)
    published(publish(built, f"hf://{REPO}", "--full"))

    again = publish(built, f"hf://{REPO}", "--full")

    assert published(again)["plan"]["empty"]


def test_the_only_shard_of_the_base_gets_a_number(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    base = single_file()
    seed(xet_hub, base)
    built = build(tmp_path)

    published(publish(built, f"hf://{REPO}", "--full"))

    (first,) = set(json.loads(xet_hub.read(REPO, INDEX))["weight_map"].values()) - {SHARD}
    assert base.files()[SINGLE] == xet_hub.read(REPO, first)
    assert SINGLE not in xet_hub.files(REPO)


def test_a_file_that_the_manifest_removes_is_not_copied(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(xet_hub)

    published(publish(build(tmp_path, files={"chat_template.jinja": {"remove": True}}), f"hf://{REPO}", "--full"))

    assert "chat_template.jinja" not in xet_hub.files(REPO)


def test_a_base_without_chunk_hashes_is_refused(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)

    ended = publish(build(tmp_path), f"hf://{REPO}", "--full")

    assert {"LCK013"} == codes(ended)
    assert sorted(sharded().shards) == sorted({f["file"] for f in ended.document["findings"]})
    assert ("models", REPO) not in hub.state.repositories


def test_shards_that_have_to_be_written_anew_are_refused(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(xet_hub)
    built = build(tmp_path, drop=["model.layers.0.norm.weight"])

    assert {"LCK013"} == codes(publish(built, f"hf://{REPO}", "--full"))
    document = published(publish(built))
    assert any("written anew" in note for note in document["plan"]["notes"])
    card = xet_hub.read(REPO, "README.md").decode()
    assert "Links alone are not enough: 1 shard of the base must be written anew" in card
    assert "cp -rs" not in card


def test_a_base_on_this_machine_cannot_be_copied(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(xet_hub)
    write_files(tmp_path / "base", sharded().files())

    assert {"LCK011", "LCK013"} == codes(publish(build(tmp_path, base="base"), f"hf://{REPO}", "--full"))


def test_the_index_may_not_dangle(xet_hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(xet_hub)
    built = build(tmp_path)
    commit = xet_hub.head(BASE).id
    gone = next(iter(sharded().shards))
    files = {name: file for name, file in xet_hub.head(BASE).files.items() if name != gone}
    xet_hub.repository(BASE).commits[commit] = replace(xet_hub.head(BASE), files=files)

    monkeypatch.setenv("OVERLAY_CACHE", str(tmp_path / "cache"))  # where the listing was kept

    ended = publish(built, f"hf://{REPO}", "--full")

    assert {"IDX003", "LCK001"} == codes(ended)


def test_the_card_of_a_whole_checkpoint_takes_over_what_the_base_says_of_itself(
    xet_hub: LoopbackHub, tmp_path: Path
) -> None:
    seed(xet_hub)
    published(publish(build(tmp_path), f"hf://{REPO}", "--full"))

    card = xet_hub.read(REPO, "README.md").decode()

    assert re.search(r"^library_name: transformers\npipeline_tag: text-generation$", card, re.MULTILINE)
    assert "A complete checkpoint" in card
    assert "cannot be loaded" not in card


def test_into_the_base_itself_full_makes_no_sense(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(xet_hub)

    assert 2 == publish(build(tmp_path), f"hf://{BASE}", "--full").code
