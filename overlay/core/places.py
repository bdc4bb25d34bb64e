"""Places: where in a model a tensor belongs, read off its name.

``model.layers.3.mlp.experts.17.up_proj.weight`` belongs to layer 3 of the stack ``model.layers``, component
``mlp.experts``.  Names are the only source, since a header holds nothing else; what is no part of a numbered layer has a
component alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Final, NamedTuple


class Place(NamedTuple):
    """Where a tensor belongs."""

    stack: str
    """The path before the layer's number, such as ``model.layers``; "" outside any layer."""
    layer: int | None
    component: str
    """The part of the layer, such as ``mlp.experts``, ``self_attn`` or ``norms``; outside layers the module's path."""


_LAYER = re.compile(r"\.(?:layers|h|blocks|layer|block)\.(\d{1,9})(?![^.])")
"""The path segments that numbered layers follow, in the families that transformers names.  Longer runs of digits are no
layer numbers, and Python refuses to read 5,000 of them."""

_EXPERTS: Final = ".experts."

_WHOLE: Final = frozenset({"experts", "shared_experts", "shared_expert", "gate", "router"})
"""Modules that are a component of their own, and not a detail of the module around them."""


def place_of(name: str) -> Place:
    """Where the tensor `name` belongs."""
    return places_of([name])[0]


def places_of(names: Iterable[str], known: dict[str, Place] | None = None) -> list[Place]:
    """`place_of` for many names; costs a look-up a tensor, and a regular expression a module.

    `known` holds the modules that were met before; those met now are added.
    """
    known = {} if known is None else known
    places = []
    for name in names:
        module = name[: name.rfind(".")]
        place = known.get(module)
        if place is None:
            place = known[module] = _find(module_of(name), known)
        places.append(place)
    return places


def _find(module: str, known: dict[str, Place]) -> Place:
    """The place of a module that was not met before; every expert of a layer has one place."""
    at = module.find(_EXPERTS)
    if at < 0 or not module[at + len(_EXPERTS) :][:1].isdigit():
        return _place_of_module(module)
    experts = module[: at + len(_EXPERTS)]
    place = known.get(experts)
    if place is None:
        place = known[experts] = _place_of_module(experts + "0")
    return place


def stacks_of(names: Iterable[str]) -> dict[str, set[int]]:
    """The path of each stack of numbered layers, to the numbers of those that some tensor belongs to.

    Costs a partition a tensor, and a regular expression a module outside of experts.
    """
    stacks: dict[str, set[int]] = {}
    for head in {name.partition(_EXPERTS)[0] for name in names}:
        match = _LAYER.search("." + head)
        if match is not None:
            stacks.setdefault(head[: match.start(1) - 2], set()).add(int(match[1]))
    return stacks


def module_of(name: str) -> str:
    """The module that the tensor `name` belongs to: all but the last part; of a name without parts, the name."""
    return name.rpartition(".")[0] or name


def _place_of_module(module: str) -> Place:
    match = _LAYER.search("." + module)
    if match is None:
        parts = module.split(".")
        numberless = parts[: next((at for at, part in enumerate(parts) if _is_number(part)), len(parts))]
        outside = numberless[1:] if numberless[:1] == ["model"] and len(numberless) > 1 else numberless
        return Place("", None, ".".join(outside) or module)
    stack = module[: match.start(1) - 2]
    return _share(Place(stack, int(match[1]), _component(module[match.end() :])))


@cache
def _share(place: Place) -> Place:
    """One object for equal places, since a layer of 256 experts has a place 3,000 times."""
    return place


@lru_cache(maxsize=1 << 14)
def _component(path: str) -> str:
    """The component that a module inside a layer belongs to: few enough for a layer to be read in a line."""
    parts = path.split(".") if path else []
    inside = parts[: next((at for at, part in enumerate(parts) if _is_number(part)), len(parts))]
    if not inside:
        return "parameters"
    if len(inside) == 1 and "norm" in inside[0]:
        return "norms"
    if len(inside) == 1 or len(inside) < len(parts) or inside[-1] in _WHOLE:
        return ".".join(inside)
    return ".".join(inside[:-1])


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit()
