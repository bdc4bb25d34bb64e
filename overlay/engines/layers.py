"""Layers: the tensors of the opened files by layer, module and form, with the routed experts of a layer taken together.

A quarter of a million tensors make some 80 layers of about 20 modules and three projections of experts, so that every
further rule costs a few thousand steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything in the opened files."""

    layers: Mapping[int, LayerSeen]
    """The trunk's stack and what continues it, by number."""
    outside: Mapping[str, Form]
    """Modules that are in no layer of that stack."""
    names: Set[str]
    """Every tensor."""
    duplicates: Mapping[str, tuple[str, ...]]
    """Tensors that lie in several files, with these in the order given."""
    stack: str = ""
    """Prefix of the trunk's layers, such as ``model.layers.``."""


def see(headers: Mapping[str, Header], files: Iterable[str]) -> Seen:
    """Take the tensors of `files` apart.

    Costs what `find_modules` costs and three look-ups a module.
    """
    opened = [name for name in files if name in headers]
    modules = find_modules(headers[name] for name in opened)
    total = sum(len(headers[name]) for name in opened)
    names = set().union(*(headers[name].names for name in opened))
    duplicates = _duplicates(headers, opened) if len(names) != total else {}
    for tensor, holders in duplicates.items():
        modules[tensor.rpartition(".")[0]] = _last_wins(modules, tensor, headers[holders[-1]])
    stack = next((stack for stack in _STACKS if any(module.startswith(stack) for module in modules)), _STACKS[0])
    heads: dict[str, LayerSeen | None] = {}
    layers: dict[int, LayerSeen] = {}
    outside: dict[str, Form] = {}
    for module, form in modules.items():
        head, found, tail = module.partition(_INSIDE)
        if found:
            number, _, projection = tail.partition(".")
            layer = heads[head] if head in heads else _layer_of(head, stack, heads, layers)
            if layer is not None and number.isascii() and number.isdigit() and len(number) < _DIGITS:
                layer.experts.setdefault((projection, form), []).append(int(number))
                continue
        layer = _layer_of(module, stack, None, layers)
        if layer is None:
            outside[module] = form
        else:
            layer.modules[module[len(layer.prefix) :]] = form
    return Seen(layers, outside, names, duplicates, stack)


def _last_wins(modules: Mapping[str, Form], tensor: str, header: Header) -> Form:
    """The form of a module of which one tensor lies in several files: the last one counts."""
    module, _, suffix = tensor.rpartition(".")
    last = header[tensor]
    return frozenset(part for part in modules[module] if part.suffix != suffix) | {
        Stored(suffix, last.dtype, last.shape)
    }


def _layer_of(
    path: str, stack: str, heads: dict[str, LayerSeen | None] | None, layers: dict[int, LayerSeen]
) -> LayerSeen | None:
    layer = None
    if path.startswith(stack):
        number = path[len(stack) :].partition(".")[0]
        if number.isascii() and number.isdigit() and len(number) < _DIGITS:
            layer = layers.setdefault(int(number), LayerSeen(f"{stack}{int(number)}."))
            layer = layer if number == str(int(number)) else None
    if heads is not None:
        heads[path] = layer
    return layer


def _duplicates(headers: Mapping[str, Header], opened: list[str]) -> dict[str, tuple[str, ...]]:
    counts = Counter(tensor for name in opened for tensor in headers[name].names)
    return {
        tensor: tuple(name for name in opened if tensor in headers[name])
        for tensor, count in counts.items()
        if count > 1
    }
