"""The subject of lint: everything that the rules look at, read once.

Values only: `running.linting` reads them.  Unlike `core.checkpoint.Checkpoint` it also describes what engines accept and
overlay refuses, such as an index whose values are paths, since what an engine makes of that is the question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from overlay.core.findings import Finding
from overlay.formats.header import Header
from overlay.formats.names import SHARD_SUFFIX

NO_METADATA: Final = object()
"""The index has no key ``metadata``, which is not the same as null."""

_MOST_DRAFTS: Final = 64
"""Draft layers that are looked at; models have one, or a few."""

DRAFT_KEYS: Final = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A checkpoint as engines meet it."""

    label: str
    """How the user named it."""
    path: str
    """Where it would be served from: a path or an address."""
    names: tuple[str, ...]
    """Every file at the top that can be opened, sorted."""
    nested: tuple[str, ...] = ()
    """Weight files below folders, as ``folder/name``."""
    headers: Mapping[str, Header]
    """Every readable shard at the top, listed or not; those in folders as the index names them."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Files that are there and cannot be opened or parsed: name to the code of what is wrong."""
    identities: Mapping[str, str] = field(default_factory=dict)
    """Shard to the real file behind it: two names of one file cannot differ."""
    weight_map: Mapping[str, str] | None
    """As the index says it, paths and all; None without an index."""
    metadata: Any = NO_METADATA
    index_broken: bool = False
    """Whether the index is no JSON object with a weight map."""
    config: Mapping[str, Any] | None = None
    hf_quant: Mapping[str, Any] | None = None
    """``hf_quant_config.json``."""
    tensor_parallel: int = 1
    values: Mapping[str, bytes] = field(default_factory=dict)
    """The bytes of those tensors that the rules about values ask for (`values.wanted_values`)."""
    difference: bool = False
    """Whether it is a diff-only repository: its manifest lies in it."""
    findings: tuple[Finding, ...] = ()
    """What was wrong while reading."""

    @cached_property
    def scope(self) -> Mapping[str, Any]:
        """The config with ``text_config`` laid over it, as engines read the model's numbers."""
        value = self.config or {}
        inner = value.get("text_config")
        return {**value, **inner} if isinstance(inner, dict) else value

    @cached_property
    def listed(self) -> tuple[str, ...]:
        """What the index names, sorted; costs a look at every entry, once."""
        return tuple(sorted({*self.weight_map.values()})) if self.weight_map is not None else ()

    def number(self, key: str) -> int | None:
        """A whole number of the config; None where it is silent."""
        value = self.scope.get(key)
        return value if type(value) is int else None

    @property
    def model_type(self) -> str:
        """``model_type`` of the text model, or ""."""
        inner = (self.config or {}).get("text_config")
        nested = inner.get("model_type") if isinstance(inner, dict) else None
        value = (self.config or {}).get("model_type")
        return nested if isinstance(nested, str) else value if isinstance(value, str) else ""

    @property
    def architecture(self) -> str:
        """The first of ``architectures``, or ""."""
        value = (self.config or {}).get("architectures")
        first = value[0] if isinstance(value, list) and value else None
        return first if isinstance(first, str) else ""

    @property
    def draft_key(self) -> str:
        """The key under which the config speaks of draft layers, or ""."""
        return next((key for key in DRAFT_KEYS if self.number(key) is not None), "")

    @property
    def draft_layers(self) -> int:
        """Draft layers that the config declares."""
        return min(max(self.number(self.draft_key) or 0, 0), _MOST_DRAFTS) if self.draft_key else 0

    @cached_property
    def quantization(self) -> tuple[Mapping[str, Any] | None, str]:
        """The declaration that engines go by, and the file: ``config.json`` first, then ModelOpt's own.

        Source: vLLM 0.33 `transformers_utils/config.py:951-965`, SGLang 0.5.23 `model_config.py:1727-1797`.
        """
        declared = self.scope.get("quantization_config") or self.scope.get("compression_config")
        if isinstance(declared, dict):
            return declared, "config.json"
        inner = (self.hf_quant or {}).get("quantization")
        if isinstance(inner, dict):
            return {"quant_method": "modelopt", **inner}, "hf_quant_config.json"
        return None, ""

    @property
    def top_shards(self) -> list[str]:
        """Names of all shards at the top, as a glob finds them: hidden files are left out."""
        return [name for name in self.names if name.endswith(SHARD_SUFFIX) and not name.startswith(".")]
