"""The words that libraries have for a weight scheme, read and written: the innermost part of a ``quantization_config``.

Sources: compressed-tensors 0.20 (`QuantizationArgs`, `QuantizationScheme`), ModelOpt 0.47 (`convert_hf_config`),
transformers 5.23 (`FineGrainedFP8Config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from overlay.formats.weight_schemes import FP8_BLOCK, MX_GROUP, NVFP4_GROUP, WeightScheme, nvfp4

_DTYPES: Final = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float8_e4m3fn": "F8_E4M3",
    "uint8": "U8",
    "float8_e8m0fnu": "F8_E8M0",
}
"""torch's word for a dtype to that of a safetensors header."""


class WordsProblem(ValueError):
    """A declaration that no recipe can write: ``key: expected …, found …``."""


def compressed_scheme(group: Mapping[str, Any], declared_format: object) -> WeightScheme | None:
    """The scheme of a group of compressed-tensors; None where its weights are not quantised.

    Args:
        group: an entry of ``config_groups``.
        declared_format: ``format`` of the whole declaration, for a group that has none.

    Raises:
        WordsProblem: the group is malformed, or its format is one that no recipe writes.
    """
    weights = group.get("weights")
    if weights is None:
        return None
    if not isinstance(weights, Mapping):
        raise WordsProblem(f"weights: expected a mapping, found {type(weights).__name__}")
    if weights.get("dynamic") not in (None, False):
        raise WordsProblem(f"weights.dynamic: expected false, found {weights['dynamic']!r}")
    if weights.get("actorder") not in (None, False, "weight", "static"):
        raise WordsProblem(f"weights.actorder: expected none or 'weight', found {weights['actorder']!r}")
    static = _static(group.get("input_activations"))
    name = group.get("format") or declared_format
    if name == "pack-quantized":
        return _integers(weights, static)
    if name in ("float-quantized", "naive-quantized"):
        return _fp8(weights, static)
    if name == "nvfp4-pack-quantized":
        _require(weights, num_bits=4, type="float", strategy="tensor_group", group_size=NVFP4_GROUP)
        return nvfp4("nvfp4-pack-quantized", static_inputs=static)
    if name == "mxfp4-pack-quantized":
        _require(weights, num_bits=4, type="float", strategy="group", group_size=MX_GROUP)
        return WeightScheme(format="mxfp4", bits=4, group_size=MX_GROUP, static_inputs=static)
    if name == "mxfp8-quantized":
        _require(weights, num_bits=8, type="float", strategy="group", group_size=MX_GROUP)
        return WeightScheme(format="mxfp8", bits=8, group_size=MX_GROUP, static_inputs=static)
    raise WordsProblem(f"format: expected a format that recipes write, found {name!r}")


def _integers(weights: Mapping[str, Any], static: bool) -> WeightScheme:
    _require(weights, type="int")
    bits, strategy = weights.get("num_bits"), weights.get("strategy")
    if bits not in (4, 8):
        raise WordsProblem(f"weights.num_bits: expected 4 or 8, found {bits!r}")
    group = weights.get("group_size")
    strategy = strategy or ("channel" if group in (None, -1) else "group")
    if strategy not in ("group", "channel"):
        raise WordsProblem(f"weights.strategy: expected 'group' or 'channel', found {strategy!r}")
    if strategy == "group" and (type(group) is not int or group < 1):
        raise WordsProblem(f"weights.group_size: expected a positive whole number, found {group!r}")
    symmetric = weights.get("symmetric", True)
    if type(symmetric) is not bool:
        raise WordsProblem(f"weights.symmetric: expected true or false, found {symmetric!r}")
    return WeightScheme(
        format="pack-quantized",
        bits=bits,
        group_size=group if strategy == "group" else None,
        symmetric=symmetric,
        scale_dtype=_scale_dtype(weights),
        static_inputs=static,
    )


def _fp8(weights: Mapping[str, Any], static: bool) -> WeightScheme:
    _require(weights, num_bits=8, type="float")
    strategy, dtype = weights.get("strategy"), _scale_dtype(weights)
    if strategy == "block":
        block = _block(weights.get("block_structure"), "weights.block_structure")
        return WeightScheme(format="fp8-block", block=block, scale_dtype=dtype, static_inputs=static)
    if strategy == "channel":
        return WeightScheme(format="fp8-channel", scale_dtype=dtype, static_inputs=static)
    if strategy == "tensor":
        return WeightScheme(format="fp8-tensor", scale_dtype=dtype, static_inputs=static)
    raise WordsProblem(f"weights.strategy: expected 'block', 'channel' or 'tensor', found {strategy!r}")


def modelopt_scheme(algorithm: object, layer: Mapping[str, Any]) -> WeightScheme | None:
    """The scheme of ModelOpt's ``quant_algo``.

    Raises:
        WordsProblem: an algorithm that no recipe writes.
    """
    if algorithm in ("NVFP4", "W4A16_NVFP4"):
        if layer.get("group_size", NVFP4_GROUP) != NVFP4_GROUP:
            raise WordsProblem(f"group_size: expected {NVFP4_GROUP}, found {layer['group_size']!r}")
        return nvfp4("modelopt-nvfp4", static_inputs=algorithm == "NVFP4")
    if algorithm == "FP8":
        return WeightScheme(format="fp8-tensor", static_inputs=True)
    if algorithm == "FP8_PB_WO":
        return WeightScheme(format="fp8-block", block=FP8_BLOCK)
    raise WordsProblem(f"quant_algo: expected NVFP4, W4A16_NVFP4, FP8 or FP8_PB_WO, found {algorithm!r}")


def fp8_scheme(value: Mapping[str, Any]) -> WeightScheme:
    """The scheme of ``quant_method: fp8``: DeepSeek's blocks, or one scale a tensor.

    Raises:
        WordsProblem: another kind of eight-bit float, or a malformed block.
    """
    if value.get("fmt", "e4m3") != "e4m3":
        raise WordsProblem(f"fmt: expected 'e4m3', found {value['fmt']!r}")
    static = value.get("activation_scheme", "dynamic") != "dynamic"
    if value.get("weight_block_size") is None:
        return WeightScheme(format="fp8-tensor", static_inputs=static)
    block = _block(value["weight_block_size"], "weight_block_size")
    return WeightScheme(format="fp8-block", block=block, scale_name="weight_scale_inv", static_inputs=static)


def compressed_group(scheme: WeightScheme, targets: list[str]) -> dict[str, Any]:
    """An entry of ``config_groups`` for `scheme`, weights only."""
    name, weights = _COMPRESSED_WORDS[scheme.format]
    weights = {"num_bits": scheme.bits, "symmetric": scheme.symmetric, "dynamic": False, **weights}
    if scheme.format == "pack-quantized":
        weights |= {"strategy": "group" if scheme.group_size else "channel"}
    if scheme.group_size:
        weights["group_size"] = scheme.group_size
    if scheme.block:
        weights["block_structure"] = list(scheme.block)
    group = {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None}
    return {**group, "format": name}


_COMPRESSED_WORDS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "pack-quantized": ("pack-quantized", {"type": "int"}),
    "nvfp4-pack-quantized": ("nvfp4-pack-quantized", {"type": "float", "strategy": "tensor_group"}),
    "fp8-block": ("float-quantized", {"type": "float", "strategy": "block"}),
    "fp8-channel": ("float-quantized", {"type": "float", "strategy": "channel"}),
    "fp8-tensor": ("float-quantized", {"type": "float", "strategy": "tensor"}),
    "mxfp4": ("mxfp4-pack-quantized", {"type": "float", "strategy": "group"}),
    "mxfp8": ("mxfp8-quantized", {"type": "float", "strategy": "group"}),
}
"""Format to ``format`` of compressed-tensors, and the words that it has for it."""


def _static(activations: object) -> bool:
    """Whether a scale of the inputs is stored; ``dynamic: local`` has one for the whole tensor."""
    return isinstance(activations, Mapping) and activations.get("dynamic") is not True


def _require(weights: Mapping[str, Any], **wanted: object) -> None:
    for key, value in wanted.items():
        if weights.get(key) != value:
            raise WordsProblem(f"weights.{key}: expected {value!r}, found {weights.get(key)!r}")


def _scale_dtype(weights: Mapping[str, Any]) -> str | None:
    value = weights.get("scale_dtype")
    if value is None:
        return None
    dtype = _DTYPES.get(str(value).removeprefix("torch."))
    if dtype is None:
        raise WordsProblem(f"weights.scale_dtype: expected a dtype of torch, found {value!r}")
    return dtype


def _block(value: object, key: str) -> tuple[int, int]:
    if isinstance(value, str):
        value = [int(side) if side.isdecimal() and len(side) < 8 else side for side in value.split("x")]
    if not isinstance(value, list) or len(value) != 2 or any(type(side) is not int or side < 1 for side in value):
        raise WordsProblem(f"{key}: expected two positive whole numbers, found {value!r}")
    return value[0], value[1]
