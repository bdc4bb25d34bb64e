"""A recipe while it is planned: the tensors after some of its steps, and what a step may complain of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from overlay.core.recipes.layouts import ACTIVATION_PARTS
from overlay.core.recipes.values import Spec, Value
from overlay.core.schemes import Scheme, Stored, scheme_of
from overlay.formats.patterns import Pattern
from overlay.formats.weight_schemes import FLOATS, DecodedFormat

Tensors = Mapping[str, Value]
"""Name to tensor, in the order of names."""

Module = Mapping[str, Value]
"""The tensors of one module, by suffix."""

BESIDE: Final = frozenset(
    {
        *("bias", "e_score_correction_bias", "k_scale", "v_scale", "q_scale", "prob_scale"),
        *("k_zero_point", "v_zero_point"),
    }
)
"""What may lie beside a weight, quantised or not, without being a part of it."""

_PARTNERS: Final = frozenset(
    {
        *("weight_packed", "weight_scale", "weight_scale_2", "weight_scale_inv", "weight_global_scale", "weight_shape"),
        *("weight_zero_point", "weight_g_idx", "qweight", "qzeros", "scales", "g_idx"),
    }
)
"""Suffixes that only quantised modules have."""

_FORMATS: Final[dict[str, DecodedFormat]] = {
    "modelopt-nvfp4": "modelopt-nvfp4",
    "nvfp4-pack-quantized": "nvfp4-pack-quantized",
    "pack-quantized": "pack-quantized",
    "fp8-block": "fp8-block",
    "fp8-channel": "fp8-channel",
    "fp8-tensor": "fp8-tensor",
    "mxfp4-pack-quantized": "mxfp4",
    "modelopt-mxfp4": "mxfp4",
    "mxfp8": "mxfp8",
    "awq": "awq",
    "gptq": "gptq",
}
"""Kind of a scheme to the format that recipes know it by."""


class Problem(NamedTuple):
    """One thing that a step forbids."""

    tensor: str
    file: str
    """The donor's shard; "" where no tensor is at fault."""
    message: str

    @property
    def line(self) -> str:
        """``tensor (file): expected …, found … (rule …)``."""
        where = f"{self.tensor} ({self.file})" if self.file else self.tensor
        return f"{where}: {self.message}" if where else self.message


class StepProblems(ValueError):
    """All that is wrong with one step, in the order of tensors."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problem.line for problem in problems))


def require(problems: Sequence[Problem]) -> None:
    """Raise `StepProblems` where there are any."""
    if problems:
        raise StepProblems(problems)


def about(value: Value, message: str, rule: str) -> Problem:
    """A problem with a tensor."""
    return Problem(value.name, value.home, f"{message} (rule {rule})")


def ordered(tensors: Iterable[Value]) -> dict[str, Value]:
    """Tensors by name, in the order of names."""
    return {value.name: value for value in sorted(tensors, key=lambda value: value.name)}


def modules_of(tensors: Tensors) -> dict[str, dict[str, Value]]:
    """Path to module; a tensor whose name has no dot is a module of its own without a path."""
    modules: dict[str, dict[str, Value]] = {}
    for name, value in tensors.items():
        path, _, suffix = name.rpartition(".")
        modules.setdefault(path, {})[suffix if path else name] = value
    return modules


def join(*parts: str) -> str:
    """`parts` with dots between them; an empty one leaves none."""
    return ".".join(part for part in parts if part)


def parts_of(module: Module) -> dict[str, Spec]:
    """What the weight of a module is made of."""
    names = sorted(module.keys() - BESIDE - ACTIVATION_PARTS)
    return {suffix: Spec(suffix, module[suffix].dtype, module[suffix].shape) for suffix in names}


def scheme_in(module: Module) -> Scheme:
    """How a module stores its weight."""
    return scheme_of(frozenset(Stored(suffix, value.dtype, value.shape) for suffix, value in module.items()))


def is_quantised(module: Module) -> bool:
    """Whether a module's weight is stored in fewer bits, or looks as if a partner of such a weight were missing."""
    weight = module.get("weight")
    return not _PARTNERS.isdisjoint(module) or (weight is not None and weight.dtype not in FLOATS)


def format_in(module: Module) -> DecodedFormat | None:
    """The format of a quantised module; None where no recipe reads it."""
    if "weight_scale_inv" in module and "weight" in module:
        return "fp8-block"
    return _FORMATS.get(scheme_in(module).kind)


def is_matrix(module: Module) -> bool:
    """Whether a module has an unquantised weight of rows and columns."""
    weight = module.get("weight")
    return weight is not None and len(weight.shape) == 2 and not is_quantised(module)


def first_of(module: Module) -> Value:
    """A tensor of a module to name it by: the weight, or the first there is."""
    return next((module[s] for s in ("weight", "weight_packed", "qweight") if s in module), module[min(module)])


class Chosen(NamedTuple):
    """What some patterns describe."""

    names: frozenset[str]
    idle: tuple[str, ...]
    """Patterns that describe nothing."""


def choose_modules(patterns: Sequence[str] | None, modules: Iterable[str]) -> Chosen:
    """The modules that patterns describe, by path, or as the tensor ``path.weight``."""
    return _choose(patterns, modules, lambda pattern, path: pattern.matches(path) or pattern.matches(f"{path}.weight"))


def choose_tensors(patterns: Sequence[str] | None, names: Iterable[str]) -> Chosen:
    """The tensors that patterns describe."""
    return _choose(patterns, names, lambda pattern, name: pattern.matches(name))


def _choose(patterns: Sequence[str] | None, names: Iterable[str], fits: Callable[[Pattern, str], bool]) -> Chosen:
    wanted = list(names) if patterns else []
    compiled = {text: Pattern(text) for text in patterns or ()}
    found = {text: [name for name in wanted if fits(pattern, name)] for text, pattern in compiled.items()}
    chosen = frozenset(name for described in found.values() for name in described)
    return Chosen(chosen, tuple(text for text, described in found.items() if not described))


def idle_patterns(key: str, chosen: Chosen) -> list[Problem]:
    """A complaint for each pattern under `key` that describes nothing."""
    rule = "(rule idle-step)"
    return [
        Problem("", "", f"{key}: expected {text!r} to describe something, found nothing {rule}") for text in chosen.idle
    ]
