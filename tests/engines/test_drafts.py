"""Drafts: whole, missing, and damaged in one place, for three families and three engines."""

from __future__ import annotations

import pytest

from tests.engines.conftest import Predict
from tests.engines.tiny import (
    CONFIGS,
    DRAFT,
    EXPERTS,
    HIDDEN,
    Tiny,
    draft,
    good,
    trunk,
)
from tests.support.checkpoints import tensor

FAMILIES = sorted(CONFIGS)
ENGINES = ("vllm", "sglang", "transformers")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_whole_checkpoint_is_fine_and_nothing_is_said(predict: Predict, family: str, engine: str) -> None:
    found = predict(good(family), engine)

    assert ("ok", "ok", ()) == (found.target, found.draft, found.remarks)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_every_target(predict: Predict, family: str) -> None:
    found = predict(good(family), "transformers")

    assert ("ok", ["ENG023"]) == (found.target, [said.finding.code for said in found.remarks])


ABSENT = [
    ("vllm==0.33.0", "deepseek_v3", "refuses"),
    ("vllm==0.16.0", "deepseek_v3", "refuses"),  # unquantised: its norms are missed
    ("vllm==0.33.0", "glm4_moe", "refuses"),
    ("sglang", "glm_moe_dsa", "absent"),
    ("sglang", "glm4_moe", "absent"),
    ("transformers", "deepseek_v3", "refuses"),
    ("llama.cpp", "deepseek_v3", "absent"),
    ("mlx", "deepseek_v3", "absent"),
]


@pytest.mark.parametrize(("engine", "family", "expected"), ABSENT)
def test_a_declared_draft_that_is_not_there(predict: Predict, engine: str, family: str, expected: str) -> None:
    bare = Tiny(family=family, trunk=trunk(family), config=CONFIGS[family])

    found = predict(bare, engine)

    assert ("ok", expected) == (found.target, found.draft)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_draft_and_none_declared_is_no_problem(predict: Predict, engine: str) -> None:
    bare = Tiny(trunk=trunk("deepseek_v3"), config=CONFIGS["deepseek_v3"]).with_config(num_nextn_predict_layers=...)

    found = predict(bare, engine)

    assert ("ok", "absent", False) == (found.target, found.draft, found.fails(asked=True))


EXPERT = "mlp.experts.1.up_proj.weight"
MISSING = [
    ("eh_proj.weight", "vllm", "refuses", "MTP004"),
    ("enorm.weight", "vllm", "refuses", "MTP004"),
    ("self_attn.kv_b_proj.weight", "vllm", "wrong", "MTP004"),
    ("mlp.gate.e_score_correction_bias", "vllm", "wrong", "MTP004"),
    (EXPERT, "vllm", "wrong", "ENG014"),
    ("eh_proj.weight", "sglang", "wrong", "MTP004"),
    (EXPERT, "sglang", "wrong", "ENG014"),
    ("mlp.shared_experts.gate_proj.weight", "sglang", "wrong", "MTP004"),
]


@pytest.mark.parametrize(("name", "engine", "expected", "code"), MISSING)
def test_a_tensor_that_is_missing(predict: Predict, name: str, engine: str, expected: str, code: str) -> None:
    found = predict(good().without(name), engine)

    assert ("ok", expected) == (found.target, found.draft)
    assert [(code, f"{DRAFT}{name}")] == [(said.finding.code, said.finding.tensor) for said in found.remarks]


@pytest.mark.parametrize(
    ("engine", "family", "name", "expected"),
    [
        ("vllm", "deepseek_v3", "extra.weight", "refuses"),
        ("sglang", "deepseek_v3", "extra.weight", "ok"),
        ("sglang", "deepseek_v3", "other.gate_proj.weight", "refuses"),
        ("sglang", "glm4_moe", "other.gate_proj.weight", "ok"),
        ("vllm", "deepseek_v3", "eh_proj.bias", "ok"),
    ],
)
def test_a_tensor_that_nobody_asked_for(predict: Predict, engine: str, family: str, name: str, expected: str) -> None:
    found = predict(good(family).with_draft(tensor(DRAFT + name)), engine)

    assert ("ok", expected) == (found.target, found.draft)
    assert {"MTP006"} == {said.finding.code for said in found.remarks}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_copies_of_embedding_and_head_are_noted(predict: Predict, engine: str) -> None:
    copies = [tensor(f"{DRAFT}{name}.weight", "BF16", (48, HIDDEN)) for name in ("embed_tokens", "shared_head.head")]

    found = predict(good().with_draft(*copies), engine)

    assert ("ok", ["MTP005", "MTP005"]) == (found.draft, [said.finding.code for said in found.remarks])
    assert not found.fails(asked=True)


@pytest.mark.parametrize(
    ("engine", "shape", "expected"),
    [
        ("vllm", (16, HIDDEN), "wrong"),
        ("vllm==0.19.1", (16, HIDDEN), "refuses"),
        ("vllm", (64, HIDDEN), "refuses"),
        ("sglang", (16, HIDDEN), "wrong"),
        ("sglang", (32, HIDDEN // 2), "refuses"),
    ],
)
def test_an_expert_of_another_shape(predict: Predict, engine: str, shape: tuple[int, ...], expected: str) -> None:
    found = predict(good().with_draft(tensor(DRAFT + EXPERT, "BF16", shape)), engine)

    assert expected == found.draft
    assert {"ENG012"} == {said.finding.code for said in found.remarks} - {"ENG021"}


def test_a_dtype_that_is_cast_without_a_word(predict: Predict) -> None:
    name = f"{DRAFT}self_attn.o_proj.weight"

    fp8 = predict(good().with_draft(tensor(name, "F8_E4M3", (HIDDEN, 32))), "vllm")
    f32 = predict(good().with_draft(tensor(name, "F32", (HIDDEN, 32))), "vllm")

    assert ("wrong", {"QNT009"}) == (fp8.draft, {said.finding.code for said in fp8.remarks})
    assert ("ok", ()) == (f32.draft, f32.remarks)


DECLARED = [
    (..., "vllm", "refuses", "refuses"),
    (0, "vllm", "refuses", "refuses"),
    (2, "vllm", "ok", "refuses"),
    (..., "sglang", "ok", "refuses"),
    (0, "sglang", "ok", "refuses"),
    (2, "sglang", "ok", "refuses"),
]


@pytest.mark.parametrize(("number", "engine", "target", "of_draft"), DECLARED)
def test_a_number_of_draft_layers_that_does_not_fit(
    predict: Predict, number: object, engine: str, target: str, of_draft: str
) -> None:
    found = predict(good("glm_moe_dsa").with_config(num_nextn_predict_layers=number), engine)

    assert (target, of_draft) == (found.target, found.draft)
    assert {"MTP001", "MTP002", "MTP003"} & {said.finding.code for said in found.remarks}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_config_class_that_declares_one_layer_by_itself(predict: Predict, engine: str) -> None:
    found = predict(good("deepseek_v3").with_config(num_nextn_predict_layers=...), engine)

    assert ("ok", "ok", ()) == (found.target, found.draft, found.remarks)


def test_a_layer_under_the_wrong_number(predict: Predict) -> None:
    moved = draft("deepseek_v3", prefix="model.layers.3.")
    checkpoint = Tiny(trunk=trunk("deepseek_v3"), draft=moved, config=CONFIGS["deepseek_v3"])

    assert ("refuses", "refuses") == answers(predict, checkpoint, "vllm")
    assert ("ok", "absent") == answers(predict, checkpoint, "sglang")
    assert ("ok", "refuses") == answers(predict, checkpoint, "transformers")


def test_experts_that_the_config_does_not_count(predict: Predict) -> None:
    more = good().with_config(n_routed_experts=EXPERTS + 1)
    fewer = good().with_config(n_routed_experts=EXPERTS - 1)

    assert {"ENG014", "ENG010", "ENG012", "MTP004"} >= {s.finding.code for s in predict(more, "vllm").remarks}
    assert ("refuses", "refuses") == answers(predict, more, "vllm")  # the router has other rows
    assert ("refuses", "refuses") == answers(predict, fewer, "vllm")


def test_the_draft_of_transformers_goes_by_the_published_number_and_the_index(predict: Predict) -> None:
    layers = {"num_hidden_layers": 61, "first_k_dense_replace": 61}
    moved = draft("deepseek_v3", prefix="model.layers.61.")
    found = predict(Tiny(draft=moved, config={**CONFIGS["deepseek_v3"], **layers}), "transformers")

    assert ("absent", "ok", {"ENG024"}) == (found.target, found.draft, {s.finding.code for s in found.remarks})


def answers(predict: Predict, checkpoint: Tiny, engine: str) -> tuple[str, str]:
    found = predict(checkpoint, engine)
    return found.target, found.draft
