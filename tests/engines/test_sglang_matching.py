"""ModelOpt's list of unquantised modules as vLLM and as SGLang take it; what SGLang answers was held against its code."""

from __future__ import annotations

from typing import Any

import pytest

from overlay.engines.matching import Matcher
from overlay.engines.sglang_matching import SglangMatcher

LAYER = "model.layers.4."
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def declared(*entries: str) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": list(entries)}


def quantises(matcher: Matcher, path: str) -> bool:
    if path.endswith("experts"):
        return matcher.decide_experts(LAYER + path, PROJECTIONS).scheme is not None
    return matcher.decide(LAYER + path).scheme is not None


@pytest.mark.parametrize(
    ("entry", "path", "vllm", "sglang"),
    [
        ("model.layers.4", "mlp.experts", False, True),  # SGLang asks whether an entry is the whole path, or one part
        ("model.layers.4", "self_attn.o_proj", False, False),
        ("model.layers.4.*", "mlp.experts", False, False),
        ("model.layers", "mlp.experts", False, True),
        ("experts", "mlp.experts", False, False),
        ("mlp.experts", "mlp.experts", False, True),
        ("mlp.shared", "mlp.shared_experts.down_proj", False, True),  # a part of a part counts for vLLM alone
        ("mlp.shared_experts", "mlp.shared_experts.down_proj", False, False),
        ("*shared_experts*", "mlp.shared_experts.gate_proj", False, False),
        ("model.layers.9.self_attn.q_b_proj", "self_attn.q_b_proj", True, False),  # SGLang: of every layer
        ("lm_head", "self_attn.o_proj", True, True),
        ("o_pro?", "self_attn.o_proj", True, True),
    ],
)
def test_what_an_entry_leaves_out(entry: str, path: str, vllm: bool, sglang: bool) -> None:
    assert vllm == quantises(Matcher(declared(entry)), path)
    assert sglang == quantises(SglangMatcher(declared(entry)), path)


def test_one_part_of_a_fused_module_alone_is_refused_by_sglang() -> None:
    half = SglangMatcher(declared(f"{LAYER}mlp.gate_proj"))

    assert not half.decide(f"{LAYER}mlp.gate_proj").agreed
    assert half.decide(f"{LAYER}mlp.down_proj").scheme is not None
