"""--fix: what the manifest takes out, renames and narrows; applied, it lints clean, and the checkpoint stays as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from tests.engines.tiny import (
    CONFIGS,
    DRAFT,
    DRAFT_SHARD,
    MODELOPT,
    PACKED,
    Tiny,
    bf16,
    good,
    ignoring,
    int4,
    layer,
    nvfp4,
    quantised,
    trunk,
)
from tests.oracles.checkpoints import families, write_pair
from tests.support.checkpoints import INDEX, contents_of, shard_bytes, tensor
from tests.support.commands import Ended, overlay

Change = Callable[[Path], object]
MTP = "mtp.safetensors"


def nothing(folder: Path) -> None:
    return None


def stray(name: str) -> Change:
    return lambda folder: (folder / name).write_bytes(shard_bytes([tensor("lm_head.weight", "BF16", (48, 64))]))


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / INDEX).read_bytes())
    change(value)
    (folder / INDEX).write_text(json.dumps(value))


def rename(new: str) -> Change:
    def act(folder: Path) -> None:
        (folder / new).parent.mkdir(exist_ok=True)
        (folder / DRAFT_SHARD).rename(folder / new)
        edit_index(folder, lambda value: value["weight_map"].update(dict.fromkeys(mapped(value), new)))

    def mapped(value: dict[str, Any]) -> list[str]:
        return [name for name, shard in value["weight_map"].items() if shard == DRAFT_SHARD]

    return act


def many_layers() -> Tiny:
    """22 layers of which the entry ``model.layers.2`` means the third, and describes 20 and 21 as well."""
    more = [
        entry for n in range(2, 22) for entry in layer("deepseek_v3", f"model.layers.{n}.", nvfp4 if n > 2 else bf16)
    ]
    declared = ignoring(MODELOPT, "model.layers.2")
    config = {**CONFIGS["deepseek_v3"], "num_hidden_layers": 22, "num_nextn_predict_layers": 0}
    return Tiny(trunk=[*trunk("deepseek_v3", nvfp4), *more], config={**config, "quantization_config": declared})


EXPERT = tensor(f"{DRAFT}mlp.experts.2.up_proj.weight", "BF16", (32, 64))
ROTARY = tensor(f"{DRAFT}self_attn.rotary_emb.inv_freq", "F32", (8,))
CASES: list[tuple[str, str, Tiny, Change, dict[str, Any]]] = [
    ("a stray in Mistral's format", "vllm", good(), stray("consolidated.safetensors"), {}),
    (
        "a tensor outside of all layers",
        "vllm",
        good().with_draft(tensor("notes.a.weight")),
        nothing,
        {"drop": ["notes.**"]},
    ),
    (
        "a layer past the draft",
        "vllm",
        good().with_draft(tensor("model.layers.3.a.weight")),
        nothing,
        {"drop": ["model.layers.3.**"]},
    ),
    ("an expert too many", "vllm", good().with_draft(EXPERT), nothing, {"drop": [f"{DRAFT}mlp.experts.2.**"]}),
    (
        "a superseded tensor",
        "vllm",
        good("glm4_moe").with_draft(ROTARY),
        nothing,
        {"drop": [f"{DRAFT}self_attn.rotary_emb.**"]},
    ),
    ("a name that globs pass over", "llama.cpp", good(), rename(MTP), {"graft": f"model-{MTP}"}),
    ("the same", "mlx", good("glm_moe_dsa"), rename(MTP), {"graft": f"model-{MTP}"}),
    (
        "an entry that means one layer",
        "vllm",
        many_layers(),
        nothing,
        {"patch": {"op": "replace", "path": "/quantization_config/ignore/2", "value": "model.layers.2.*"}},
    ),
]


def fix(folder: Path, engine: str, path: Path) -> Ended:
    return overlay("lint", folder, "--engine", engine, "--fix", "-o", path)


@pytest.mark.parametrize(("what", "engine", "checkpoint", "change", "expected"), CASES, ids=[case[0] for case in CASES])
def test_a_fixed_manifest_is_applied_and_lints_clean(
    tmp_path: Path, what: str, engine: str, checkpoint: Tiny, change: Change, expected: dict[str, Any]
) -> None:
    folder, path = checkpoint.write(tmp_path / "base"), tmp_path / "fixed.yaml"
    change(folder)
    before = contents_of(folder)
    broken = overlay("lint", folder, "--engine", engine, "--json").document["engines"][engine]

    assert {"refuses", "wrong", "absent"} & {broken["target"], broken["draft"]}
    assert 0 == fix(folder, engine, path).code
    text = path.read_text()
    profile = ["--engine", engine] if "engines:" in text else []
    assert 0 == overlay("apply", path, "-o", tmp_path / "serve", *profile).code

    clean = overlay("lint", tmp_path / "serve", "--engine", engine, "--json")
    found = clean.document["engines"][engine]
    assert (0, "ok") == (clean.code, found["target"])
    assert found["draft"] == ("absent" if what == "an entry that means one layer" else "ok")
    assert before == contents_of(folder)
    for pattern in expected.get("drop", ()):
        assert f"- {pattern}\n" in text
    assert ("graft" in expected) == (tmp_path / "serve" / expected.get("graft", "none")).exists()
    if "patch" in expected:
        assert (
            expected["patch"]["value"]
            in json.loads((tmp_path / "serve/config.json").read_text())["quantization_config"]["ignore"]
        )


def test_a_draft_under_another_name_is_not_dropped(tmp_path: Path) -> None:
    folder = good().with_draft(tensor("mtp.layers.0.eh_proj.weight")).write(tmp_path / "base")

    assert 1 == fix(folder, "vllm", tmp_path / "fixed.yaml").code
    assert "drop" not in (tmp_path / "fixed.yaml").read_text()


def test_a_shard_is_not_copied_under_another_name_for_engines_that_nobody_asked_about(tmp_path: Path) -> None:
    folder = good().write(tmp_path / "base")
    rename(MTP)(folder)

    overlay("lint", folder, "--fix", "-o", tmp_path / "fixed.yaml")

    assert "grafts" not in (tmp_path / "fixed.yaml").read_text()


UNSOUND: list[tuple[Change, str]] = [
    (lambda folder: edit_index(folder, lambda value: value["weight_map"].pop(f"{DRAFT}eh_proj.weight")), "--fix "),
    (rename(f"sub/{DRAFT_SHARD}"), "overlay verify "),
    (lambda folder: (folder / DRAFT_SHARD).unlink(), "overlay verify "),
]


@pytest.mark.parametrize(("change", "hint"), UNSOUND)
def test_on_an_unsound_checkpoint_no_manifest_can_stand_and_the_command_that_mends_it_is_named(
    tmp_path: Path, change: Change, hint: str
) -> None:
    folder = good().write(tmp_path / "base")
    change(folder)

    ended = fix(folder, "transformers", tmp_path / "fixed.yaml")

    assert (3, False) == (ended.code, (tmp_path / "fixed.yaml").exists())
    assert ended.refusal is not None
    assert hint in ended.refusal.hint


def test_an_index_that_verify_wrote_takes_the_fault_away(tmp_path: Path) -> None:
    folder = good().write(tmp_path / "base")
    UNSOUND[0][0](folder)
    index = tmp_path / "fixed.index.json"

    assert "refuses" == answer(folder, "transformers")
    assert 0 == overlay("verify", folder, "--fix", index).code
    index.replace(folder / INDEX)
    assert 0 == fix(folder, "vllm", tmp_path / "fixed.yaml").code


def answer(folder: Path, engine: str) -> str:
    return str(overlay("lint", folder, "--engine", engine, "--json").document["engines"][engine]["draft"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that transformers wrote, with its draft layer."""
    return write_pair(families()[0], tmp_path_factory.mktemp("pair")).donor


def missing(folder: Path) -> list[str]:
    """The tensors that transformers does not find in `folder`."""
    from transformers import AutoModelForCausalLM

    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    return sorted(info["missing_keys"])


def test_the_loader_of_transformers_agrees_before_and_after(tmp_path: Path, written: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(written, folder)
    (folder / "model.safetensors").write_bytes(shard_bytes([tensor("model.norm.weight", "BF16", (32,))]))

    assert ("wrong", True) == (target(folder), missing(folder) != [])
    fix(folder, "transformers", tmp_path / "fixed.yaml")
    assert 0 == overlay("apply", tmp_path / "fixed.yaml", "-o", tmp_path / "serve").code
    assert ("ok", []) == (target(tmp_path / "serve"), missing(tmp_path / "serve"))


@pytest.mark.parametrize("engine", ["vllm", "sglang", "transformers", "llama.cpp", "mlx"])
def test_what_transformers_wrote_raises_no_alarm(written: Path, engine: str) -> None:
    found = overlay("lint", written, "--engine", engine, "--json").document["engines"][engine]

    assert ("ok", "ok") == (found["target"], found["draft"])
    assert [] == [finding for finding in found["findings"] if finding["effect"] != "none"]


def target(folder: Path) -> str:
    return str(
        overlay("lint", folder, "--engine", "transformers", "--json").document["engines"]["transformers"]["target"]
    )


def test_a_fixed_manifest_is_looked_at_for_as_many_ranks_as_the_checkpoint_was(tmp_path: Path) -> None:
    folder = quantised("deepseek_v3", PACKED, int4, int4).write(tmp_path / "base")
    found = api.lint(str(folder), ["vllm"], tensor_parallel=2)

    again = api.fix(found, str(tmp_path / "fixed.yaml"))

    assert ("refuses", "refuses") == (found.predictions[0].target, again.predictions[0].target)


def test_the_engines_that_were_asked_are_asked_again(tmp_path: Path) -> None:
    found = api.lint(str(good().write(tmp_path / "base")), ["sglang", "vllm==0.33.0"])

    again = api.fix(found, str(tmp_path / "fixed.yaml"))

    assert [one.engine for one in found.predictions] == [one.engine for one in again.predictions]


@pytest.mark.parametrize("place", ["base/fixed.yaml", "base/sub/fixed.yaml", "link/fixed.yaml"])
def test_nothing_is_written_below_the_checkpoint(tmp_path: Path, place: str) -> None:
    folder = good().write(tmp_path / "base")
    (folder / "sub").mkdir()
    (tmp_path / "link").symlink_to(folder / "sub")
    before = contents_of(folder)

    assert 4 == fix(folder, "vllm", tmp_path / place).code
    assert before == contents_of(folder)
