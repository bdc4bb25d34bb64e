"""What the tests of the transforms share: vectors as tensors, bits to compare, and adverse weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "vectors.json").read_text())

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def tensor(case: str, name: str) -> Tensor:
    """A tensor of vectors.json."""
    entry = VECTORS[case][name]
    raw = torch.tensor(list(bytes.fromhex(entry["le_bytes_hex"])), dtype=torch.uint8)
    return raw.view(getattr(torch, entry["dtype"])).reshape(entry["shape"])


def raw(value: Tensor) -> Tensor:
    """The bytes of `value`, so that minus zero differs from zero."""
    return torch.empty(value.numel(), dtype=value.dtype).copy_(value.reshape(-1)).view(torch.uint8)


def same(expected: Tensor, observed: Tensor) -> bool:
    """Whether dtype, shape and every bit agree."""
    alike = expected.dtype == observed.dtype and expected.shape == observed.shape
    return alike and torch.equal(raw(expected), raw(observed))


def hostile(rows: int, columns: int, dtype: torch.dtype, seed: int, group: int = 32) -> Tensor:
    """A weight of mixed magnitudes with groups of zeros, of one sign, of one value, tiny and huge ones."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    weight = torch.randn(rows, columns, generator=generator) * 2.0 ** torch.floor(random(rows, 1) * 12 - 9)
    groups = weight.view(rows, -1, min(group, columns)) if columns % group == 0 else weight.view(rows, 1, columns)
    kind = torch.floor(random(*groups.shape[:2]) * 16)[..., None]
    groups.copy_(torch.where(kind == 0, torch.zeros(()), groups))
    groups.copy_(torch.where(kind == 1, groups.abs(), groups))
    groups.copy_(torch.where(kind == 2, -groups.abs(), groups))
    groups.copy_(torch.where(kind == 3, groups[..., :1], groups))
    groups.copy_(torch.where(kind == 4, groups * 2.0 ** (-125 if dtype != torch.float16 else -18), groups))
    groups.copy_(torch.where(kind == 5, groups.clamp(-1, 1) * 3e4, groups))
    groups.copy_(torch.where(kind == 6, torch.round(groups * 8) / 8, groups))
    groups.copy_(torch.where(kind == 7, groups * -0.0, groups))
    return weight.to(dtype)


def formula(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """The weight that modelopt.json was made from; its note has the formula."""
    row, column = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    mixed = (row * 40503 + column * 30011 + (row * column) * 7919) % 65536 - 32768
    weight = (mixed.double() / 32768 * 2.0 ** ((row * 7 + column // 16 * 5) % 13 - 9).double()).to(dtype)
    weight[3] = 0
    weight[5, 32:48] = 0
    weight[7, :16] *= 1e-2 if dtype == torch.float16 else 1e-4
    return weight
