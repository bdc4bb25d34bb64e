"""Heads in a file of their own, ``mtp.safetensors``, on replicas of their repositories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from overlay.demo.geometry import SCALED_DOWN
from overlay.demo.layout import base_layout, donor_layout
from overlay.demo.replica import write_dense
from tests.manifests.looking import appended, changed_sidecars
from tests.oracles.hub_cache import add_repository
from tests.support.checkpoints import Checkpoint, Tensor, read_tensors, read_weight_map, tensor
from tests.support.commands import overlay

GLM = "glm-5-nvfp4-mtp.yaml"
QWEN = "qwen3.5-27b-nvfp4-mtp.yaml"
HEAD = "mtp.safetensors"

LINEARS = [
    "mtp.fc",
    *(f"mtp.layers.0.self_attn.{part}_proj" for part in "qkvo"),
    *(f"mtp.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")),
]
NORMS = [
    "mtp.norm",
    "mtp.pre_fc_norm_embedding",
    "mtp.pre_fc_norm_hidden",
    *(f"mtp.layers.0.{norm}" for norm in ("input_layernorm", "post_attention_layernorm")),
    *(f"mtp.layers.0.self_attn.{part}_norm" for part in "qk"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hub cache with both pairs."""
    root = tmp_path_factory.mktemp("heads")
    write_glm(root / "hub", root / "glm")
    write_qwen(root / "hub", root / "qwen")
    return root / "hub"


def write_glm(cache: Path, root: Path) -> None:
    """GLM-5 has the layout of GLM-5.2."""
    write_dense(base_layout(SCALED_DOWN), root / "base", 1)
    write_dense(donor_layout(SCALED_DOWN), root / "donor", 1)
    add_repository(cache, "zai-org/GLM-5", root / "donor", "one hop")
    add_repository(cache, "lukealonso/GLM-5-NVFP4", root / "base", "one hop")


def write_qwen(cache: Path, root: Path) -> None:
    """A trunk without a head and one with it."""
    quantised = {"ignore": ["lm_head"], "quant_algo": "NVFP4", "quant_method": "modelopt"}
    hf_quant = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    trunk = [tensor("model.language_model.layers.0.mlp.up_proj.weight", "U8", (4, 8)), tensor("lm_head.weight")]
    base = Checkpoint(
        shards={"model-00001-of-00001.safetensors": trunk},
        sidecars={
            "config.json": (json.dumps({"quantization_config": quantised}, indent=2) + "\n").encode(),
            "hf_quant_config.json": json.dumps(hf_quant, indent=4).encode(),
        },
    )
    head: list[Tensor] = [tensor(f"{name}.weight", "BF16", (4, 4)) for name in LINEARS]
    head += [tensor(f"{name}.weight", "BF16", (4,)) for name in NORMS]
    shards = {
        "model-00001-of-00002.safetensors": [tensor("lm_head.weight"), *head[:7]],
        "model-00002-of-00002.safetensors": head[7:],
    }
    donor = Checkpoint(shards=shards)
    add_repository(cache, "Qwen/Qwen3.5-27B", donor.write(root / "donor"), "one hop")
    add_repository(cache, "surogate/Qwen3.5-27B-NVFP4", base.write(root / "base"), "one hop")


CASES = [
    pytest.param(GLM, "lukealonso/GLM-5-NVFP4", "model.layers.78.", ["model.layers.78.*"], 47, id=GLM),
    pytest.param(QWEN, "surogate/Qwen3.5-27B-NVFP4", "mtp.", LINEARS, 15, id=QWEN),
]


@pytest.fixture
def manifests(cache: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the manifests, with the replica's counts in the place of the published ones."""
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    published = "expect: {tensors: 791, dtypes: {BF16: 790, F32: 1}}"
    text = (work / GLM).read_text()
    assert published in text
    (work / GLM).write_text(text.replace(published, "expect: {tensors: 47, dtypes: {BF16: 46, F32: 1}}"))
    return work


@pytest.mark.parametrize(("name", "base", "prefix", "entries", "count"), CASES)
def test_the_head_is_a_shard_of_its_own_and_both_lists_name_it(
    cache: Path, manifests: Path, name: str, base: str, prefix: str, entries: list[str], count: int
) -> None:
    (snapshot,) = (cache / f"models--{base.replace('/', '--')}" / "snapshots").iterdir()
    serve = manifests / "serve"

    assert 0 == overlay("apply", manifests / name, "-o", serve).code

    before, after = read_tensors(snapshot), read_tensors(serve)
    added = after.keys() - before.keys()
    assert (count, {HEAD}) == (len(added), {after[tensor][0] for tensor in added})
    assert all(tensor.startswith(prefix) for tensor in added)
    assert before == {tensor: after[tensor] for tensor in before}
    assert {tensor: shard for tensor, (shard, _) in after.items()} == read_weight_map(serve)
    assert {
        "config.json": appended(snapshot / "config.json", ("quantization_config", "ignore"), entries),
        "hf_quant_config.json": appended(
            snapshot / "hf_quant_config.json", ("quantization", "exclude_modules"), entries
        ),
    } == changed_sidecars(snapshot, serve)


@pytest.mark.parametrize("name", [GLM, QWEN])
def test_the_repository_of_the_head_is_built_verified_and_applied(manifests: Path, name: str) -> None:
    built, serve = manifests / "built", manifests / "serve"

    assert 0 == overlay("build", manifests / name, "-o", built).code
    verified = overlay("verify", built, "--level", "content", "--donors", "--json")
    assert 0 == overlay("apply", built, "-o", serve).code
    assert 0 == overlay("apply", manifests / name, "-o", manifests / "other").code

    assert (0, []) == (verified.code, verified.document["findings"])
    assert [HEAD] == [path.name for path in built.glob("*.safetensors")]
    assert read_tensors(serve) == read_tensors(manifests / "other")
