"""What strangers write into a config must cost neither time nor a traceback."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from tests.engines.tiny import MODELOPT, PACKED, bf16, good, ignoring, quantised, tensor
from tests.support.checkpoints import INDEX
from tests.support.commands import overlay

HUGE = 10**9
CONFIGS = [
    {"num_hidden_layers": HUGE},
    {"n_routed_experts": HUGE},
    {"num_nextn_predict_layers": HUGE},
    {"hidden_size": HUGE, "vocab_size": -1},
    {"num_hidden_layers": -3},
    {"num_hidden_layers": "2", "hidden_size": None, "n_routed_experts": True},
    {"model_type": 7, "architectures": {"a": 1}, "text_config": [1]},
    {"text_config": {"model_type": "deepseek_v3", "quantization_config": 3}},
    {"quantization_config": {"quant_method": ["x"], "ignore": 5}},
    {
        "quantization_config": {
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "ignore": ["", "*" * 3000, "[", "?*" * 200],
        }
    },
    {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["re:(a+)+$"]}}}},
    {"moe_layer_freq": 0, "mlp_layer_types": [None], "indexer_types": "full"},
    {"quant\ud800": "é", "model_type": "déepseek_v3\u202e"},
    {"vocab_size": 10**30},
    {"n_shared_experts": 10**30},
    {"num_hidden_layers": -HUGE, "mlp_layer_types": ["dense"], "indexer_types": ["full"]},
    {"num_hidden_layers": 10**30, "num_nextn_predict_layers": -1},
]


@pytest.mark.parametrize("values", CONFIGS)
def test_a_config_that_says_anything(tmp_path: Path, values: dict[str, object]) -> None:
    folder = good().with_config(**values).write(tmp_path / "checkpoint")

    found = api.lint(str(folder))

    assert 5 == len(found.predictions)
    json.dumps(found.document(loads=True))


ANYTHING = [None, True, -1, 10**30, 1.5, "\x1b[31m\x00", "re:(a+)+$", [], [None], [[]], {}, {"quant_method": []}]


@pytest.mark.parametrize("key", [*quantised("glm_moe_dsa", MODELOPT, bf16, bf16).config])
def test_every_key_of_a_config_may_hold_anything(tmp_path: Path, key: str) -> None:
    checkpoint = quantised("glm_moe_dsa", MODELOPT, bf16, bf16)
    folder = checkpoint.write(tmp_path / "checkpoint")

    for value in ANYTHING:
        (folder / "config.json").write_text(json.dumps({**checkpoint.config, key: value}))
        assert 5 == len(api.lint(str(folder)).predictions)


@pytest.mark.parametrize("key", ["quant_method", "ignore", "config_groups", "format", "quant_algo", "group_size"])
@pytest.mark.parametrize("declared", [MODELOPT, PACKED])
def test_every_key_of_a_declaration_may_hold_anything(tmp_path: Path, key: str, declared: dict[str, object]) -> None:
    checkpoint = good()
    folder = checkpoint.write(tmp_path / "checkpoint")

    for value in ANYTHING:
        config = {**checkpoint.config, "quantization_config": {**declared, key: value}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {**declared, key: value}}))
        assert 5 == len(api.lint(str(folder)).predictions)


LISTS = [
    (PACKED, ["re:" + ".*x" * 600 + str(number) for number in range(300)]),
    (PACKED, [f"re:(.*(.a)*)*{number}" for number in range(5000)]),
    (MODELOPT, [f"*a*b*c*d*e*{number}" for number in range(20_000)]),
    (MODELOPT, [f"model.layers.{number}.q" for number in range(20_000)]),
]


@pytest.mark.parametrize(("declared", "entries"), LISTS)
def test_a_list_that_would_keep_lint_busy_is_given_up_and_that_is_said(
    tmp_path: Path, declared: dict[str, Any], entries: list[str]
) -> None:
    folder = quantised("deepseek_v3", ignoring(declared, *entries), bf16, bf16).write(tmp_path / "checkpoint")
    begin = time.process_time()

    (found,) = api.lint(str(folder), ["vllm"]).predictions

    assert 15 > time.process_time() - begin
    said = {one.finding.code for one in found.remarks}
    assert ("ENG022" in said) == (any("*" in entry for entry in entries))


def test_names_of_many_modules_are_counted_and_not_listed(tmp_path: Path) -> None:
    more = [tensor(f"model.layers.0.\x1b[31m\u202e\n{number}.weight") for number in range(3000)]
    folder = good().with_draft(*more).write(tmp_path / "checkpoint")

    (found,) = api.lint(str(folder), ["vllm"]).predictions

    assert ("refuses", True) == (found.target, len(found.remarks) < 150)
    assert "3000" not in overlay("lint", folder, "--engine", "vllm").output
    assert "\x1b" not in overlay("lint", folder, "--engine", "vllm").output


@pytest.mark.parametrize("layers", [-3, 0, 10**9, None])
def test_a_number_of_layers_that_no_model_has_is_noted(tmp_path: Path, layers: int | None) -> None:
    folder = good().with_config(num_hidden_layers=layers).write(tmp_path / "checkpoint")

    (found,) = api.lint(str(folder), ["sglang"]).predictions

    assert "ENG020" in {said.finding.code for said in found.remarks}


@pytest.mark.parametrize(
    "value",
    ["../../etc/x.safetensors", "/dev/zero", "/etc/passwd", "a\x00b.safetensors", "", 7, "💥.safetensors"]
    + [f"{name}{rest}" for name in ("x" * 5000, "\ud800") for rest in (".safetensors", "/a.safetensors")],
)
def test_an_index_that_names_anything(tmp_path: Path, value: object) -> None:
    folder = good().write(tmp_path / "checkpoint")
    index = json.loads((folder / INDEX).read_bytes())
    index["weight_map"]["x"] = value
    (folder / INDEX).write_text(json.dumps(index))

    assert 5 == len(api.lint(str(folder)).predictions)


def test_names_that_are_nearly_numbers(tmp_path: Path) -> None:
    names = [
        "model.layers.02.x",
        "model.layers.².x",
        "model.layers.99999999999.x",
        "model.layers.1.mlp.experts.07.up_proj.weight",
    ]
    more = [tensor(name) for name in [*names, "model.layers.", "model.layers.1", ".", "a..b"]]
    folder = good().with_draft(*more).write(tmp_path / "checkpoint")

    assert "refuses" == api.lint(str(folder), ["vllm"]).predictions[0].target
