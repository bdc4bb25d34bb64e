"""Matching: what an engine's quantisation makes of one module, by its declaration and the name that the engine gives it.

Sources: vLLM 0.33 `modelopt.py:191-226` (exact with fused parts, plain substring, fnmatch), `compressed_tensors/utils.py`
(exact or ``re:``; fused parts must agree), `fp8.py`; compressed-tensors 0.20 `match_targets`.  The rules themselves are in
`formats.quantization_config`; here are the names that engines ask about: fused modules, experts, and other prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase, translate
from typing import Any, Final, NamedTuple

from overlay.formats.module_regex import RegexProblem
from overlay.formats.quantization_config import (
    LINEAR,
    QuantizationConfig,
    QuantizationConfigProblems,
    parse_quantization_config,
)
from overlay.formats.weight_schemes import WeightScheme

FUSED: Final[dict[str, tuple[str, ...]]] = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa"),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
}
"""The parameter that an engine builds, to the modules that are stacked in it."""

PART_OF: Final = {part: fused for fused, parts in FUSED.items() for part in parts}
"""The reverse."""


class Decision(NamedTuple):
    """What a declaration says about a module."""

    scheme: WeightScheme | None
    """None: not quantised."""
    agreed: bool = True
    """False: parts of one fused module are declared differently, and engines refuse."""


UNQUANTISED: Final = Decision(None)

_MOST_WORK: Final = 300_000
"""Parts of expressions that are matched against names for one checkpoint, some ten seconds at worst; published lists take a
few thousand.  A list with which it is not enough is not understood."""
_PER_PART: Final = 500
"""Plain entries that cost as much as one part of an expression."""
_PER_PATTERN: Final = 20
"""Parts of patterns, which have no loops in loops, that do."""
_PER_GROUP: Final = 40
"""Groups that do."""
_LEAST_MODULES: Final = 100
"""Modules that the least checkpoint asks about; a list that is too much for them is not even compiled."""


class Matcher:
    """A declaration, ready to be asked about modules."""

    def __init__(self, declared: Mapping[str, Any] | None) -> None:
        method = declared.get("quant_method") if declared else None
        self.method = method if isinstance(method, str) else ""
        self.algorithm = str(declared.get("quant_algo") or "") if declared else ""
        self.problem = ""
        self.rules: QuantizationConfig | None = None
        if declared is not None and not self.method:
            self.problem = f"quant_method: expected text, found {method!r}"
        elif declared is not None:
            try:
                self.rules = parse_quantization_config(declared)
            except QuantizationConfigProblems as problems:
                self.problem = problems.lines[0]
        self._known: dict[str, Decision] = {}
        self._cost, self._left = _cost_of(self.rules), _MOST_WORK
        self._spend(_LEAST_MODULES)
        self._entries = tuple(entry for entry in self.rules.ignore if entry) if self.rules and not self.problem else ()
        wild = [entry for entry in self._entries if _has_wildcard(entry)]
        plain = [entry for entry in self._entries if entry not in wild]
        self._wild = re.compile("|".join(map(translate, wild))) if wild else None
        self._parts = tuple(plain)

    @property
    def quantises(self) -> bool:
        """Whether anything is declared."""
        return self.rules is not None or bool(self.problem)

    @property
    def understood(self) -> bool:
        """Whether decisions can be made; an absent declaration is understood."""
        return not self.problem

    @property
    def is_fp4(self) -> bool:
        """Whether SGLang calls it ``modelopt_fp4``."""
        return self.method.startswith("modelopt") and "FP4" in self.algorithm and "MIXED" not in self.algorithm

    def decide(self, module: str) -> Decision:
        """What is said about the weight of `module`, named by the engine's prefix and the checkpoint's last part."""
        if self.rules is None or self.problem:
            return UNQUANTISED
        known = self._known.get(module)
        if known is None:
            known = self._known[module] = self._decide(module)
        return known

    def decide_experts(self, path: str, projections: Sequence[str]) -> Decision:
        """What is said about all routed experts at `path`: engines ask about the first one, or about the path itself."""
        if self.rules is None or self.problem:
            return UNQUANTISED
        if self.method == "modelopt":
            return UNQUANTISED if self._excluded(path) else self._scheme(f"{path}.0.{projections[0]}", listed=True)
        found = {self._scheme(f"{path}.0.{projection}") for projection in projections}
        return next(iter(found)) if len(found) == 1 else Decision(None, False)

    def names(self, module: str) -> list[str]:
        """The entries that leave `module` out, for messages."""
        return [entry for entry in self._entries if self._hits(entry, module)]

    def _decide(self, module: str) -> Decision:
        head, _, last = module.rpartition(".")
        fused = PART_OF.get(last)
        if fused is None:
            return UNQUANTISED if self.method == "modelopt" and self._excluded(module) else self._scheme(module)
        parts = tuple(f"{head}.{part}" for part in FUSED[fused])
        if self.method == "modelopt":
            if self._excluded(f"{head}.{fused}") or self._all_excluded(parts):
                return UNQUANTISED
            return self._scheme(module, listed=True)
        found = {self._scheme(part) for part in parts}
        return self._scheme(module) if len(found) == 1 else Decision(None, False)

    def _scheme(self, module: str, *, listed: bool = False) -> Decision:
        assert self.rules is not None  # what asks was asked after it
        if self.method == "modelopt" and len(self.rules.groups) == 1:  # who asks has looked at the list already
            return Decision(self.rules.groups[0].scheme)
        self._spend()
        try:
            found = self.rules.scheme_for(module, LINEAR)
        except RegexProblem:
            return UNQUANTISED
        if found is None and listed:  # a fused module whose part alone is named: the engine does not see the name
            found = next((group.scheme for group in self.rules.groups if LINEAR in group.targets), None)
        return Decision(found)

    def _spend(self, modules: int = 1) -> None:
        self._left -= self._cost * modules
        if self._left < 0:
            self.problem = f"more expressions or groups than lint evaluates ({self._cost} steps a module)"

    def _all_excluded(self, parts: Sequence[str]) -> bool:
        entries = set(self._entries)
        return all(part in entries for part in parts)

    def _excluded(self, prefix: str) -> bool:
        """ModelOpt: the name, a part of the name, or a pattern (`modelopt.py:191-226`)."""
        self._spend()
        if any(entry in prefix for entry in self._parts):
            return True
        return self._wild is not None and self._wild.match(prefix) is not None

    def _hits(self, entry: str, module: str) -> bool:
        assert self.rules is not None  # as above
        if self.method == "modelopt":
            return entry in module or fnmatchcase(module, entry)
        if entry.startswith("re:"):
            return self.rules.scheme_for(module, LINEAR) is None
        return entry == module


def _cost_of(rules: QuantizationConfig | None) -> int:
    """What one module costs at worst, in parts of expressions."""
    if rules is None:
        return 0
    entries = [*rules.ignore, *(target for group in rules.groups for target in group.targets)]
    expressions = [entry for entry in entries if entry.startswith("re:") or _has_wildcard(entry)]
    parts = sum(1 + len(_REPEATED.findall(entry)) for entry in expressions)
    if rules.method != "compressed-tensors":
        parts //= _PER_PATTERN
    return 1 + parts + len(entries) // _PER_PART + len(rules.groups) // _PER_GROUP


_REPEATED: Final = re.compile(r"[*+?{|]")


def _has_wildcard(entry: str) -> bool:
    return any(sign in entry for sign in "*?[")
