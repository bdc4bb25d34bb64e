"""Build the manifest of `conftest.work`, and look at what came of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tests.support.commands import overlay

SHARD = "model-00001-of-00001.safetensors"


def build(work: Path, name: str = "built", *options: str) -> Path:
    """Build ``draft.yaml`` into the folder `name`."""
    ended = overlay("build", work / "draft.yaml", "-o", work / name, *options)
    assert 0 == ended.code, ended.refusal
    return work / name


def lock_in(folder: Path) -> dict[str, Any]:
    """The lock of a repository."""
    document: dict[str, Any] = json.loads((folder / "overlay.lock.json").read_bytes())
    return document


def read_ranges(path: Path) -> dict[str, tuple[int, int]]:
    """Tensor to where it lies, counted from the start of the file."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        table = json.loads(stream.read(length))
    table.pop("__metadata__", None)
    return {name: (8 + length + e["data_offsets"][0], 8 + length + e["data_offsets"][1]) for name, e in table.items()}
