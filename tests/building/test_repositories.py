"""What a build leaves: a repository whose manifest, lock, shards, index and sidecars agree, the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import xxhash
import yaml

from tests.building.donors import DRAFT_SHARD, INT4, SCALES_SHARD, graft, load, manifest_text
from tests.building.running import SHARD, build, lock_in, read_ranges
from tests.support.checkpoints import (
    INDEX,
    contents_of,
    read_shard,
    read_tensors,
    read_weight_map,
    sharded,
    write_files,
)
from tests.support.commands import overlay

EXPERT = "model.layers.78.mlp.experts.3.up_proj"


# A standalone draft


def test_a_standalone_repository_is_a_checkpoint_with_all_that_says_how_it_was_made(work: Path) -> None:
    built = build(work)

    assert {
        SHARD,
        INDEX,
        "overlay.yaml",
        "overlay.lock.json",
        "conversion.json",
        "README.md",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
    } == {path.name for path in built.iterdir()}
    assert {name: shard for name, (shard, _) in read_tensors(built).items()} == read_weight_map(built)
    assert (work / "target" / "tokenizer.json").read_bytes() == (built / "tokenizer.json").read_bytes()
    card = (built / "README.md").read_text()
    assert "license: mit" in card
    assert "# draft" in card
    assert {".built.overlay.lock", "built", "donor", "draft.yaml", "target"} == {path.name for path in work.iterdir()}


def test_the_config_declares_what_the_shard_holds(work: Path) -> None:
    config = json.loads((build(work) / "config.json").read_bytes())

    declared = config["quantization_config"]
    assert ("compressed-tensors", "pack-quantized") == (declared["quant_method"], declared["format"])
    assert {"num_bits": 4, "group_size": 32, "symmetric": False}.items() <= declared["config_groups"]["group_0"][
        "weights"
    ].items()
    prefix = "model.layers.78"
    linears = ("eh_proj", "mlp.gate", "self_attn.indexer.weights_proj", "self_attn.indexer.wk")
    assert [f"{prefix}.{name}" for name in linears] == declared["ignore"]
    assert 8 == config["n_routed_experts"]


def test_transformers_reads_the_config(work: Path) -> None:
    transformers = pytest.importorskip("transformers")

    config = transformers.AutoConfig.from_pretrained(build(work))

    assert ("glm_moe_dsa", 8) == (config.model_type, config.n_routed_experts)
    assert "compressed-tensors" == config.quantization_config["quant_method"]


def test_fewer_experts_are_declared_and_renumbered(work: Path) -> None:
    (work / "lists").mkdir()
    (work / "lists" / "keep.json").write_text("[1, 2, 3, 5, 6, 7]")
    steps = [{"keep-experts": "lists/keep.json"}, *graft()["steps"]]
    (work / "draft.yaml").write_text(manifest_text(grafts=[graft(steps=steps)]))

    built = build(work)

    names = read_tensors(built)
    assert {*map(str, range(6))} == {name.split(".")[5] for name in names if ".mlp.experts." in name}
    assert 6 == json.loads((built / "config.json").read_bytes())["n_routed_experts"]
    assert [1, 2, 3, 5, 6, 7] == json.loads((built / "lists" / "keep.json").read_bytes())
    assert 0 == overlay("verify", built, "--level", "content", "--donors").code


def test_the_lock_has_the_lineage_of_every_tensor(work: Path) -> None:
    built = build(work)

    locked = lock_in(built)["grafts"][SHARD]
    made = read_shard(built / SHARD)
    assert made.keys() == locked["tensors"].keys()
    for name, tensor in made.items():
        assert xxhash.xxh3_128_hexdigest(tensor.data) == locked["tensors"][name]["xxh3_128"], name
    files = {name: (work / "donor" / name).read_bytes() for name in (DRAFT_SHARD, SCALES_SHARD)}
    ranges = read_ranges(work / "donor" / DRAFT_SHARD)
    entry = locked["tensors"][f"{EXPERT}.weight_packed"]
    assert [
        "dequantize format=modelopt-nvfp4 to=BF16",
        "quantize bits=4 format=pack-quantized group_size=32 symmetric=false",
    ] == entry["steps"]
    sources = sorted(ranges[f"{EXPERT}.{suffix}"] for suffix in ("weight", "weight_scale", "weight_scale_2"))
    assert [(DRAFT_SHARD, *place) for place in sources] == [
        (source["file"], source["begin"], source["end"]) for source in entry["inputs"]
    ]
    for source in entry["inputs"]:
        assert source["xxh3_128"] == xxhash.xxh3_128_hexdigest(files[source["file"]][source["begin"] : source["end"]])
    copied = locked["tensors"]["model.layers.78.eh_proj.weight"]
    assert (DRAFT_SHARD, *ranges["model.layers.78.eh_proj.weight"]) == (copied["file"], copied["begin"], copied["end"])
    assert "steps" not in copied
    assert {"mtp": [DRAFT_SHARD]} == {name: [*donor["files"]] for name, donor in lock_in(built)["donors"].items()}


def test_locking_a_repository_again_keeps_its_lineage(work: Path) -> None:
    built = build(work)
    before = lock_in(built)

    assert 0 == overlay("lock", built / "overlay.yaml").code

    assert {**before, "level": "content"} == lock_in(built)


def test_a_repository_is_verified_and_applied_without_its_donor(work: Path) -> None:
    built = build(work)
    (work / "donor").rename(work / "gone")

    assert 0 == overlay("verify", built, "--level", "content").code
    assert 0 == overlay("verify", built / "overlay.yaml", "--level", "content").code
    assert 0 == overlay("apply", built, "-o", work / "serve").code

    assert read_tensors(built) == read_tensors(work / "serve")
    assert (built / "config.json").read_bytes() == (work / "serve" / "config.json").read_bytes()
    assert 0 == overlay("verify", work / "serve", "--level", "content").code


def test_building_and_applying_the_manifest_come_to_the_same_bytes(work: Path) -> None:
    built = build(work)

    assert 0 == overlay("apply", work / "draft.yaml", "-o", work / "serve").code

    for name in (SHARD, INDEX, "config.json", "tokenizer.json"):
        assert (built / name).read_bytes() == (work / "serve" / name).read_bytes(), name


@pytest.mark.parametrize(
    "options", [["--jobs", "1"], ["--jobs", "3"], ["--jobs", "2", "--memory", "1MiB"]], ids=" ".join
)
def test_neither_workers_nor_memory_change_a_byte(work: Path, options: list[str]) -> None:
    assert contents_of(build(work)) == contents_of(build(work, "again", *options))


def test_the_report_says_what_was_lost(work: Path) -> None:
    ended = overlay("build", work / "draft.yaml", "-o", work / "built")
    again = overlay("build", work / "draft.yaml", "-o", work / "again", "--json")

    assert "what the conversion lost" in ended.output
    assert "relative RMS 0.0" in ended.output
    report = json.loads((work / "built" / "conversion.json").read_bytes())[SHARD]
    assert report == again.document["shards"][0]["accuracy"]
    assert {"mlp.experts", "mlp.shared_experts", "self_attn", "self_attn.indexer"} == {
        kind.split(":")[0] for kind in report
    }
    assert 8 * 3 == next(loss["tensors"] for kind, loss in report.items() if kind.startswith("mlp.experts"))


# What a repository takes along


def test_what_is_taken_for_an_engine_alone_is_taken_along(work: Path) -> None:
    write_files(work, {"vllm.jinja": b"{{ vllm }}"})
    engines = {"vllm": {"files": {"chat_template.jinja": {"from": "vllm.jinja"}}}}
    (work / "draft.yaml").write_text(manifest_text(engines=engines))

    built = build(work).rename(work / "moved")

    assert 0 == overlay("apply", built, "--engine", "vllm", "-o", work / "serve").code
    assert b"{{ vllm }}" == (work / "serve" / "chat_template.jinja").read_bytes()


def test_a_shard_that_was_taken_whole_needs_its_donor_no_more(work: Path) -> None:
    sharded().write(work / "base")
    one = {"shard": DRAFT_SHARD, "from": "mtp"}
    (work / "draft.yaml").write_text(manifest_text(base="base", grafts=[one], files={}))
    built = build(work)
    (work / "donor").rename(work / "gone")

    assert (work / "gone" / DRAFT_SHARD).read_bytes() == (built / DRAFT_SHARD).read_bytes()
    assert 0 == overlay("apply", built, "-o", work / "serve").code
    assert (built / DRAFT_SHARD).resolve() == (work / "serve" / DRAFT_SHARD).resolve()


def test_over_a_base_the_repository_is_the_difference_alone(work: Path) -> None:
    sharded().write(work / "base")
    files = {"config.json": {"patch": [{"op": "add", "path": "/mtp", "value": 1}]}}
    (work / "draft.yaml").write_text(manifest_text(base="base", files=files))

    built = build(work)

    assert {SHARD, INDEX, "overlay.yaml", "overlay.lock.json", "conversion.json", "README.md", "config.json"} == {
        path.name for path in built.iterdir()
    }
    assert 0 == overlay("verify", built, "--level", "content", "--donors").code
    assert 0 == overlay("apply", built, "-o", work / "serve", "--base", work / "base").code
    assert read_tensors(work / "base").items() <= read_tensors(work / "serve").items()
    for name in (SHARD, INDEX, "config.json"):
        assert (built / name).read_bytes() == (work / "serve" / name).read_bytes()
    assert 0 == overlay("verify", work / "serve", "--level", "content").code


def test_the_files_that_a_repository_patches_are_held_against_its_lock(work: Path) -> None:
    sharded().write(work / "base")
    files = {"config.json": {"patch": [{"op": "add", "path": "/mtp", "value": 1}]}}
    (work / "draft.yaml").write_text(manifest_text(base="base", files=files))

    assert [("LCK001", "config.json")] == after_an_edit(build(work), "config.json")


def test_the_index_of_a_standalone_repository_is_held_against_its_lock(work: Path) -> None:
    assert [("LCK001", INDEX)] == after_an_edit(build(work), INDEX)


def after_an_edit(built: Path, name: str) -> list[tuple[str, str]]:
    """What is found when a space is put at the end of a file."""
    (built / name).write_bytes((built / name).read_bytes() + b" ")
    found = overlay("verify", built, "--json").document["findings"]
    return [(finding["code"], finding["file"]) for finding in found]


def test_the_manifest_that_is_published_says_the_same(work: Path) -> None:
    built = build(work)

    manifest = yaml.safe_load((built / "overlay.yaml").read_text())
    assert ("draft", None, str(work / "donor")) == (manifest["name"], manifest["base"], manifest["donors"]["mtp"])
    assert {"quantize": INT4} == manifest["grafts"][0]["steps"][1]
    assert {"from": "config.json"} == manifest["files"]["config.json"]


def test_safetensors_reads_what_was_built(work: Path) -> None:
    built = load(build(work))

    assert {name: tensor.shape for name, (_, tensor) in read_tensors(work / "built").items()} == {
        name: tuple(tensor.shape) for name, tensor in built.items()
    }


# Several shards of one graft


def test_a_graft_may_be_split_and_is_the_same_tensors(work: Path) -> None:
    whole = read_tensors(build(work, "whole"))
    (work / "draft.yaml").write_text(manifest_text(grafts=[graft(**{"max-shard-size": "10kB"})]))

    built = build(work)

    shards = sorted(path.name for path in built.glob("*.safetensors"))
    assert [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)] == shards
    assert len(shards) > 2
    split = read_tensors(built)
    assert {name: tensor for name, (_, tensor) in whole.items()} == {
        name: tensor for name, (_, tensor) in split.items()
    }
    assert {name: shard for name, (shard, _) in split.items()} == read_weight_map(built)
    assert 0 == overlay("verify", built, "--level", "content", "--donors").code
    assert 0 == overlay("apply", built, "-o", work / "serve").code
    assert split == read_tensors(work / "serve")
    assert {*shards} == lock_in(built)["grafts"].keys()


def test_partners_are_not_parted(work: Path) -> None:
    (work / "draft.yaml").write_text(manifest_text(grafts=[graft(**{"max-shard-size": "4kB"})]))

    homes: dict[str, set[str]] = {}
    for name, shard in read_weight_map(build(work)).items():
        module, _, part = name.rpartition(".")
        if part in ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape"):
            homes.setdefault(module, set()).add(shard)

    assert {1} == {len(shards) for shards in homes.values()}
