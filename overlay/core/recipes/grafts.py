"""Recipes of grafts: which tensors they take, which they make, and which of both belong to a part of the graft."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from overlay.core.checkpoint import NOWHERE, FileSeen, Fingerprint, TensorSource
from overlay.core.recipes.recipe import Recipe
from overlay.core.recipes.values import Value

_NOWHERE: Final = FileSeen("", "", Fingerprint(NOWHERE, 0, 0, 0, 0))


def inputs_of_recipe(recipe: Recipe) -> tuple[TensorSource, ...]:
    """Every range of the donor that a recipe reads, each once, by file and offset."""
    read = {source: None for job in recipe.jobs for source in job.inputs} | dict.fromkeys(recipe.copies)
    return tuple(sorted(read, key=lambda source: (source.file.name, source.begin)))


def to_be(value: Value) -> TensorSource:
    """A tensor that is going to be computed."""
    return TensorSource(value.name, value.dtype, value.shape, _NOWHERE, 0, value.nbytes)


def part_of(recipe: Recipe, tensors: Iterable[TensorSource]) -> Recipe:
    """What of `recipe` makes `tensors`."""
    names = {tensor.name for tensor in tensors}
    return replace(recipe, outputs=tuple(value for value in recipe.outputs if value.name in names))
