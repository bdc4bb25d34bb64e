"""Schemes: how modules store their weights, told from the names, dtypes and shapes of their tensors alone.

A module's *form* is the set of all its tensors, without the module's path and wherever they lie: partners such as a packed
weight and its scale may be in different shards.  What no rule knows is named by what it is made of; nothing is guessed.

Source of the rules: the exporters of ModelOpt 0.47 and compressed-tensors 0.20, the checkpoints of DeepSeek and GPT-OSS,
AutoAWQ and GPTQ.  A weight of a linear module with N outputs and K inputs has the shape [N, K].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from overlay.formats.dtypes import count_bytes, count_elements


class Stored(NamedTuple):
    """A tensor of a module, as its header describes it; the module's path is left out."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return count_bytes(self.dtype, self.shape)


Form = frozenset[Stored]
"""All tensors of a module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How a module stores its weight."""

    kind: str
    """``dense``, ``norm``, ``kv-scales``, ``unknown``, or the name that a format's own library gives it."""
    dtype: str = ""
    """Of the largest tensor; dense modules and norms only."""
    bits: int | None = None
    """Bits of a weight's element; None where `choices` leave it open."""
    group_size: int | None = None
    """Elements that share a scale; None for one scale a row or tensor, or where shapes do not fit together."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale."""
    symmetric: bool | None = None
    """False where zero points are stored; None where the scheme knows none."""
    static_inputs: bool = False
    """Whether a scale of its inputs is stored: the activations are quantised with it."""
    choices: tuple[tuple[int, int | None], ...] = ()
    """The bits and group sizes that the shapes allow, where they allow several."""
    parts: tuple[str, ...] = ()
    """Suffix and dtype of each tensor, where the kind is ``unknown``."""

    @property
    def label(self) -> str:
        """The scheme in a few words, such as ``pack-quantized int4 g32 asym``."""
        if self.kind == "unknown":
            return f"unknown: {', '.join(self.parts)}"
        words = [self.kind, self.dtype]
        integers = self.choices or ([(self.bits, self.group_size)] if self.kind in _INTEGER else [])
        if integers:
            words.append(" or ".join(f"int{bits or '?'}" + (f" g{group}" if group else "") for bits, group in integers))
        elif self.group_size:
            words.append(f"g{self.group_size}")
        words.append(f"{self.block[0]}x{self.block[1]}" if self.block else "")
        words.append("asym" if self.symmetric is False else "")
        return " ".join(word for word in words if word)

    @property
    def quantised(self) -> bool:
        """Whether the weight is stored in fewer bits than it is computed with."""
        return self.kind not in ("dense", "norm", "kv-scales", "unknown")

    def document(self) -> dict[str, Any]:
        """The scheme as it stands in JSON documents."""
        return {
            "scheme": self.label,
            "kind": self.kind,
            "dtype": self.dtype or None,
            "bits": self.bits,
            "group_size": self.group_size,
            "block": list(self.block) if self.block else None,
            "symmetric": self.symmetric,
            "static_inputs": self.static_inputs,
        }


def scheme_of(form: Form) -> Scheme:
    """How a module of this form stores its weight."""
    beside = [stored for stored in form if stored.suffix in _BESIDE]
    parts = {stored.suffix: stored for stored in sorted(form.difference(beside))}
    if len(parts) + len(beside) == len(form):  # else one name has two shapes: a duplicate, which no rule knows
        for rule in _RULES:
            if rule.fits(parts):
                return rule.read(parts)
    if _holds_blocks(parts):
        return Scheme(kind="mxfp4-blocks", bits=4, group_size=32)
    return _unquantised(form, parts)


def decide(scheme: Scheme, declared_bits: frozenset[int]) -> Scheme:
    """The scheme with the one of its choices that has a declared width; unchanged where none or several have."""
    chosen = [choice for choice in scheme.choices if choice[0] in declared_bits]
    if len(chosen) != 1:
        return scheme
    return replace(scheme, bits=chosen[0][0], group_size=chosen[0][1], choices=())


def _unquantised(form: Form, parts: Mapping[str, Stored]) -> Scheme:
    if all(stored.dtype in _FLOATS and stored.suffix not in _PARTNERS for stored in form):
        if not parts and all(stored.suffix in _KV_SCALES for stored in form):
            return Scheme(kind="kv-scales")
        largest = max(form, key=lambda stored: (stored.nbytes, stored))
        is_norm = parts.keys() == {"weight"} and len(parts["weight"].shape) == 1
        return Scheme(kind="norm" if is_norm else "dense", dtype=largest.dtype)
    return Scheme(kind="unknown", parts=tuple(f"{stored.suffix} {stored.dtype}" for stored in sorted(form)))


Parts = Mapping[str, Stored]


class _Rule(NamedTuple):
    """One way of storing a weight."""

    needs: Mapping[str, frozenset[str]]
    """Suffix to the dtypes that it may have."""
    may: frozenset[str]
    """Suffixes that can be there as well."""
    read: Callable[[Parts], Scheme]

    def fits(self, parts: Parts) -> bool:
        """Whether a module with these tensors is stored in this way."""
        if not self.needs.keys() <= parts.keys() or parts.keys() - self.needs.keys() - self.may:
            return False
        return all(parts[suffix].dtype in dtypes for suffix, dtypes in self.needs.items())


def _four_bit_floats(kind: str, weight: str, packed: int = 2) -> Callable[[Parts], Scheme]:
    """NVFP4 and MXFP4: two elements a byte, a scale for each group of a row."""

    def read(parts: Parts) -> Scheme:
        group = _quotient(packed * _columns(parts[weight]), _columns(parts["weight_scale"]))
        return Scheme(kind=kind, bits=4, group_size=group, static_inputs=_has_inputs(parts))

    return read


def _pack_quantized(parts: Parts) -> Scheme:
    """Integers in words of 32 bits: packed [N, K*bits/32], scale [N, K/g], zero point [N*bits/32, K/g].

    Without a zero point the shapes only give bits*g, and nothing at all where a row has a single scale.
    """
    packed, scale, zero = parts["weight_packed"], parts["weight_scale"], parts.get("weight_zero_point")
    words = _quotient(_columns(packed), _columns(scale)) if _columns(scale) > 1 else None
    choices: list[tuple[int, int | None]] = [
        (bits, 32 * words // bits if words else None)
        for bits in (4, 8)
        if zero is None or _rows(zero) == -(-_rows(packed) * bits // 32)
    ]
    choices = [choice for choice in choices if zero is not None or (choice[1] or _LEAST_GROUP) >= _LEAST_GROUP]
    scheme = Scheme(
        kind="pack-quantized", symmetric=zero is None, static_inputs=_has_inputs(parts), choices=tuple(choices)
    )
    return decide(scheme, frozenset({choices[0][0]})) if len(choices) == 1 else scheme


def _fp8(scale: str) -> Callable[[Parts], Scheme]:
    """Eight-bit floats with one scale a tensor, a row, a block or (MXFP8) a group of 32."""

    def read(parts: Parts) -> Scheme:
        return _eight_bit("fp8", parts["weight"], parts[scale], static_inputs=_has_inputs(parts), symmetric=None)

    return read


def _int8(parts: Parts) -> Scheme:
    symmetric = "weight_zero_point" not in parts
    scale, static = parts["weight_scale"], _has_inputs(parts)
    return _eight_bit("int8", parts["weight"], scale, static_inputs=static, symmetric=symmetric)


def _eight_bit(family: str, weight: Stored, scale: Stored, *, static_inputs: bool, symmetric: bool | None) -> Scheme:
    group, block = None, None
    if count_elements(scale.shape) == 1:
        kind = f"{family}-tensor"
    elif len(scale.shape) == 1 or scale.shape[-1] == 1:
        kind = f"{family}-channel"
    elif _rows(scale) == _rows(weight):
        group = _quotient(_columns(weight), _columns(scale))
        kind = "mxfp8" if scale.dtype in _EXPONENTS else f"{family}-group"
    else:
        kind, block = f"{family}-block", _block(weight, scale)
    return Scheme(kind=kind, bits=8, group_size=group, block=block, static_inputs=static_inputs, symmetric=symmetric)


def _awq_or_gptq(parts: Parts) -> Scheme:
    """AWQ packs along the outputs, qweight [K, N*bits/32]; GPTQ along the inputs, qweight [K*bits/32, N].

    Both have scales [K/g, N] and qzeros [K/g, N*bits/32].
    """
    weight, zeros, scales = parts["qweight"], parts["qzeros"], parts["scales"]
    bits = _quotient(32 * _columns(zeros), _columns(scales))
    is_awq = "g_idx" not in parts and _columns(weight) == _columns(zeros) != _columns(scales)
    inputs = _rows(weight) if is_awq else _quotient(32 * _rows(weight), bits or 0)
    group = _quotient(inputs or 0, _rows(scales)) if _rows(scales) > 1 else None
    return Scheme(kind="awq" if is_awq else "gptq", bits=bits, group_size=group)


def _block(weight: Stored, scale: Stored) -> tuple[int, int] | None:
    """The block whose scales these are: a power of two a side, since the last block of a side may be cut.

    Where one side has a single block it is taken to be as long as the other, if that fits.
    """
    rows = _sides(_rows(weight), _rows(scale))
    columns = _sides(_columns(weight), _columns(scale))
    if rows & columns:
        side = min(rows & columns)
        return side, side
    return (min(rows), min(columns)) if rows and columns else None


def _sides(extent: int, count: int) -> set[int]:
    """Powers of two that cut `extent` into `count` blocks."""
    return {side for side in (1 << power for power in range(4, 17)) if -(-extent // side) == count}


def _rows(stored: Stored) -> int:
    return stored.shape[-2] if len(stored.shape) > 1 else 1


def _columns(stored: Stored) -> int:
    return stored.shape[-1] if stored.shape else 1


def _quotient(whole: int, part: int) -> int | None:
    """``whole / part`` where that is a whole number; None says that the shapes do not fit together."""
    return whole // part if part and whole and whole % part == 0 else None


def _has_inputs(parts: Parts) -> bool:
    return not _INPUT_SCALES.isdisjoint(parts)


def _holds_blocks(parts: Parts) -> bool:
    """GPT-OSS: fused experts, ``X_blocks`` [.., K/32, 16] and ``X_scales`` [.., K/32], both U8."""
    if not all(suffix.endswith(_BLOCK_SUFFIXES) for suffix in parts):
        return False
    blocks = {suffix.removesuffix("_blocks") for suffix in parts if suffix.endswith("_blocks")}
    scales = {suffix.removesuffix("_scales") for suffix in parts if suffix.endswith("_scales")}
    packed = [parts[f"{name}{end}"] for name in blocks & scales for end in ("_blocks", "_scales")]
    return blocks == scales != set() and all(stored.dtype == "U8" for stored in packed)


_FLOATS: Final = frozenset({"F64", "F32", "BF16", "F16"})
_E4M3: Final = frozenset({"F8_E4M3"})
_FP8: Final = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_EXPONENTS: Final = frozenset({"U8", "F8_E8M0"})
_SCALES: Final = _FLOATS | _EXPONENTS
_U8, _I8, _I32, _I64, _F32 = (frozenset({dtype}) for dtype in ("U8", "I8", "I32", "I64", "F32"))

_INTEGER: Final = frozenset({"pack-quantized", "awq", "gptq"})
_LEAST_GROUP: Final = 32
"""No exporter shares a scale among fewer integers."""
_BLOCK_SUFFIXES: Final = ("_blocks", "_scales", "_bias")
_KV_SCALES: Final = frozenset({"k_scale", "v_scale", "q_scale", "prob_scale", "k_zero_point", "v_zero_point"})
_BESIDE: Final = _KV_SCALES | {"bias", "e_score_correction_bias"}
"""What may lie beside any weight without changing how that is stored."""
_INPUT_SCALES: Final = frozenset({"input_scale", "input_global_scale"})
_INPUTS: Final = _INPUT_SCALES | {"input_zero_point"}

_RULES: Final = (
    _Rule(
        {"weight": _U8, "weight_scale": _E4M3, "weight_scale_2": _F32},
        _INPUTS,
        _four_bit_floats("modelopt-nvfp4", "weight"),
    ),
    _Rule(
        {"weight_packed": _U8, "weight_scale": _E4M3, "weight_global_scale": _F32},
        _INPUTS,
        _four_bit_floats("nvfp4-pack-quantized", "weight_packed"),
    ),
    _Rule(
        {"weight_packed": _U8, "weight_scale": _EXPONENTS},
        _INPUTS,
        _four_bit_floats("mxfp4-pack-quantized", "weight_packed"),
    ),
    _Rule({"weight": _U8, "weight_scale": _EXPONENTS}, _INPUTS, _four_bit_floats("modelopt-mxfp4", "weight")),
    _Rule(
        {"weight_packed": _I32, "weight_scale": _FLOATS, "weight_shape": _I64 | _I32},
        _INPUTS | {"weight_zero_point", "weight_g_idx"},
        _pack_quantized,
    ),
    _Rule({"weight": _FP8, "weight_scale_inv": _SCALES}, _INPUTS, _fp8("weight_scale_inv")),
    _Rule({"weight": _FP8, "weight_scale": _SCALES}, _INPUTS, _fp8("weight_scale")),
    _Rule({"weight": _I8, "weight_scale": _FLOATS}, _INPUTS | {"weight_zero_point"}, _int8),
    _Rule({"qweight": _I32, "qzeros": _I32, "scales": _FLOATS}, frozenset({"g_idx"}), _awq_or_gptq),
)
_PARTNERS: Final = frozenset(suffix for rule in _RULES for suffix in (*rule.needs, *rule.may)) - {"weight"}
"""Suffixes that belong to a quantised weight: left alone they are no dense module."""
