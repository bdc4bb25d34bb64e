"""What strangers write into a config must cost neither time nor a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from overlay import api
from tests.engines.tiny import good, tensor
from tests.support.checkpoints import INDEX

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
]


@pytest.mark.parametrize("values", CONFIGS)
def test_a_config_that_says_anything(tmp_path: Path, values: dict[str, object]) -> None:
    folder = good().with_config(**values).write(tmp_path / "checkpoint")

    found = api.lint(str(folder))

    assert 5 == len(found.predictions)
    json.dumps(found.document(loads=True))


@pytest.mark.parametrize(
    "value", ["../../etc/x.safetensors", "/dev/zero", "/etc/passwd", "a\x00b.safetensors", "", 7, "💥.safetensors"]
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
