"""Layers: the tensors of the opened files by layer, module and form, with the routed experts of a layer taken together.

A quarter of a million tensors make some 80 layers of about 20 modules and three projections of experts, so that every
further rule costs a few thousand steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from overlay.core.modules import find_modules
from overlay.core.schemes import Form, Stored
from overlay.engines.inventory import EXPERTS
from overlay.formats.header import Header

_STACKS: Final = ("model.layers.", "model.language_model.layers.")
_INSIDE: Final = f".{EXPERTS}."
_DIGITS: Final = 7


@dataclass(slots=True)
class LayerSeen:
    """What is stored of one layer; built once and not changed after that."""

    prefix: str
    """Such as ``model.layers.78.``."""
    modules: dict[str, Form] = field(default_factory=dict)
    """Path below the layer to form; routed experts are left out."""
    experts: dict[tuple[str, Form], list[int]] = field(default_factory=dict)
    """Projection and form to the numbers of the experts that have it."""

    def expert_numbers(self) -> set[int]:
        """The experts that have any tensor."""
        return {number for numbers in self.experts.values() for number in numbers}

    @property
    def tensors(self) -> int:
        """Tensors of the layer."""
        own = sum(map(len, self.modules.values()))
        return own + sum(len(form) * len(numbers) for (_, form), numbers in self.experts.items())


@dataclass(frozen=True)
class Seen:
    """Everything in the opened files."""

    layers: Mapping[int, LayerSeen]
    """The trunk's stack and what continues it, by number."""
    outside: Mapping[str, Form]
    """Modules that are in no layer of that stack."""
    held: tuple[list[str], ...]
    """The names in each file."""
    duplicates: Mapping[str, tuple[str, ...]]
    """Tensors that lie in several files, with these in the order given."""
    stack: str = ""
    """Prefix of the trunk's layers, such as ``model.layers.``."""
    compared: dict[int, bool] = field(default_factory=dict, compare=False, repr=False)
    """What `differs_from` found, so that several engines cost one comparison."""

    def differs_from(self, weight_map: Mapping[str, str]) -> bool:
        """Whether the index maps other tensors than those that are here."""
        if id(weight_map) not in self.compared:
            count = sum(map(len, self.held))
            same = not self.duplicates and count == len(weight_map)
            self.compared[id(weight_map)] = not same or not all(
                all(map(weight_map.__contains__, names)) for names in self.held
            )
        return self.compared[id(weight_map)]

    @cached_property
    def names(self) -> frozenset[str]:
        """Every tensor; costs a set of all names, which a sound checkpoint has no need of."""
        return frozenset().union(*self.held)


def see(headers: Mapping[str, Header], files: Iterable[str]) -> Seen:
    """Take the tensors of `files` apart.

    Costs what `find_modules` costs and three look-ups a module.
    """
    opened = [name for name in files if name in headers]
    modules = find_modules(headers[name] for name in opened)
    total = sum(len(headers[name]) for name in opened)
    alone = sum(map(len, modules.values())) == total  # equal tensors of one name are one part of a form
    duplicates = {} if alone else _duplicates(headers, opened)
    for tensor, holders in duplicates.items():
        modules[tensor.rpartition(".")[0]] = _last_wins(modules, tensor, headers[holders[-1]])
    stack = next((stack for stack in _STACKS if any(module.startswith(stack) for module in modules)), _STACKS[0])
    heads: dict[str, LayerSeen | None] = {}
    layers: dict[int, LayerSeen] = {}
    outside: dict[str, Form] = {}
    tails: dict[str, tuple[str, int] | None] = {}
    for module, form in modules.items():
        head, found, tail = module.partition(_INSIDE)
        if found:
            expert = tails[tail] if tail in tails else tails.setdefault(tail, _expert(tail))
            layer = heads[head] if head in heads else heads.setdefault(head, _layer_of(head, stack, layers))
            if layer is not None and expert is not None:
                key = expert[0], form
                if key in layer.experts:
                    layer.experts[key].append(expert[1])
                else:
                    layer.experts[key] = [expert[1]]
                continue
        layer = _layer_of(module, stack, layers)
        if layer is None:
            outside[module] = form
        else:
            layer.modules[module[len(layer.prefix) :]] = form
    return Seen(layers, outside, tuple(headers[name].names for name in opened), duplicates, stack)


def _last_wins(modules: Mapping[str, Form], tensor: str, header: Header) -> Form:
    """The form of a module of which one tensor lies in several files: the last one counts."""
    module, _, suffix = tensor.rpartition(".")
    last = header[tensor]
    return frozenset(part for part in modules[module] if part.suffix != suffix) | {
        Stored(suffix, last.dtype, last.shape)
    }


def _expert(tail: str) -> tuple[str, int] | None:
    """``17.up_proj`` as projection and number."""
    number, _, projection = tail.partition(".")
    plain = number.isascii() and number.isdigit() and len(number) < _DIGITS and number == str(int(number))
    return (projection, int(number)) if plain else None


def _layer_of(path: str, stack: str, layers: dict[int, LayerSeen]) -> LayerSeen | None:
    """The layer of a module, made where it is new; None for what is in no layer."""
    if not path.startswith(stack):
        return None
    number = path[len(stack) :].partition(".")[0]
    if not (number.isascii() and number.isdigit() and len(number) < _DIGITS and number == str(int(number))):
        return None
    return layers.setdefault(int(number), LayerSeen(f"{stack}{number}."))


def _duplicates(headers: Mapping[str, Header], opened: list[str]) -> dict[str, tuple[str, ...]]:
    counts = Counter(tensor for name in opened for tensor in headers[name].names)
    return {
        tensor: tuple(name for name in opened if tensor in headers[name])
        for tensor, count in counts.items()
        if count > 1
    }
