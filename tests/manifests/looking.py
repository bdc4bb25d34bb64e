"""What a target's small files are, and how they differ from the base's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.checkpoints import INDEX


def names(folder: Path) -> list[str]:
    """The files of a folder."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def changed_sidecars(base: Path, serve: Path) -> dict[str, Any]:
    """The sidecars of a target that differ from the base's: the value of JSON, the bytes of anything else."""
    found = {}
    for name in names(serve):
        if name == INDEX or name.endswith(".safetensors"):
            continue
        data = (serve / name).read_bytes()
        if not (base / name).exists() or data != (base / name).read_bytes():
            found[name] = json.loads(data) if name.endswith(".json") else data
    return found


def appended(path: Path, place: tuple[str, ...], entries: list[str]) -> Any:
    """The JSON document at `path` with `entries` at the end of the list at `place`."""
    document = json.loads(path.read_bytes())
    at = document
    for key in place:
        at = at[key]
    at += entries
    return document
