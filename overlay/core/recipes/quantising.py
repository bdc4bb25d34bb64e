"""The steps that change how weights are stored: `dequantize` and `quantize`.

A module is taken as a whole: its partners go and come together, wherever they lie.  Scales of inputs, which a calibration
gave, outlive `dequantize`, so that a later `quantize` whose format needs them finds them; `core.recipes.recipe` drops what
is left of them in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from overlay.core.recipes.layouts import ACTIVATION_PARTS, LayoutProblem, Options, decode, encode, partners
from overlay.core.recipes.state import (
    Module,
    Problem,
    StepProblems,
    Tensors,
    about,
    choose_modules,
    first_of,
    format_in,
    idle_patterns,
    is_matrix,
    is_quantised,
    join,
    modules_of,
    ordered,
    parts_of,
    require,
    scheme_in,
)
from overlay.core.recipes.steps import cast_value
from overlay.core.recipes.values import Argument, Parameter, Spec, Value, make_call, renamed
from overlay.formats.module_regex import RegexProblem
from overlay.formats.quantization_config import QuantizationConfig, is_linear
from overlay.formats.steps import Dequantize, QuantizeFp8, QuantizeFp8Block, QuantizeMx, QuantizeNvfp4, QuantizePacked
from overlay.formats.weight_schemes import WeightScheme

QuantizeTo = QuantizePacked | QuantizeNvfp4 | QuantizeFp8Block | QuantizeFp8 | QuantizeMx

FUSED: Final = (
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
)
"""Neighbours that engines fuse to one layer, which has one scheme and, in NVFP4, one scale for the whole tensor."""

_SHARED: Final = {"modelopt-nvfp4": ("weight_scale_2", ()), "nvfp4-pack-quantized": ("weight_global_scale", (1,))}
"""Format to suffix and shape of the scale that fused neighbours share."""
_INPUT_SCALE: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "modelopt-nvfp4": ("input_scale", ()),
    "nvfp4-pack-quantized": ("input_global_scale", (1,)),
    "fp8-tensor": ("input_scale", ()),
    "fp8-channel": ("input_scale", ()),
}
"""Format to suffix and shape of the scale of the inputs."""


def dequantize(tensors: Tensors, step: Dequantize) -> dict[str, Value]:
    """Quantised modules as plain ones.

    Raises:
        StepProblems: a partner is missing or does not fit, a module is in another format, or no module is quantised.
    """
    modules = modules_of(tensors)
    quantised = {path: module for path, module in modules.items() if is_quantised(module)}
    ignored = choose_modules(step.ignore, quantised)
    problems = idle_patterns("ignore", ignored)
    result = dict(tensors)
    touched = 0
    for path, module in quantised.items():
        if path in ignored.names:
            continue
        touched += 1
        try:
            weight = _dequantised(module, step)
        except LayoutProblem as problem:
            problems.append(_at(path, module, problem))
        except StepProblems as error:
            problems += error.problems
        else:
            for suffix in parts_of(module):
                del result[module[suffix].name]
            result[join(path, "weight")] = renamed(weight, join(path, "weight"))
    if not touched:
        problems.append(Problem("", "", f"expected a module in {step.format}, found none (rule idle-step)"))
    require(problems)
    return ordered(result.values())


def _dequantised(module: Module, step: Dequantize) -> Value:
    found = format_in(module)
    wanted = found if step.format == "auto" else step.format
    if wanted is None:
        label = scheme_in(module).label
        raise StepProblems([about(first_of(module), f"expected a format that recipes read, found {label}", "format")])
    parts = parts_of(module)
    try:
        decoded = decode(wanted, parts, _options(step, module))
    except LayoutProblem:
        if found is None or found == wanted:
            raise
        message = f"expected {wanted}, found {found}"
        raise StepProblems([about(first_of(module), message, "already-quantised")]) from None
    required, optional = partners(wanted, parts)
    inputs = [Argument(suffix, module[suffix]) for suffix in (*required, *optional) if suffix in module]
    output = Spec("weight", step.to, decoded.shape)
    return make_call("dequantize", inputs, [output], format=wanted, to=step.to, **decoded.params)[1][0]


def _options(step: Dequantize, module: Module) -> Options:
    block = (step.block[0], step.block[1]) if step.block else scheme_in(module).block
    return Options(bits=step.bits, block=block, checkpoint_format=step.checkpoint_format)


def _at(path: str, module: Module, problem: LayoutProblem) -> Problem:
    home = module[problem.part].home if problem.part in module else first_of(module).home
    return Problem(join(path, problem.part), home, str(problem))


@dataclass(frozen=True, slots=True)
class Quantised:
    """What a `quantize` step came to."""

    tensors: dict[str, Value]
    schemes: Mapping[str, WeightScheme]
    """Module to scheme, for every module that is now stored in a demanded one."""


def quantize(tensors: Tensors, step: QuantizeTo) -> Quantised:
    """Linear modules, or those that the step names, in the step's format.

    Raises:
        StepProblems: a pattern describes nothing, a weight does not fit the format, a module is quantised otherwise, or
            neighbours that engines fuse would differ.
    """
    modules = modules_of(tensors)
    matrices = {path for path, module in modules.items() if is_matrix(module) or is_quantised(module)}
    targets, ignored = choose_modules(step.targets, matrices), choose_modules(step.ignore, matrices)
    require([*idle_patterns("targets", targets), *idle_patterns("ignore", ignored)])
    chosen = targets.names if step.targets else {path for path in matrices if is_linear(path) and not _is_head(path)}
    scheme = step.scheme
    wanted = dict.fromkeys(sorted(chosen - ignored.names), scheme)
    left = {path for path in matrices - wanted.keys() if is_quantised(modules[path])}
    require([] if step.targets else list(_stacked(modules, lambda path: not choose_modules(step.ignore, [path]).names)))
    return _quantised(modules, wanted, left)


def _is_head(path: str) -> bool:
    """Whether a module gives the logits: it stays as it is unless somebody names it, as exporters have it."""
    return path.rpartition(".")[2] in ("lm_head", "embed_out") or path.endswith("shared_head.head")


def quantize_like(tensors: Tensors, config: QuantizationConfig) -> Quantised:
    """Every module as the config of another checkpoint says, which also decides what must not be quantised.

    Raises:
        StepProblems: as `quantize`; or a module is quantised that the config leaves alone.
    """
    modules = modules_of(tensors)
    matrices = sorted(path for path, module in modules.items() if is_matrix(module) or is_quantised(module))
    try:
        found = {path: config.scheme_for(path) for path in matrices}
    except RegexProblem as problem:
        raise StepProblems([Problem("", "", f"{problem} (rule name-length)")]) from None
    require(list(_stacked(modules, lambda path: config.scheme_for(f"{path}.0.up_proj") is not None)))
    return _quantised(modules, {path: scheme for path, scheme in found.items() if scheme is not None}, set())


def _quantised(
    modules: Mapping[str, dict[str, Value]], wanted: Mapping[str, WeightScheme], left: Iterable[str]
) -> Quantised:
    """`modules` with those of `wanted` in their schemes; quantised ones outside of `wanted` and `left` are refused."""
    problems = list(_disagreeing(modules, wanted))
    kept = {path for path in wanted if _is_stored(modules[path], wanted[path])}
    for path in sorted(modules):
        module = modules[path]
        if is_quantised(module) and path not in kept and path not in left:
            demanded = wanted[path].label if path in wanted else "an unquantised module"
            message = f"expected {demanded}, found {scheme_in(module).label}: dequantize it first"
            problems.append(about(first_of(module), message, "already-quantised"))
    if not wanted:
        problems.append(Problem("", "", "expected a module to quantize, found none (rule idle-step)"))
    require(problems)
    making = {path: scheme for path, scheme in wanted.items() if path not in kept}
    shared = _shared_scales(modules, making, kept)
    result: dict[str, Value] = {}
    for path, module in modules.items():
        try:
            values = _encoded(module, making[path], shared.get(path)) if path in making else module
        except LayoutProblem as problem:
            problems.append(_at(path, module, problem))
            continue
        result |= {(name := join(path, suffix)): renamed(value, name) for suffix, value in values.items()}
    require(problems)
    return Quantised(ordered(result.values()), wanted)


def _stacked(modules: Mapping[str, Module], is_wanted: Callable[[str], bool]) -> Iterator[Problem]:
    """Stacked experts have no modules of their own, so that nothing would be quantised where everything should."""
    for path, module in modules.items():
        if path.endswith("experts") and is_wanted(path):
            for value in module.values():
                if len(value.shape) == 3:
                    yield about(
                        value, f"expected numbered experts, found {list(value.shape)}: split them first", "matrix"
                    )


def _disagreeing(modules: Mapping[str, Module], wanted: Mapping[str, WeightScheme]) -> Iterator[Problem]:
    for members in _fused_sets(modules):
        labels = {wanted[path].label if path in wanted else "unquantised" for path in members}
        if len(labels) > 1:
            names = " and ".join(path.rpartition(".")[2] for path in members)
            message = f"expected one scheme for {names}, which engines fuse, found {' and '.join(sorted(labels))}"
            yield about(first_of(modules[members[0]]), message, "one-scheme")


def _fused_sets(modules: Mapping[str, Module]) -> Iterator[list[str]]:
    """Neighbours that engines fuse, where at least two are there."""
    parents = {
        parent for path in modules for parent, _, last in [path.rpartition(".")] if any(last in f for f in FUSED)
    }
    for parent in sorted(parents):
        for names in FUSED:
            members = [path for name in names if (path := join(parent, name)) in modules]
            if len(members) > 1:
                yield members


def _is_stored(module: Module, scheme: WeightScheme) -> bool:
    """Whether a module is already stored in exactly this scheme."""
    if not is_quantised(module) or (scheme.static_inputs and _INPUT_SCALE[scheme.format][0] not in module):
        return False
    parts = parts_of(module)
    scale = parts.get(scheme.scale_name)
    exact = replace(scheme, scale_dtype=scheme.scale_dtype or (scale.dtype if scale else None))
    try:
        decoded = decode(
            scheme.format, parts, Options(bits=scheme.bits if scheme.bits in (4, 8) else None, block=scheme.block)
        )
        dtype = exact.scale_dtype if exact.scale_dtype in ("BF16", "F16", "F32") else "BF16"
        return {(s.role, s.dtype, s.shape) for s in encode(exact, dtype, decoded.shape)} == {*parts.values()}
    except LayoutProblem:
        return False


def _shared_scales(
    modules: Mapping[str, Module], making: Mapping[str, WeightScheme], kept: Iterable[str]
) -> dict[str, Value]:
    """Module to the scale of the whole tensor that it must share with its neighbours; NVFP4 only."""
    shared: dict[str, Value] = {}
    problems = []
    stored = set(kept)
    for members in _fused_sets(modules):
        making_now = [path for path in members if path in making and making[path].format in _SHARED]
        if making_now and stored.intersection(members):
            message = "expected its neighbours to be quantised with it, found one that is already"
            problems.append(about(first_of(modules[making_now[0]]), message, "shared-scale"))
        elif len(making_now) > 1:
            suffix, shape = _SHARED[making[making_now[0]].format]
            inputs = [Argument("weight", modules[path]["weight"]) for path in making_now]
            output = Spec(suffix, "F32", shape)
            _, (scale,) = make_call("shared-scale", inputs, [output], format=making[making_now[0]].format)
            shared |= dict.fromkeys(making_now, scale)
    require(problems)
    return shared


def _encoded(module: Module, scheme: WeightScheme, shared: Value | None) -> dict[str, Value]:
    """The module with its weight in `scheme`, by suffix."""
    weight = module["weight"]
    specs = encode(scheme, weight.dtype, weight.shape)
    params = _PARAMS[scheme.format](scheme)
    if scheme.format == "pack-quantized" and scheme.scale_dtype not in (None, weight.dtype):
        weight = cast_value(weight, str(scheme.scale_dtype))  # its statistics are taken in the dtype of the scales
    inputs = [Argument("weight", weight)]
    inputs += [Argument(_SHARED[scheme.format][0], shared)] if shared is not None else []
    _, made = make_call("quantize", inputs, specs, format=scheme.format, **params)
    rest = {suffix: value for suffix, value in module.items() if suffix != "weight" and suffix not in ACTIVATION_PARTS}
    return {**rest, **{value.name: value for value in made}, **_input_scale(module, scheme)}


def _input_scale(module: Module, scheme: WeightScheme) -> dict[str, Value]:
    """The scale of the inputs that the format stores, from the donor: as it is, or as its reciprocal."""
    if not scheme.static_inputs:
        return {}
    suffix, shape = _INPUT_SCALE.get(scheme.format, ("input_scale", ()))
    if suffix in module:
        return {suffix: module[suffix]}
    other = "input_global_scale" if suffix == "input_scale" else "input_scale"
    if other not in module or "nvfp4" not in scheme.format:
        raise LayoutProblem(suffix, "partner", "a scale of the inputs from the donor's calibration", "none")
    _, (value,) = make_call("reciprocal", [Argument("scale", module[other])], [Spec(suffix, "F32", shape)])
    return {suffix: value}


def _no_params(scheme: WeightScheme) -> dict[str, Parameter]:
    return {}


_PARAMS: Final[dict[str, Callable[[WeightScheme], dict[str, Parameter]]]] = {
    "modelopt-nvfp4": _no_params,
    "nvfp4-pack-quantized": _no_params,
    "pack-quantized": lambda s: {"bits": s.bits, "group_size": s.group_size, "symmetric": s.symmetric},
    "fp8-block": lambda s: {"block": s.block, "scale_name": s.scale_name},
    "fp8-channel": lambda s: {"scale_dtype": s.scale_dtype},
    "fp8-tensor": _no_params,
    "mxfp4": _no_params,
    "mxfp8": _no_params,
}
"""Format to the parameters of its `quantize` call."""
