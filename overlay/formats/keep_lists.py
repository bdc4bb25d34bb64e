"""Keep lists: the experts that stay, in a JSON file of their own.

Two forms: a list of experts for all layers, or a mapping of layers to lists, as llm-compressor's REAP modifier reports them
(``{"model.layers.3.mlp": [0, 2, 5]}``); a layer's number alone will do as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from overlay.formats import strict_json
from overlay.formats.steps import explain_keep_list

_LAYER: Final = re.compile(r"(?:.*\.)?(0|[1-9]\d{0,8})(?:\.[A-Za-z_]\w*)*", re.ASCII)
_MOST: Final = 1 << 20


class KeepListProblems(ValueError):
    """Everything wrong with a keep list; one line a problem."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = list(lines)
        super().__init__("; ".join(lines))


@dataclass(frozen=True, slots=True)
class KeepLists:
    """Which experts stay, in ascending order; exactly one of the two is given."""

    everywhere: tuple[int, ...] | None = None
    by_layer: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def for_layer(self, layer: int | None) -> tuple[int, ...] | None:
        """The experts that stay in a layer; None where nothing is said of it."""
        return (
            self.everywhere if self.everywhere is not None else dict(self.by_layer).get(-1 if layer is None else layer)
        )


def keep_lists(value: Sequence[int] | Mapping[str, Sequence[int]]) -> KeepLists:
    """The lists of a manifest or a file, whose form is right.

    Raises:
        KeepListProblems: a key that names no layer, or two of one layer.
    """
    if not isinstance(value, Mapping):
        return KeepLists(everywhere=tuple(value))
    layers: dict[int, tuple[int, ...]] = {}
    problems = []
    for key, experts in value.items():
        match = _LAYER.fullmatch(key)
        if match is None:
            problems.append(f"expected a layer, found {key!r}")
        elif int(match[1]) in layers:
            problems.append(f"expected each layer once, found {key!r} again")
        else:
            layers[int(match[1])] = tuple(experts)
    if problems:
        raise KeepListProblems(problems)
    return KeepLists(by_layer=tuple(sorted(layers.items())))


def parse_keep_lists(data: bytes) -> KeepLists:
    """Read the file that a `keep-experts` step names.

    Raises:
        KeepListProblems: with everything that is wrong.
    """
    try:
        value = strict_json.decode(data)
    except strict_json.JsonProblem as error:
        raise KeepListProblems([str(error)]) from None
    entries: dict[str, Any] = value if isinstance(value, dict) else {"": value}
    problems = []
    for key, experts in entries.items():
        problem = _explain(experts)
        if problem:
            problems.append(f"{key}: {problem}" if key else problem)
    if not entries:
        problems.append("expected at least one layer, found none")
    if problems:
        raise KeepListProblems(problems)
    return keep_lists(entries if isinstance(value, dict) else entries[""])


def _explain(experts: object) -> str:
    if not isinstance(experts, list) or not experts:
        return "expected a list of experts, found " + ("none" if experts == [] else type(experts).__name__)
    odd = [expert for expert in experts if type(expert) is not int or not 0 <= expert < _MOST]
    if odd:
        return f"expected numbers of experts, found {odd[0]!r}"
    return explain_keep_list(experts)
