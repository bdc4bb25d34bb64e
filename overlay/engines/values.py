"""Values: the rules that need a few bytes of data, and which bytes those are.

Of each layer of the trunk one expert is looked at, of a draft layer every one: a scale that differs seldom differs once, and
reading all of them would cost a hundred thousand small reads on a large checkpoint.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from overlay.engines.layers import LayerSeen, Seen
from overlay.engines.remarks import Remark, Scope, remark
from overlay.engines.subject import Subject
from overlay.engines.versions import Engine

_PAIRS: Final = ("weight_scale_2", "input_scale")
_GLOBAL: Final = ("weight_global_scale", "input_global_scale")
_SHAPE: Final = "weight_shape"
_SERVING: Final = ("vllm", "sglang")


class Pair(NamedTuple):
    """Two scalars that must be equal."""

    first: str
    second: str


def wanted_values(subject: Subject, seen: Seen) -> list[str]:
    """The tensors whose bytes the rules need: scalars of 4 bytes, and shapes of 16."""
    pairs = [name for pair in _pairs(subject, seen) for name in pair]
    return [*pairs, *(name for name, _ in _shapes(subject, seen))]


def check_values(engine: Engine, subject: Subject, seen: Seen) -> Iterator[Remark]:
    """Rules 26 and 29 over the bytes that were read."""
    if engine.name not in _SERVING or not subject.values:
        return
    pairs = [pair for pair in _pairs(subject, seen) if pair.first in subject.values and pair.second in subject.values]
    differing = [pair for pair in pairs if subject.values[pair.first] != subject.values[pair.second]]
    if differing:
        first, second = differing[0]
        values = f"{_float(subject.values[first])} and {_float(subject.values[second])}"
        message = (
            f"expected the same as {second}, found {values} ({len(differing)} of {len(pairs)} pairs looked at differ)"
        )
        yield remark("QNT007", first.rpartition(".")[0], message, "none", tensor=first)
    for name, packed in _shapes(subject, seen):
        data = subject.values.get(name)
        if data is not None and (problem := _explain_shape(data, packed)):
            yield remark("QNT010", name.rpartition(".")[0], problem, "wrong", _scope(subject, seen, name), tensor=name)


def _pairs(subject: Subject, seen: Seen) -> Iterator[Pair]:
    for layer, sample in _layers(subject, seen):
        suffixes = _suffixes(layer)
        for number in sample:
            for suffix in suffixes:
                module = f"{layer.prefix}mlp.experts.{number}."
                yield Pair(f"{module}gate_proj.{suffix}", f"{module}up_proj.{suffix}")
        for path in ("mlp.", "mlp.shared_experts."):
            held = {part.suffix for part in layer.modules.get(f"{path}gate_proj", ())}
            for suffix in (*_PAIRS, *_GLOBAL):
                if suffix in held:
                    yield Pair(f"{layer.prefix}{path}gate_proj.{suffix}", f"{layer.prefix}{path}up_proj.{suffix}")


def _suffixes(layer: LayerSeen) -> list[str]:
    held = {part.suffix for (projection, form) in layer.experts if projection == "gate_proj" for part in form}
    return [suffix for suffix in (*_PAIRS, *_GLOBAL) if suffix in held]


def _shapes(subject: Subject, seen: Seen) -> Iterator[tuple[str, tuple[int, ...]]]:
    """``weight_shape`` of packed modules, with the shape of the words beside it."""
    for layer, sample in _layers(subject, seen):
        chosen = set(sample)
        for (projection, form), numbers in layer.experts.items():
            packed = {part.suffix: part for part in form}
            if _SHAPE in packed and "weight_packed" in packed:
                for number in chosen.intersection(numbers):
                    yield f"{layer.prefix}mlp.experts.{number}.{projection}.{_SHAPE}", packed["weight_packed"].shape
        for path, form in layer.modules.items():
            parts = {part.suffix: part for part in form}
            if _SHAPE in parts and "weight_packed" in parts:
                yield f"{layer.prefix}{path}.{_SHAPE}", parts["weight_packed"].shape


def _layers(subject: Subject, seen: Seen) -> Iterator[tuple[LayerSeen, list[int]]]:
    """Every layer with the experts that are looked at."""
    trunk = subject.number("num_hidden_layers") or 0
    for number, layer in sorted(seen.layers.items()):
        if not layer.experts:
            yield layer, []
        elif number >= trunk:
            yield layer, sorted(layer.expert_numbers())
        else:
            _, numbers = next(iter(layer.experts.items()))
            yield layer, [min(numbers)]


def _scope(subject: Subject, seen: Seen, name: str) -> Scope:
    trunk = subject.number("num_hidden_layers")
    return "draft" if trunk is not None and name.startswith(f"{seen.stack}{trunk}.") else "target"


def _explain_shape(data: bytes, packed: tuple[int, ...]) -> str:
    """What is wrong with a stored shape [N, K] beside words [N, K*bits/32]; "" when it fits 4 or 8 bits."""
    width = len(data) // 2
    if width not in (4, 8):
        return f"expected two whole numbers, found {len(data)} bytes"
    rows, columns = struct.unpack("<2i" if width == 4 else "<2q", data)
    fits = any(tuple(packed) == (rows, -(-columns * bits // 32)) for bits in (4, 8))
    return "" if fits else f"expected the shape of words {list(packed)}, found [{rows}, {columns}]"


def _float(data: bytes) -> str:
    return f"{struct.unpack('<f', data)[0]:.6g}" if len(data) == 4 else data.hex()
