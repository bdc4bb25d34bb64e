"""Recipes: what steps make of a donor's tensors, decided from headers alone.

Donors are built here by hand: names, dtypes and shapes, laid out one after the other as a shard has them.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core.checkpoint import FileSeen, Fingerprint, TensorSource
from overlay.core.recipes.config import ConfigChange, Undeclarable, merge, operations
from overlay.core.recipes.recipe import Context, Recipe, plan_recipe
from overlay.errors import InvalidInput
from overlay.formats.keep_lists import KeepLists
from overlay.formats.manifest import parse_manifest
from overlay.formats.quantization_config import parse_quantization_config
from overlay.formats.steps import Step
from tests.support import checkpoints

WIDTHS = {**checkpoints.WIDTHS, "I8": 1}

Entry = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape."""

LAYER = "model.layers.78"
HIDDEN, INTER, Q_LORA, KV_LORA = 6144, 2048, 2048, 512


# Donors


def donor(entries: Iterable[Entry], file: str = "model-mtp.safetensors", begin: int = 1000) -> list[TensorSource]:
    """Sources of a shard that holds `entries` in this order."""
    sources = []
    for name, dtype, shape in entries:
        end = begin + prod(shape) * WIDTHS[dtype]
        sources.append(
            TensorSource(name, dtype, shape, FileSeen(file, f"/x/{file}", Fingerprint(1, 1, 1, 1, 1)), begin, end)
        )
        begin = end
    return sources


def dense(path: str, rows: int, columns: int, dtype: str = "BF16") -> list[Entry]:
    return [(f"{path}.weight", dtype, (rows, columns))]


def nvfp4(path: str, rows: int, columns: int) -> list[Entry]:
    return [
        (f"{path}.weight", "U8", (rows, columns // 2)),
        (f"{path}.weight_scale", "F8_E4M3", (rows, columns // 16)),
        (f"{path}.weight_scale_2", "F32", ()),
        (f"{path}.input_scale", "F32", ()),
    ]


def int4(path: str, rows: int, columns: int) -> list[Entry]:
    return [
        (f"{path}.weight_packed", "I32", (rows, columns // 8)),
        (f"{path}.weight_scale", "BF16", (rows, columns // 32)),
        (f"{path}.weight_shape", "I64", (2,)),
        (f"{path}.weight_zero_point", "I32", (-(-rows // 8), columns // 32)),
    ]


def draft_layer(experts: int, routed: Any = nvfp4, other: Any = dense) -> list[Entry]:
    """Layer 78 of GLM-5.2; `other` writes the linear modules that are no routed experts."""
    attn, mlp = f"{LAYER}.self_attn", f"{LAYER}.mlp"
    entries: list[Entry] = [(f"{LAYER}.{n}.weight", "BF16", (HIDDEN,)) for n in ("enorm", "hnorm", "shared_head.norm")]
    entries += [(f"{LAYER}.{n}.weight", "BF16", (HIDDEN,)) for n in ("input_layernorm", "post_attention_layernorm")]
    entries += dense(f"{LAYER}.eh_proj", HIDDEN, 2 * HIDDEN)
    entries += other(f"{attn}.q_a_proj", Q_LORA, HIDDEN) + other(f"{attn}.q_b_proj", 16384, Q_LORA)
    entries += other(f"{attn}.kv_a_proj_with_mqa", KV_LORA + 64, HIDDEN) + other(f"{attn}.kv_b_proj", 28672, KV_LORA)
    entries += other(f"{attn}.o_proj", HIDDEN, 16384) + other(f"{attn}.indexer.wq_b", 4096, Q_LORA)
    entries += [
        (f"{attn}.q_a_layernorm.weight", "BF16", (Q_LORA,)),
        (f"{attn}.kv_a_layernorm.weight", "BF16", (KV_LORA,)),
    ]
    entries += dense(f"{attn}.indexer.wk", 128, HIDDEN) + dense(f"{attn}.indexer.weights_proj", 32, HIDDEN)
    entries += [(f"{attn}.indexer.k_norm.weight", "BF16", (128,)), (f"{attn}.indexer.k_norm.bias", "BF16", (128,))]
    entries += dense(f"{mlp}.gate", experts, HIDDEN)
    entries += [(f"{mlp}.gate.e_score_correction_bias", "F32", (experts,))]
    for path, write in [*((f"{mlp}.experts.{e}", routed) for e in range(experts)), (f"{mlp}.shared_experts", other)]:
        entries += write(f"{path}.gate_proj", INTER, HIDDEN) + write(f"{path}.up_proj", INTER, HIDDEN)
        entries += write(f"{path}.down_proj", HIDDEN, INTER)
    return entries


def small_layer(experts: int = 4, routed: Any = dense, width: int = 64) -> list[Entry]:
    """A layer with a router and experts, and nothing else."""
    entries = dense("m.layers.1.mlp.gate", experts, width)
    entries += [("m.layers.1.mlp.gate.e_score_correction_bias", "F32", (experts,))]
    for expert in range(experts):
        for part in ("gate_proj", "up_proj", "down_proj"):
            entries += routed(f"m.layers.1.mlp.experts.{expert}.{part}", width, width)
    return entries


def data_bytes(entries: Iterable[Entry]) -> int:
    return sum(prod(shape) * WIDTHS[dtype] for _, dtype, shape in entries)


# Steps and configs


def steps_of(*steps: Mapping[str, Any] | str) -> list[Step]:
    graft = {"shard": "a.safetensors", "from": "d", "tensors": ["**"], "steps": list(steps)}
    manifest = {"overlay": 1, "name": "x", "base": None, "donors": {"d": "d", "target": "t"}, "grafts": [graft]}
    return parse_manifest(json.dumps(manifest).encode()).grafts[0].steps


INT4: dict[str, Any] = {"format": "pack-quantized", "bits": 4, "group_size": 32, "symmetric": False}
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32, "dynamic": False}


def compressed(ignore: Sequence[str] = (), weights: Mapping[str, Any] = WEIGHTS, **changes: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": None}
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}
    return {**config, "ignore": list(ignore), **changes}


def context(config: Mapping[str, Any] | None = None, **others: Any) -> Context:
    configs = {} if config is None else {"target": parse_quantization_config(config)}
    return Context(shard="a.safetensors", quantization_configs=configs, **others)


def plan(
    entries: Sequence[Entry], *steps: Mapping[str, Any] | str, config: Mapping[str, Any] | None = None, **o: Any
) -> Recipe:
    return plan_recipe(donor(entries), steps_of(*steps), context(config, **o))


def refusal(entries: Sequence[Entry], *steps: Mapping[str, Any] | str, **others: Any) -> list[str]:
    """The lines of the refusal, without its subject."""
    with pytest.raises(InvalidInput) as caught:
        plan(entries, *steps, **others)
    return [caught.value.problem, *caught.value.others]


# The founding draft


TRUNK = ["lm_head", *(f"model.layers.{n}.self_attn.{p}" for n in range(78) for p in ("q_a_proj", "o_proj"))]


def test_the_draft_of_256_experts_has_its_published_size() -> None:
    recipe = plan(
        draft_layer(256), {"dequantize": "modelopt-nvfp4"}, {"quantize": {"like": "target"}}, config=compressed(TRUNK)
    )

    assert (3122, 5_865_075_344) == (len(recipe.outputs), recipe.nbytes)
    assert sorted(draft_layer(256, int4, int4)) == sorted(recipe.tensors)
    assert Counter({"I32": 2 * 777, "BF16": 777 + 13, "I64": 777, "F32": 1}) == Counter(t[1] for t in recipe.tensors)


def test_the_draft_of_218_experts_has_its_predicted_size_and_says_so_in_the_config() -> None:
    kept = sorted(random.Random(0).sample(range(256), 218))

    recipe = plan(
        draft_layer(256),
        {"dequantize": "modelopt-nvfp4"},
        {"keep-experts": "keep-218.json"},
        {"quantize": {"like": "target"}},
        config=compressed(TRUNK),
        keep_lists={"keep-218.json": KeepLists(everywhere=tuple(kept))},
    )

    assert (2666, 5_035_313_880) == (len(recipe.outputs), recipe.nbytes)
    assert sorted(draft_layer(218, int4, int4)) == sorted(recipe.tensors)
    assert 218 == recipe.config.experts
    assert {"op": "replace", "path": "/n_routed_experts", "value": 218} in operations(
        recipe.config, {"n_routed_experts": 256}
    )


def test_the_scheme_of_the_target_spelled_out_gives_the_same_tensors() -> None:
    like = plan(draft_layer(8), {"dequantize": "modelopt-nvfp4"}, {"quantize": {"like": "target"}}, config=compressed())
    spelled = plan(draft_layer(8), {"dequantize": "modelopt-nvfp4"}, {"quantize": INT4})

    assert like.tensors == spelled.tensors
    assert like.document()["calls"] == spelled.document()["calls"]


def test_only_what_the_target_does_not_ignore_is_quantised() -> None:
    ignore = ["re:.*self_attn.*", "re:.*shared_experts.*"]
    recipe = plan(
        draft_layer(8), {"dequantize": "modelopt-nvfp4"}, {"quantize": {"like": "target"}}, config=compressed(ignore)
    )

    assert sorted(draft_layer(8, int4, dense)) == sorted(recipe.tensors)


def test_the_order_of_outputs_is_that_of_the_library() -> None:
    recipe = plan(draft_layer(2), {"dequantize": "modelopt-nvfp4"}, {"quantize": INT4})

    ranks = ["I64", "F32", "I32", "BF16"]
    assert sorted(recipe.tensors, key=lambda t: (ranks.index(t[1]), t[0])) == recipe.tensors


def test_a_tensor_that_no_step_touches_is_the_donors_bytes() -> None:
    entries = draft_layer(2)
    recipe = plan(entries, {"dequantize": "modelopt-nvfp4"}, {"quantize": INT4})

    sources = {source.name: source for source in donor(entries)}
    assert 14 == len(recipe.copies)
    assert all(sources[copy.name] == copy for copy in recipe.copies)


def test_without_steps_everything_is_a_copy() -> None:
    entries = draft_layer(2)

    recipe = plan(entries, {"copy": None})

    assert recipe.is_copy
    assert sorted(donor(entries)) == sorted(recipe.copies)
    assert () == recipe.jobs
    assert ConfigChange(unquantised=recipe.config.unquantised) == recipe.config


def test_the_ways_of_a_recipe_are_few() -> None:
    recipe = plan(draft_layer(4), {"dequantize": "modelopt-nvfp4"}, {"keep-experts": [1, 2, 3]}, {"quantize": INT4})

    quantize = "quantize bits=4 format=pack-quantized group_size=32 symmetric=false"
    ways = {way.steps: way.tensors for way in recipe.ways}
    assert {
        (): 12,
        ("dequantize format=modelopt-nvfp4 to=BF16", quantize): 9 * 4,
        ("keep-rows rows=1,2,3",): 2,
        (quantize,): 9 * 4,
    } == ways
    assert recipe.nbytes == sum(way.bytes for way in recipe.ways)


# Jobs


def test_a_job_is_the_partners_of_one_module_and_jobs_follow_the_file() -> None:
    recipe = plan(draft_layer(4), {"dequantize": "modelopt-nvfp4"}, {"quantize": INT4})

    assert {4} == {len(job.outputs) for job in recipe.jobs}
    assert all(1 == len({value.name.rpartition(".")[0] for value in job.outputs}) for job in recipe.jobs)
    begins = [job.inputs[0].begin for job in recipe.jobs]
    assert sorted(begins) == begins


def test_what_a_job_costs_is_said() -> None:
    recipe = plan(nvfp4("a.gate_proj", 2048, 6144), {"dequantize": "modelopt-nvfp4"}, {"quantize": INT4})

    (job,) = recipe.jobs
    assert 7_077_896 - 4 == job.input_bytes
    assert 7_274_512 == sum(value.nbytes for value in job.outputs)
    assert job.input_bytes + 2 * 2048 * 6144 + 7_274_512 == job.peak_bytes
    assert ["dequantize", "quantize"] == [call.op for call in job.calls]


def test_every_computed_output_is_in_one_job() -> None:
    recipe = plan(small_layer(4), {"keep-experts": [1, 3]}, {"quantize": "modelopt-nvfp4"})

    computed = [value.name for job in recipe.jobs for value in job.outputs]
    assert sorted(v.name for v in recipe.outputs if v.call) == sorted(computed)
    assert len(set(computed)) == len(computed)


def test_partners_in_different_shards_are_one_job() -> None:
    parts = nvfp4("a.down_proj", 64, 64)
    sources = donor(parts[1:], "b.safetensors") + donor(parts[:1], "a.safetensors")

    recipe = plan_recipe(sources, steps_of({"dequantize": "modelopt-nvfp4"}), Context())

    (job,) = recipe.jobs
    assert ["a.safetensors", "b.safetensors", "b.safetensors"] == [source.file.name for source in job.inputs]
    assert [("a.down_proj.weight", "BF16", (64, 64))] == recipe.tensors


# NVFP4 and what neighbours share


def test_neighbours_that_engines_fuse_share_one_scale_and_one_job() -> None:
    recipe = plan(small_layer(2), {"quantize": "modelopt-nvfp4"})

    calls = {v.name: v.call for v in recipe.outputs if v.name.endswith("weight_scale_2") and v.call}
    shared = {name: [a.value.origin for a in call.inputs if a.role == "weight_scale_2"] for name, call in calls.items()}
    prefix = "m.layers.1.mlp.experts.0"
    assert shared[f"{prefix}.gate_proj.weight_scale_2"] == shared[f"{prefix}.up_proj.weight_scale_2"] != []
    assert [] == shared[f"{prefix}.down_proj.weight_scale_2"]
    assert Counter({6: 2, 3: 2}) == Counter(len(job.outputs) for job in recipe.jobs)


def test_the_library_of_the_target_decides_how_the_shared_scale_is_called() -> None:
    weights = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
    config = compressed(weights=weights, format="nvfp4-pack-quantized")

    recipe = plan(small_layer(1), {"quantize": {"like": "target"}}, config=config)

    assert ("m.layers.1.mlp.experts.0.up_proj.weight_global_scale", "F32", (1,)) in recipe.tensors
    (call,) = {v.call for v in recipe.outputs if v.name.endswith("0.up_proj.weight_packed")}
    assert call is not None
    assert ["weight", "weight_global_scale"] == [argument.role for argument in call.inputs]


def test_neighbours_with_different_schemes_are_refused() -> None:
    lines = refusal(small_layer(1), {"quantize": {**INT4, "ignore": ["**.up_proj"]}})

    assert ["expected one scheme for gate_proj and up_proj, which engines fuse" in lines[0], 1] == [True, len(lines)]


def test_a_scale_of_inputs_comes_from_the_donor_or_not_at_all() -> None:
    config = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["gate"]}
    plain = refusal(dense("a.o_proj", 64, 64), {"quantize": {"like": "target"}}, config=config)
    calibrated = plan(
        nvfp4("a.o_proj", 64, 64),
        {"dequantize": "modelopt-nvfp4"},
        {"rename": {"a.**": "b.**"}},
        {"quantize": {"like": "target"}},
        config=config,
    )

    assert [
        "a.o_proj.input_scale (model-mtp.safetensors): expected a scale of the inputs from the donor's calibration, "
        "found none (rule partner)"
    ] == plain
    assert sorted(nvfp4("b.o_proj", 64, 64)) == sorted(calibrated.tensors)
    assert ["b.o_proj.input_scale"] == [copy.name for copy in calibrated.copies]


def test_a_scale_of_inputs_turns_into_the_divisor_of_the_other_library() -> None:
    weights = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    config = compressed(weights=weights, format="nvfp4-pack-quantized")
    config["config_groups"]["group_0"]["input_activations"] = {"dynamic": "local", "num_bits": 4}

    recipe = plan(nvfp4("a.o_proj", 64, 64), {"dequantize": "auto"}, {"quantize": {"like": "target"}}, config=config)

    assert ("a.o_proj.input_global_scale", "F32", (1,)) in recipe.tensors
    (value,) = [value for value in recipe.outputs if value.name.endswith("input_global_scale")]
    assert ("reciprocal",) == value.steps


# Every format


FORMATS: dict[str, tuple[list[Entry], tuple[int, int]]] = {
    "modelopt-nvfp4": (nvfp4("a.o_proj", 128, 256), (128, 256)),
    "nvfp4-pack-quantized": (
        [
            ("a.o_proj.weight_packed", "U8", (128, 128)),
            ("a.o_proj.weight_scale", "F8_E4M3", (128, 16)),
            ("a.o_proj.weight_global_scale", "F32", (1,)),
        ],
        (128, 256),
    ),
    "pack-quantized": (int4("a.o_proj", 128, 256), (128, 256)),
    "fp8-block": (
        [("a.o_proj.weight", "F8_E4M3", (130, 256)), ("a.o_proj.weight_scale_inv", "F32", (2, 2))],
        (130, 256),
    ),
    "fp8-channel": (
        [("a.o_proj.weight", "F8_E4M3", (130, 256)), ("a.o_proj.weight_scale", "F32", (130, 1))],
        (130, 256),
    ),
    "fp8-tensor": ([("a.o_proj.weight", "F8_E4M3", (130, 256)), ("a.o_proj.weight_scale", "F32", ())], (130, 256)),
    "mxfp4": ([("a.o_proj.weight_packed", "U8", (4, 32)), ("a.o_proj.weight_scale", "U8", (4, 2))], (4, 64)),
    "mxfp8": ([("a.o_proj.weight", "F8_E4M3", (4, 64)), ("a.o_proj.weight_scale", "U8", (4, 2))], (4, 64)),
    "awq": (
        [
            ("a.o_proj.qweight", "I32", (256, 16)),
            ("a.o_proj.qzeros", "I32", (2, 16)),
            ("a.o_proj.scales", "F16", (2, 128)),
        ],
        (128, 256),
    ),
    "gptq": (
        [
            ("a.o_proj.qweight", "I32", (32, 128)),
            ("a.o_proj.qzeros", "I32", (2, 16)),
            ("a.o_proj.scales", "F16", (2, 128)),
            ("a.o_proj.g_idx", "I32", (256,)),
        ],
        (128, 256),
    ),
}


@pytest.mark.parametrize("step", ["by name", "auto"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_format_dequantises_to_one_weight(format: str, step: str) -> None:
    entries, shape = FORMATS[format]

    recipe = plan(entries, {"dequantize": format if step == "by name" else "auto"})

    assert [("a.o_proj.weight", "BF16", shape)] == recipe.tensors
    (value,) = recipe.outputs
    assert value.call is not None
    assert format == value.call.parameters["format"]
    assert recipe.config.dequantised


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("awq", "gptq")])
def test_a_format_quantises_to_its_partners(format: str) -> None:
    entries, shape = FORMATS[format]

    recipe = plan(dense("a.o_proj", *shape, "F32"), {"quantize": INT4 if format == "pack-quantized" else format})

    found = [(n, "BF16" if format == "pack-quantized" and n.endswith("scale") else d, s) for n, d, s in recipe.tensors]
    assert sorted(entry for entry in entries if not entry[0].endswith("input_scale")) == sorted(found)


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_partner_is_named_with_its_file(format: str) -> None:
    entries = [entry for entry in FORMATS[format][0] if not entry[0].endswith(("input_scale", "g_idx", "zero_point"))]
    for missing in entries:
        lines = refusal([entry for entry in entries if entry != missing] + dense("b", 2, 2), {"dequantize": format})

        assert 1 == len(lines)
        if not missing[0].endswith(".weight_scale_inv"):  # then the module is nearer to the other names of its format
            assert f"{missing[0]} (model-mtp.safetensors): expected this partner, found none (rule partner)" == lines[0]


def test_symmetric_integers_need_to_be_told_their_width() -> None:
    entries = [entry for entry in int4("a.o_proj", 128, 512) if not entry[0].endswith("zero_point")]
    entries[1] = ("a.o_proj.weight_scale", "BF16", (128, 4))

    assert [
        "expected bits: 4 or 8 in the step" in line for line in refusal(entries, {"dequantize": "pack-quantized"})
    ] == [True]
    recipe = plan(entries, {"dequantize": {"format": "pack-quantized", "bits": 8}})
    assert [("a.o_proj.weight", "BF16", (128, 256))] == recipe.tensors


def test_the_head_is_quantised_where_somebody_names_it() -> None:
    entries = dense("lm_head", 8, 64) + dense("a.o_proj", 8, 64)

    assert ["lm_head.weight"] == [copy.name for copy in plan(entries, {"quantize": INT4}).copies]
    assert () == plan(entries, {"quantize": {**INT4, "targets": ["**"]}}).copies


def test_scales_wider_than_the_weight_widen_it_first() -> None:
    recipe = plan(dense("a.o_proj", 8, 64), {"quantize": {**INT4, "scale_dtype": "F32"}})

    assert ("a.o_proj.weight_scale", "F32", (8, 2)) in recipe.tensors
    assert "cast to=F32" == recipe.outputs[0].steps[0]
    assert [False, True] == [call.is_lossy for call in recipe.jobs[0].calls]


# What is refused


@pytest.mark.parametrize(
    ("entries", "step", "says"),
    [
        (
            dense("a.o_proj", 4, 48),
            {"quantize": INT4},
            "a.o_proj.weight (model-mtp.safetensors): expected columns in groups of 32, found 48 columns (rule group-",
        ),
        (
            dense("a.o_proj", 4, 33),
            {"quantize": "modelopt-nvfp4"},
            "expected an even number of columns, found 33 columns (rule even-columns)",
        ),
        (
            dense("a.o_proj", 4, 64, "F32"),
            {"quantize": {**INT4, "scale_dtype": "BF16"}},
            "a.o_proj.weight_scale (model-mtp.safetensors): expected F32 for a weight of F32, found BF16 (rule scale-dtype)",
        ),
        (
            int4("a.o_proj", 8, 64),
            {"quantize": "fp8-channel"},
            "expected fp8-channel, found pack-quantized int4 g32 asym: dequantize it first (rule already-quantised)",
        ),
        (
            int4("a.o_proj", 8, 64),
            {"dequantize": "modelopt-nvfp4"},
            "expected modelopt-nvfp4, found pack-quantized (rule already-quantised)",
        ),
        (
            dense("a.o_proj", 8, 64),
            {"dequantize": "modelopt-nvfp4"},
            "expected a module in modelopt-nvfp4, found none (rule idle-step)",
        ),
        (
            [("norm.weight", "BF16", (8,))],
            {"quantize": INT4},
            "expected a module to quantize, found none (rule idle-step)",
        ),
        (
            dense("a.o_proj", 8, 64),
            {"quantize": {**INT4, "ignore": ["b.**"]}},
            "ignore: expected 'b.**' to describe something, found nothing (rule idle-step)",
        ),
        (
            dense("a.o_proj", 8, 64),
            {"rename": {"b.*": "c.*"}},
            "expected 'b.*' to describe a tensor, found none (rule idle-step)",
        ),
        (
            dense("a", 8, 64) + dense("b", 8, 64),
            {"rename": {"a.*": "b.*"}},
            "b.weight (model-mtp.safetensors): expected a name of its own, found b.weight, which a.weight has too",
        ),
        (
            dense("a.b", 8, 64),
            {"rename": {"a.**": "x.**", "a.b.*": "y.b.*"}},
            "expected one pattern for it, found 'a.**' and 'a.b.*'",
        ),
        (dense("a", 8, 64), {"cast": "BF16"}, "expected a tensor to cast to BF16, found none (rule idle-step)"),
        (
            [("a.index", "I64", (4,))],
            {"cast": {"to": "BF16", "tensors": ["a.*"]}},
            "expected BF16, F16, F32, found I64 (rule dtype)",
        ),
        (
            nvfp4("a", 8, 64),
            {"cast": {"to": "BF16", "tensors": ["**.weight_scale_2"]}},
            "found a part of a quantised weight (rule dtype)",
        ),
        (dense("a", 8, 64), {"keep-experts": [0]}, "expected experts, found none (rule idle-step)"),
        (
            dense("a", 8, 64),
            {"fuse": {"parts": ["gate_proj", "up_proj"], "into": "gate_up_proj"}},
            "expected a module with gate_proj, up_proj, found none",
        ),
        (
            dense("a.gate_proj", 8, 64),
            {"fuse": {"parts": ["gate_proj", "up_proj"], "into": "x"}},
            "a.up_proj.weight (model-mtp.safetensors): expected this part, found none (rule same-parts)",
        ),
        (
            dense("a.x", 7, 64),
            {"split": {"from": "x", "into": ["gate_proj", "up_proj"]}},
            "expected a multiple of 2 rows",
        ),
        (
            [("m.experts.up_proj", "BF16", (4, 8, 64))],
            {"quantize": INT4},
            "expected numbered experts, found [4, 8, 64]: split them first",
        ),
        (
            [("a.weight", "I8", (8, 64)), ("a.weight_scale", "F32", (8, 1))],
            {"dequantize": "auto"},
            "expected a format that recipes read, found int8-channel",
        ),
    ],
)
def test_a_step_that_cannot_be_taken_is_refused(entries: list[Entry], step: Mapping[str, Any], says: str) -> None:
    lines = refusal(entries, step)

    assert says in lines[0]


def test_the_refusal_names_shard_and_step_and_all_problems_of_it() -> None:
    entries = [entry for e in range(30) for entry in nvfp4(f"m.experts.{e}.down_proj", 8, 64)[:2]]

    with pytest.raises(InvalidInput) as caught:
        plan(entries, {"copy": None}, {"dequantize": "modelopt-nvfp4"}, {"quantize": INT4})

    assert "a.safetensors: steps[1]" == caught.value.subject
    assert "m.experts.0.down_proj.weight_scale_2 (model-mtp.safetensors): " in caught.value.problem
    assert 20 == len(caught.value.others)
    assert "and 10 more" == caught.value.others[-1]


def test_what_the_target_leaves_alone_must_not_be_quantised() -> None:
    lines = refusal(
        int4("a.o_proj", 8, 64) + dense("a.x", 8, 64), {"quantize": {"like": "target"}}, config=compressed(["a.o_proj"])
    )

    assert "expected an unquantised module, found pack-quantized int4 g32 asym" in lines[0]


def test_a_module_that_is_stored_as_wanted_is_copied() -> None:
    recipe = plan(int4("a.o_proj", 8, 64) + dense("a.x", 8, 64), {"quantize": {"like": "target"}}, config=compressed())

    assert sorted(int4("a.o_proj", 8, 64) + int4("a.x", 8, 64)) == sorted(recipe.tensors)
    assert {"a.o_proj"} == {copy.name.rpartition(".")[0] for copy in recipe.copies}


def test_one_tensor_in_two_shards_is_refused() -> None:
    sources = donor(dense("a", 2, 2), "a.safetensors") + donor(dense("a", 2, 2), "b.safetensors")

    with pytest.raises(InvalidInput, match=r"a\.weight \(b\.safetensors\): expected it in one shard"):
        plan_recipe(sources, [], Context())


# Experts


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_kept_experts_are_numbered_from_0_in_their_order(case: tuple[int, set[int]]) -> None:
    experts, chosen = case
    kept = sorted(chosen)

    recipe = plan(
        small_layer(experts, routed=lambda p, n, k: [(f"{p}.weight", "BF16", (n, k))]), {"keep-experts": kept}
    )

    assert sorted(small_layer(len(kept))) == sorted(recipe.tensors)
    begins = {source.name: source.begin for source in donor(small_layer(experts))}
    for copy in recipe.copies:
        head, _, tail = copy.name.partition(".experts.")
        number, _, rest = tail.partition(".")
        if tail:
            assert begins[f"{head}.experts.{kept[int(number)]}.{rest}"] == copy.begin
    rows = {value.name: value.call.parameters["rows"] for value in recipe.outputs if value.call}
    router = ("m.layers.1.mlp.gate.e_score_correction_bias", "m.layers.1.mlp.gate.weight")
    assert (dict.fromkeys(router, tuple(kept)) if len(kept) < experts else {}) == rows


@pytest.mark.parametrize(
    ("experts", "kept", "says"),
    [
        (4, [0, 4], "m.layers.1.mlp.experts: expected experts 0 to 3, found 4 (rule keep-list)"),
        (4, {"2": [0], "1": [0]}, "expected layer 2 to have experts, found none (rule keep-list)"),
        (4, {"2": [0]}, "expected layer 2 to have experts"),
    ],
)
def test_a_keep_list_that_does_not_fit_is_refused(experts: int, kept: Any, says: str) -> None:
    lines = refusal(small_layer(experts), {"keep-experts": kept})

    assert any(says in line for line in lines)


def test_lists_of_a_file_are_held_to_the_same_rules() -> None:
    lists = {"k.json": KeepLists(everywhere=(0, 2, 2, 1))}

    lines = refusal(small_layer(4), {"keep-experts": "k.json"}, keep_lists=lists)

    assert ["m.layers.1.mlp.experts: expected each expert once, found 2 again (rule keep-list)"] == lines


def test_a_list_is_as_long_as_the_target_needs_it() -> None:
    lines = refusal(small_layer(4), {"keep-experts": [0, 1]}, experts=3)

    assert ["m.layers.1.mlp.experts: expected a list of 3 experts, found 2 (rule keep-list)"] == lines


def test_every_routing_group_must_keep_as_many_experts() -> None:
    lines = refusal(small_layer(4), {"keep-experts": [0, 1]}, n_group=2)

    assert [
        "m.layers.1.mlp.experts: expected as many experts in each of 2 groups, found [2, 0] (rule expert-groups)"
    ] == lines
    assert 2 == plan(small_layer(4), {"keep-experts": [0, 2]}, n_group=2).config.experts


def test_layers_must_keep_one_number() -> None:
    other = [(name.replace("layers.1", "layers.2"), dtype, shape) for name, dtype, shape in small_layer(4)]

    lines = refusal(small_layer(4) + other, {"keep-experts": {"1": [0, 1], "2": [0]}})

    assert ["keep-experts: expected one number for all layers, found 1, 2 (rule keep-list)"] == lines


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda es: [e for e in es if not e[0].endswith("gate.weight")],
            "expected m.layers.1.mlp.gate.weight beside it, found none (rule partner)",
        ),
        (
            lambda es: [e for e in es if ".experts.1." not in e[0]],
            "expected experts 0 to 3, found none with number 1 (rule expert-rows)",
        ),
        (
            lambda es: [e for e in es if ".experts.3." not in e[0]],
            "expected a row for each of 3 experts, found 4 (rule expert-rows)",
        ),
    ],
)
def test_a_layer_whose_experts_disagree_is_refused(change: Any, says: str) -> None:
    lines = refusal(change(small_layer(4)), {"keep-experts": [0, 2]})

    assert any(says in line for line in lines)


def test_stacked_experts_are_sliced() -> None:
    entries = [*dense("m.mlp.gate", 4, 8), ("m.mlp.experts.gate_up_proj", "BF16", (4, 16, 8))]

    recipe = plan(entries, {"keep-experts": [1, 3]})

    assert [("m.mlp.experts.gate_up_proj", "BF16", (2, 16, 8)), ("m.mlp.gate.weight", "BF16", (2, 8))] == recipe.tensors


def test_quantised_experts_are_kept_as_they_are() -> None:
    recipe = plan(small_layer(4, nvfp4), {"keep-experts": [2]})

    assert sorted(small_layer(1, nvfp4)) == sorted(recipe.tensors)
    assert 12 == len(recipe.copies)


# Renaming


@settings(max_examples=60, deadline=None)
@given(st.sets(st.text("ab.", min_size=1, max_size=6), min_size=1, max_size=8))
def test_renaming_forth_and_back_gives_the_donor_again(names: set[str]) -> None:
    entries: list[Entry] = [(f"p.{name}.w", "BF16", (2,)) for name in sorted(names)]

    recipe = plan(entries, {"rename": {"p.**.w": "q.x.**.v"}}, {"rename": {"q.x.**.v": "p.**.w"}})

    assert sorted(donor(entries)) == sorted(recipe.copies)


def test_a_whole_name_goes_before_a_pattern() -> None:
    recipe = plan(dense("a.b", 2, 2) + dense("a.c", 2, 2), {"rename": {"a.*.weight": "x.*.weight", "a.b.weight": "y"}})

    assert ["x.c.weight", "y"] == [name for name, _, _ in recipe.tensors]


# Casting, fusing, splitting


def test_a_cast_leaves_the_bias_of_routers_and_quantised_weights_alone() -> None:
    entries = [*small_layer(1), *nvfp4("a.o_proj", 8, 64), ("n.weight", "F32", (4,))]

    recipe = plan(entries, {"cast": "BF16"})

    assert ["n.weight"] == [value.name for value in recipe.outputs if value.call]


@pytest.mark.parametrize("interleave", [False, True])
def test_fused_experts_split_to_what_they_were(interleave: bool) -> None:
    entries = small_layer(3)
    fuse: list[dict[str, Any]] = [
        {
            "fuse": {
                "experts": "**.mlp.experts",
                "parts": ["gate_proj", "up_proj"],
                "into": "gate_up_proj",
                "interleave": interleave,
            }
        },
        {"fuse": {"experts": "**.mlp.experts", "parts": ["down_proj"], "into": "down_proj"}},
    ]
    split: list[dict[str, Any]] = [
        {
            "split": {
                "experts": "**.mlp.experts",
                "from": "gate_up_proj",
                "into": ["gate_proj", "up_proj"],
                "interleave": interleave,
            }
        },
        {"split": {"experts": "**.mlp.experts", "from": "down_proj", "into": ["down_proj"]}},
    ]

    fused = plan(entries, *fuse)
    back = plan(entries, *fuse, *split)

    assert ("m.layers.1.mlp.experts.gate_up_proj", "BF16", (3, 128, 64)) in fused.tensors
    assert ("m.layers.1.mlp.experts.down_proj", "BF16", (3, 64, 64)) in fused.tensors
    assert sorted(entries) == sorted(back.tensors)
    assert 2 == len(fused.jobs)


def test_neighbours_fuse_and_split_by_rows() -> None:
    entries = dense("a.gate_proj", 8, 64) + dense("a.up_proj", 8, 64) + dense("a.down_proj", 64, 8)

    fused = plan(entries, {"fuse": {"parts": ["gate_proj", "up_proj"], "into": "gate_up_proj"}})

    assert [("a.down_proj.weight", "BF16", (64, 8)), ("a.gate_up_proj.weight", "BF16", (16, 64))] == fused.tensors


# What follows for the config


def test_the_declaration_of_the_target_is_kept_but_for_its_list() -> None:
    config = compressed(TRUNK, quantization_status="compressed")
    recipe = plan(draft_layer(2), {"dequantize": "modelopt-nvfp4"}, {"quantize": {"like": "target"}}, config=config)

    names = ("eh_proj", "mlp.gate", "self_attn.indexer.weights_proj", "self_attn.indexer.wk")
    ignore = [f"{LAYER}.{name}" for name in names]
    assert {**config, "ignore": ignore} == recipe.config.quantization_config


@pytest.mark.parametrize(
    "format", ["pack-quantized", "nvfp4-pack-quantized", "modelopt-nvfp4", "fp8-block", "fp8-channel"]
)
def test_what_is_declared_of_a_spelled_out_scheme_means_that_scheme(format: str) -> None:
    entries = draft_layer(2)
    step = {"quantize": INT4 if format == "pack-quantized" else format}
    spelled = plan(entries, {"dequantize": "modelopt-nvfp4"}, step)

    like = plan(
        entries, {"dequantize": "auto"}, {"quantize": {"like": "target"}}, config=spelled.config.quantization_config
    )

    assert spelled.tensors == like.tensors


def test_two_schemes_are_two_groups() -> None:
    entries = dense("a.o_proj", 64, 64) + dense("b.o_proj", 64, 64)
    eight = {**INT4, "bits": 8, "targets": ["b.*"]}

    recipe = plan(
        entries, {"quantize": {**INT4, "targets": ["a.*"]}}, {"quantize": eight}, {"rename": {"b.**": "c.**"}}
    )

    config = recipe.config.quantization_config
    assert config is not None
    assert [["a.o_proj"], ["c.o_proj"]] == [group["targets"] for group in config["config_groups"].values()]


def test_formats_of_two_libraries_cannot_be_declared_together() -> None:
    entries = dense("a.o_proj", 64, 64) + dense("b.o_proj", 64, 64)
    steps = [{"quantize": {"format": "modelopt-nvfp4", "targets": ["a.*"]}}, {"quantize": {**INT4, "targets": ["b.*"]}}]

    assert ["expected formats of one library, found those of compressed-tensors and modelopt"] == refusal(
        entries, *steps
    )


def test_a_config_that_declared_what_is_gone_loses_it() -> None:
    recipe = plan(nvfp4("a.o_proj", 64, 64), {"dequantize": "auto"})

    assert [{"op": "remove", "path": "/quantization_config"}] == operations(recipe.config, {"quantization_config": {}})
    assert [] == operations(recipe.config, {})


def test_the_count_of_experts_is_found_where_a_config_has_it() -> None:
    change = ConfigChange(experts=2)

    found = operations(change, {"num_experts": 4, "text_config": {"num_local_experts": 4}, "n_routed_experts": None})

    assert ["/num_experts", "/text_config/num_local_experts"] == [operation["path"] for operation in found]
    with pytest.raises(Undeclarable, match="n_routed_experts"):
        operations(change, {})


def test_changes_of_several_recipes_are_merged_or_refused() -> None:
    one = plan(dense("a.o_proj", 64, 64) + dense("a.gate", 4, 64), {"quantize": INT4}).config
    two = plan(dense("b.o_proj", 64, 64) + dense("b.gate", 4, 64), {"quantize": INT4}).config

    merged = merge([one, two])

    assert merged.quantization_config is not None
    assert ["a.gate", "b.gate"] == merged.quantization_config["ignore"]
    with pytest.raises(Undeclarable):
        merge([one, plan(dense("b.o_proj", 64, 64), {"quantize": "fp8-channel"}).config])


# Determinism


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_sources_does_not_matter(rng: random.Random) -> None:
    sources = donor(small_layer(3, nvfp4))
    shuffled = list(sources)
    rng.shuffle(shuffled)
    steps = steps_of({"dequantize": "auto"}, {"keep-experts": [0, 2]}, {"quantize": "modelopt-nvfp4"})

    recipes = [plan_recipe(order, steps, Context()) for order in (sources, shuffled)]

    assert recipes[0].document() == recipes[1].document()
    assert recipes[0].digest == recipes[1].digest
    assert recipes[0].jobs == recipes[1].jobs


def test_the_digest_knows_parameters_and_ranges_but_not_where_files_lie() -> None:
    entries = dense("a.o_proj", 64, 64)
    base = plan(entries, {"quantize": INT4}).digest
    moved = [s._replace(file=FileSeen(s.file.name, "/elsewhere", s.file.fingerprint)) for s in donor(entries)]

    assert base == plan_recipe(moved, steps_of({"quantize": INT4}), Context()).digest
    assert base != plan(entries, {"quantize": {**INT4, "bits": 8}}).digest
    assert base != plan_recipe(donor(entries, begin=2000), steps_of({"quantize": INT4}), Context()).digest
    json.dumps(plan(entries, {"quantize": INT4}).document())
