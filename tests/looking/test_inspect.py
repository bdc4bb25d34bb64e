"""``overlay inspect``: what a checkpoint is made of, beside what it declares."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overlay.core.describing import ranges
from overlay.formats.quant_config import parse_quant_config, read_quant_config
from tests.support.checkpoints import SINGLE, Checkpoint, Tensor, sharded, single_file, tensor, write_diff_only
from tests.support.checkpoints import write_hub_cache as write_cache
from tests.support.commands import overlay

CONFIG = {
    "architectures": ["GlmMoeDsaForCausalLM"],
    "model_type": "glm_moe_dsa",
    "num_hidden_layers": 2,
    "num_nextn_predict_layers": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "tie_word_embeddings": False,
    "quantization_config": {
        "config_groups": {
            "group_0": {
                "weights": {"num_bits": 4, "type": "float", "group_size": 16},
                "targets": ["Linear"],
            }
        },
        "ignore": ["lm_head", "model.layers.2*"],
        "quant_algo": "NVFP4",
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
        "quant_method": "modelopt",
    },
}
HF_QUANT = {
    "producer": {"name": "modelopt", "version": "0.47.0"},
    "quantization": {
        "quant_algo": "NVFP4",
        "kv_cache_quant_algo": "FP8",
        "group_size": 16,
        "exclude_modules": ["lm_head"],
    },
}


def nvfp4(module: str) -> list[Tensor]:
    return [
        tensor(f"{module}.weight", "U8", (16, 8)),
        tensor(f"{module}.weight_scale", "F8_E4M3", (16, 1)),
        tensor(f"{module}.weight_scale_2", "F32", ()),
        tensor(f"{module}.input_scale", "F32", ()),
    ]


def quantised(**changes: Any) -> Checkpoint:
    """NVFP4 experts in layer 1, whose partners lie in two shards, and a draft layer in BF16."""
    experts = [entry for expert in range(4) for entry in nvfp4(f"model.layers.1.mlp.experts.{expert}.up_proj")]
    draft = [tensor(f"model.layers.2.mlp.experts.{expert}.up_proj.weight", "BF16", (16, 16)) for expert in range(3)]
    rest = [
        tensor("lm_head.weight", "BF16", (8, 16)),
        tensor("model.layers.0.input_layernorm.weight", "BF16", (16,)),
        tensor("model.layers.1.mlp.shared_experts.up_proj.weight", "BF16", (16, 16)),
        tensor("model.layers.1.self_attn.k_proj.k_scale", "F32", ()),
        tensor("model.layers.2.eh_proj.weight", "BF16", (16, 32)),
    ]
    return Checkpoint(
        shards={
            "model-00001-of-00002.safetensors": [*experts[::2], *rest],
            "model-00002-of-00002.safetensors": [*experts[1::2], *draft],
        },
        sidecars={
            "config.json": json.dumps({**CONFIG, **changes}).encode(),
            "hf_quant_config.json": json.dumps(HF_QUANT).encode(),
        },
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return quantised().write(tmp_path / "model")


def inspect(*arguments: str | Path) -> dict[str, Any]:
    ended = overlay("inspect", *arguments, "--json")
    assert 0 == ended.code
    return ended.document


def test_the_document_has_every_module_class(folder: Path) -> None:
    document = inspect(folder)

    rows = {(row["component"], row["scheme"]): row for row in document["schemes"]}
    experts = rows["mlp.experts", "modelopt-nvfp4 g16"]
    assert ([1], 4, 16, 4 * (128 + 16 + 8)) == tuple(experts[k] for k in ("layers", "modules", "tensors", "bytes"))
    assert (4, 16, True) == tuple(experts[key] for key in ("bits", "group_size", "static_inputs"))
    assert ([2], 3) == (rows["mlp.experts", "dense BF16"]["layers"], rows["mlp.experts", "dense BF16"]["modules"])
    assert {"kv-scales", "norm BF16"} <= {scheme for _, scheme in rows}
    assert document["total_size"] == sum(row["bytes"] for row in document["schemes"])
    assert document["tensors"] == sum(row["tensors"] for row in document["schemes"])


def test_what_is_declared_stands_beside_what_is_there(folder: Path) -> None:
    quantization = inspect(folder)["quantization"]

    config, own = quantization["declared"]
    assert ("modelopt", "NVFP4", [4], [16], "float8") == tuple(
        config[key] for key in ("method", "algorithm", "bits", "group_sizes", "kv_cache")
    )
    assert ("ignore", ["lm_head", "model.layers.2*"]) == (config["excluded_key"], config["excluded"])
    assert ("hf_quant_config.json", None, "FP8", ["lm_head"]) == tuple(
        own[key] for key in ("source", "method", "kv_cache", "excluded")
    )
    assert {"modelopt-nvfp4 g16": 4} == quantization["present"]
    assert 1 == quantization["kv_scales"]


def test_draft_layers_and_experts(folder: Path) -> None:
    document = inspect(folder)

    assert {
        "declared": 1,
        "key": "num_nextn_predict_layers",
        "present": [2],
        "dialects": [{"dialect": "model.layers.N", "layers": [2], "tensors": 4, "bytes": 3 * 512 + 1024}],
    } == document["draft"]
    assert (4, 1) == (document["experts"]["declared"], document["experts"]["shared_declared"])
    assert [([1], 4, "0-3"), ([2], 3, "0-2")] == [
        (group["layers"], group["present"], group["numbers"]) for group in document["experts"]["routed"]
    ]
    assert [[1]] == [group["layers"] for group in document["experts"]["shared"]]
    assert {"tied": False, "output_layer": True} == document["embeddings"]


def test_the_keys_that_were_there_before_mean_what_they_did(folder: Path) -> None:
    document = inspect(folder)

    assert ("GlmMoeDsaForCausalLM", "glm_moe_dsa", "modelopt") == tuple(
        document[key] for key in ("architecture", "model_type", "quant_method")
    )
    assert (24, 3, 2) == (document["tensors"], document["layers"], len(document["shards"]))
    assert {"BF16": 7, "F32": 9, "U8": 4, "F8_E4M3": 4} == {
        name: entry["tensors"] for name, entry in document["dtypes"].items()
    }


@pytest.mark.parametrize("columns", ["80", "160"])
def test_in_a_pipe_the_text_has_a_line_a_row_however_wide_the_terminal(
    folder: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.chdir(folder.parent)

    text = overlay("inspect", "model").output

    assert all(re.match(r"model$|modules$|  \S", line) for line in text.splitlines())
    for words in ("modelopt-nvfp4 g16", "mlp.experts", "model.layers.N", "KV cache FP8"):
        assert words in text


def test_shards_that_lie_elsewhere_are_listed(tmp_path: Path) -> None:
    graft = write_diff_only(tmp_path / "graft")

    document = inspect(graft)
    text = overlay("inspect", graft, "--shards").output

    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert [{"name": name, "tensors": 2} for name in names] == document["elsewhere"]
    assert "6, 4 of them elsewhere" in text
    assert f"{names[0]}  2 tensors  elsewhere" in text


def test_a_single_shard_is_described_by_itself(tmp_path: Path) -> None:
    folder = quantised().write(tmp_path / "model")

    document = inspect(folder / "model-00002-of-00002.safetensors")

    assert (11, 1, None) == (document["tensors"], len(document["shards"]), document["architecture"])


def test_half_of_a_module_is_named_by_what_is_there(tmp_path: Path) -> None:
    folder = quantised().write(tmp_path / "model")

    document = inspect(folder / "model-00002-of-00002.safetensors")

    assert "unknown: input_scale F32, weight_scale F8_E4M3" in document["quantization"]["present"]


def test_a_single_shard_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"<html>no</html>")

    ended = overlay("inspect", path)

    assert 3 == ended.code
    assert "HTML" in str(ended.refusal)


def test_a_snapshot_of_the_hub_and_a_checkpoint_of_one_file(tmp_path: Path) -> None:
    assert 4 == inspect(write_cache(tmp_path / "cache", sharded()))["tensors"]
    assert [SINGLE] == [shard["name"] for shard in inspect(single_file().write(tmp_path / "one"))["shards"]]


def test_a_config_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    base = quantised()
    folder = replace(base, sidecars={"config.json": b"{", "hf_quant_config.json": b"[]"}).write(tmp_path / "model")

    document = inspect(folder)

    assert ["config.json", "hf_quant_config.json"] == [f["file"] for f in document["findings"] if f["code"] == "CFG001"]
    assert None is document["architecture"]
    assert [] == document["quantization"]["declared"]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}, "fp8 e4m3 128x128"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "awq 4-bit g128 asym"),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}, "gptq 8-bit sym"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 4, "group_size": 32, "symmetric": False}},
                    "group_1": {"weights": {"num_bits": 8, "group_size": None, "symmetric": True}},
                    "group_2": {"weights": None},
                },
            },
            "compressed-tensors pack-quantized 4-bit 8-bit g32",
        ),
        ({}, "no method"),
        ({"quant_method": 7, "config_groups": [], "ignore": "x", "weight_block_size": ["a"]}, "no method"),
    ],
)
def test_a_declaration_in_words(declared: dict[str, Any], words: str) -> None:
    assert words == read_quant_config(declared, "config.json").words


def test_a_file_of_modelopt_may_declare_nothing() -> None:
    assert None is parse_quant_config(b"{}")


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([], ""),
        ([5], "5"),
        ([0, 1, 2], "0-2"),
        ([0, 1, 2, 6, 10, 14, 18], "0-2, 6-18 by 4"),
        ([1, 3, 5], "1, 3, 5"),
        ([3, 1, 2, 9], "1-3, 9"),
        ([0, 2, 4, 5, 6, 7], "0, 2, 4-7"),
    ],
)
def test_ranges_of_numbers(numbers: list[int], words: str) -> None:
    assert words == ranges(numbers)


def test_a_checkpoint_that_transformers_wrote(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.oracles.checkpoints import families, write_model

    family = replace(families()[0], settings={"head_dim": 16, "first_k_dense_replace": 1})
    folder = write_model(family, tmp_path / "model", layers=3, seed=1, max_shard_size="50KB")

    document = inspect(folder)

    assert ("Glm4MoeForCausalLM", 3) == (document["architecture"], document["layers_declared"])
    assert [([1, 2], 4)] == [(g["layers"], g["present"]) for g in document["experts"]["routed"]]
    assert {"dense BF16", "norm BF16"} == {row["scheme"] for row in document["schemes"]}
    assert {"tied": False, "output_layer": True} == document["embeddings"]
    assert [] == document["draft"]["present"]
