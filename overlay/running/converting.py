"""Converting: carry a recipe out (being written)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from overlay.core.recipes import Recipe
from overlay.formats.manifest import Limits
from overlay.storage.shard_writer import WrittenShard


@dataclass(frozen=True, slots=True)
class Conversion:
    """How to convert."""

    jobs: int = 0
    memory: int = 512 << 20
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Converted:
    """What was converted."""

    written: WrittenShard
    inputs: Mapping[tuple[str, int, int], str] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)


def convert(header: bytes, recipe: Recipe, path: str | None, how: Conversion, advance: Callable[[int], None]) -> Converted:
    raise NotImplementedError


def require_accuracy(accuracy: Mapping[str, Any], limits: Limits | None, shard: str) -> None:
    raise NotImplementedError
