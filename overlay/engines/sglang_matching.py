"""SGLang's matching of ModelOpt's list of unquantised modules, which is not vLLM's.

Experts are asked about once, by the path of all of them: an entry must describe that whole path, or one dotted part of it.
Linear modules are also left out by an entry that is a run of whole parts of their path.  Source: SGLang 0.5.23
`modelopt_quant.py:344-423`, `layers/quantization/utils.py:47-125`; held against its loader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import translate
from typing import Any, Final

from overlay.engines.matching import FUSED, PART_OF, UNQUANTISED, Decision, Matcher

_LATENT: Final = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
"""Last parts of entries that SGLang looks for in the last part of every module, whatever the layer."""
_ASKED_AS: Final = {"fused_qkv_a_proj": "fused_qkv_a_proj_with_mqa"}
_ASKED_BY_PART: Final = ("gate_up_proj", "qkv_proj")


class SglangMatcher(Matcher):
    """A declaration of ModelOpt, as SGLang asks it about modules."""

    def __init__(self, declared: Mapping[str, Any] | None) -> None:
        super().__init__(declared)
        plain = frozenset(entry for entry in self._entries if "*" not in entry)
        wild = [translate(re.sub(r"([\[?])", r"[\1]", entry)) for entry in self._entries if "*" in entry]
        self._exact = plain
        self._patterns = re.compile("|".join(wild)) if wild else None
        self._paths = frozenset(entry.rstrip(".") for entry in self._entries)
        self._tails = frozenset(entry.rpartition(".")[2] for entry in self._entries) & frozenset(_LATENT)

    def _decide(self, module: str) -> Decision:
        head, _, last = module.rpartition(".")
        fused = PART_OF.get(last, last)
        asked = f"{head}.{_ASKED_AS.get(fused, fused)}"
        parts = FUSED[fused] if fused in _ASKED_BY_PART else (_ASKED_AS.get(fused, fused),)
        skipped = {self._is_on_path(f"{head}.{part}") for part in parts}
        if len(skipped) > 1:
            return Decision(None, False)
        if True in skipped or self._excluded(asked) or self._has_tail(asked):
            return UNQUANTISED
        return self._scheme(module, listed=True)

    def _excluded(self, prefix: str) -> bool:
        """Whether an entry describes the whole of `prefix` or one of its parts."""
        self._spend()
        names = (prefix, *prefix.split("."))
        if not self._exact.isdisjoint(names):
            return True
        patterns = self._patterns
        return patterns is not None and any(patterns.match(name) for name in names)

    def _is_on_path(self, module: str) -> bool:
        """Whether some run of whole parts of `module` is an entry."""
        return not self._paths.isdisjoint(_runs(module))

    def _has_tail(self, asked: str) -> bool:
        last = asked.rpartition(".")[2]
        return any(tail in last for tail in self._tails)


def _runs(module: str) -> Iterator[str]:
    parts = module.split(".")
    for begin in range(len(parts)):
        for end in range(begin + 1, len(parts) + 1):
            yield ".".join(parts[begin:end])
