"""Comparing: the tensors that a module has, against those that an engine builds for it.

Shapes and dtypes of each format: compressed-tensors 0.20, ModelOpt 0.47 and DeepSeek's blocks, for a weight [N, K].
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal, NamedTuple

from overlay.core.schemes import Form, Stored
from overlay.engines.inventory import Slot
from overlay.formats.weight_schemes import WeightScheme

Kind = Literal["missing", "unexpected", "smaller", "shape", "dtype"]
"""``smaller``: of as many dimensions, and no longer in any of them."""

FLOATS: Final = frozenset({"BF16", "F16", "F32", "F64"})
_E4M3: Final = frozenset({"F8_E4M3"})
_U8, _I32, _I64 = frozenset({"U8"}), frozenset({"I32"}), frozenset({"I64", "I32"})
_E8M0: Final = frozenset({"U8", "F8_E8M0"})
_SCALES: Final = frozenset({"k_scale", "v_scale", "q_scale", "prob_scale", "k_zero_point", "v_zero_point"})
"""Scales of the KV cache: every engine knows them, or passes over them."""


class Trouble(NamedTuple):
    """One tensor that is not what the engine builds."""

    kind: Kind
    suffix: str
    expected: str
    found: str
    axes: tuple[int, ...] = ()
    """The dimensions that are too short; ``smaller`` only."""


class Wanted(NamedTuple):
    """What a tensor must be."""

    dtypes: frozenset[str]
    shape: tuple[int, ...]

    @property
    def words(self) -> str:
        """For messages."""
        kinds = "a float" if self.dtypes is FLOATS else "|".join(sorted(self.dtypes))
        return f"{kinds} {list(self.shape)}"


@lru_cache(maxsize=1 << 12)
def compare(slot: Slot, scheme: WeightScheme | None, form: Form) -> tuple[Trouble, ...]:
    """What is wrong with a module of this form, where the engine builds `slot` in `scheme`.

    Extra scales of the KV cache and optional parts are no trouble; a dtype that is cast between floats is none either.
    """
    wanted = dict(wanted_tensors(slot, scheme))
    stored = {part.suffix: part for part in form}
    troubles = []
    for suffix, want in wanted.items():
        if suffix not in stored:
            troubles.append(Trouble("missing", suffix, want.words, "none"))
        elif (trouble := _differs(suffix, want, stored[suffix])) is not None:
            troubles.append(trouble)
    for suffix, part in stored.items():
        if suffix not in wanted and suffix not in slot.optional and suffix not in _SCALES:
            troubles.append(Trouble("unexpected", suffix, "none", _words(part)))
    return tuple(troubles)


@lru_cache(maxsize=1 << 12)
def wanted_tensors(slot: Slot, scheme: WeightScheme | None) -> tuple[tuple[str, Wanted], ...]:
    """The tensors of a module: suffix to what it must be."""
    if slot.role in ("linear", "plain"):
        weight = _unquantised(slot) if scheme is None or slot.role == "plain" else _FORMATS[scheme.format](slot, scheme)
        more = tuple((suffix, _extra(slot)) for suffix in slot.suffixes if suffix != "weight")
        return (*weight, *more)
    return tuple((suffix, Wanted(FLOATS, (slot.outputs,))) for suffix in slot.suffixes)


def _extra(slot: Slot) -> Wanted:
    return Wanted(FLOATS, (slot.outputs,))


def _differs(suffix: str, want: Wanted, part: Stored) -> Trouble | None:
    scalar = {*want.shape, *part.shape} <= {1}  # a config can ask for more elements than can be counted
    if part.shape != want.shape and not scalar:
        if len(part.shape) == len(want.shape):
            pairs = list(zip(part.shape, want.shape, strict=True))
            if all(have <= need for have, need in pairs):
                short = tuple(axis for axis, (have, need) in enumerate(pairs) if have < need)
                return Trouble("smaller", suffix, want.words, _words(part), short)
        return Trouble("shape", suffix, want.words, _words(part))
    if part.dtype not in want.dtypes:
        return Trouble("dtype", suffix, want.words, _words(part))
    return None


def _words(part: Stored) -> str:
    return f"{part.dtype} {list(part.shape)}"


Tensors = tuple[tuple[str, Wanted], ...]


def _unquantised(slot: Slot) -> Tensors:
    return (("weight", Wanted(FLOATS, (slot.outputs, slot.inputs))),)


def _inputs(name: str, scheme: WeightScheme) -> Tensors:
    return ((name, Wanted(FLOATS, ())),) if scheme.static_inputs else ()


def _modelopt_nvfp4(slot: Slot, scheme: WeightScheme) -> Tensors:
    return (
        ("weight", Wanted(_U8, (slot.outputs, slot.inputs // 2))),
        ("weight_scale", Wanted(_E4M3, (slot.outputs, slot.inputs // 16))),
        ("weight_scale_2", Wanted(FLOATS, ())),
        *_inputs("input_scale", scheme),
    )


def _compressed_nvfp4(slot: Slot, scheme: WeightScheme) -> Tensors:
    return (
        ("weight_packed", Wanted(_U8, (slot.outputs, slot.inputs // 2))),
        ("weight_scale", Wanted(_E4M3, (slot.outputs, slot.inputs // 16))),
        ("weight_global_scale", Wanted(FLOATS, (1,))),
        *_inputs("input_global_scale", scheme),
    )


def _pack_quantized(slot: Slot, scheme: WeightScheme) -> Tensors:
    groups = -(-slot.inputs // scheme.group_size) if scheme.group_size else 1
    zero = (("weight_zero_point", Wanted(_I32, (-(-slot.outputs * scheme.bits // 32), groups))),)
    return (
        ("weight_packed", Wanted(_I32, (slot.outputs, -(-slot.inputs * scheme.bits // 32)))),
        ("weight_scale", Wanted(FLOATS, (slot.outputs, groups))),
        ("weight_shape", Wanted(_I64, (2,))),
        *(() if scheme.symmetric else zero),
    )


def _fp8_block(slot: Slot, scheme: WeightScheme) -> Tensors:
    rows, columns = scheme.block or (128, 128)
    blocks = (-(-slot.outputs // rows), -(-slot.inputs // columns))
    return (
        ("weight", Wanted(_E4M3, (slot.outputs, slot.inputs))),
        (scheme.scale_name, Wanted(FLOATS, blocks)),
        *_inputs("input_scale", scheme),
    )


def _fp8_channel(slot: Slot, scheme: WeightScheme) -> Tensors:
    return (
        ("weight", Wanted(_E4M3, (slot.outputs, slot.inputs))),
        ("weight_scale", Wanted(FLOATS, (slot.outputs, 1))),
        *_inputs("input_scale", scheme),
    )


def _fp8_tensor(slot: Slot, scheme: WeightScheme) -> Tensors:
    return (
        ("weight", Wanted(_E4M3, (slot.outputs, slot.inputs))),
        ("weight_scale", Wanted(FLOATS, ())),
        *_inputs("input_scale", scheme),
    )


def _mxfp4(slot: Slot, scheme: WeightScheme) -> Tensors:
    return (
        ("weight_packed", Wanted(_U8, (slot.outputs, slot.inputs // 2))),
        ("weight_scale", Wanted(_E8M0, (slot.outputs, slot.inputs // 32))),
    )


def _mxfp8(slot: Slot, scheme: WeightScheme) -> Tensors:
    return (
        ("weight", Wanted(_E4M3, (slot.outputs, slot.inputs))),
        ("weight_scale", Wanted(_E8M0, (slot.outputs, slot.inputs // 32))),
    )


_FORMATS: Final = {
    "modelopt-nvfp4": _modelopt_nvfp4,
    "nvfp4-pack-quantized": _compressed_nvfp4,
    "pack-quantized": _pack_quantized,
    "fp8-block": _fp8_block,
    "fp8-channel": _fp8_channel,
    "fp8-tensor": _fp8_tensor,
    "mxfp4": _mxfp4,
    "mxfp8": _mxfp8,
}
