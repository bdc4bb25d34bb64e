"""Converting: the bytes that the transforms give, whatever carries them there, and nothing left behind by a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from overlay import transforms
from overlay.core.checkpoint import TensorSource
from overlay.core.grafting import BUILT_METADATA
from overlay.core.recipe_values import Argument, Spec, Value, make_call, renamed, taken
from overlay.core.recipes import Context, Recipe, plan_recipe
from overlay.errors import Conflict, EnvironmentFault, InvalidInput, Mismatch, OverlayError
from overlay.formats.header_text import render_header
from overlay.formats.manifest import Limits, parse_manifest
from overlay.formats.quantization_config import parse_quantization_config
from overlay.formats.steps import Step
from overlay.running import converting
from overlay.running.converting import Conversion, Converted, Loss, convert, require_accuracy
from overlay.storage.local import open_local
from tests.transforms.support import hostile, raw, same

MIB = 1 << 20
PATH = "model.layers.3.mlp.experts"
INT4 = {"format": "pack-quantized", "bits": 4, "group_size": 32, "symmetric": False}

Tensors = Mapping[str, Tensor]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for what is made."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def weight(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05).to(dtype)


def module(path: str, parts: Any) -> dict[str, Tensor]:
    """An encoder's result under names."""
    return {f"{path}.{suffix}": part for suffix, part in parts._asdict().items() if part is not None}


def written(folder: Path, **shards: Tensors) -> list[TensorSource]:
    """`shards`, as the real library writes them; gives back every tensor where it lies."""
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        save_file(dict(tensors), folder / f"{name}.safetensors", {"format": "pt"})
    names = {tensor: f"{shard}.safetensors" for shard, tensors in shards.items() for tensor in tensors}
    index = {"metadata": {"total_size": 0}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_local(str(folder))
    return [
        TensorSource(info.name, info.dtype, info.shape, shard.file, *place)
        for shard in checkpoint.shards.values()
        for info in shard.header
        for place in [(shard.header.data_start + info.begin, shard.header.data_start + info.end)]
    ]
