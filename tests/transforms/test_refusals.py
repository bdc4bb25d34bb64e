"""Bad input is refused by a named rule, before anything is returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from overlay.transforms import (
    RULES,
    TransformProblem,
    cast,
    dequantise_awq,
    dequantise_fp8,
    dequantise_fp8_blocks,
    dequantise_gptq,
    dequantise_modelopt_nvfp4,
    dequantise_mxfp4,
    dequantise_mxfp8,
    dequantise_packed_integers,
    dequantise_packed_nvfp4,
    measure,
    pack_codes,
    quantise_fp8_blocks,
    quantise_fp8_rows,
    quantise_fp8_tensor,
    quantise_modelopt_nvfp4,
    quantise_mxfp4,
    quantise_mxfp8,
    quantise_packed_integers,
    quantise_packed_nvfp4,
    reciprocal_scale,
    shared_global_scale,
    unpack_codes,
)

E4M3 = torch.float8_e4m3fn
NAN, INF = float("nan"), float("inf")

ENCODERS: dict[str, Callable[[Tensor], Any]] = {
    "modelopt-nvfp4": quantise_modelopt_nvfp4,
    "packed-nvfp4": quantise_packed_nvfp4,
    "int4": quantise_packed_integers,
    "int4-symmetric": lambda weight: quantise_packed_integers(weight, symmetric=True),
    "int8": lambda weight: quantise_packed_integers(weight, bits=8),
    "fp8-blocks": quantise_fp8_blocks,
    "fp8-rows": quantise_fp8_rows,
    "fp8-tensor": quantise_fp8_tensor,
    "mxfp4": quantise_mxfp4,
    "mxfp8": quantise_mxfp8,
}
GROUPED = ["modelopt-nvfp4", "packed-nvfp4", "int4", "int4-symmetric", "int8", "mxfp4", "mxfp8"]


def weight(rows: int = 4, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).bfloat16()


def refused(call: Callable[[], Any]) -> TransformProblem:
    with pytest.raises(TransformProblem) as caught:
        call()
    problem = caught.value
    assert isinstance(problem, ValueError)
    assert "\n" not in str(problem)
    start = f"{problem.part}: expected {problem.expected}, found {problem.found} (rule {problem.rule}"
    assert str(problem).startswith(start)
    return problem


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_weight_that_is_not_finite(encoder: str, value: float, dtype: torch.dtype) -> None:
    bad = weight(300, 2048).to(dtype)
    bad[299, 2047] = value

    assert "finite-weight" == refused(lambda: ENCODERS[encoder](bad)).rule


@pytest.mark.parametrize("encoder", GROUPED)
@pytest.mark.parametrize("columns", [1, 15, 33, 72])
def test_columns_that_the_group_size_does_not_divide(encoder: str, columns: int) -> None:
    assert "group-divides" == refused(lambda: ENCODERS[encoder](weight(4, columns))).rule


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (weight().to(torch.float64), "dtype"),
        (weight().to(E4M3), "dtype"),
        (weight().to(torch.int8), "dtype"),
        (weight()[0], "matrix"),
        (weight()[None], "matrix"),
        (weight()[:0], "matrix"),
    ],
    ids=["F64", "F8", "I8", "vector", "stack", "empty"],
)
def test_what_is_no_matrix_of_floats(encoder: str, bad: Tensor, rule: str) -> None:
    assert rule == refused(lambda: ENCODERS[encoder](bad)).rule


def nvfp4(**changes: Tensor) -> dict[str, Tensor]:
    return quantise_modelopt_nvfp4(weight())._asdict() | changes


def packed(**changes: Tensor) -> dict[str, Tensor]:
    return quantise_packed_nvfp4(weight())._asdict() | changes


def int4(**changes: Tensor | None) -> dict[str, Any]:
    return quantise_packed_integers(weight(16))._asdict() | changes


def blocks(**changes: Tensor) -> dict[str, Tensor]:
    return quantise_fp8_blocks(weight(130, 200))._asdict() | changes


def rows(**changes: Tensor) -> dict[str, Tensor]:
    return quantise_fp8_rows(weight())._asdict() | changes


def words(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def bytes_(*shape: int, value: int = 0) -> Tensor:
    return torch.full(shape, value, dtype=torch.uint8)


def scales(*shape: int, value: float = 1.0) -> Tensor:
    return torch.full(shape, float(value))


def awq(**changes: Tensor) -> dict[str, Tensor]:
    return {"qweight": words(64, 2), "qzeros": words(2, 2), "scales": scales(2, 16).half()} | changes


def gptq(**changes: Any) -> dict[str, Any]:
    return {"qweight": words(8, 16), "qzeros": words(2, 2), "scales": scales(2, 16).half()} | changes


def with_one(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.float()
    changed.view(-1)[-1] = value
    return changed.to(tensor.dtype)


@pytest.mark.parametrize(
    ("part", "rule", "call"),
    [
        ("weight", "dtype", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight=words(4, 32)))),
        ("weight", "matrix", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight=bytes_(128)))),
        ("weight", "group-divides", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight=bytes_(4, 31)))),
        ("weight_scale", "dtype", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale=scales(4, 4)))),
        ("weight_scale", "dtype", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale=bytes_(4, 4)))),
        ("weight_scale", "shape", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale=scales(4, 2).to(E4M3)))),
        ("weight_scale", "shape", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale=scales(2, 8).to(E4M3)))),
        *(
            ("weight_scale", "finite-scale", lambda c=c: dequantise_modelopt_nvfp4(**nvfp4(weight_scale=c)))
            for c in (bytes_(4, 4, value=0x7F).view(E4M3), bytes_(4, 4, value=0xFF).view(E4M3))
        ),
        ("weight_scale_2", "dtype", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale_2=scales().bfloat16()))),
        ("weight_scale_2", "shape", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale_2=scales(2)))),
        (
            "weight_scale_2",
            "finite-scale",
            lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale_2=scales(value=NAN))),
        ),
        (
            "weight_scale_2",
            "finite-scale",
            lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale_2=scales(value=INF))),
        ),
        (
            "weight_scale_2",
            "positive-scale",
            lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale_2=scales(value=0))),
        ),
        (
            "weight_scale_2",
            "positive-scale",
            lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale_2=scales(value=-1))),
        ),
        ("decoded weight", "overflow", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale_2=scales(value=1e36)))),
        ("decoded weight", "overflow", lambda: dequantise_modelopt_nvfp4(**nvfp4(weight_scale_2=scales(value=3e38)))),
        ("decoded weight", "dtype", lambda: dequantise_modelopt_nvfp4(**nvfp4(), dtype=E4M3)),
        ("weight_global_scale", "dtype", lambda: dequantise_packed_nvfp4(**packed(weight_global_scale=words(1)))),
        ("weight_packed", "dtype", lambda: dequantise_packed_nvfp4(**packed(weight_packed=words(4, 32)))),
        ("weight_scale_2", "overflow", lambda: quantise_modelopt_nvfp4(weight(), scales(value=1e-38))),
        ("weight_global_scale", "overflow", lambda: quantise_packed_nvfp4(weight(), scales(1, value=1e38))),
        ("weight_global_scale", "overflow", lambda: shared_global_scale(weight().half() * 1e-4)),
        ("weight_scale_2", "positive-scale", lambda: reciprocal_scale("weight_scale_2", scales(value=0))),
        ("1 / weight_scale_2", "finite-scale", lambda: reciprocal_scale("weight_scale_2", scales(value=1e-45))),
        ("weight_packed", "dtype", lambda: dequantise_packed_integers(**int4(weight_packed=bytes_(16, 8)))),
        ("weight_packed", "shape", lambda: dequantise_packed_integers(**int4(weight_packed=words(16, 4)))),
        ("weight_packed", "shape", lambda: dequantise_packed_integers(**int4(), bits=8)),
        ("weight_packed", "bits", lambda: dequantise_packed_integers(**int4(), bits=3)),
        ("weight_packed", "bits", lambda: quantise_packed_integers(weight(), bits=2)),
        ("weight", "group-divides", lambda: quantise_packed_integers(weight(), group_size=0)),
        ("weight", "group-divides", lambda: quantise_packed_integers(weight(), group_size=-1)),
        ("weight_scale", "overflow", lambda: quantise_packed_integers(torch.tensor([[3e38, -3e38] * 16]))),
        ("weight_scale", "shape", lambda: dequantise_packed_integers(**int4(weight_scale=scales(8, 2)))),
        ("weight_scale", "group-divides", lambda: dequantise_packed_integers(**int4(weight_scale=scales(16, 3)))),
        ("weight_scale", "dtype", lambda: dequantise_packed_integers(**int4(weight_scale=bytes_(16, 2)))),
        (
            "weight_scale",
            "finite-scale",
            lambda: dequantise_packed_integers(**int4(weight_scale=scales(16, 2, value=NAN))),
        ),
        ("weight_zero_point", "dtype", lambda: dequantise_packed_integers(**int4(weight_zero_point=scales(2, 2)))),
        ("weight_zero_point", "shape", lambda: dequantise_packed_integers(**int4(weight_zero_point=words(16, 2)))),
        ("weight_shape", "dtype", lambda: dequantise_packed_integers(**int4(weight_shape=words(2)))),
        ("weight_shape", "shape", lambda: dequantise_packed_integers(**int4(weight_shape=torch.tensor([16])))),
        ("weight_packed", "shape", lambda: dequantise_packed_integers(**int4(weight_shape=torch.tensor([64, 16])))),
        (
            "decoded weight",
            "overflow",
            lambda: dequantise_packed_integers(**int4(weight_scale=scales(16, 2, value=1e30)), dtype=torch.float16),
        ),
        ("codes", "dtype", lambda: pack_codes(bytes_(2, 2))),
        ("packed codes", "shape", lambda: unpack_codes(words(2, 2), 4, 17)),
        ("weight", "dtype", lambda: dequantise_fp8_blocks(**blocks(weight=bytes_(130, 200)))),
        (
            "weight",
            "finite-weight",
            lambda: dequantise_fp8_blocks(**blocks(weight=bytes_(130, 200, value=255).view(E4M3))),
        ),
        ("weight_scale_inv", "shape", lambda: dequantise_fp8_blocks(**blocks(weight_scale_inv=scales(1, 2)))),
        ("weight_scale_inv", "shape", lambda: dequantise_fp8_blocks(**blocks(), block=(64, 64))),
        (
            "weight_scale_inv",
            "finite-scale",
            lambda: dequantise_fp8_blocks(**blocks(weight_scale_inv=scales(2, 2) * NAN)),
        ),
        ("weight_block_size", "block-size", lambda: quantise_fp8_blocks(weight(), block=(0, 128))),
        ("weight_scale", "shape", lambda: dequantise_fp8(**rows(weight_scale=scales(3, 1)))),
        ("weight_scale", "shape", lambda: dequantise_fp8(**rows(weight_scale=scales(1, 64)))),
        ("weight_scale", "dtype", lambda: dequantise_fp8(**rows(weight_scale=words(4, 1)))),
        ("weight_scale", "dtype", lambda: quantise_fp8_rows(weight(), scale_dtype=torch.float16)),
        ("decoded weight", "overflow", lambda: dequantise_fp8(**rows(weight_scale=scales(4, 1, value=1e38)))),
        ("weight_scale", "dtype", lambda: dequantise_mxfp4(bytes_(4, 32), scales(4, 2))),
        ("weight_scale", "shape", lambda: dequantise_mxfp4(bytes_(4, 32), bytes_(4, 4))),
        ("weight_scale", "finite-scale", lambda: dequantise_mxfp4(bytes_(4, 32), bytes_(4, 2, value=255))),
        ("weight_packed", "group-divides", lambda: dequantise_mxfp4(bytes_(4, 24), bytes_(4, 1))),
        ("decoded weight", "overflow", lambda: dequantise_mxfp4(bytes_(4, 32, value=0x77), bytes_(4, 2, value=254))),
        ("weight", "finite-weight", lambda: dequantise_mxfp8(bytes_(4, 32, value=127).view(E4M3), bytes_(4, 1))),
        ("qweight", "dtype", lambda: dequantise_awq(**awq(qweight=bytes_(64, 2)))),
        ("qzeros", "shape", lambda: dequantise_awq(**awq(qzeros=words(4, 2)))),
        ("scales", "shape", lambda: dequantise_awq(**awq(scales=scales(2, 8)))),
        ("scales", "group-divides", lambda: dequantise_awq(**awq(scales=scales(3, 16), qzeros=words(3, 2)))),
        ("scales", "finite-scale", lambda: dequantise_awq(**awq(scales=scales(2, 16, value=INF)))),
        ("qweight", "bits", lambda: dequantise_gptq(**gptq(), bits=3)),
        ("qzeros", "shape", lambda: dequantise_gptq(**gptq(qzeros=words(2, 1)))),
        ("g_idx", "shape", lambda: dequantise_gptq(**gptq(g_idx=torch.zeros(8, dtype=torch.int32)))),
        ("g_idx", "group-index", lambda: dequantise_gptq(**gptq(g_idx=torch.full((64,), 2, dtype=torch.int32)))),
        ("g_idx", "group-index", lambda: dequantise_gptq(**gptq(g_idx=torch.full((64,), -1, dtype=torch.int32)))),
        ("tensor", "dtype", lambda: cast(words(4), torch.bfloat16)),
        ("decoded weight", "dtype", lambda: cast(weight(), torch.int8)),
        ("tensor", "finite-weight", lambda: cast(with_one(weight(), NAN), torch.float32)),
        ("tensor", "finite-weight", lambda: cast(with_one(weight(), -INF), torch.float32)),
        ("tensor", "overflow", lambda: cast(with_one(weight(), -65536), torch.float16)),
        ("tensor", "overflow", lambda: cast(torch.tensor([3.4e38]), torch.bfloat16)),
        ("restored", "shape", lambda: measure(weight(), weight(2))),
        ("original or restored", "finite-weight", lambda: measure(with_one(weight(), NAN), weight())),
        ("original or restored", "finite-weight", lambda: measure(weight(), with_one(weight(), INF))),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_partners_that_do_not_fit(part: str, rule: str, call: Callable[[], Any]) -> None:
    problem = refused(call)

    assert (part, rule) == (problem.part, problem.rule)


def test_every_rule_has_a_sentence() -> None:
    assert all(sentence and not sentence.endswith(".") for sentence in RULES.values())
    assert all(TransformProblem(rule, "weight", expected="a", found="b").rule == rule for rule in RULES)
