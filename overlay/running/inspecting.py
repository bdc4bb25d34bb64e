"""Inspecting: read what a reference means, and describe it.

A checkpoint, a target, a diff-only repository (shards that lie elsewhere are listed as such), a manifest (the checkpoint
that it describes) or a single shard.
"""

from __future__ import annotations

import os

from overlay.core.checking import check
from overlay.core.checkpoint import Checkpoint, Shard
from overlay.core.describing import Description, describe
from overlay.core.findings import Finding, about
from overlay.errors import InvalidInput
from overlay.formats.header import HeaderProblem
from overlay.formats.model_config import CONFIG_NAME, ModelConfig, parse_model_config
from overlay.formats.names import SHARD_SUFFIX
from overlay.formats.quant_config import QUANT_CONFIG_NAME, QuantConfig, parse_quant_config
from overlay.formats.strict_json import JsonProblem
from overlay.running.diffing import open_whole, text_of
from overlay.running.locating import (
    Places,
    folder_of,
    locate,
    named_file,
    open_checkpoint,
    place_of_document,
)
from overlay.storage.files import explain_os_error
from overlay.storage.seen import read_header
from overlay.storage.stores import is_address, is_file


def inspect_reference(reference: str, places: Places) -> tuple[Description, list[Finding]]:
    """What `reference` is made of, and what is wrong with it.

    Raises:
        InvalidInput: it is no checkpoint and no shard.
        EnvironmentFault: something cannot be read.
    """
    seen = open_reference(reference, places)
    config, declared, findings = read_configs(seen)
    return describe(seen, config, declared), sorted([*check(seen), *findings])


def open_reference(reference: str, places: Places) -> Checkpoint:
    """The checkpoint that `reference` means; a single shard is one without an index.  Shards may lie elsewhere.

    Raises:
        InvalidInput: it is no checkpoint and no shard.
        EnvironmentFault: something cannot be read.
    """
    place = place_of_document(reference, places)
    if place.endswith(SHARD_SUFFIX) and is_file(place):
        return _open_shard(place)
    if place.endswith((".yaml", ".yml")) and is_file(place):
        return open_whole(reference, places)
    return open_checkpoint(reference, locate(reference, ".", places), places, partial=True)


def read_configs(seen: Checkpoint) -> tuple[ModelConfig | None, list[QuantConfig], list[Finding]]:
    """What the JSON sidecars say of model and quantisation, as far as they can be read.

    Raises:
        EnvironmentFault: one cannot be read.
    """
    config: ModelConfig | None = None
    declared: list[QuantConfig] = []
    findings: list[Finding] = []
    for name in (CONFIG_NAME, QUANT_CONFIG_NAME):
        if name not in seen.sidecars:
            continue
        data = text_of(seen.sidecars[name])
        try:
            if name == CONFIG_NAME:
                config = parse_model_config(data)
            elif (said := parse_quant_config(data)) is not None:
                declared.append(said)
        except JsonProblem as problem:
            findings.append(about("CFG001", name, str(problem)))
    return config, declared, findings


def _open_shard(path: str) -> Checkpoint:
    file = named_file(path)
    try:
        header = read_header(file)
    except HeaderProblem as problem:
        raise InvalidInput(str(problem), subject=path, hint="fetch this shard again from its source") from None
    except OSError as error:
        raise explain_os_error(error, path) from None
    return Checkpoint(
        label=path,
        root=folder_of(path) if is_address(path) else os.path.realpath(folder_of(path)),
        index=None,
        index_file=None,
        shards={file.name: Shard(file, header)},
    )
