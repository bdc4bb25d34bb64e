"""How modules store their weights, told from names, dtypes and shapes."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.drafts import find_drafts
from overlay.core.modules import classify, count_experts, find_modules, place_modules
from overlay.core.schemes import Form, Scheme, Stored, decide, scheme_of
from overlay.formats.dtypes import count_bytes
from overlay.formats.header import Header, parse_header
from overlay.formats.header_text import render_header

Entry = tuple[str, tuple[int, ...]]
"""Dtype and shape."""

N, K = 2048, 6144

BF16: dict[str, Entry] = {"weight": ("BF16", (N, K))}
INT4: dict[str, Entry] = {
    "weight_packed": ("I32", (N, K // 8)),
    "weight_scale": ("BF16", (N, K // 32)),
    "weight_zero_point": ("I32", (N // 8, K // 32)),
    "weight_shape": ("I64", (2,)),
}
NVFP4: dict[str, Entry] = {
    "weight": ("U8", (N, K // 2)),
    "weight_scale": ("F8_E4M3", (N, K // 16)),
    "weight_scale_2": ("F32", ()),
    "input_scale": ("F32", ()),
}
FP8_BLOCK: dict[str, Entry] = {"weight": ("F8_E4M3", (N, K)), "weight_scale_inv": ("F32", (N // 128, K // 128))}
FP8_CHANNEL: dict[str, Entry] = {"weight": ("F8_E4M3", (N, K)), "weight_scale": ("F32", (N, 1))}
MXFP4: dict[str, Entry] = {"weight_packed": ("U8", (N, K // 2)), "weight_scale": ("U8", (N, K // 32))}
MXFP8: dict[str, Entry] = {"weight": ("F8_E4M3", (N, K)), "weight_scale": ("U8", (N, K // 32))}
AWQ: dict[str, Entry] = {
    "qweight": ("I32", (K, N // 8)),
    "qzeros": ("I32", (K // 128, N // 8)),
    "scales": ("F16", (K // 128, N)),
}
GPTQ: dict[str, Entry] = {
    "qweight": ("I32", (K // 8, N)),
    "qzeros": ("I32", (K // 128, N // 8)),
    "scales": ("F16", (K // 128, N)),
    "g_idx": ("I32", (K,)),
}


def form(parts: dict[str, Entry]) -> Form:
    return frozenset(Stored(suffix, dtype, shape) for suffix, (dtype, shape) in parts.items())


def without(parts: dict[str, Entry], *suffixes: str) -> dict[str, Entry]:
    return {suffix: entry for suffix, entry in parts.items() if suffix not in suffixes}


@pytest.mark.parametrize(
    ("parts", "label", "nbytes"),
    [
        (BF16, "dense BF16", 25_165_824),
        (INT4, "pack-quantized int4 g32 asym", 7_274_512),
        (NVFP4, "modelopt-nvfp4 g16", 7_077_896),
        (FP8_BLOCK, "fp8-block 128x128", 12_585_984),
        (FP8_CHANNEL, "fp8-channel", 12_591_104),
        (MXFP4, "mxfp4-pack-quantized g32", 6_684_672),
        (MXFP8, "mxfp8 g32", 12_976_128),
        (AWQ, "awq int4 g128", 6_537_216),
        (GPTQ, "gptq int4 g128", 6_561_792),
    ],
)
def test_a_linear_module_of_real_size_has_its_scheme_and_its_bytes(
    parts: dict[str, Entry], label: str, nbytes: int
) -> None:
    assert (label, nbytes) == (scheme_of(form(parts)).label, sum(stored.nbytes for stored in form(parts)))


@pytest.mark.parametrize(
    ("parts", "label"),
    [
        # dense, and what lies beside a weight
        ({"weight": ("BF16", (6144,))}, "norm BF16"),
        ({"weight": ("F32", (128,)), "bias": ("F32", (128,))}, "norm F32"),
        ({**BF16, "bias": ("BF16", (N,))}, "dense BF16"),
        ({"weight": ("BF16", (256, 6144)), "e_score_correction_bias": ("F32", (256,))}, "dense BF16"),
        ({"gate_up_proj": ("BF16", (8, 64, 32)), "down_proj": ("BF16", (8, 32, 32))}, "dense BF16"),
        ({"A_log": ("F32", (16,)), "dt_bias": ("F32", (16,))}, "dense F32"),
        ({"k_scale": ("F32", ()), "v_scale": ("F32", ())}, "kv-scales"),
        ({**FP8_BLOCK, "k_scale": ("F32", (1,))}, "fp8-block 128x128"),
        # NVFP4 of both makers, with and without quantised activations
        (without(NVFP4, "input_scale"), "modelopt-nvfp4 g16"),
        (
            {
                "weight_packed": ("U8", (N, K // 2)),
                "weight_scale": ("F8_E4M3", (N, K // 16)),
                "weight_global_scale": ("F32", (1,)),
                "input_global_scale": ("F32", (1,)),
            },
            "nvfp4-pack-quantized g16",
        ),
        # integers
        (without(INT4, "weight_zero_point"), "pack-quantized int4 g32"),
        ({**INT4, "weight_zero_point": ("I32", (N // 4, K // 32))}, "pack-quantized int8 g16 asym"),
        ({**INT4, "weight_zero_point": ("I32", (7, 7))}, "pack-quantized int? asym"),
        (
            {**without(INT4, "weight_zero_point"), "weight_scale": ("BF16", (N, K // 128))},
            "pack-quantized int4 g128 or int8 g64",
        ),
        (
            {**without(INT4, "weight_zero_point"), "weight_scale": ("BF16", (N, 1))},
            "pack-quantized int4 or int8",
        ),
        ({"weight": ("I8", (N, K)), "weight_scale": ("BF16", (N, 1))}, "int8-channel"),
        (without(GPTQ, "g_idx"), "gptq int4 g128"),
        ({**GPTQ, "qweight": ("I32", (K // 4, N)), "qzeros": ("I32", (K // 128, N // 4))}, "gptq int8 g128"),
        # eight-bit floats
        ({"weight": ("F8_E4M3", (N, K)), "weight_scale": ("F32", ()), "input_scale": ("F32", ())}, "fp8-tensor"),
        ({"weight": ("F8_E4M3", (576, 6144)), "weight_scale_inv": ("F32", (5, 48))}, "fp8-block 128x128"),
        ({"weight": ("F8_E4M3", (32, 6144)), "weight_scale_inv": ("F32", (1, 48))}, "fp8-block 128x128"),
        ({"weight": ("F8_E4M3", (N, K)), "weight_scale": ("BF16", (N // 128, K // 128))}, "fp8-block 128x128"),
        ({"weight": ("U8", (N, K // 2)), "weight_scale": ("U8", (N, K // 32))}, "modelopt-mxfp4 g32"),
        (
            {
                "gate_up_proj_blocks": ("U8", (32, 5760, 90, 16)),
                "gate_up_proj_scales": ("U8", (32, 5760, 90)),
                "gate_up_proj_bias": ("BF16", (32, 5760)),
                "down_proj_blocks": ("U8", (32, 2880, 90, 16)),
                "down_proj_scales": ("U8", (32, 2880, 90)),
                "down_proj_bias": ("BF16", (32, 2880)),
            },
            "mxfp4-blocks g32",
        ),
        # a partner is missing, or nothing that is known
        (without(NVFP4, "weight_scale_2", "input_scale"), "unknown: weight U8, weight_scale F8_E4M3"),
        ({"weight": ("F8_E4M3", (N, K))}, "unknown: weight F8_E4M3"),
        ({"weight_scale": ("BF16", (N, 1))}, "unknown: weight_scale BF16"),
        ({"weight": ("U8", (9, 1)), "absmax": ("F32", (3,))}, "unknown: absmax F32, weight U8"),
        ({"position_ids": ("I64", (1, 77))}, "unknown: position_ids I64"),
    ],
)
def test_a_form_has_a_name(parts: dict[str, Entry], label: str) -> None:
    assert label == scheme_of(form(parts)).label


def test_a_declared_width_decides_where_the_shapes_leave_two() -> None:
    open_ = scheme_of(form({**without(INT4, "weight_zero_point"), "weight_scale": ("BF16", (N, K // 128))}))

    assert (None, None) == (open_.bits, open_.group_size)
    assert "pack-quantized int4 g128" == decide(open_, frozenset({4})).label
    assert "pack-quantized int8 g64" == decide(open_, frozenset({8})).label
    assert open_ == decide(open_, frozenset({4, 8})) == decide(open_, frozenset())


def test_a_declared_width_does_not_overrule_the_shapes() -> None:
    assert "pack-quantized int4 g32 asym" == decide(scheme_of(form(INT4)), frozenset({8})).label


def test_input_scales_are_noted() -> None:
    assert scheme_of(form(NVFP4)).static_inputs
    assert not scheme_of(form(without(NVFP4, "input_scale"))).static_inputs


@pytest.mark.parametrize("parts", [INT4, NVFP4, FP8_BLOCK, MXFP4, MXFP8, AWQ, GPTQ])
def test_what_quantises_is_quantised(parts: dict[str, Entry]) -> None:
    assert scheme_of(form(parts)).quantised
    assert not scheme_of(form(BF16)).quantised


# Whole checkpoints


SMALL: dict[str, dict[str, Entry]] = {
    "bf16": {"weight": ("BF16", (4, 8))},
    "norm": {"weight": ("BF16", (4,))},
    "nvfp4": {
        "weight": ("U8", (4, 8)),
        "weight_scale": ("F8_E4M3", (4, 1)),
        "weight_scale_2": ("F32", ()),
        "input_scale": ("F32", ()),
    },
    "int4": {
        "weight_packed": ("I32", (8, 8)),
        "weight_scale": ("BF16", (8, 2)),
        "weight_zero_point": ("I32", (1, 2)),
        "weight_shape": ("I64", (2,)),
    },
    "fp8": {"weight": ("F8_E4M3", (4, 8)), "weight_scale_inv": ("F32", (1, 1))},
    "odd": {"weight": ("U8", (3,)), "spice": ("I64", (1,))},
}

Named = tuple[str, str, tuple[int, ...]]


def named(modules: dict[str, dict[str, Entry]]) -> list[Named]:
    return [
        (f"{module}.{suffix}", dtype, shape)
        for module, parts in modules.items()
        for suffix, (dtype, shape) in parts.items()
    ]


def header(tensors: Iterable[Named]) -> Header:
    listed = list(tensors)
    raw = render_header(listed, None)
    return parse_header(raw, len(raw) + sum(count_bytes(dtype, shape) for _, dtype, shape in listed))


PATHS = [
    f"model.layers.{layer}.{component}"
    for layer in range(3)
    for component in ("self_attn.q_proj", "mlp.experts.0.up_proj", "mlp.experts.11.up_proj", "input_layernorm")
] + ["lm_head", "mtp.layers.0.mlp.gate"]


@given(
    modules=st.dictionaries(st.sampled_from(PATHS), st.sampled_from(sorted(SMALL)), min_size=1),
    shards=st.integers(1, 4),
    seed=st.randoms(use_true_random=False),
)
def test_schemes_do_not_depend_on_the_order_of_tensors_or_on_how_shards_are_cut(
    modules: dict[str, str], shards: int, seed: random.Random
) -> None:
    tensors = named({path: SMALL[kind] for path, kind in modules.items()})
    whole = find_modules([header(tensors)])
    seed.shuffle(tensors)
    cuts = [seed.randrange(shards) for _ in tensors]
    headers = [header(t for t, at in zip(tensors, cuts, strict=True) if at == shard) for shard in range(shards)]

    cut = find_modules(headers)

    assert whole == cut == {path: form(SMALL[kind]) for path, kind in modules.items()}
    assert classify(whole, place_modules(whole)) == classify(cut, place_modules(cut))


def test_equal_forms_are_one_object_so_that_a_quarter_of_a_million_tensors_cost_little() -> None:
    modules = find_modules([header(named({f"layers.0.mlp.experts.{n}.up_proj": SMALL["nvfp4"] for n in range(50)}))])

    assert 1 == len({id(form) for form in modules.values()})


def test_modules_are_counted_by_component_and_scheme() -> None:
    tensors = {
        **{f"model.layers.{n}.mlp.experts.{e}.up_proj": SMALL["nvfp4"] for n in (1, 2) for e in range(3)},
        **{f"model.layers.3.mlp.experts.{e}.up_proj": SMALL["bf16"] for e in range(3)},
        "lm_head": SMALL["bf16"],
    }
    modules = find_modules([header(named(tensors))])

    rows = classify(modules, place_modules(modules))

    assert [
        ("model.layers", "mlp.experts", "modelopt-nvfp4 g16", (1, 2), 6, 24, 6 * (32 + 4 + 8)),
        ("model.layers", "mlp.experts", "dense BF16", (3,), 3, 3, 3 * 64),
        ("", "lm_head", "dense BF16", (), 1, 1, 64),
    ] == [(r.stack, r.component, r.scheme.label, r.layers, r.modules, r.tensors, r.bytes) for r in rows]


def test_experts_are_counted_layer_by_layer() -> None:
    tensors = {
        **{f"model.layers.{n}.mlp.experts.{e}.up_proj": SMALL["bf16"] for n in (1, 2) for e in range(4)},
        **{f"model.layers.3.mlp.experts.{e}.up_proj": SMALL["bf16"] for e in (0, 3)},
        "model.layers.1.mlp.shared_experts.up_proj": SMALL["bf16"],
        "model.layers.4.mlp.experts": {"gate_up_proj": ("BF16", (8, 2, 2)), "gate_up_proj_bias": ("BF16", (8, 2))},
    }
    modules = find_modules([header(named(tensors))])

    experts = count_experts(modules, place_modules(modules))

    assert {(1, 2): (0, 1, 2, 3), (3,): (0, 3), (4,): tuple(range(8))} == {g.layers: g.numbers for g in experts.routed}
    assert [(1,)] == [group.layers for group in experts.shared]


@pytest.mark.parametrize(
    ("paths", "dialect", "layers"),
    [
        (["model.layers.5.eh_proj", "model.layers.6.eh_proj"], "model.layers.N", (5, 6)),
        (["model.language_model.layers.5.eh_proj"], "model.language_model.layers.N", (5,)),
        (["mtp.layers.0.mlp.gate", "mtp.fc"], "mtp.*", (0,)),
        (["mtp.fc", "mtp.norm"], "mtp.*", ()),
        (["model.mtp_layers.0.input_proj"], "model.mtp_layers.*", (0,)),
        (["model.mtp.layers.1.eh_proj"], "model.mtp.*", (1,)),
    ],
)
def test_draft_layers_are_found_under_each_dialect(paths: list[str], dialect: str, layers: tuple[int, ...]) -> None:
    tensors = dict.fromkeys([*paths, "model.layers.4.mlp.gate", "vision.blocks.9.attn.proj"], SMALL["bf16"])
    modules = find_modules([header(named(tensors))])

    drafts = find_drafts(modules, place_modules(modules), 5)

    assert [(dialect, layers, len(paths), 64 * len(paths))] == [tuple(draft) for draft in drafts]


def test_without_a_config_a_trunk_has_no_end() -> None:
    modules = find_modules([header(named({"model.layers.5.eh_proj": SMALL["bf16"]}))])

    assert () == find_drafts(modules, place_modules(modules), None)


def test_a_scheme_is_a_document() -> None:
    assert {
        "scheme": "fp8-block 128x128",
        "kind": "fp8-block",
        "dtype": None,
        "bits": 8,
        "group_size": None,
        "block": [128, 128],
        "symmetric": None,
        "static_inputs": False,
    } == Scheme(kind="fp8-block", bits=8, block=(128, 128)).document()
