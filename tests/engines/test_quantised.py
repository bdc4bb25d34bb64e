"""Quantisation: what a module is stored in, against what each engine builds by the declaration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from overlay.engines.matching import Matcher
from tests.engines.conftest import Predict
from tests.engines.tiny import (
    DRAFT,
    EXPERTS,
    HIDDEN,
    MODELOPT,
    PACKED,
    Linear,
    bf16,
    fp8,
    good,
    ignoring,
    int4,
    nvfp4,
    quantised,
)
from tests.support.checkpoints import Tensor, tensor

LAYER = "model.layers.2.*"
HEAD = "model.layers.2.head"
VLLM_NAME, SGLANG_NAME = "re:model\\.layers\\.2\\..*", "re:model\\.decoder\\..*"

TABLE = [
    # the draft under an NVFP4 target of ModelOpt
    (MODELOPT, nvfp4, bf16, "vllm", "refuses"),
    (ignoring(MODELOPT, LAYER), nvfp4, bf16, "vllm", "ok"),
    (ignoring(MODELOPT, "model.layers.2"), nvfp4, bf16, "vllm", "ok"),
    (ignoring(MODELOPT, HEAD), nvfp4, nvfp4, "vllm", "ok"),
    (MODELOPT, nvfp4, nvfp4, "vllm", "refuses"),  # its head is built in NVFP4, too
    (MODELOPT, nvfp4, nvfp4, "vllm==0.28.0", "ok"),
    (ignoring(MODELOPT, LAYER), nvfp4, nvfp4, "vllm", "refuses"),
    (MODELOPT, nvfp4, int4, "vllm", "refuses"),
    (MODELOPT, nvfp4, fp8, "vllm", "refuses"),
    (MODELOPT, nvfp4, bf16, "sglang", "ok"),
    (ignoring(MODELOPT, LAYER), nvfp4, bf16, "sglang", "ok"),
    (MODELOPT, nvfp4, nvfp4, "sglang", "refuses"),
    (MODELOPT, nvfp4, fp8, "sglang", "refuses"),
    # under an INT4 target of compressed-tensors
    (PACKED, int4, int4, "vllm", "ok"),
    (PACKED, int4, int4, "vllm==0.22.1", "refuses"),
    (PACKED, int4, bf16, "vllm", "refuses"),
    (PACKED, int4, nvfp4, "vllm", "refuses"),
    (ignoring(PACKED, VLLM_NAME), int4, bf16, "vllm", "ok"),
    (ignoring(PACKED, SGLANG_NAME), int4, bf16, "vllm", "refuses"),
    (ignoring(PACKED, VLLM_NAME), int4, int4, "vllm", "refuses"),
    (ignoring(PACKED, SGLANG_NAME), int4, bf16, "sglang", "ok"),
    (ignoring(PACKED, VLLM_NAME), int4, bf16, "sglang", "refuses"),
]


@pytest.mark.parametrize(("declared", "linear", "of_draft", "engine", "expected"), TABLE)
def test_the_scheme_of_the_draft(
    predict: Predict, declared: Mapping[str, Any], linear: Linear, of_draft: Linear, engine: str, expected: str
) -> None:
    found = predict(quantised("deepseek_v3", declared, linear, of_draft), engine)

    assert expected == found.draft
    assert (expected == "ok") == (
        not [said for said in found.remarks if said.fails(asked=True) and said.scope != "target"]
    )


def test_the_reasons_have_codes_of_their_own(predict: Predict) -> None:
    def codes(declared: Mapping[str, Any], linear: Linear, of_draft: Linear, engine: str) -> set[str]:
        remarks = predict(quantised("deepseek_v3", declared, linear, of_draft), engine).remarks
        return {said.finding.code for said in remarks if said.scope == "draft"}

    assert {"QNT002", "QNT016"} == codes(MODELOPT, nvfp4, bf16, "vllm")
    assert {"QNT003"} == codes(MODELOPT, nvfp4, fp8, "sglang")
    assert {"QNT004"} == codes(ignoring(PACKED, VLLM_NAME), int4, bf16, "sglang")


def test_a_head_of_glm4_is_loaded_into_nvfp4(predict: Predict) -> None:
    found = predict(quantised("glm4_moe", MODELOPT, nvfp4, nvfp4), "vllm==0.28.0")

    assert ("refuses", True) == (found.draft, "QNT016" in {said.finding.code for said in found.remarks})


def test_one_shared_expert_beside_256_is_fused_and_nothing_is_said(predict: Predict) -> None:
    few = quantised("deepseek_v3", MODELOPT, nvfp4, fp8)
    many = few.with_config(n_routed_experts=256)

    assert "refuses" == predict(few, "sglang").draft
    assert [] == [
        said
        for said in predict(many, "sglang").remarks
        if said.effect == "refuses" and "shared_experts" in said.finding.message
    ]


@pytest.mark.parametrize(("name", "outputs"), [("eh_proj", HIDDEN), ("mlp.gate", EXPERTS)])
def test_a_module_that_is_never_quantised(predict: Predict, name: str, outputs: int) -> None:
    whole = quantised("deepseek_v3", ignoring(MODELOPT, HEAD), nvfp4, nvfp4)
    packed = nvfp4(DRAFT + name, outputs, 2 * HIDDEN if name == "eh_proj" else HIDDEN)

    found = predict(whole.with_draft(*packed), "vllm")

    assert ("refuses", {"QNT001"}) == (found.draft, {s.finding.code for s in found.remarks if s.effect != "none"})


def test_one_part_of_a_fused_module_in_another_scheme(predict: Predict) -> None:
    gate = "re:.*shared_experts.gate_proj$"

    found = predict(quantised("deepseek_v3", ignoring(PACKED, gate), int4, int4), "vllm")

    assert ("refuses", "refuses") == (found.target, found.draft)
    assert {"QNT006"} == {said.finding.code for said in found.remarks}


def test_a_scale_of_larger_groups_fills_a_part_without_a_word(predict: Predict) -> None:
    whole = quantised("deepseek_v3", PACKED, int4, int4)
    scale = tensor(f"{DRAFT}mlp.experts.0.down_proj.weight_scale", "BF16", (HIDDEN // 2, 1))

    found = predict(whole.with_draft(scale), "vllm")

    assert ("wrong", {"QNT008"}) == (found.draft, {said.finding.code for said in found.remarks})


def test_the_scale_of_fp8_under_the_other_name(predict: Predict) -> None:
    declared = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "ignored_layers": ["lm_head"]}
    attention = [
        f"model.layers.{n}.self_attn.{p}" for n in range(3) for p in ("q_a_proj", "q_b_proj", "kv_b_proj", "o_proj")
    ]
    attention += [f"model.layers.{n}.self_attn.kv_a_proj_with_mqa" for n in range(3)]
    whole = quantised("deepseek_v3", {**declared, "ignored_layers": ["lm_head", *attention]}, fp8, fp8)
    old = f"{DRAFT}mlp.shared_experts.down_proj.weight_scale_inv"
    renamed = [entry._replace(name=old.removesuffix("_inv")) if entry.name == old else entry for entry in whole.draft]

    assert ("ok", ()) == (predict(whole, "vllm").draft, predict(whole, "vllm").remarks)
    found = predict(whole.without(old.removeprefix(DRAFT)).with_draft(*renamed), "vllm")
    assert ("refuses", {"QNT014"}) == (found.draft, {said.finding.code for said in found.remarks})


def test_half_of_an_fp8_indexer_waits_for_ever(predict: Predict) -> None:
    wk = f"{DRAFT}self_attn.indexer.wk"
    half = tensor(f"{wk}.weight", "F8_E4M3", (32, HIDDEN))
    pair = (half, tensor(f"{wk}.weight_scale_inv", "F32", (1, 1)))

    assert "ok" == predict(good("glm_moe_dsa").with_draft(*pair), "vllm").draft
    found = predict(good("glm_moe_dsa").with_draft(half), "vllm")
    assert ("wrong", {"QNT013"}) == (found.draft, {said.finding.code for said in found.remarks})


def test_gate_and_up_with_different_scales(predict: Predict) -> None:
    whole = quantised("deepseek_v3", ignoring(MODELOPT, HEAD), nvfp4, nvfp4)
    other = Tensor(f"{DRAFT}mlp.experts.1.up_proj.weight_scale_2", "F32", (), b"\x00\x00\x00\x40")

    found = predict(whole.with_draft(other), "vllm")

    assert ("ok", ["QNT007"]) == (found.draft, [said.finding.code for said in found.remarks])
    assert "found 1 and 2" in found.remarks[0].finding.message


def test_a_stored_shape_that_is_not_the_shape(predict: Predict) -> None:
    whole = quantised("deepseek_v3", PACKED, int4, int4)
    name = f"{DRAFT}mlp.experts.0.up_proj.weight_shape"
    wrong = Tensor(name, "I64", (2,), (7).to_bytes(8, "little") + (64).to_bytes(8, "little"))

    found = predict(whole.with_draft(wrong), "vllm")

    assert ("ok", "wrong", ["QNT010"]) == (found.target, found.draft, [said.finding.code for said in found.remarks])


@pytest.mark.parametrize(("ranks", "expected"), [(1, "ok"), (2, "refuses")])
def test_groups_that_ranks_do_not_divide(predict: Predict, ranks: int, expected: str) -> None:
    found = predict(quantised("deepseek_v3", PACKED, int4, int4), "vllm", tensor_parallel=ranks)

    assert expected == found.target
    assert (expected != "ok") == ("QNT012" in {said.finding.code for said in found.remarks})


def test_two_declarations_that_differ(predict: Predict) -> None:
    whole = quantised("deepseek_v3", ignoring(MODELOPT, LAYER), nvfp4, bf16)
    inner = {"quant_algo": "NVFP4", "exclude_modules": MODELOPT["ignore"]}

    found = predict(_with_hf(whole, inner), "vllm")

    assert ("ok", ["QNT005"]) == (found.draft, [said.finding.code for said in found.remarks])


def test_the_file_of_modelopt_counts_where_config_json_is_silent(predict: Predict) -> None:
    whole = quantised("deepseek_v3", MODELOPT, nvfp4, bf16).with_config(quantization_config=...)
    inner = {"quant_algo": "NVFP4", "exclude_modules": MODELOPT["ignore"]}
    excluded = {**inner, "exclude_modules": [*MODELOPT["ignore"], LAYER]}

    assert ("ok", "refuses") == _answers(predict, _with_hf(whole, inner), "vllm")
    assert ("ok", "ok") == _answers(predict, _with_hf(whole, excluded), "vllm")


def test_a_backup_of_the_file_of_modelopt(predict: Predict, tmp_path: Path) -> None:
    whole = quantised("deepseek_v3", ignoring(MODELOPT, LAYER), nvfp4, bf16)
    inner = {"quant_algo": "NVFP4", "exclude_modules": [*MODELOPT["ignore"], LAYER]}
    folder = _with_hf(whole.with_config(quantization_config=...), inner).write(tmp_path / "backup")
    (folder / "base_hf_quant_config.json").write_text("{}")

    assert ("refuses", "ok") == (predict(folder, "sglang").target, predict(folder, "vllm").target)


def test_an_entry_that_describes_more_than_it_means(predict: Predict) -> None:
    declared = ignoring(MODELOPT, "model.layers.7", HEAD)
    whole = quantised("deepseek_v3", declared, nvfp4, nvfp4).with_config(num_hidden_layers=71)

    assert "QNT015" not in {said.finding.code for said in predict(whole, "vllm").remarks}  # no layer 70 is there
    more = [tensor("model.layers.70.input_layernorm.weight", "BF16", (HIDDEN,))]
    assert "QNT015" in {said.finding.code for said in predict(whole.with_draft(*more), "vllm").remarks}


def test_a_declaration_that_nobody_knows(predict: Predict) -> None:
    found = predict(quantised("deepseek_v3", {"quant_method": "hqq", "bits": 3}, bf16, bf16), "vllm")

    assert ("ok", "ok", ["ENG022"]) == (found.target, found.draft, [said.finding.code for said in found.remarks])


@pytest.mark.parametrize(
    ("entry", "module", "expected"),
    [
        ("model.layers.2*", "model.layers.2.self_attn.o_proj", True),
        ("model.layers.2*", "model.layers.20.self_attn.o_proj", True),
        ("model.layers.2.*", "model.layers.20.self_attn.o_proj", False),
        ("layers.2.", "model.layers.2.mlp.down_proj", True),
        ("model.layers.2.mlp.shared_experts.gate_proj", "model.layers.2.mlp.shared_experts.gate_proj", False),
        ("*", "anything", True),
        ("[", "model.layers.2.mlp.down_proj", False),
        ("*a" * 60 + "b", "a" * 400, False),
    ],
)
def test_the_matcher_of_modelopt(entry: str, module: str, expected: bool) -> None:
    matcher = Matcher({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [entry]})

    assert expected == (matcher.decide(module).scheme is None)


def test_both_parts_of_a_fused_module_by_name_are_left_out() -> None:
    parts = [f"model.layers.2.mlp.{part}_proj" for part in ("gate", "up")]
    matcher = Matcher({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": parts})

    assert [None, None] == [matcher.decide(part).scheme for part in parts]


def _with_hf(checkpoint: Any, inner: Mapping[str, Any]) -> Any:
    from dataclasses import replace

    return replace(checkpoint, hf_quant={"quantization": inner})


def _answers(predict: Predict, checkpoint: Any, engine: str) -> tuple[str, str]:
    found = predict(checkpoint, engine)
    return found.target, found.draft
