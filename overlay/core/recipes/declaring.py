"""Declaring recipes: what they mean for the ``config.json`` of a standalone checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.core.parts import PatchedFile, SidecarPart
from overlay.core.patching import apply_change
from overlay.core.recipes.config import Undeclarable, merge, operations
from overlay.core.recipes.recipe import Recipe
from overlay.errors import InvalidInput
from overlay.formats import strict_json
from overlay.formats.digest import sha256_of
from overlay.formats.manifest import FileChange
from overlay.formats.model_config import CONFIG_NAME


def declare_recipes(parts: Sequence[SidecarPart], recipes: Sequence[Recipe]) -> tuple[SidecarPart, ...]:
    """The sidecars of a standalone checkpoint, with what its recipes mean written into its ``config.json``.

    Raises:
        InvalidInput: the recipes cannot be declared together, or not in this config.
    """
    found = {part.name: part for part in parts}
    config = found.get(CONFIG_NAME)
    if config is None or not recipes:
        return tuple(parts)
    text = config.data if isinstance(config, PatchedFile) else config.sidecar.data
    assert text is not None  # whoever opened the layers read the files that they take
    try:
        value = strict_json.decode(text)
        patch = operations(merge(recipe.config for recipe in recipes), value if isinstance(value, dict) else {})
    except (Undeclarable, strict_json.JsonProblem) as problem:
        hint = "patch the config in the manifest, or change the steps"
        raise InvalidInput(str(problem), subject=CONFIG_NAME, hint=hint) from None
    if not patch:
        return tuple(parts)
    data = apply_change(CONFIG_NAME, text, FileChange.model_validate({"patch": patch}))
    before = config.overlays if isinstance(config, PatchedFile) else ()
    found[CONFIG_NAME] = PatchedFile(CONFIG_NAME, data, sha256_of(data), (*before, "its recipes"))
    return tuple(found[name] for name in sorted(found))
