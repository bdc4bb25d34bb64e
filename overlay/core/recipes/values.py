"""The values of a recipe: tensors that do not exist yet, and the calls that will make them.

A recipe is a graph.  Its leaves are ranges of a donor's shards, its inner nodes are calls of a tensor operation, and a
`Value` is a tensor: a leaf, or one output of a call.  Nothing here was read or computed; dtypes and shapes follow from
headers alone.

====================  ================================================  =========================================
operation             inputs, by role                                   parameters
====================  ================================================  =========================================
``cast``              ``tensor``                                        ``to``
``dequantize``        the partners, by suffix                           ``format``, ``to``; ``bits``, ``block``,
                                                                        ``checkpoint_format``
``quantize``          ``weight``; where it is shared,                   ``format``; ``bits``, ``group_size``,
                      ``weight_scale_2`` or ``weight_global_scale``     ``symmetric``, ``block``, ``scale_dtype``
``shared-scale``      ``weight``, several times                         ``format``
``reciprocal``        ``scale``                                         none
``keep-rows``         ``tensor``                                        ``rows``
``fuse-rows``         ``part``, several times                           ``interleave``
``split-rows``        ``tensor``                                        ``parts``, ``interleave``
``fuse-experts``      ``part``, several times                           none
``split-experts``     ``tensor``                                        none
====================  ================================================  =========================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

from overlay.core.checkpoint import TensorSource
from overlay.formats.dtypes import count_bytes

Operation = Literal[
    "cast",
    "dequantize",
    "quantize",
    "shared-scale",
    "reciprocal",
    "keep-rows",
    "fuse-rows",
    "split-rows",
    "fuse-experts",
    "split-experts",
]
Parameter = str | int | bool | None | tuple[int, ...]

LOSSY: Final = frozenset({"cast", "quantize"})
"""Operations whose results can be held against their input, to say what was lost."""


class Input(NamedTuple):
    """A tensor of a donor."""

    source: TensorSource


class Spec(NamedTuple):
    """One output of a call."""

    role: str
    """What it is: the suffix of its name, such as ``weight_scale``."""
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return count_bytes(self.dtype, self.shape)


class Argument(NamedTuple):
    """One input of a call."""

    role: str
    value: Value


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tensor operation."""

    op: Operation
    params: tuple[tuple[str, Parameter], ...]
    """Name and value, in the order of names."""
    inputs: tuple[Argument, ...]
    outputs: tuple[Spec, ...]

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters by name."""
        return dict(self.params)

    @property
    def label(self) -> str:
        """Operation and parameters in a line: ``dequantize format=modelopt-nvfp4 to=BF16``."""
        return " ".join([self.op, *(f"{name}={_word(value)}" for name, value in self.params)])

    @property
    def is_lossy(self) -> bool:
        """Whether its results may stand for something else than its input; a cast to more digits does not."""
        if self.op == "cast":
            return (self.inputs[0].value.dtype, self.outputs[0].dtype) not in (("BF16", "F32"), ("F16", "F32"))
        return self.op in LOSSY


class Result(NamedTuple):
    """One output of a call, by its position."""

    call: Call
    output: int


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of a recipe."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    origin: Input | Result

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return count_bytes(self.dtype, self.shape)

    @property
    def call(self) -> Call | None:
        """The call that makes it; None for a donor's bytes."""
        return self.origin.call if isinstance(self.origin, Result) else None

    @property
    def source(self) -> TensorSource | None:
        """The donor's bytes under this name, where they are copied unchanged; else None."""
        return self.origin.source._replace(name=self.name) if isinstance(self.origin, Input) else None

    @property
    def steps(self) -> tuple[str, ...]:
        """The calls on the way from the donor to this tensor, along first inputs, the first one first."""
        labels = []
        value = self
        while value.call is not None:
            labels.append(value.call.label)
            value = value.call.inputs[0].value
        return tuple(reversed(labels))

    @property
    def home(self) -> str:
        """The donor's shard that it comes from, along first inputs."""
        value = self
        while isinstance(value.origin, Result):
            value = value.origin.call.inputs[0].value
        return value.origin.source.file.name


def taken(source: TensorSource) -> Value:
    """A donor's tensor as a value."""
    return Value(source.name, source.dtype, source.shape, Input(source))


def renamed(value: Value, name: str) -> Value:
    """`value` under another name."""
    return replace(value, name=name)


def make_call(
    op: Operation, inputs: Iterable[Argument], outputs: Iterable[Spec], **params: Parameter
) -> tuple[Call, tuple[Value, ...]]:
    """A call and its outputs; these are named by their roles, for the caller to name them properly.

    Parameters that are None are left out.
    """
    given = tuple(sorted((name, value) for name, value in params.items() if value is not None))
    call = Call(op, given, tuple(inputs), tuple(outputs))
    return call, tuple(Value(s.role, s.dtype, s.shape, Result(call, i)) for i, s in enumerate(call.outputs))


def calls_below(values: Iterable[Value]) -> list[Call]:
    """Every call that `values` need, each once, and none before those that it needs itself."""
    ordered: list[Call] = []
    done: set[int] = set()
    open_calls: list[tuple[Call, Iterator[Argument]]] = []
    for value in values:
        call = value.call
        if call is None or id(call) in done:
            continue
        open_calls.append((call, iter(call.inputs)))
        while open_calls:
            call, arguments = open_calls[-1]
            needed = next((a.value.call for a in arguments if a.value.call and id(a.value.call) not in done), None)
            if needed is not None:
                open_calls.append((needed, iter(needed.inputs)))
                continue
            open_calls.pop()
            if id(call) not in done:
                done.add(id(call))
                ordered.append(call)
    return ordered


def inputs_of(calls: Iterable[Call]) -> list[TensorSource]:
    """The donors' tensors that `calls` read themselves, each once, by file and offset."""
    found = {
        (source.file.name, source.begin, source.end): source
        for call in calls
        for argument in call.inputs
        if isinstance(argument.value.origin, Input)
        for source in (argument.value.origin.source,)
    }
    return [found[key] for key in sorted(found)]


def graph_document(values: Iterable[Value]) -> dict[str, Any]:
    """`values` and all that they are made of as plain JSON.

    Inputs are listed by file and offset, calls in the order of `calls_below`; both are referred to by position.
    Real paths and fingerprints of files are left out.
    """
    wanted = list(values)
    calls = calls_below(wanted)
    copied = {
        key: value.origin.source for value in wanted if isinstance(value.origin, Input) for key in [_key(value.origin)]
    }
    sources = {(s.file.name, s.begin, s.end): s for s in inputs_of(calls)} | copied
    places = {key: at for at, key in enumerate(sorted(sources))}
    numbers = {id(call): at for at, call in enumerate(calls)}

    def reference(value: Value) -> dict[str, int]:
        if isinstance(value.origin, Input):
            return {"input": places[_key(value.origin)]}
        return {"call": numbers[id(value.origin.call)], "output": value.origin.output}

    return {
        "inputs": [_source_document(sources[key]) for key in sorted(sources)],
        "calls": [
            {
                "op": call.op,
                "params": {name: list(value) if isinstance(value, tuple) else value for name, value in call.params},
                "inputs": [{"role": argument.role, **reference(argument.value)} for argument in call.inputs],
                "outputs": [
                    {"role": spec.role, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in call.outputs
                ],
            }
            for call in calls
        ],
        "outputs": [{"name": v.name, "dtype": v.dtype, "shape": list(v.shape), **reference(v)} for v in wanted],
    }


def _key(origin: Input) -> tuple[str, int, int]:
    return origin.source.file.name, origin.source.begin, origin.source.end


def _source_document(source: TensorSource) -> dict[str, Any]:
    shape = list(source.shape)
    place = {"file": source.file.name, "begin": source.begin, "end": source.end}
    return {"name": source.name, "dtype": source.dtype, "shape": shape, **place}


def _word(value: Parameter) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, tuple):
        return str(value)
    text = ",".join(map(str, value[:8]))
    return text if len(value) <= 8 else f"{text},… ({len(value)})"
