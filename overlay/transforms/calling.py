"""Calls of a recipe carried out: which function of this room does what a `Call` says, and with which of its inputs.

A call names its inputs by roles, mostly the suffixes of partners, and so are the results named that an encoder returns;
`core.recipes.values` has the table.  Nothing is decided here: what a call does not say follows from the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from overlay.core.recipes.values import Call, Operation
from overlay.transforms.awq_gptq import dequantise_awq, dequantise_gptq
from overlay.transforms.casting import cast
from overlay.transforms.dtypes import TORCH_DTYPES
from overlay.transforms.experts import keep_rows
from overlay.transforms.fp8 import (
    BLOCK,
    dequantise_fp8,
    dequantise_fp8_blocks,
    quantise_fp8_blocks,
    quantise_fp8_rows,
    quantise_fp8_tensor,
)
from overlay.transforms.fusing import fuse_experts, fuse_rows, split_experts, split_rows
from overlay.transforms.integer import dequantise_packed_integers, quantise_packed_integers
from overlay.transforms.mx import dequantise_mxfp4, dequantise_mxfp8, quantise_mxfp4, quantise_mxfp8
from overlay.transforms.nvfp4 import (
    dequantise_modelopt_nvfp4,
    dequantise_packed_nvfp4,
    quantise_modelopt_nvfp4,
    quantise_packed_nvfp4,
    reciprocal_scale,
    shared_global_scale,
    shared_weight_scale_2,
)
from overlay.transforms.problems import TransformProblem

Parts = Mapping[str, Tensor]
"""Tensors of one weight, by role."""

Params = Mapping[str, Any]
"""Parameters of a call, by name."""


def perform(call: Call, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs of `call`, in its order; `tensors` are its inputs, in its order.

    Raises:
        TransformProblem: the tensors are not what a rule asks for.
    """
    return tuple(_OPERATIONS[call.op](call, tensors))


def decode(format: str, parts: Parts, params: Params, dtype: torch.dtype) -> Tensor:
    """`dtype` [N, K]: the weight that `parts` stand for.

    Raises:
        TransformProblem: as the function of the format.
    """
    return _DECODERS[format](parts, params, dtype)


def _cast(call: Call, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return (cast(tensors[0], TORCH_DTYPES[str(call.parameters["to"])]),)


def _dequantize(call: Call, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    params: Params = call.parameters
    parts = _by_role(call, tensors)
    shape = parts.get("weight_shape")
    if shape is not None and tuple(shape.tolist()) != call.outputs[0].shape:
        # Only the bytes of a donor tell this, and its header promised another shape.
        expected, found = str(list(call.outputs[0].shape)), str(shape.tolist())
        raise TransformProblem("shape", "weight_shape", expected=expected, found=found)
    return (decode(params["format"], parts, params, TORCH_DTYPES[params["to"]]),)


def _decode_packed(parts: Parts, params: Params, dtype: torch.dtype) -> Tensor:
    zeros = parts.get("weight_zero_point")
    return dequantise_packed_integers(
        parts["weight_packed"], parts["weight_scale"], zeros, parts["weight_shape"], bits=params["bits"], dtype=dtype
    )


def _decode_fp8_blocks(parts: Parts, params: Params, dtype: torch.dtype) -> Tensor:
    scale = parts[params.get("scale_name") or ("weight_scale_inv" if "weight_scale_inv" in parts else "weight_scale")]
    return dequantise_fp8_blocks(parts["weight"], scale, block=params.get("block") or BLOCK, dtype=dtype)


def _decode_fp8(parts: Parts, params: Params, dtype: torch.dtype) -> Tensor:
    return dequantise_fp8(parts["weight"], parts["weight_scale"], dtype)


def _decode_mxfp4(parts: Parts, params: Params, dtype: torch.dtype) -> Tensor:
    packed = parts["weight_packed"] if "weight_packed" in parts else parts["weight"]
    return dequantise_mxfp4(packed, parts["weight_scale"], dtype)


def _decode_gptq(parts: Parts, params: Params, dtype: torch.dtype) -> Tensor:
    return dequantise_gptq(
        parts["qweight"],
        parts["qzeros"],
        parts["scales"],
        parts.get("g_idx"),
        bits=params["bits"],
        zeros_less_one=params["checkpoint_format"] == "gptq",
        dtype=dtype,
    )


_DECODERS: Final[dict[str, Callable[[Parts, Params, torch.dtype], Tensor]]] = {
    "modelopt-nvfp4": lambda parts, params, dtype: dequantise_modelopt_nvfp4(
        parts["weight"], parts["weight_scale"], parts["weight_scale_2"], dtype
    ),
    "nvfp4-pack-quantized": lambda parts, params, dtype: dequantise_packed_nvfp4(
        parts["weight_packed"], parts["weight_scale"], parts["weight_global_scale"], dtype
    ),
    "pack-quantized": _decode_packed,
    "fp8-block": _decode_fp8_blocks,
    "fp8-channel": _decode_fp8,
    "fp8-tensor": _decode_fp8,
    "mxfp4": _decode_mxfp4,
    "mxfp8": lambda parts, params, dtype: dequantise_mxfp8(parts["weight"], parts["weight_scale"], dtype),
    "awq": lambda parts, params, dtype: dequantise_awq(parts["qweight"], parts["qzeros"], parts["scales"], dtype),
    "gptq": _decode_gptq,
}


def _quantize(call: Call, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    params: Params = call.parameters
    made = _ENCODERS[params["format"]](_by_role(call, tensors), params)
    return [made[spec.role] for spec in call.outputs]


def _encode_packed(parts: Parts, params: Params) -> Parts:
    made = quantise_packed_integers(
        parts["weight"], bits=params["bits"], group_size=params.get("group_size"), symmetric=params["symmetric"]
    )
    return made._asdict()


def _encode_fp8_blocks(parts: Parts, params: Params) -> Parts:
    made = quantise_fp8_blocks(parts["weight"], block=params.get("block") or BLOCK)
    return {"weight": made.weight, params["scale_name"]: made.weight_scale_inv}


def _encode_fp8_rows(parts: Parts, params: Params) -> Parts:
    wanted = params.get("scale_dtype")
    return quantise_fp8_rows(parts["weight"], scale_dtype=TORCH_DTYPES[wanted] if wanted else None)._asdict()


_ENCODERS: Final[dict[str, Callable[[Parts, Params], Parts]]] = {
    "modelopt-nvfp4": lambda parts, params: quantise_modelopt_nvfp4(
        parts["weight"], parts.get("weight_scale_2")
    )._asdict(),
    "nvfp4-pack-quantized": lambda parts, params: quantise_packed_nvfp4(
        parts["weight"], parts.get("weight_global_scale")
    )._asdict(),
    "pack-quantized": _encode_packed,
    "fp8-block": _encode_fp8_blocks,
    "fp8-channel": _encode_fp8_rows,
    "fp8-tensor": lambda parts, params: quantise_fp8_tensor(parts["weight"])._asdict(),
    "mxfp4": lambda parts, params: quantise_mxfp4(parts["weight"])._asdict(),
    "mxfp8": lambda parts, params: quantise_mxfp8(parts["weight"])._asdict(),
}


def _shared_scale(call: Call, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    shared = shared_weight_scale_2 if call.parameters["format"] == "modelopt-nvfp4" else shared_global_scale
    return (shared(*tensors),)


def _reciprocal(call: Call, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return (reciprocal_scale("scale", tensors[0]).reshape(call.outputs[0].shape),)


def _keep_rows(call: Call, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    rows = call.parameters["rows"]
    assert isinstance(rows, tuple)  # as the recipe was planned
    return (keep_rows(tensors[0], rows),)


def _fuse_rows(call: Call, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return (fuse_rows(*tensors, interleave=bool(call.parameters["interleave"])),)


def _split_rows(call: Call, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return split_rows(tensors[0], len(call.outputs), interleave=bool(call.parameters["interleave"]))


_OPERATIONS: Final[dict[Operation, Callable[[Call, Sequence[Tensor]], Sequence[Tensor]]]] = {
    "cast": _cast,
    "dequantize": _dequantize,
    "quantize": _quantize,
    "shared-scale": _shared_scale,
    "reciprocal": _reciprocal,
    "keep-rows": _keep_rows,
    "fuse-rows": _fuse_rows,
    "split-rows": _split_rows,
    "fuse-experts": lambda call, tensors: (fuse_experts(tensors),),
    "split-experts": lambda call, tensors: split_experts(tensors[0]),
}


def _by_role(call: Call, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {argument.role: tensor for argument, tensor in zip(call.inputs, tensors, strict=True)}
