"""Which modules a ``quantization_config`` quantises, and exactly how: the rules, evaluated as the engines evaluate them.

`formats.quant_config` takes the same JSON apart for people to compare; here it decides bytes, so that everything
which is not understood is a problem.  Sources: compressed-tensors 0.20 (`QuantizationConfig`, `match_targets`), ModelOpt
0.47 (`convert_hf_config`), vLLM 0.33 (`compressed_tensors/utils.py`, `modelopt.py`: `is_layer_excluded`; `fp8.py`).

==================  =============================================================================================
method              how an entry of its list of unquantised modules, or a target, describes a module
==================  =============================================================================================
compressed-tensors  the module's name; ``re:`` and an expression that a beginning of the name matches; a target
                    also by class: ``Linear``
modelopt            the name, a part of the name, or a pattern with ``*`` and ``?``
fp8                 the name, its first or its last parts
==================  =============================================================================================

The class ``Linear`` is what engines build as a quantisable linear layer.  Norms, embeddings and routers are none, nor are
the parts of a draft layer and of a sparse indexer that vLLM always builds unquantised (`is_linear`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final

from overlay.formats.module_regex import ModuleRegex, RegexProblem, compile_regex
from overlay.formats.weight_schemes import WeightScheme
from overlay.formats.weight_words import WordsProblem, compressed_scheme, fp8_scheme, modelopt_scheme

LINEAR: Final = "Linear"

_NEVER_LINEAR: Final = frozenset(
    {
        *("gate", "router", "shared_expert_gate", "eh_proj"),
        *("embed_tokens", "embeddings", "wte", "wpe", "pos_embed", "position_embedding", "patch_embed"),
        *("enorm", "hnorm"),
    }
)
"""Last parts of modules that no engine quantises."""
_UNQUANTISED_INDEXER: Final = ("indexer.wk", "indexer.weights_proj")

_IGNORE_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "compressed-tensors": ("ignore",),
    "modelopt": ("ignore", "exclude_modules"),
    "fp8": ("modules_to_not_convert", "ignored_layers"),
}


class QuantizationConfigProblems(ValueError):
    """Everything in a declaration that is malformed or not understood; one line a problem, each with its place."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        super().__init__("; ".join(lines))


@dataclass(frozen=True, slots=True)
class Group:
    """Modules that are quantised alike."""

    name: str
    targets: tuple[str, ...]
    """Names, ``re:`` expressions, and classes of modules."""
    scheme: WeightScheme | None
    """None: their weights are not quantised."""


@dataclass(frozen=True)
class QuantizationConfig:
    """The rules of one declaration."""

    method: str
    """``compressed-tensors``, ``modelopt`` or ``fp8``."""
    groups: tuple[Group, ...]
    ignore: tuple[str, ...]
    """Modules that stay unquantised, as written."""
    ignore_key: str
    document: Mapping[str, Any] = field(repr=False, hash=False)
    """The declaration itself."""

    def scheme_for(self, module: str, class_name: str | None = None) -> WeightScheme | None:
        """How the weight of `module` is stored; None: unquantised.

        A target that is the module's name decides first, then the expressions, then the class.  What is no linear layer
        is quantised only where its name is a target, since an expression seldom means a norm that it happens to describe.

        Args:
            module: the module's path, such as ``model.layers.78.mlp.experts.0.up_proj``.
            class_name: its class; decided by its name where it is not known (`is_linear`).

        Raises:
            RegexProblem: the name is too long for the expressions to be evaluated.
        """
        if self._excluded.describe(module):
            return None
        kind = class_name if class_name is not None else LINEAR if is_linear(module) else ""
        tests: list[Callable[[Group], bool]] = [lambda group: module in group.targets]
        if kind == LINEAR:
            tests += [lambda group: self._names[group.name].describe(module), lambda group: LINEAR in group.targets]
        for test in tests:
            for group in self.groups:
                if test(group):
                    return group.scheme
        return None

    @cached_property
    def _names(self) -> dict[str, _Names]:
        return {group.name: _Names(group.targets, _DESCRIBING[self.method]) for group in self.groups}

    @cached_property
    def _excluded(self) -> _Names:
        return _Names(self.ignore, _DESCRIBING[self.method])


def is_linear(module: str) -> bool:
    """Whether engines build the module of this name, whose weight has two dimensions, as a quantisable linear layer.

    Source: vLLM 0.33, `deepseek_mtp.py` (``eh_proj``, norms), `deepseek_v2.py` (``gate``; ``indexer.wk`` and
    ``weights_proj`` fused without a quantisation config).
    """
    last = module.rpartition(".")[2]
    if last in _NEVER_LINEAR or "norm" in last or "embed" in last:
        return False
    return not module.endswith(_UNQUANTISED_INDEXER)


def parse_quantization_config(value: Mapping[str, Any]) -> QuantizationConfig:
    """Take ``quantization_config`` of a ``config.json`` apart.

    Raises:
        QuantizationConfigProblems: with everything that is malformed, or that no recipe can write.
    """
    method = value.get("quant_method")
    if not isinstance(method, str) or method not in _IGNORE_KEYS:
        known = ", ".join(_IGNORE_KEYS)
        raise QuantizationConfigProblems([f"quant_method: expected one of {known}, found {method!r}"])
    problems: list[str] = []
    groups = tuple(_GROUPS[method](value, problems))
    key = next((key for key in _IGNORE_KEYS[method] if value.get(key) is not None), _IGNORE_KEYS[method][0])
    ignore = tuple(_strings(value.get(key) or [], key, problems))
    if not groups and not problems:
        problems.append("config_groups: expected at least one group, found none")
    if method == "compressed-tensors":
        _check_regexes(key, ignore, problems)
        for group in groups:
            _check_regexes(f"config_groups.{group.name}.targets", group.targets, problems)
    if problems:
        raise QuantizationConfigProblems(problems)
    return QuantizationConfig(method, groups, ignore, key, value)


def _compressed_groups(value: Mapping[str, Any], problems: list[str]) -> Iterator[Group]:
    groups = value.get("config_groups")
    if not isinstance(groups, Mapping):
        problems.append(f"config_groups: expected a mapping, found {type(groups).__name__}")
        return
    for name, group in groups.items():
        place = f"config_groups.{name}"
        if not isinstance(group, Mapping):
            problems.append(f"{place}: expected a mapping, found {type(group).__name__}")
            continue
        targets = tuple(_strings(group.get("targets"), f"{place}.targets", problems))
        try:
            yield Group(name, targets, compressed_scheme(group, value.get("format")))
        except WordsProblem as problem:
            problems.append(f"{place}.{problem}")


def _modelopt_groups(value: Mapping[str, Any], problems: list[str]) -> Iterator[Group]:
    layers = value.get("quantized_layers")
    declared = layers.items() if isinstance(layers, Mapping) else [(LINEAR, value)]
    for name, layer in declared:
        try:
            found = layer if isinstance(layer, Mapping) else {}
            yield Group(name, (name,), modelopt_scheme(found.get("quant_algo"), found))
        except WordsProblem as problem:
            problems.append(f"quantized_layers.{name}.{problem}" if layers else str(problem))


def _fp8_groups(value: Mapping[str, Any], problems: list[str]) -> Iterator[Group]:
    try:
        yield Group("group_0", (LINEAR,), fp8_scheme(value))
    except WordsProblem as problem:
        problems.append(str(problem))


_GROUPS: Final = {"compressed-tensors": _compressed_groups, "modelopt": _modelopt_groups, "fp8": _fp8_groups}


def _strings(value: object, place: str, problems: list[str]) -> Iterator[str]:
    if not isinstance(value, list):
        problems.append(f"{place}: expected a list, found {type(value).__name__}")
        return
    for position, entry in enumerate(value):
        if isinstance(entry, str):
            yield entry
        else:
            problems.append(f"{place}[{position}]: expected text, found {type(entry).__name__}")


def _check_regexes(place: str, entries: Sequence[str], problems: list[str]) -> None:
    for position, entry in enumerate(entries):
        if entry.startswith("re:"):
            try:
                compile_regex(entry[3:])
            except RegexProblem as problem:
                problems.append(f"{place}[{position}]: {entry}: {problem}")


class _Names:
    """Entries that describe modules; those that are plain names cost one look-up together."""

    def __init__(self, entries: Sequence[str], describing: Callable[[str], Callable[[str], bool] | None]) -> None:
        self._exact = frozenset(entries)
        self._others = [test for entry in entries if (test := describing(entry)) is not None]

    def describe(self, module: str) -> bool:
        """Whether some entry describes `module`."""
        return module in self._exact or any(test(module) for test in self._others)


def _compressed_test(entry: str) -> Callable[[str], bool] | None:
    if not entry.startswith("re:"):
        return None
    expression: ModuleRegex = compile_regex(entry[3:])
    return expression.matches


def _modelopt_test(entry: str) -> Callable[[str], bool] | None:
    if entry in ("", LINEAR):
        return None
    if re.search(r"[*?\[]", entry):
        return lambda module: fnmatchcase(module, entry)
    return lambda module: entry in module


def _fp8_test(entry: str) -> Callable[[str], bool] | None:
    if entry in ("", LINEAR):
        return None
    return lambda module: module.startswith(f"{entry}.") or module.endswith(f".{entry}")


_DESCRIBING: Final = {"compressed-tensors": _compressed_test, "modelopt": _modelopt_test, "fp8": _fp8_test}
