"""Drafts: the draft (MTP) layers that a checkpoint holds, and the names that its family gives them.

Families keep them in different places: as further layers of the trunk (``model.layers.78`` behind 78 layers: DeepSeek,
GLM), or beside it (``mtp.*``: Qwen3-Next; ``model.mtp_layers.*``: MiMo; ``model.mtp.*``: MiMo-V2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from overlay.core.places import Place
from overlay.core.schemes import Form

_TRUNKS: Final = re.compile(r"(?:model\.|language_model\.)*layers")
"""Stacks that a draft layer continues; towers for images have stacks of their own."""
_BESIDE: Final = re.compile(r"((?:[^.]+\.)*?(?:mtp|mtp_\w+|nextn\w*))(?:\.(?:layers\.)?(\d{1,9}))?(?:\.|$)")


class Draft(NamedTuple):
    """Draft layers under one dialect of names."""

    dialect: str
    """``model.layers.N``, ``mtp.*``, ``model.mtp_layers.*`` or the like."""
    layers: tuple[int, ...]
    """Their numbers; empty where names have none."""
    tensors: int
    bytes: int
    """Tensor data bytes."""


def find_drafts(modules: Mapping[str, Form], places: Mapping[str, Place], trunk: int | None) -> tuple[Draft, ...]:
    """The draft layers among `modules`, by dialect.

    Args:
        modules: path to form.
        places: path to place.
        trunk: number of the trunk's layers; None, where no config says it, leaves out those that continue the trunk.
    """
    found: dict[str, list[tuple[int | None, Form]]] = {}
    for module, form in modules.items():
        place = places[module]
        match = _BESIDE.match(module) if "mtp" in module or "nextn" in module else None
        if match is not None:
            number = int(match[2]) if match[2] else None
            found.setdefault(f"{match[1]}.*", []).append((number, form))
        elif trunk is not None and place.layer is not None and place.layer >= trunk and _TRUNKS.fullmatch(place.stack):
            found.setdefault(f"{place.stack}.N", []).append((place.layer, form))
    return tuple(_draft(dialect, members) for dialect, members in sorted(found.items()))


def _draft(dialect: str, members: Iterable[tuple[int | None, Form]]) -> Draft:
    layers: set[int] = set()
    tensors = size = 0
    for layer, form in members:
        layers |= set() if layer is None else {layer}
        tensors += len(form)
        size += sum(stored.nbytes for stored in form)
    return Draft(dialect, tuple(sorted(layers)), tensors, size)
