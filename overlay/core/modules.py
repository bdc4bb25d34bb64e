"""Modules: the tensors of a checkpoint by the module that they belong to, and the modules by what they are.

A quarter of a million tensors make some 60,000 modules of about twenty forms, so that each form is judged once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from overlay.core.places import Place, place_of
from overlay.core.schemes import Form, Scheme, Stored, decide, scheme_of
from overlay.formats.header import Header


class ModuleClass(NamedTuple):
    """The modules of one component that store their weights alike, all layers and experts together."""

    stack: str
    """Path before the layers' numbers, such as ``model.layers``; "" outside any layer."""
    component: str
    scheme: Scheme
    layers: tuple[int, ...]
    modules: int
    tensors: int
    bytes: int
    """Tensor data bytes."""


class ExpertGroup(NamedTuple):
    """Layers that have the same experts."""

    stack: str
    layers: tuple[int, ...]
    numbers: tuple[int, ...]
    """The experts, by number."""


class Experts(NamedTuple):
    """The experts of a checkpoint."""

    routed: tuple[ExpertGroup, ...]
    shared: tuple[ExpertGroup, ...]
    """Layers with shared experts; these have no numbers, whatever their number is."""


_DIGITS: Final = 7
"""Longer numbers are no experts."""
_MOST_FUSED: Final = 1 << 16
"""More experts than this in one tensor are none: a header can say anything."""


def find_modules(headers: Iterable[Header]) -> dict[str, Form]:
    """Path to form, for every module; the result does not depend on the order of tensors or on how shards are cut.

    Costs three look-ups a tensor and one entry a module: 0.1 s and 7 MB for 232,296 tensors of 58,698 modules.
    """
    forms: dict[str, Form] = {}
    grown = _Grown()
    nothing: Form = frozenset()
    for header in headers:
        for name, dtype, shape in zip(header.names, header.dtypes, header.shapes, strict=True):
            module, _, suffix = name.rpartition(".")
            forms[module] = grown[forms.get(module, nothing), suffix, dtype, shape]
    return forms


def place_modules(modules: Iterable[str]) -> dict[str, Place]:
    """Path to place, for every module; the experts of a layer share theirs, so that one of them is looked at."""
    known: dict[str, Place] = {}
    places: dict[str, Place] = {}
    for module in modules:
        head, _, tail = module.partition(".experts.")
        if not tail[:1].isdigit():
            places[module] = place_of(f"{module}.*")
        else:
            if head not in known:
                known[head] = place_of(f"{module}.*")
            places[module] = known[head]
    return places


def classify(
    modules: Mapping[str, Form], places: Mapping[str, Place], declared_bits: Iterable[int] = ()
) -> tuple[ModuleClass, ...]:
    """The modules by component and scheme, the most bytes first.

    Args:
        modules: as `find_modules` gives them.
        places: as `place_modules` gives them.
        declared_bits: the widths that the config declares, to decide between those that the shapes allow.
    """
    bits = frozenset(declared_bits)
    schemes = {form: decide(scheme_of(form), bits) for form in set(modules.values())}
    alike = Counter((places[module], form) for module, form in modules.items())
    sums: dict[tuple[str, str, Scheme], list[int]] = {}
    layers: dict[tuple[str, str, Scheme], set[int]] = {}
    for (place, form), number in alike.items():
        key = place.stack, place.component, schemes[form]
        counts = sums.setdefault(key, [0, 0, 0])
        counts[0] += number
        counts[1] += number * len(form)
        counts[2] += number * sum(stored.nbytes for stored in form)
        layers.setdefault(key, set()).update([] if place.layer is None else [place.layer])
    found = [ModuleClass(*key, tuple(sorted(layers[key])), *counts) for key, counts in sums.items()]
    return tuple(sorted(found, key=lambda row: (-row.bytes, row.stack, row.component, row.scheme.label)))


def count_experts(modules: Mapping[str, Form], places: Mapping[str, Place]) -> Experts:
    """The experts of every layer, whether each is modules of its own or all are fused in tensors of three dimensions."""
    numbers: dict[tuple[str, int | None], set[int]] = {}
    shared: dict[tuple[str, int | None], int] = {}
    for module, form in modules.items():
        if "expert" not in module:
            continue
        place = places[module]
        key = place.stack, place.layer
        number = module.partition(".experts.")[2].partition(".")[0]
        if number.isascii() and number.isdigit() and len(number) < _DIGITS:
            numbers.setdefault(key, set()).add(int(number))
        elif place.component.endswith("experts") and "shared" not in place.component:
            numbers.setdefault(key, set()).update(range(_fused(form)))
        elif "shared_expert" in module:
            shared[key] = 1
    return Experts(routed=_by_layers(numbers), shared=_by_layers({key: {0} for key in shared}))


def _fused(form: Form) -> int:
    """Experts in a module that holds them all: the first dimension of its largest tensor."""
    largest = max(form, key=lambda stored: (stored.nbytes, stored))
    return min(largest.shape[0], _MOST_FUSED) if len(largest.shape) > 2 else 0


def _by_layers(numbers: Mapping[tuple[str, int | None], set[int]]) -> tuple[ExpertGroup, ...]:
    """Layers of one stack that have the same experts, together."""
    layers: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for (stack, layer), found in numbers.items():
        if found:
            layers.setdefault((stack, tuple(sorted(found))), []).extend([] if layer is None else [layer])
    groups = [ExpertGroup(stack, tuple(sorted(at)), found) for (stack, found), at in layers.items()]
    return tuple(sorted(groups))


class _Grown(dict[tuple[Form, str, str, tuple[int, ...]], Form]):
    """A form and one more tensor, to the form of both; equal forms are one object, whatever way leads to them."""

    def __init__(self) -> None:
        self._known: dict[Form, Form] = {}

    def __missing__(self, key: tuple[Form, str, str, tuple[int, ...]]) -> Form:
        form = key[0] | {Stored(*key[1:])}
        self[key] = form = self._known.setdefault(form, form)
        return form
