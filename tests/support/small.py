"""A small case of every change, by hand: what it is made of is easy to name in a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.checkpoints import SIDECARS, Checkpoint, Tensor, tensor

FIRST, SECOND, THIRD = (f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3))
NEW = "model-00004-of-00004.safetensors"
CONFIG = {
    "architectures": ["TinyForCausalLM"],
    "model_type": "tiny",
    "num_nextn_predict_layers": 1,
    "quantization_config": {"bits": 4, "ignore": ["lm_head"]},
}
CONFIG_TEXT = json.dumps(CONFIG, indent=2).encode() + b"\n"
PATCH = [
    {"op": "test", "path": "/num_nextn_predict_layers", "value": 1},
    {"op": "add", "path": "/quantization_config/ignore/-", "value": "model.layers.2*"},
]
PROJ = "model.layers.0.proj.weight"


def base() -> Checkpoint:
    """Three layers, a shard each; layer 2 is the draft."""
    return Checkpoint(
        shards={
            shard: [
                tensor(f"model.layers.{n}.norm.weight", "F32", (3,)),
                tensor(f"model.layers.{n}.proj.weight", "BF16", (40, 80)),
            ]
            for n, shard in enumerate((FIRST, SECOND, THIRD))
        },
        sidecars={**SIDECARS, "config.json": CONFIG_TEXT},
    )


def donor() -> Checkpoint:
    """The same names with other bytes, and one more tensor, in one shard."""
    return Checkpoint(
        shards={"all.safetensors": [*map(other, base().tensors), tensor("model.layers.2.extra", "U8", (9,))]}
    )


def other(entry: Tensor) -> Tensor:
    """The tensor with every byte another one."""
    return entry._replace(data=bytes(byte ^ 0xFF for byte in entry.data))


def manifest(**changes: Any) -> str:
    """Replaces one tensor of the first shard, drops the third, patches the config; `changes` are keys put over that."""
    value: dict[str, Any] = {
        "overlay": 1,
        "name": "small",
        "base": "base",
        "donors": {"new": "donor"},
        "grafts": [{"shard": NEW, "from": "new", "tensors": [PROJ], "mode": "replace"}],
        "drop": ["model.layers.2.**"],
        "files": {"config.json": {"patch": PATCH}},
        **changes,
    }
    return json.dumps({key: entry for key, entry in value.items() if entry is not None}, indent=1)


def write(root: Path, **changes: Any) -> Path:
    """``base``, ``donor`` and ``small.yaml`` in `root`; gives back the manifest's path."""
    base().write(root / "base")
    donor().write(root / "donor")
    path = root / "small.yaml"
    path.write_text(manifest(**changes))
    return path
