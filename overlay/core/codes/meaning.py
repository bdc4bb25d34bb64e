"""What the entry of a finding code is made of."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Severity(StrEnum):
    """How bad a finding is; only an error makes a command fail."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Meaning(NamedTuple):
    """What a code stands for."""

    severity: Severity
    title: str
    hint: str
    """What to do about it, in one line."""
    engines: Mapping[str, str] = MappingProxyType({})
    """Engine, with the versions that were looked at, to what it does with such a checkpoint."""
    detail: str = ""
    """What a person who never met it should know: a few sentences."""
    references: tuple[str, ...] = ()
    """Issues, pull requests and specifications: addresses."""


VLLM: Final = "vLLM 0.33"
SGLANG: Final = "SGLang 0.5.23"
TRANSFORMERS: Final = "transformers 5.23"
GLOBBING: Final = "llama.cpp / mlx-lm (globbing loaders)"
"""Loaders that read every file called ``model*.safetensors``, whatever the index says."""

GITHUB: Final = "https://github.com"


def everywhere(behaviour: str) -> dict[str, str]:
    """One behaviour for the three engines that were measured."""
    return dict.fromkeys((VLLM, SGLANG, TRANSFORMERS), behaviour)
