"""Contexts: read what the steps of a graft refer to, keep lists and the configs of donors."""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from overlay.core.recipes.config import EXPERT_KEYS
from overlay.core.recipes.recipe import Context
from overlay.errors import InvalidInput
from overlay.formats import strict_json
from overlay.formats.keep_lists import KeepListProblems, KeepLists, parse_keep_lists
from overlay.formats.lock import Lock
from overlay.formats.manifest import Graft, Manifest
from overlay.formats.model_config import CONFIG_NAME
from overlay.formats.quantization_config import (
    QuantizationConfig,
    QuantizationConfigProblems,
    parse_quantization_config,
)
from overlay.formats.steps import KeepExpertsStep, QuantizeLike, QuantizeStep
from overlay.running.locating import Places, locate
from overlay.storage.files import read_document
from overlay.storage.stores import is_file, path_here

_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reading:
    """A manifest and where what it names is."""

    manifest: Manifest
    folder: str
    places: Places
    lock: Lock | None


def read_context(graft: Graft, reading: Reading) -> Context:
    """What the steps of `graft` refer to.

    Raises:
        InvalidInput: a keep list or a config is missing or malformed.
        EnvironmentFault: a donor is not on this machine.
    """
    steps = graft.steps
    files = {
        step.keep_experts for step in steps if isinstance(step, KeepExpertsStep) and isinstance(step.keep_experts, str)
    }
    models = {
        step.quantize.like
        for step in steps
        if isinstance(step, QuantizeStep) and isinstance(step.quantize, QuantizeLike)
    }
    own = _config_of(graft.from_, reading, needed=False)
    groups = own.get("n_group")
    return Context(
        shard=graft.shard,
        keep_lists={name: _keep_lists(path_here(os.path.join(reading.folder, name))) for name in sorted(files)},
        quantization_configs={name: _quantization(name, reading) for name in sorted(models)},
        n_group=groups if type(groups) is int and groups > 0 else 1,
        experts=_experts(models, reading),
    )


def _experts(models: AbstractSet[str], reading: Reading) -> int | None:
    """How many experts the model has that is followed, so that a keep list of another length is noticed."""
    for name in sorted(models):
        config = _config_of(name, reading, needed=True)
        found = next((config[key] for key in EXPERT_KEYS if type(config.get(key)) is int), None)
        if isinstance(found, int):
            return found
    return None


def _keep_lists(path: str) -> KeepLists:
    try:
        return parse_keep_lists(read_document(path, _MAX_BYTES, "keep list"))
    except KeepListProblems as problems:
        first, *others = problems.lines
        hint = "a keep list is a list of expert numbers, or a list for each layer"
        raise InvalidInput(first, subject=path, hint=hint, others=tuple(others)) from None


def _quantization(donor: str, reading: Reading) -> QuantizationConfig:
    config = _config_of(donor, reading, needed=True)
    subject = f"donor {donor}: {CONFIG_NAME}: quantization_config"
    declared = config.get("quantization_config")
    hint = "name a donor that is quantised, or spell the scheme out"
    if not isinstance(declared, dict):
        raise InvalidInput("expected a quantization_config to follow, found none", subject=subject, hint=hint)
    try:
        return parse_quantization_config(declared)
    except QuantizationConfigProblems as problems:
        first, *others = problems.lines
        raise InvalidInput(first, subject=subject, hint=hint, others=tuple(others)) from None


def _config_of(donor: str, reading: Reading, *, needed: bool) -> dict[str, object]:
    """The ``config.json`` of a donor; {} where there is none and none is needed."""
    given = reading.places.donors.get(donor)
    locked = reading.lock.donors.get(donor) if reading.lock is not None and given is None else None
    reference = given or reading.manifest.donors[donor]
    directory = locate(reference, "." if given else reading.folder, reading.places, locked.commit if locked else None)
    path = os.path.join(directory, CONFIG_NAME)
    if not needed and not is_file(path):
        return {}
    try:
        value = strict_json.decode(read_document(path_here(path), _MAX_BYTES, f"config of the donor {donor}"))
    except strict_json.JsonProblem as problem:
        raise InvalidInput(str(problem), subject=path, hint="fetch the donor's config.json again") from None
    return value if isinstance(value, dict) else {}
