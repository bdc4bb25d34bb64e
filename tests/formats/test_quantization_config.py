"""Which modules a quantization_config quantises, and how; and the expressions in it, in bounded time."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.formats.module_regex import MAX_LENGTH, RegexProblem, compile_regex
from overlay.formats.quantization_config import (
    QuantizationConfig,
    QuantizationConfigProblems,
    is_linear,
    parse_quantization_config,
)
from overlay.formats.weight_schemes import WeightScheme

LAYER = "model.layers.78"
INT4 = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True}
ASYMMETRIC = WeightScheme(format="pack-quantized", bits=4, group_size=32, symmetric=False)


def compressed(groups: Mapping[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": INT4, "input_activations": None}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": groups or {"group_0": group},
    }
    return {**config, "ignore": ["lm_head"], **others}


def one_group(weights: Mapping[str, Any], format: str, **others: Any) -> dict[str, Any]:
    return compressed({"group_0": {"targets": ["Linear"], "weights": weights, "format": format, **others}})


def parse(value: Mapping[str, Any]) -> QuantizationConfig:
    return parse_quantization_config(value)


def scheme(value: Mapping[str, Any], module: str = "a.o_proj") -> WeightScheme | None:
    return parse(value).scheme_for(module)


# Which modules


@pytest.mark.parametrize(
    "module",
    [
        *(
            f"{LAYER}.{name}"
            for name in ("enorm", "hnorm", "eh_proj", "shared_head.norm", "mlp.gate", "input_layernorm")
        ),
        *(f"{LAYER}.self_attn.indexer.{name}" for name in ("wk", "weights_proj", "k_norm")),
        *("model.embed_tokens", "model.norm", "mlp.shared_expert_gate", "visual.pos_embed", "mlp.router"),
    ],
)
def test_what_engines_never_quantise_is_no_linear_module(module: str) -> None:
    assert not is_linear(module)
    assert scheme(compressed(), module) is None
    assert scheme(compressed({"g": {"targets": ["re:.*"], "weights": INT4}}), module) is None


@pytest.mark.parametrize(
    "module",
    [
        f"{LAYER}.self_attn.indexer.wq_b",
        f"{LAYER}.self_attn.kv_a_proj_with_mqa",
        f"{LAYER}.mlp.experts.0.gate_proj",
        f"{LAYER}.mlp.shared_experts.up_proj",
        "model.layers.3.self_attn.wk",
    ],
)
def test_linear_modules_are_quantised(module: str) -> None:
    assert scheme(compressed(), module) == ASYMMETRIC


def test_a_target_that_is_a_name_decides_even_for_what_is_no_linear_module() -> None:
    groups = {"g": {"targets": [f"{LAYER}.eh_proj"], "weights": INT4}}

    assert ASYMMETRIC == scheme(compressed(groups), f"{LAYER}.eh_proj")
    assert scheme(compressed(groups), "a.o_proj") is None


def test_names_go_before_expressions_and_these_before_the_class() -> None:
    eight = {**INT4, "num_bits": 8}
    groups = {
        "linear": {"targets": ["Linear"], "weights": INT4},
        "expression": {"targets": [r"re:.*\.down_proj$"], "weights": eight},
        "name": {"targets": ["a.down_proj"], "weights": None},
    }
    config = parse(compressed(groups))

    bits = {
        name: found.bits if (found := config.scheme_for(name)) else None for name in ("a.down_proj", "b.down_proj", "c")
    }
    assert {"a.down_proj": None, "b.down_proj": 8, "c": 4} == bits


@pytest.mark.parametrize(
    ("method", "entry", "module", "excluded"),
    [
        ("compressed", "a.o_proj", "a.o_proj", True),
        ("compressed", "a.o_proj", "a.o_proj2", False),
        ("compressed", "a.*", "a.o_proj", False),
        ("compressed", r"re:.*mlp\.gate$", "a.mlp.gate_proj", False),
        ("compressed", r"re:.*layers\.78\..*", f"{LAYER}.o_proj", True),
        ("compressed", r"re:layers\.78", f"{LAYER}.o_proj", False),
        ("compressed", r"re:a\.o", "a.o_proj", True),
        ("modelopt", f"{LAYER}*", f"{LAYER}.o_proj", True),
        ("modelopt", LAYER, f"{LAYER}.o_proj", True),
        ("modelopt", "model.layers.7", f"{LAYER}.o_proj", True),
        ("modelopt", "model.layers.7.*", f"{LAYER}.o_proj", False),
        ("modelopt", "o_pro?", "a.o_proj", False),
        ("fp8", "a.o_proj", "a.o_proj", True),
        ("fp8", "a", "a.o_proj", True),
        ("fp8", "o_proj", "a.o_proj", True),
        ("fp8", "proj", "a.o_proj", False),
    ],
)
def test_each_method_has_its_own_rules_for_its_list(method: str, entry: str, module: str, excluded: bool) -> None:
    configs = {
        "compressed": compressed(ignore=[entry]),
        "modelopt": {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4", "ignore": [entry]},
        "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": [entry]},
    }

    assert excluded == (parse(configs[method]).scheme_for(module, "Linear") is None)


def test_modelopts_layers_of_mixed_precision_are_named() -> None:
    layers = {"a.o_proj": {"quant_algo": "FP8"}, "a.up_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16}}
    config = parse({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers})

    found = [config.scheme_for(name) for name in ("a.o_proj", "a.up_proj", "a.down_proj")]
    assert ["fp8-tensor", "modelopt-nvfp4", None] == [entry.format if entry else None for entry in found]


# How


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (compressed(), ASYMMETRIC),
        (
            one_group(
                {**INT4, "num_bits": 8, "strategy": "channel", "group_size": None, "symmetric": True}, "pack-quantized"
            ),
            WeightScheme(format="pack-quantized", bits=8),
        ),
        (
            one_group({**INT4, "scale_dtype": "torch.float32", "actorder": "weight"}, "pack-quantized"),
            WeightScheme(format="pack-quantized", bits=4, group_size=32, symmetric=False, scale_dtype="F32"),
        ),
        (
            one_group({**FP8, "strategy": "block", "block_structure": [128, 64]}, "float-quantized"),
            WeightScheme(format="fp8-block", block=(128, 64)),
        ),
        (
            one_group({**FP8, "strategy": "block", "block_structure": "128x64"}, "naive-quantized"),
            WeightScheme(format="fp8-block", block=(128, 64)),
        ),
        (
            one_group({**FP8, "strategy": "channel"}, "float-quantized", input_activations={"dynamic": True}),
            WeightScheme(format="fp8-channel"),
        ),
        (
            one_group({**FP8, "strategy": "tensor"}, "float-quantized", input_activations={"dynamic": False}),
            WeightScheme(format="fp8-tensor", static_inputs=True),
        ),
        (
            one_group(
                {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}, "nvfp4-pack-quantized"
            ),
            WeightScheme(format="nvfp4-pack-quantized", bits=4, group_size=16),
        ),
        (
            one_group({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}, "mxfp4-pack-quantized"),
            WeightScheme(format="mxfp4", bits=4, group_size=32),
        ),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "config_groups": {}, "ignore": []},
            WeightScheme(format="modelopt-nvfp4", bits=4, group_size=16, static_inputs=True),
        ),
        (
            {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
            WeightScheme(format="fp8-block", block=(128, 128), scale_name="weight_scale_inv"),
        ),
        ({"quant_method": "fp8", "activation_scheme": "static"}, WeightScheme(format="fp8-tensor", static_inputs=True)),
    ],
)
def test_a_declaration_means_a_scheme(config: dict[str, Any], expected: WeightScheme) -> None:
    assert expected == scheme(config)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "quant_method: expected one of compressed-tensors, modelopt, fp8, found None"),
        ({"quant_method": "awq"}, "quant_method: expected one of compressed-tensors, modelopt, fp8, found 'awq'"),
        (compressed(ignore="lm_head"), "ignore: expected a list, found str"),
        (compressed(ignore=["re:(a"]), "ignore[0]: re:(a: expected a closing bracket at character 2, found its end"),
        (compressed(ignore=["a", 3]), "ignore[1]: expected text, found int"),
        (
            one_group({**INT4, "num_bits": 3}, "pack-quantized"),
            "config_groups.group_0.weights.num_bits: expected 4 or 8, found 3",
        ),
        (
            one_group({**INT4, "group_size": "32"}, "pack-quantized"),
            "weights.group_size: expected a positive whole number, found '32'",
        ),
        (
            one_group({**INT4, "actorder": "group"}, "pack-quantized"),
            "weights.actorder: expected none or 'weight', found 'group'",
        ),
        (one_group({**INT4, "strategy": "token"}, "pack-quantized"), "weights.strategy: expected 'group' or 'channel'"),
        (one_group({**INT4, "dynamic": True}, "pack-quantized"), "weights.dynamic: expected false, found True"),
        (one_group(INT4, "int-quantized"), "format: expected a format that recipes write, found 'int-quantized'"),
        (one_group(INT4, "float-quantized"), "weights.num_bits: expected 8, found 4"),
        (
            one_group({**FP8, "strategy": "block", "block_structure": [0, 1]}, "float-quantized"),
            "weights.block_structure: expected two",
        ),
        (
            one_group({**INT4, "scale_dtype": "int7"}, "pack-quantized"),
            "weights.scale_dtype: expected a dtype of torch, found 'int7'",
        ),
        (compressed({"g": 3}), "config_groups.g: expected a mapping, found int"),
        (compressed(config_groups=None), "config_groups: expected a mapping, found NoneType"),
        (
            {"quant_method": "modelopt", "quant_algo": "INT4_AWQ"},
            "quant_algo: expected NVFP4, W4A16_NVFP4, FP8 or FP8_PB_WO",
        ),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt: expected 'e4m3', found 'e5m2'"),
        ({"quant_method": ["fp8"]}, "quant_method: expected one of compressed-tensors, modelopt, fp8, found ['fp8']"),
        ({"quant_method": {}}, "quant_method: expected one of compressed-tensors, modelopt, fp8, found {}"),
    ],
)
def test_what_is_not_understood_is_a_problem(config: dict[str, Any], says: str) -> None:
    with pytest.raises(QuantizationConfigProblems) as caught:
        parse(config)

    assert says in caught.value.lines[0]


def test_all_problems_come_at_once() -> None:
    groups = {"a": {"targets": ["Linear", 1], "weights": {**INT4, "num_bits": 2}}, "b": {"targets": [], "weights": {}}}

    with pytest.raises(QuantizationConfigProblems) as caught:
        parse(compressed(groups, ignore=[None]))

    assert 4 == len(caught.value.lines)


# Expressions

_PIECES = [
    "a",
    "b",
    ".",
    r"\.",
    "*",
    "+",
    "?",
    "(",
    ")",
    "|",
    "[ab]",
    "[^a]",
    "^",
    "$",
    "(?:",
    "(?=",
    "(?!",
    "{1,2}",
    "{2}",
]


@settings(max_examples=1500)
@given(st.lists(st.sampled_from(_PIECES), max_size=8).map("".join), st.text("ab.", max_size=7))
@example("(a|ab)(c|bcd)*", "abcd")
@example("(?!.*b)a*$", "aaa")
@example("a*?b+?", "aabb")
def test_an_expression_means_what_python_takes_it_for(text: str, name: str) -> None:
    try:
        ours = compile_regex(text)
    except RegexProblem:
        return  # more is refused here

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ours.matches(name) == (re.match(text, name) is not None)


@pytest.mark.parametrize(
    "text",
    [
        r".*mlp\.gate$",
        r"^(?!.*shared).*experts\.\d+\.(gate|up|down)_proj$",
        r"model\.layers\.(7[0-8]|[0-9])\..*",
        r".*self_attn.*",
        r"(?P<x>a)[\w.]+\Z",
    ],
)
def test_expressions_of_real_lists_are_understood(text: str) -> None:
    names = [
        f"{LAYER}.mlp.gate",
        f"{LAYER}.mlp.experts.12.up_proj",
        f"{LAYER}.mlp.shared_experts.up_proj",
        "a.self_attn.q",
    ]

    assert [re.match(text, name) is not None for name in names] == [compile_regex(text).matches(name) for name in names]


@pytest.mark.parametrize(
    "text",
    [
        "(",
        "(a",
        "a)",
        "[a",
        "*a",
        "a**",
        "^*",
        r"\1",
        r"(a)\1",
        "(?i)a",
        "(?<=a)b",
        r"\b",
        "a{200}",
        "a{3,2}",
        "[b-a]",
        "a\\",
        "((a*)*)*",
        "(" * 60,
        "a" * (MAX_LENGTH + 1),
    ],
)
def test_what_is_malformed_or_not_understood_is_refused(text: str) -> None:
    with pytest.raises(RegexProblem):
        compile_regex(text)


@pytest.mark.parametrize(
    "text", ["(a+)+$", "(a|a)*$", ".*.*.*.*.*.*.*.*x", "(a*)*b", "(?=(a*)*b)a", "(?:a?){50}a{50}c"]
)
def test_an_expression_that_keeps_others_busy_for_years_is_quick(text: str) -> None:
    expression = compile_regex(text)
    begin = time.perf_counter()

    assert not expression.matches("a" * 900 + "!")
    assert time.perf_counter() - begin < 5


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(RegexProblem, match="at most 1000 characters"):
        compile_regex("a").matches("a" * 1001)
