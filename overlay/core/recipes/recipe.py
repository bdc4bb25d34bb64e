"""Recipes: what the steps of a graft make of a donor's tensors, decided from headers alone.

Theory of operation: the steps are taken one after the other over tensors that exist only as values, each with dtype, shape
and the call that will make it.  What comes out in the end says everything about the graft's shard (its header, to the
byte) and how each tensor is computed; carrying it out is another matter.  The same inputs give the same recipe, whatever
order they come in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from overlay.core.checkpoint import TensorSource
from overlay.core.recipes.config import ConfigChange, Undeclarable, declare, declare_like
from overlay.core.recipes.experts import keep_experts
from overlay.core.recipes.jobs import Job, group_jobs
from overlay.core.recipes.layouts import ACTIVATION_PARTS
from overlay.core.recipes.quantising import Quantised, dequantize, quantize, quantize_like
from overlay.core.recipes.state import (
    Module,
    Problem,
    StepProblems,
    first_of,
    is_matrix,
    is_quantised,
    modules_of,
    ordered,
)
from overlay.core.recipes.steps import cast, fuse, rename, split
from overlay.core.recipes.values import Value, graph_document, taken
from overlay.errors import InvalidInput
from overlay.formats import strict_json
from overlay.formats.digest import sha256_of
from overlay.formats.header_text import layout_order
from overlay.formats.keep_lists import KeepListProblems, KeepLists, keep_lists
from overlay.formats.quantization_config import QuantizationConfig
from overlay.formats.steps import (
    CastStep,
    CopyStep,
    DequantizeStep,
    FuseStep,
    KeepExpertsStep,
    QuantizeLike,
    QuantizeStep,
    RenameStep,
    SplitStep,
    Step,
)
from overlay.formats.weight_schemes import WeightScheme

MAX_NAMED: Final = 20
"""Problems that are spelled out; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What steps refer to, read by somebody who may."""

    shard: str = ""
    """The graft's shard, to name it in errors."""
    keep_lists: Mapping[str, KeepLists] = field(default_factory=dict)
    """File of a `keep-experts` step, as written, to what it holds."""
    quantization_configs: Mapping[str, QuantizationConfig] = field(default_factory=dict)
    """Donor that a `quantize: {like: …}` names to what its ``config.json`` declares."""
    n_group: int = 1
    """Routing groups of the donor's model (``n_group`` of its config), which pruning must leave even."""
    experts: int | None = None
    """Experts of a layer of the checkpoint that the graft is made for, where it is known: pruning must leave so many."""


class Way(NamedTuple):
    """Tensors that come about in the same way."""

    steps: tuple[str, ...]
    """Operations with their parameters, the first one first; empty: copied."""
    tensors: int
    bytes: int

    @property
    def line(self) -> str:
        """``6 by dequantize …, quantize …`` or ``2 copied``, as a plan prints it."""
        return f"{self.tensors} by {', '.join(self.steps)}" if self.steps else f"{self.tensors} copied"


@dataclass(frozen=True)
class Recipe:
    """What a graft's shard will hold, and how it comes about."""

    outputs: tuple[Value, ...]
    """Every tensor of the shard, in the order that its header has them."""
    config: ConfigChange = field(default_factory=ConfigChange)
    """What follows for ``config.json``."""

    @cached_property
    def copies(self) -> tuple[TensorSource, ...]:
        """The outputs that are a donor's bytes, under their new names."""
        return tuple(source for value in self.outputs if (source := value.source) is not None)

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """How the other outputs are computed, in the order of reading."""
        return group_jobs(self.outputs)

    @property
    def is_copy(self) -> bool:
        """Whether nothing is computed."""
        return all(value.call is None for value in self.outputs)

    @property
    def nbytes(self) -> int:
        """Tensor data bytes of the shard."""
        return sum(value.nbytes for value in self.outputs)

    @property
    def tensors(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of each output, as `formats.header_text.render_header` takes them."""
        return [(value.name, value.dtype, value.shape) for value in self.outputs]

    @property
    def ways(self) -> tuple[Way, ...]:
        """How the tensors come about, in a few lines; what is copied first."""
        found: dict[tuple[str, ...], list[int]] = {}
        for value in self.outputs:
            found.setdefault(value.steps, []).append(value.nbytes)
        return tuple(Way(steps, len(sizes), sum(sizes)) for steps, sizes in sorted(found.items()))

    def document(self) -> dict[str, Any]:
        """The recipe as plain JSON, without real paths: equal for equal inputs."""
        change = self.config
        config = {
            "experts": change.experts,
            "quantization_config": dict(change.quantization_config) if change.quantization_config else None,
            "unquantised": list(change.unquantised),
            "dequantised": change.dequantised,
        }
        return {**graph_document(self.outputs), "config": config}

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON of `document`."""
        return sha256_of(strict_json.canonical(self.document()))


def plan_recipe(sources: Sequence[TensorSource], steps: Sequence[Step], context: Context = Context()) -> Recipe:
    """What `steps` make of `sources`, in any order of these.

    Costs a few steps a tensor for each step of the recipe: 0.2 s for a layer of 3,100 tensors.

    Raises:
        InvalidInput: with all problems of the first step that has any.
    """
    _require_distinct(sources, context)
    state = _State(ordered(taken(source) for source in sources))
    for number, step in enumerate(steps):
        try:
            state = _take(state, step, context)
        except StepProblems as error:
            raise _refusal(error.problems, f"{_at(context)}steps[{number}]") from None
    tensors = _without_orphans(state.tensors)
    outputs = tuple(sorted(tensors.values(), key=lambda value: layout_order(value.name, value.dtype)))
    try:
        return Recipe(outputs, _config(state, tensors))
    except Undeclarable as problem:
        raise _refusal([Problem("", "", str(problem))], f"{_at(context)}steps") from None


@dataclass(frozen=True)
class _State:
    """Tensors, and what the steps so far mean for the config."""

    tensors: dict[str, Value]
    experts: int | None = None
    schemes: Mapping[int, WeightScheme] = field(default_factory=dict)
    """Identity of what a module's first tensor comes from to the module's scheme, since modules may be renamed later."""
    like: QuantizationConfig | None = None
    dequantised: bool = False


def _take(state: _State, step: Step, context: Context) -> _State:
    tensors = state.tensors
    if isinstance(step, CopyStep):
        return state
    if isinstance(step, RenameStep):
        return _moved(state, rename(tensors, step.rename))
    if isinstance(step, CastStep):
        return _moved(state, cast(tensors, step.cast))
    if isinstance(step, DequantizeStep):
        return replace(state, tensors=dequantize(tensors, step.dequantize), like=None, dequantised=True)
    if isinstance(step, QuantizeStep):
        return _quantize(state, step, context)
    if isinstance(step, KeepExpertsStep):
        kept = keep_experts(tensors, _lists(step, context), n_group=context.n_group, wanted=context.experts)
        return _moved(state, kept.tensors, experts=kept.experts)
    if isinstance(step, FuseStep):
        return _moved(state, fuse(tensors, step.fuse))
    assert isinstance(step, SplitStep)
    return _moved(state, split(tensors, step.split))


def _moved(state: _State, tensors: dict[str, Value], experts: int | None = None) -> _State:
    return replace(state, tensors=tensors, experts=experts or state.experts)


def _quantize(state: _State, step: QuantizeStep, context: Context) -> _State:
    found: Quantised
    if isinstance(step.quantize, QuantizeLike):
        config = context.quantization_configs[step.quantize.like]
        found = quantize_like(state.tensors, config)
        return _State(found.tensors, state.experts, _with_schemes(state, found), config, state.dequantised)
    found = quantize(state.tensors, step.quantize)
    return _State(found.tensors, state.experts, _with_schemes(state, found), None, state.dequantised)


def _with_schemes(state: _State, found: Quantised) -> dict[int, WeightScheme]:
    modules = modules_of(found.tensors)
    return {**state.schemes, **{id(first_of(modules[path]).origin): scheme for path, scheme in found.schemes.items()}}


def _lists(step: KeepExpertsStep, context: Context) -> KeepLists:
    try:
        value = step.keep_experts
        return context.keep_lists[value] if isinstance(value, str) else keep_lists(value)
    except KeepListProblems as error:
        raise StepProblems([Problem("", "", f"{line} (rule keep-list)") for line in error.lines]) from None


def _without_orphans(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Without scales of inputs whose weight was dequantised and not quantised again."""
    result = dict(tensors)
    for module in modules_of(tensors).values():
        weight = module.get("weight")
        if weight is not None and weight.call is not None and not is_quantised(module):
            for suffix in ACTIVATION_PARTS & module.keys():
                del result[module[suffix].name]
    return result


def _config(state: _State, tensors: Mapping[str, Value]) -> ConfigChange:
    modules = modules_of(tensors)
    unquantised = tuple(sorted(path for path, module in modules.items() if is_matrix(module)))
    quantised = any(is_quantised(module) for module in modules.values())
    declared = None
    if state.like is not None:
        declared = declare_like(state.like, unquantised)
    elif schemes := {path: state.schemes[key] for path, key in _first_origins(modules) if key in state.schemes}:
        declared = declare(schemes, unquantised)
    return ConfigChange(state.experts, declared, unquantised, dequantised=state.dequantised and not quantised)


def _first_origins(modules: Mapping[str, Module]) -> Iterator[tuple[str, int]]:
    return ((path, id(first_of(module).origin)) for path, module in modules.items())


def _require_distinct(sources: Sequence[TensorSource], context: Context) -> None:
    seen: dict[str, TensorSource] = {}
    problems = []
    for source in sorted(sources, key=lambda source: (source.name, source.file.name)):
        other = seen.setdefault(source.name, source)
        if other is not source:
            message = f"expected it in one shard, found it in {other.file.name} too (rule one-name)"
            problems.append(Problem(source.name, source.file.name, message))
    if problems:
        raise _refusal(problems, f"{_at(context)}tensors")


def _at(context: Context) -> str:
    return f"{context.shard}: " if context.shard else ""


def _refusal(problems: Sequence[Problem], subject: str) -> InvalidInput:
    lines = [problem.line for problem in problems]
    rest = len(lines) - MAX_NAMED
    others = [*lines[1:MAX_NAMED], f"and {rest} more"] if rest > 0 else lines[1:]
    hint = "correct the step, or choose other tensors of the donor"
    return InvalidInput(lines[0], subject=subject, hint=hint, others=tuple(others))
