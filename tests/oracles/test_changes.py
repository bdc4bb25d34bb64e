"""transformers loads what replacing, dropping and stacking leave: every tensor is the one that it should be.

`test_transformers` says what the library's silence is worth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.oracles.checkpoints import INDEX, Bits, Pair, shards_of, tensors_of
from tests.oracles.conftest import CommandLine
from tests.oracles.test_transformers import NO_COMPLAINTS, draft_state, load, load_draft, main_state

REPLACED = ["model.layers.0.**", "model.layers.7.mlp.experts.*.down_proj.weight", "lm_head.weight"]


def write_manifest(folder: Path, name: str, base: str | Path, **keys: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"overlay": 1, "name": name, "base": str(base), **keys}))
    return path


def replacing(folder: Path, pair: Pair, base: str | Path) -> Path:
    """Some tensors of the donor in the place of the base's."""
    graft = {"shard": "replaced.safetensors", "from": "new", "tensors": REPLACED, "mode": "replace"}
    return write_manifest(folder, "replacing", base, donors={"new": str(pair.donor)}, grafts=[graft])


def replaced(pair: Pair) -> dict[str, Bits]:
    """What `replacing` makes of the base's tensors."""
    base, donor = tensors_of(pair.base), tensors_of(pair.donor)
    parts = ("model.layers.0.", "lm_head.")
    chosen = [
        name
        for name in base
        if name.startswith(parts)
        or (name.startswith("model.layers.7.mlp.experts.") and name.endswith("down_proj.weight"))
    ]
    assert len(chosen) > 10
    return base | {name: donor[name] for name in chosen}


def assemble(overlay: CommandLine, target: Path, *manifests: Path) -> None:
    """Apply and verify; nothing is found but that the draft layer is missing, where it is, and how shards are called."""
    runs = [overlay("apply", *manifests, "-o", target), overlay("verify", target, "--level", "content")]

    assert [(0, ""), (0, "")] == [(run.code, run.errors) for run in runs]
    assert {finding["code"] for finding in runs[1].document["findings"]} <= {"MTP001", "IDX017"}


def trimmed(target: Path) -> set[str]:
    files = json.loads((target / ".overlay" / "receipt.json").read_bytes())["files"]
    return {name for name, placed in files.items() if placed["how"] == "trim"}


@pytest.fixture
def full(glm4_moe: Pair, overlay: CommandLine, tmp_path: Path) -> Path:
    """A checkpoint with its draft layer, as users have it who want to be rid of it."""
    target = tmp_path / "full"
    assemble(overlay, target, glm4_moe.write_manifest(tmp_path))
    return target


def test_after_replacing_every_tensor_is_the_one_that_it_should_be(
    glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
) -> None:
    assemble(overlay, tmp_path / "serve", replacing(tmp_path, glm4_moe, glm4_moe.base))

    model, complaints = load(tmp_path / "serve")

    expected = replaced(glm4_moe)
    assert expected == tensors_of(tmp_path / "serve") == main_state(model)
    assert NO_COMPLAINTS == complaints
    held = json.loads((glm4_moe.base / INDEX).read_bytes())["weight_map"]
    touched = {held[name] for name, bits in tensors_of(glm4_moe.base).items() if expected[name] != bits}
    assert touched & set(shards_of(tmp_path / "serve")) == trimmed(tmp_path / "serve")


def test_after_dropping_the_draft_layer_the_model_loads_as_it_was_without(
    full: Path, glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
) -> None:
    merge = {"config.json": {"merge": {"num_nextn_predict_layers": 0}}}
    dropping = write_manifest(tmp_path, "dropping", full, drop=[f"{glm4_moe.family.draft_prefix}**"], files=merge)
    assemble(overlay, tmp_path / "serve", dropping)

    model, complaints = load(tmp_path / "serve")

    assert tensors_of(glm4_moe.base) == tensors_of(tmp_path / "serve") == main_state(model)
    assert NO_COMPLAINTS == complaints
    assert glm4_moe.shard not in shards_of(tmp_path / "serve")
    assert 0 == json.loads((tmp_path / "serve" / "config.json").read_bytes())["num_nextn_predict_layers"]


def test_after_dropping_part_of_a_shard_the_rest_of_it_loads(
    glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
) -> None:
    """The donor's draft layer shares shards with the trunk, so that these are trimmed."""
    dropping = write_manifest(tmp_path, "dropping", glm4_moe.donor, drop=[f"{glm4_moe.family.draft_prefix}**"])
    assemble(overlay, tmp_path / "serve", dropping)

    model, complaints = load(tmp_path / "serve")

    rest = {name: bits for name, bits in tensors_of(glm4_moe.donor).items() if name not in glm4_moe.draft}
    assert rest == tensors_of(tmp_path / "serve") == main_state(model)
    assert NO_COMPLAINTS == complaints
    assert trimmed(tmp_path / "serve")


def test_a_stack_of_a_graft_a_replacement_and_a_patch_loads_with_its_draft(
    glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
) -> None:
    graft = glm4_moe.write_manifest(tmp_path)
    upper = replacing(tmp_path, glm4_moe, graft.name)
    patch = [
        {"op": "test", "path": "/num_nextn_predict_layers", "value": 1},
        {"op": "replace", "path": "/rms_norm_eps", "value": 0.25},
    ]
    config = write_manifest(tmp_path, "config", graft.name, files={"config.json": {"patch": patch}})
    assemble(overlay, tmp_path / "serve", config, upper)

    model, complaints = load(tmp_path / "serve")

    expected = replaced(glm4_moe)
    assert expected | glm4_moe.draft == tensors_of(tmp_path / "serve")
    assert expected == main_state(model)
    assert glm4_moe.draft == draft_state(glm4_moe.family, load_draft(model), glm4_moe.draft)
    assert NO_COMPLAINTS == complaints
    assert 0.25 == model.config.rms_norm_eps


def test_a_checkpoint_that_was_derived_outside_comes_back_from_its_difference(
    glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
) -> None:
    """Law 6 with a writer that is not ours: transformers saves what it loaded, in shards of another size."""
    assemble(overlay, tmp_path / "changed", replacing(tmp_path, glm4_moe, glm4_moe.base))
    load(tmp_path / "changed")[0].save_pretrained(tmp_path / "derived", max_shard_size="90KB")

    made = overlay("init", "--base", glm4_moe.base, "--derived", tmp_path / "derived", "-o", tmp_path / "diff")
    assemble(overlay, tmp_path / "serve", tmp_path / "diff")
    model, complaints = load(tmp_path / "serve")

    expected = replaced(glm4_moe)
    differing = sum(bits != expected[name] for name, bits in tensors_of(glm4_moe.base).items())
    assert (0, differing, 0) == (made.document["added"], made.document["replaced"], made.document["dropped"])
    assert expected == tensors_of(tmp_path / "serve") == main_state(model)
    assert NO_COMPLAINTS == complaints
