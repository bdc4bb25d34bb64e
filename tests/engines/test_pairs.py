"""A standalone draft beside its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.engines.predicting import Prediction
from tests.engines.tiny import (
    CONFIGS,
    MODELOPT,
    PACKED,
    Linear,
    Tiny,
    bf16,
    draft,
    good,
    ignoring,
    int4,
    nvfp4,
    quantised,
    trunk,
)

VLLM_NAME = "re:model\\.layers\\.2\\..*"


def pair(root: Path, target: Tiny, own: Tiny, engine: str) -> Prediction:
    (found,) = api.lint(str(own.write(root / "draft")), [engine], target=str(target.write(root / "target"))).predictions
    return found


def standalone(linear: Linear = bf16, **config: Any) -> Tiny:
    return Tiny(draft=draft("deepseek_v3", linear), config={**CONFIGS["deepseek_v3"], **config})


def bare(declared: Any, linear: Linear) -> Tiny:
    config = {**CONFIGS["deepseek_v3"], "quantization_config": declared}
    return Tiny(trunk=trunk("deepseek_v3", linear), config=config)


def test_a_draft_alone_is_noted_as_one(tmp_path: Path) -> None:
    (found,) = api.lint(str(standalone().write(tmp_path / "draft")), ["sglang"]).predictions

    assert ("absent", "ok", ["ENG024"]) == (found.target, found.draft, [said.finding.code for said in found.remarks])
    assert not found.fails(asked=True)


CASES = [
    (PACKED, int4, int4, "vllm", "ok"),
    (PACKED, int4, bf16, "vllm", "refuses"),
    (PACKED, int4, nvfp4, "vllm", "refuses"),
    (ignoring(PACKED, VLLM_NAME), int4, bf16, "vllm", "ok"),
    (MODELOPT, nvfp4, bf16, "sglang", "ok"),
    (ignoring(MODELOPT, "model.layers.2.*"), nvfp4, bf16, "vllm", "ok"),
]


@pytest.mark.parametrize(("declared", "linear", "of_draft", "engine", "expected"), CASES)
def test_the_target_decides_the_scheme_of_the_draft(
    tmp_path: Path, declared: Any, linear: Linear, of_draft: Linear, engine: str, expected: str
) -> None:
    found = pair(tmp_path, bare(declared, linear), standalone(of_draft), engine)

    assert ("ok", expected) == (found.target, found.draft)


@pytest.mark.parametrize(
    ("key", "value", "engine", "expected"),
    [
        ("n_routed_experts", 3, "vllm", "refuses"),
        ("hidden_size", 32, "vllm", "refuses"),
        ("vocab_size", 7, "sglang", "refuses"),
        ("num_hidden_layers", 1, "vllm", "ok"),  # the number is the target's
    ],
)
def test_two_configs_that_differ(tmp_path: Path, key: str, value: int, engine: str, expected: str) -> None:
    target = Tiny(trunk=good().trunk, config=CONFIGS["deepseek_v3"])

    found = pair(tmp_path, target, standalone(**{key: value}), engine)

    assert expected == found.draft
    assert "MTP007" in {said.finding.code for said in found.remarks}


def test_a_draft_that_lacks_an_expert(tmp_path: Path) -> None:
    target = quantised("deepseek_v3", ignoring(PACKED, VLLM_NAME), int4, bf16)

    found = pair(tmp_path, target, standalone().without("mlp.experts.0.up_proj.weight"), "vllm")

    assert ("ok", "wrong") == (found.target, found.draft)


def test_an_unknown_family_gets_a_note_and_no_guess(tmp_path: Path) -> None:
    config = {
        "model_type": "something_new",
        "architectures": ["X"],
        "num_hidden_layers": 2,
        "num_nextn_predict_layers": 1,
    }
    unknown = Tiny(trunk=good().trunk, draft=good().draft, config=config).write(tmp_path / "unknown")

    for prediction in api.lint(str(unknown)).predictions:
        assert ("ok", "ok") == (prediction.target, prediction.draft)
        assert {"ENG020"} >= {s.finding.code for s in prediction.remarks} - {"ENG004"} or prediction.engine.name in (
            "llama.cpp",
            "mlx",
        )
