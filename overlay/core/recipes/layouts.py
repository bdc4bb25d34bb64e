"""What a weight becomes in each format: dtypes and shapes of its partners, both ways, from headers alone.

A weight has N rows and K columns.  `encode` says what quantising gives, `decode` what dequantising gives; each raises a
`LayoutProblem` that names the partner at fault and the rule, in the words that the tensor operations have for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from overlay.core.recipes.values import Parameter, Spec
from overlay.formats.weight_schemes import FLOATS, FP8_BLOCK, MX_GROUP, NVFP4_GROUP, DecodedFormat, WeightScheme

ACTIVATION_PARTS: Final = frozenset({"input_scale", "input_global_scale", "input_zero_point"})
"""Partners that say how inputs are quantised; they go with the format that they belong to."""

_WORD: Final = 32
"""Bits of a word of packed integers."""

Shape = tuple[int, ...]


class LayoutProblem(ValueError):
    """Partners that do not fit together, or a weight that a format cannot hold.

    Args:
        part: the suffix of the tensor at fault.
        rule: the rule's name.
        expected: what it asks for.
        found: what is there instead.
    """

    def __init__(self, part: str, rule: str, expected: str, found: str) -> None:
        self.part = part
        self.rule = rule
        super().__init__(f"expected {expected}, found {found} (rule {rule})")


@dataclass(frozen=True, slots=True)
class Decoded:
    """What dequantising a module gives."""

    shape: tuple[int, int]
    """N and K."""
    params: Mapping[str, Parameter]
    """What the operation has to be told, beside format and dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What shapes do not tell."""

    bits: int | None = None
    block: tuple[int, int] | None = None
    checkpoint_format: str = "gptq"


Parts = Mapping[str, Spec]
"""The partners of a module by their suffixes; what belongs to activations is left out."""


def encode(scheme: WeightScheme, dtype: str, shape: Shape) -> tuple[Spec, ...]:
    """The partners that a weight of `dtype` and `shape` becomes, in the order of the format's own library.

    Raises:
        LayoutProblem: no matrix of floats, columns that do not fit, or a dtype of scales that the format forbids.
    """
    if dtype not in FLOATS:
        raise LayoutProblem("weight", "dtype", " or ".join(FLOATS), dtype)
    if len(shape) != 2 or 0 in shape:
        raise LayoutProblem("weight", "matrix", "rows and columns", str(list(shape)))
    return _ENCODERS[scheme.format](scheme, dtype, shape[0], shape[1])


def _encode_modelopt_nvfp4(scheme: WeightScheme, dtype: str, n: int, k: int) -> tuple[Spec, ...]:
    codes, scale = _encode_nvfp4(scheme, n, k)
    return Spec("weight", "U8", codes), Spec("weight_scale", "F8_E4M3", scale), Spec("weight_scale_2", "F32", ())


def _encode_packed_nvfp4(scheme: WeightScheme, dtype: str, n: int, k: int) -> tuple[Spec, ...]:
    codes, scale = _encode_nvfp4(scheme, n, k)
    packed = Spec("weight_packed", "U8", codes)
    return packed, Spec("weight_scale", "F8_E4M3", scale), Spec("weight_global_scale", "F32", (1,))


def _encode_nvfp4(scheme: WeightScheme, n: int, k: int) -> tuple[Shape, Shape]:
    _require_scale(scheme, "F8_E4M3")
    _require_pairs(k)
    _require_groups("weight", NVFP4_GROUP, k)
    return (n, k // 2), (n, k // NVFP4_GROUP)


def _encode_packed(scheme: WeightScheme, dtype: str, n: int, k: int) -> tuple[Spec, ...]:
    scale_dtype = scheme.scale_dtype or dtype
    if scale_dtype not in (dtype, "F32"):
        wanted = " or ".join(dict.fromkeys((dtype, "F32")))
        raise LayoutProblem("weight_scale", "scale-dtype", f"{wanted} for a weight of {dtype}", scale_dtype)
    group = scheme.group_size or k
    _require_groups("weight", group, k)
    specs = [
        Spec("weight_packed", "I32", (n, _words(k, scheme.bits))),
        Spec("weight_scale", scale_dtype, (n, k // group)),
        Spec("weight_shape", "I64", (2,)),
    ]
    if not scheme.symmetric:
        specs.append(Spec("weight_zero_point", "I32", (_words(n, scheme.bits), k // group)))
    return tuple(specs)


def _encode_fp8_block(scheme: WeightScheme, dtype: str, n: int, k: int) -> tuple[Spec, ...]:
    _require_scale(scheme, "F32")
    height, width = scheme.block or FP8_BLOCK
    return Spec("weight", "F8_E4M3", (n, k)), Spec(scheme.scale_name, "F32", (-(-n // height), -(-k // width)))


def _encode_fp8_channel(scheme: WeightScheme, dtype: str, n: int, k: int) -> tuple[Spec, ...]:
    _require_scale(scheme, dtype, "F32")
    return Spec("weight", "F8_E4M3", (n, k)), Spec("weight_scale", scheme.scale_dtype or dtype, (n, 1))


def _encode_fp8_tensor(scheme: WeightScheme, dtype: str, n: int, k: int) -> tuple[Spec, ...]:
    _require_scale(scheme, "F32")
    return Spec("weight", "F8_E4M3", (n, k)), Spec("weight_scale", "F32", ())


def _encode_mxfp4(scheme: WeightScheme, dtype: str, n: int, k: int) -> tuple[Spec, ...]:
    _require_scale(scheme, "U8")
    _require_groups("weight", MX_GROUP, k)
    return Spec("weight_packed", "U8", (n, k // 2)), Spec("weight_scale", "U8", (n, k // MX_GROUP))


def _encode_mxfp8(scheme: WeightScheme, dtype: str, n: int, k: int) -> tuple[Spec, ...]:
    _require_scale(scheme, "U8")
    _require_groups("weight", MX_GROUP, k)
    return Spec("weight", "F8_E4M3", (n, k)), Spec("weight_scale", "U8", (n, k // MX_GROUP))


_ENCODERS: Final[dict[str, Callable[[WeightScheme, str, int, int], tuple[Spec, ...]]]] = {
    "modelopt-nvfp4": _encode_modelopt_nvfp4,
    "nvfp4-pack-quantized": _encode_packed_nvfp4,
    "pack-quantized": _encode_packed,
    "fp8-block": _encode_fp8_block,
    "fp8-channel": _encode_fp8_channel,
    "fp8-tensor": _encode_fp8_tensor,
    "mxfp4": _encode_mxfp4,
    "mxfp8": _encode_mxfp8,
}


def decode(format: DecodedFormat, parts: Parts, options: Options) -> Decoded:
    """What the partners of a module stand for.

    Raises:
        LayoutProblem: a partner is missing, is one too many, or has a dtype or shape that does not fit.
    """
    required, optional = partners(format, parts)
    for role, dtypes in {**required, **optional}.items():
        if role not in parts:
            if role in required:
                raise LayoutProblem(role, "partner", "this partner", "none")
        elif parts[role].dtype not in dtypes:
            raise LayoutProblem(role, "dtype", " or ".join(dtypes), parts[role].dtype)
    odd = sorted(parts.keys() - required.keys() - optional.keys())
    if odd:
        raise LayoutProblem(odd[0], "partner", f"the partners of {format} only", "one more")
    return _DECODERS[format](parts, options)


def partners(format: DecodedFormat, parts: Parts) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Suffix to dtypes, of the partners that a format must have and of those that it may have.

    A format that two libraries name differently is taken to be named as the one that `parts` are nearer to.
    """
    choices = _PARTNERS[format]
    return max(choices, key=lambda pair: len(pair[0].keys() & parts.keys()))


_Dtypes = dict[str, tuple[str, ...]]
_E4M3 = ("F8_E4M3",)
_EXPONENTS = ("U8", "F8_E8M0")
_PARTNERS: Final[dict[str, tuple[tuple[_Dtypes, _Dtypes], ...]]] = {
    "modelopt-nvfp4": (({"weight": ("U8",), "weight_scale": _E4M3, "weight_scale_2": ("F32",)}, {}),),
    "nvfp4-pack-quantized": (({"weight_packed": ("U8",), "weight_scale": _E4M3, "weight_global_scale": ("F32",)}, {}),),
    "pack-quantized": (
        (
            {"weight_packed": ("I32",), "weight_scale": FLOATS, "weight_shape": ("I64",)},
            {"weight_zero_point": ("I32",)},
        ),
    ),
    "fp8-block": (
        ({"weight": _E4M3, "weight_scale_inv": FLOATS}, {}),
        ({"weight": _E4M3, "weight_scale": FLOATS}, {}),
    ),
    "fp8-channel": (({"weight": _E4M3, "weight_scale": FLOATS}, {}),),
    "fp8-tensor": (({"weight": _E4M3, "weight_scale": FLOATS}, {}),),
    "mxfp4": (
        ({"weight_packed": ("U8",), "weight_scale": _EXPONENTS}, {}),
        ({"weight": ("U8",), "weight_scale": _EXPONENTS}, {}),
    ),
    "mxfp8": (({"weight": _E4M3, "weight_scale": _EXPONENTS}, {}),),
    "awq": (({"qweight": ("I32",), "qzeros": ("I32",), "scales": FLOATS}, {}),),
    "gptq": (({"qweight": ("I32",), "qzeros": ("I32",), "scales": FLOATS}, {"g_idx": ("I32", "I64")}),),
}


def _decode_nvfp4(codes: str, factor: str) -> Callable[[Parts, Options], Decoded]:
    def read(parts: Parts, options: Options) -> Decoded:
        n, packed = _matrix(parts[codes])
        _require_groups(codes, NVFP4_GROUP, 2 * packed)
        _require_shape(parts["weight_scale"], (n, 2 * packed // NVFP4_GROUP))
        _require_shape(parts[factor], (), (1,))
        return Decoded((n, 2 * packed), {})

    return read


def _decode_packed(parts: Parts, options: Options) -> Decoded:
    """The columns are those of the words; `weight_shape` holds them too, and must agree when it is read."""
    n, words = _matrix(parts["weight_packed"])
    groups = _matrix(parts["weight_scale"])[1]
    zeros = parts.get("weight_zero_point")
    _require_shape(parts["weight_scale"], (n, groups))
    fitting = [b for b in (4, 8) if zeros is None or zeros.shape == (_words(n, b), groups)]
    wanted = [b for b in fitting if options.bits in (None, b)]
    if len(wanted) != 1:
        if zeros is not None:
            shapes = " or ".join(str([_words(n, b), groups]) for b in (4, 8) if options.bits in (None, b))
            raise LayoutProblem("weight_zero_point", "shape", shapes, str(list(zeros.shape)))
        raise LayoutProblem("weight_packed", "bits", "bits: 4 or 8 in the step", "shapes that allow both")
    columns = words * _WORD // wanted[0]
    if columns % groups:
        raise LayoutProblem("weight_scale", "group-divides", "groups of one size", f"{groups} for {columns} columns")
    _require_shape(parts["weight_shape"], (2,))
    return Decoded((n, columns), {"bits": wanted[0]})


def _decode_fp8_block(parts: Parts, options: Options) -> Decoded:
    scale = parts.get("weight_scale_inv") or parts["weight_scale"]
    n, k = _matrix(parts["weight"])
    height, width = options.block or FP8_BLOCK
    _require_shape(scale, (-(-n // height), -(-k // width)))
    return Decoded((n, k), {"block": (height, width)})


def _decode_fp8_channel(parts: Parts, options: Options) -> Decoded:
    n, k = _matrix(parts["weight"])
    _require_shape(parts["weight_scale"], (n, 1))
    return Decoded((n, k), {})


def _decode_fp8_tensor(parts: Parts, options: Options) -> Decoded:
    _require_shape(parts["weight_scale"], (), (1,))
    return Decoded(_matrix(parts["weight"]), {})


def _decode_mxfp4(parts: Parts, options: Options) -> Decoded:
    codes = parts.get("weight_packed") or parts["weight"]
    n, packed = _matrix(codes)
    _require_groups(codes.role, MX_GROUP, 2 * packed)
    _require_shape(parts["weight_scale"], (n, 2 * packed // MX_GROUP))
    return Decoded((n, 2 * packed), {})


def _decode_mxfp8(parts: Parts, options: Options) -> Decoded:
    n, k = _matrix(parts["weight"])
    _require_groups("weight", MX_GROUP, k)
    _require_shape(parts["weight_scale"], (n, k // MX_GROUP))
    return Decoded((n, k), {})


def _decode_awq(parts: Parts, options: Options) -> Decoded:
    k, words = _matrix(parts["qweight"])
    groups = _matrix(parts["scales"])[0]
    _require_shape(parts["scales"], (groups, 8 * words))
    _require_shape(parts["qzeros"], (groups, words))
    _require_even_groups(groups, k)
    return Decoded((8 * words, k), {})


def _decode_gptq(parts: Parts, options: Options) -> Decoded:
    words, n = _matrix(parts["qweight"])
    groups = _matrix(parts["scales"])[0]
    _require_shape(parts["scales"], (groups, n))
    bits = next((b for b in (2, 4, 8) if parts["qzeros"].shape == (groups, _words(n, b))), None)
    if bits is None:
        raise LayoutProblem("qzeros", "shape", f"{groups} rows of 2, 4 or 8 bits", str(list(parts["qzeros"].shape)))
    k = words * _WORD // bits
    if "g_idx" in parts:
        _require_shape(parts["g_idx"], (k,))
    else:
        _require_even_groups(groups, k)
    return Decoded((n, k), {"bits": bits, "checkpoint_format": options.checkpoint_format})


_DECODERS: Final[dict[str, Callable[[Parts, Options], Decoded]]] = {
    "modelopt-nvfp4": _decode_nvfp4("weight", "weight_scale_2"),
    "nvfp4-pack-quantized": _decode_nvfp4("weight_packed", "weight_global_scale"),
    "pack-quantized": _decode_packed,
    "fp8-block": _decode_fp8_block,
    "fp8-channel": _decode_fp8_channel,
    "fp8-tensor": _decode_fp8_tensor,
    "mxfp4": _decode_mxfp4,
    "mxfp8": _decode_mxfp8,
    "awq": _decode_awq,
    "gptq": _decode_gptq,
}


def _words(extent: int, bits: int) -> int:
    """Words of 32 bits that hold `extent` elements."""
    return -(-extent * bits // _WORD)


def _matrix(part: Spec) -> tuple[int, int]:
    if len(part.shape) != 2 or 0 in part.shape:
        raise LayoutProblem(part.role, "matrix", "rows and columns", str(list(part.shape)))
    return part.shape[0], part.shape[1]


def _require_shape(part: Spec, *shapes: Shape) -> None:
    if part.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise LayoutProblem(part.role, "shape", expected, str(list(part.shape)))


def _require_scale(scheme: WeightScheme, *dtypes: str) -> None:
    if scheme.scale_dtype not in (None, *dtypes):
        raise LayoutProblem(
            scheme.scale_name, "scale-dtype", " or ".join(dict.fromkeys(dtypes)), str(scheme.scale_dtype)
        )


def _require_pairs(columns: int) -> None:
    if columns % 2:
        raise LayoutProblem("weight", "even-columns", "an even number of columns", f"{columns} columns")


def _require_groups(part: str, group: int, columns: int) -> None:
    if columns % group:
        raise LayoutProblem(part, "group-divides", f"columns in groups of {group}", f"{columns} columns")


def _require_even_groups(groups: int, columns: int) -> None:
    if columns % groups:
        raise LayoutProblem("scales", "group-divides", "groups of one size", f"{groups} for {columns} columns")
