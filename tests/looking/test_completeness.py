"""``overlay verify`` over checkpoints that are sound in what they hold, and do not hold all that they should."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.core.gaps import check_layers, check_series
from overlay.errors import InvalidInput
from overlay.formats.model_config import parse_model_config
from overlay.running.proving import LEVELS
from tests.support import damage
from tests.support.checkpoints import (
    INDEX,
    Checkpoint,
    IndexStyle,
    shard_bytes,
    sharded,
    single_file,
    tensor,
    write_graft,
)
from tests.support.commands import overlay

FIRST, SECOND = sharded().shards


def _whole(layers: int = 7) -> Checkpoint:
    """A checkpoint with a shard a layer, whose config declares as many."""
    config = {"architectures": ["TinyForCausalLM"], "model_type": "tiny", "num_hidden_layers": layers}
    return replace(sharded(layers), sidecars={"config.json": json.dumps(config).encode()})


def _without(checkpoint: Checkpoint, *numbers: int) -> Checkpoint:
    """`checkpoint` as if the shards of these numbers had never been there."""
    marks = tuple(f"-{number:05d}-of-" for number in numbers)
    kept = {name: held for name, held in checkpoint.shards.items() if not any(mark in name for mark in marks)}
    return replace(checkpoint, shards=kept)


def _found(folder: Path, **options: Any) -> dict[str, str]:
    return {finding.code: finding.message for finding in api.verify(str(folder), **options).findings}


# --- a numbered series with a gap


@pytest.mark.parametrize("level", LEVELS)
def test_a_shard_that_went_together_with_its_entries_is_missed_by_its_number(level: str, tmp_path: Path) -> None:
    folder = replace(_without(_whole(), 3), sidecars={}).write(tmp_path / "base")

    verdict = api.verify(str(folder), level=level)

    assert ["IDX018"] == [finding.code for finding in verdict.findings]
    assert "expected the shards 1 to 7 of model-*-of-00007.safetensors, found none numbered 3" == (
        verdict.findings[0].message
    )
    assert verdict.ok


@pytest.mark.parametrize("level", LEVELS)
def test_without_an_index_the_shards_that_are_there_are_counted(level: str, tmp_path: Path) -> None:
    folder = replace(_without(_whole(), 3, 5, 6), index=None, sidecars={}).write(tmp_path / "base")

    found = _found(folder, level=level)

    assert {"IDX013", "IDX018"} == found.keys()
    assert found["IDX018"].endswith("found none numbered 3, 5 to 6")


def test_a_single_shard_of_several_without_an_index_is_no_whole_checkpoint(tmp_path: Path) -> None:
    folder = replace(_without(_whole(3), 2, 3), index=None, sidecars={}).write(tmp_path / "base")

    assert {"IDX018"} == _found(folder).keys()


def test_without_an_index_a_gap_is_refused_by_fix_as_ever(tmp_path: Path) -> None:
    folder = replace(_without(_whole(), 3), index=None).write(tmp_path / "base")

    with pytest.raises(InvalidInput, match=r"IDX003 model-00003-of-00007\.safetensors"):
        api.mend(str(folder), str(tmp_path / "new.json"))
    assert not api.verify(str(folder)).mendable


def test_a_gap_that_the_new_index_has_as_well_is_still_named(tmp_path: Path) -> None:
    folder = _without(_whole(), 3).write(tmp_path / "base")
    damage.forget_a_tensor(folder, FIRST.replace("00002", "00007"))

    fixed = api.mend(str(folder), str(tmp_path / "new.json"))

    assert ["CFG004", "IDX018"] == [finding.code for finding in fixed.left]


SERIES: dict[str, tuple[list[str], str]] = {
    "whole": (["m-00001-of-00002", "m-00002-of-00002"], ""),
    "one more under a higher total": (["m-00001-of-00002", "m-00002-of-00002", "m-00003-of-00003"], ""),
    "a gap below one more": (["m-00001-of-00002", "m-00003-of-00003"], "found none numbered 2"),
    "no number": (["mtp", "model"], ""),
    "counted from 0": (["m-00000-of-00002", "m-00001-of-00002"], ""),
    "counted from 0, with a gap": (["m-00000-of-00003", "m-00002-of-00003"], "the shards 0 to 2 of"),
    "wider totals": (["m-00001-of-000163", "m-00163-of-000163"], "found none numbered 2 to 162"),
    "narrow numbers": (["m-1-of-3", "m-3-of-3"], "found none numbered 2"),
    "two stems": (["a-00001-of-00001", "b-00002-of-00002"], "of b-*-of-00002.safetensors, found none numbered 1"),
    "a lone file and a graft": (["model", "model-00002-of-00002"], ""),
    "one was renamed": (["mtp", "m-00002-of-00002"], ""),
    "no end": (["m-1-of-999999"], "found none numbered 2 to 999999"),
}


@pytest.mark.parametrize("what", SERIES)
def test_numbers_are_counted_over_all_series_of_a_stem(what: str) -> None:
    names, message = SERIES[what]
    listed = [f"{name}.safetensors" for name in names]

    found = check_series(listed, listed)

    assert bool(message) == bool(found)
    assert all(message in finding.message for finding in found)


def test_a_stray_is_not_missing(tmp_path: Path) -> None:
    folder = _without(_whole(), 3).write(tmp_path / "base")
    stray = "model-00003-of-00007.safetensors"
    (folder / stray).write_bytes(shard_bytes(_whole().shards[stray]))

    assert {"IDX010", "CFG004"} == _found(folder).keys()


def test_what_overlay_assembled_may_have_gaps_and_a_gap_stops_no_overlay(tmp_path: Path) -> None:
    base = replace(_without(_whole(3), 2), sidecars={})
    manifest = write_graft(
        tmp_path,
        base,
        grafts=[{"shard": "model-00004-of-00004.safetensors", "from": "bf16", "tensors": ["lm_head.**"]}],
    )

    applied = overlay("apply", manifest, "-o", tmp_path / "serve")

    assert 0 == applied.code
    assert "IDX018" in _found(tmp_path / "base")
    assert {} == _found(tmp_path / "serve")
    assert 0 == overlay("diff", tmp_path / "base", tmp_path / "base").code


def test_a_built_repository_is_not_counted(tmp_path: Path) -> None:
    folder = _without(_whole(), 3).write(tmp_path / "base")
    (folder / "overlay.yaml").write_text("overlay: 1")

    assert {} == _found(folder)


# --- declared layers


@pytest.mark.parametrize("level", LEVELS)
def test_a_layer_that_is_declared_and_lacks_every_tensor_is_named(level: str, tmp_path: Path) -> None:
    whole = _whole(4)
    shards = {"model-00001-of-00001.safetensors": [t for t in whole.tensors if ".layers.2." not in t.name]}
    folder = replace(whole, shards=shards).write(tmp_path / "base")

    found = _found(folder, level=level)

    assert {"CFG004": "declares 4 layers, found no tensor of layer 2 in model.layers"} == found


def _layers(prefix: str, *numbers: int) -> list[str]:
    return [f"{prefix}.{number}.mlp.weight" for number in numbers]


LAYERS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "whole": ({"num_hidden_layers": 2}, _layers("model.layers", 0, 1), ""),
    "with a draft layer": ({"num_hidden_layers": 2}, _layers("model.layers", 0, 1, 2), ""),
    "without the declared draft layer": (
        {"num_hidden_layers": 2, "num_nextn_predict_layers": 1},
        _layers("model.layers", 0, 1),
        "",
    ),
    "a gap beside a draft layer": (
        {"num_hidden_layers": 3, "num_nextn_predict_layers": 1},
        _layers("model.layers", 0, 2, 3),
        "layer 1 ",
    ),
    "the last is missing": ({"num_hidden_layers": 3}, _layers("model.layers", 0, 1), "layer 2 "),
    "several are missing": ({"num_hidden_layers": 9}, _layers("model.layers", 0, 4, 8), "layers 1 to 3, 5 to 7 "),
    "no end": ({"num_hidden_layers": 10**18}, _layers("h", 0), f"layers 1 to {10**18 - 1} in h"),
    "a standalone draft": ({"num_hidden_layers": 2}, _layers("model.layers", 2), ""),
    "a draft with names of its own": ({"num_hidden_layers": 4}, _layers("mtp.layers", 0), ""),
    "an adapter": ({"num_hidden_layers": 4}, _layers("base_model.model.model.layers", 1), ""),
    "no layers at all": ({"num_hidden_layers": 4}, ["lm_head.weight"], ""),
    "nothing declared": ({"n_layer": 4}, _layers("transformer.h", 0, 2), ""),
    "none declared": ({"num_hidden_layers": 0}, _layers("model.layers", 0, 2), ""),
    "counted from 1": ({"num_hidden_layers": 2}, _layers("model.layers", 1, 2), ""),
    "a tower with more layers": (
        {"text_config": {"num_hidden_layers": 3}},
        [*_layers("model.language_model.layers", 0, 2), *_layers("visual.blocks", 0, 1, 2, 3)],
        "layer 1 in model.language_model.layers",
    ),
    "a tower alone": ({"text_config": {"num_hidden_layers": 30}}, _layers("visual.blocks", 0, 1, 2, 3), ""),
    "encoder and decoder": (
        {"num_hidden_layers": 4},
        [*_layers("model.encoder.layers", 0, 1, 2, 3), *_layers("model.decoder.layers", 0, 1)],
        "",
    ),
    "two stacks of one depth": ({"num_hidden_layers": 4}, [*_layers("a.layers", 0, 1), *_layers("b.layers", 0, 1)], ""),
    "experts": (
        {"num_hidden_layers": 3},
        [f"model.layers.{layer}.mlp.experts.{number}.up_proj.weight" for layer in (0, 2) for number in (0, 1)],
        "layer 1 ",
    ),
    "layers that count twice": (
        {"num_hidden_layers": 4, "model_type": "longcat_flash"},
        _layers("model.layers", 0, 1),
        "",
    ),
}


@pytest.mark.parametrize("what", LAYERS)
def test_the_stack_with_most_layers_is_held_against_the_config(what: str) -> None:
    config, names, message = LAYERS[what]

    found = check_layers(names, parse_model_config(json.dumps(config).encode()))

    assert bool(message) == bool(found)
    assert all(message in finding.message for finding in found)


def test_models_that_transformers_writes_lack_no_layer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "vocab_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    own: dict[str, dict[str, Any]] = {
        "llama": {**small, **heads},
        "mixtral": {**small, **heads, **experts},
        "qwen3_moe": {**small, **heads, **experts},
        "bert": {**small, "num_attention_heads": 2},
        "vit": {**small, "num_attention_heads": 2},
        "gpt2": {"n_layer": 3, "n_embd": 16, "n_head": 2, "vocab_size": 32},
        "t5": {"num_layers": 3, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "vocab_size": 32},
        "mamba": {**small, "state_size": 4, "expand": 1},
        "bart": {"d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "vocab_size": 32}
        | {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
        | {f"{side}_ffn_dim": 16 for side in ("encoder", "decoder")},
    }

    found = {}
    for name, settings in own.items():
        config = transformers.AutoConfig.for_model(name, **settings)
        folder = tmp_path / name
        transformers.AutoModel.from_config(config).save_pretrained(folder, max_shard_size="4KB")
        found[name] = _found(folder)

    assert {name: {} for name in own} == found


# --- what --fix would hide


def _forgotten(root: Path, *numbers: int) -> Path:
    """A checkpoint whose index lost the entries of some shards that are there, and kept its total_size."""
    folder = _whole(4).write(root / "base")
    document = json.loads((folder / INDEX).read_bytes())
    marks = tuple(f"model-{number:05d}-" for number in numbers)
    document["weight_map"] = {t: s for t, s in document["weight_map"].items() if not s.startswith(marks)}
    (folder / INDEX).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("numbers", [(2,), (2, 4)])
def test_a_stray_that_the_old_index_counted_is_not_left_out_silently(numbers: tuple[int, ...], tmp_path: Path) -> None:
    folder = _forgotten(tmp_path, *numbers)
    strays = [f"model-{number:05d}-of-00004.safetensors" for number in numbers]

    with pytest.raises(InvalidInput) as refused:
        api.mend(str(folder), str(tmp_path / "new.json"))
    verdict = api.verify(str(folder))
    fixed = api.mend(str(folder), str(tmp_path / "new.json"), adopt=strays)

    assert f"IDX010 {strays[0]}: the old total_size of {_whole(4).total_size} counts it" in refused.value.line
    assert " ".join(f"--adopt {name}" for name in strays) in refused.value.hint
    assert "move" in refused.value.hint
    assert not verdict.mendable
    assert (fixed.ok, fixed.left) == (True, ())


def test_a_stray_that_completes_the_numbers_is_not_left_out_silently(tmp_path: Path) -> None:
    folder = _forgotten(tmp_path, 2)
    damage.remove_the_metadata(folder, FIRST)

    with pytest.raises(InvalidInput, match=r"the listed shards lack its number") as refused:
        api.mend(str(folder), str(tmp_path / "new.json"))
    ended = overlay("verify", folder, "--fix", tmp_path / "new.json")

    assert "--adopt model-00002-of-00004.safetensors" in refused.value.hint
    assert 3 == ended.code
    assert not (tmp_path / "new.json").exists()
    assert not api.verify(str(folder)).mendable


def test_a_graft_that_the_old_total_size_counts_is_not_left_out(tmp_path: Path) -> None:
    whole = sharded()
    folder = replace(whole, index=IndexStyle(extra={"total_size": whole.total_size + 64})).write(tmp_path / "base")
    (folder / "mtp.safetensors").write_bytes(shard_bytes([tensor("mtp.fc.weight", "BF16", (4, 8))]))
    (folder / "other.safetensors").write_bytes(shard_bytes([tensor("x", "U8", (3,))]))

    with pytest.raises(InvalidInput, match=r"IDX010 mtp\.safetensors"):
        api.mend(str(folder), str(tmp_path / "new.json"))
    assert api.mend(str(folder), str(tmp_path / "new.json"), adopt=["mtp.safetensors"]).ok


def test_a_stray_that_holds_nothing_new_may_be_left_out(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    damage.add_a_stray_shard(folder, SECOND)
    document = json.loads((folder / INDEX).read_bytes())
    document["metadata"]["total_size"] += sum(len(held.data) for held in sharded().shards[SECOND])
    (folder / INDEX).write_text(json.dumps(document))

    assert api.verify(str(folder)).mendable
    assert api.mend(str(folder), str(tmp_path / "new.json")).ok


# --- what is called mendable


@pytest.mark.parametrize("broken", [damage.break_the_index, damage.map_to_a_path])
def test_with_an_index_that_cannot_be_read_the_shards_are_looked_at(broken: damage.Damage, tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    broken(folder, FIRST)
    assert api.verify(str(folder)).mendable

    damage.truncate(folder, SECOND)
    verdict = api.verify(str(folder))

    assert {"SHD002", SECOND} <= {text for finding in verdict.findings for text in (finding.code, finding.file)}
    assert not verdict.mendable
    with pytest.raises(InvalidInput, match="SHD002"):
        api.mend(str(folder), str(tmp_path / "new.json"))


NOT_MENDABLE: dict[str, tuple[Checkpoint, tuple[damage.Damage, ...]]] = {
    "an empty weight map": (sharded(), (damage.empty_the_weight_map,)),
    "half an index, and a shard is missing": (sharded(), (damage.break_the_index, damage.remove_the_shard)),
    "paths, and a shard is missing": (sharded(), (damage.map_to_a_path, damage.remove_the_shard)),
    "no index, and a tensor lies in two shards": (
        Checkpoint(shards={FIRST: [tensor("a"), tensor("b")], SECOND: [tensor("b")]}, index=None),
        (),
    ),
    "a sound lone file": (single_file(), ()),
}


@pytest.mark.parametrize("what", NOT_MENDABLE)
def test_only_what_fix_writes_is_called_mendable(what: str, tmp_path: Path) -> None:
    checkpoint, damages = NOT_MENDABLE[what]
    folder = checkpoint.write(tmp_path / "base")
    for act in damages:
        act(folder, FIRST)

    said = overlay("verify", folder)
    ended = overlay("verify", folder, "--fix", tmp_path / "new.json")

    assert "an index can mend this" not in said.output
    assert not api.verify(str(folder)).mendable
    assert not (tmp_path / "new.json").exists()
    assert ended.code == (0 if what == "a sound lone file" else 3)


def test_at_the_level_structure_nothing_is_promised(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    damage.break_the_index(folder, FIRST)
    damage.truncate(folder, FIRST)

    assert not api.verify(str(folder), level="structure").mendable


# --- folders


def test_a_folder_that_came_or_went_has_no_size(tmp_path: Path) -> None:
    old, new = sharded().write(tmp_path / "old"), sharded().write(tmp_path / "new")
    (new / "sub").mkdir()

    there = {c.name: (c.kind, c.summary) for c in api.diff(str(old), str(new)).sidecars}
    back = {c.name: (c.kind, c.summary) for c in api.diff(str(new), str(old)).sidecars}

    assert ("added", "a folder; not read") == there["sub"]
    assert ("removed", "a folder; not read") == back["sub"]
