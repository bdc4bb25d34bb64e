"""``config.json``, as far as this project understands it.  What it does not know, it leaves alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from overlay.formats import strict_json
from overlay.formats.quant_config import QuantConfig, read_quant_config

CONFIG_NAME: Final = "config.json"
_QUANT_SOURCE = f"{CONFIG_NAME}: quantization_config"
_DRAFT_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
_EXPERT_KEYS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
_SHARED_KEYS = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What a config says of itself; None where it is silent."""

    architecture: str | None
    model_type: str | None
    layers: int | None
    """``num_hidden_layers``: the layers of the trunk, draft layers excluded."""
    draft_layers: int
    """Draft (MTP) layers that the config declares; 0 when it is silent."""
    draft_key: str
    """The key that declares them, or ""."""
    quant_method: str | None
    quantization: QuantConfig | None = None
    """``quantization_config``, taken apart."""
    routed_experts: int | None = None
    """Routed experts of a layer."""
    shared_experts: int | None = None
    """Shared experts of a layer."""
    tied_embeddings: bool | None = None
    """``tie_word_embeddings``: whether the output layer is the embedding."""


def parse_model_config(data: bytes) -> ModelConfig:
    """Read the text of a ``config.json``.

    Raises:
        JsonProblem: not a strict JSON object.
    """
    value = strict_json.decode(data)
    if not isinstance(value, dict):
        raise strict_json.JsonProblem("expected a JSON object")
    nested = value.get("text_config")
    scope: dict[str, Any] = {**value, **nested} if isinstance(nested, dict) else value
    architectures = value.get("architectures")
    draft_key = next((key for key in _DRAFT_KEYS if type(scope.get(key)) is int and scope[key] > 0), "")
    declared = scope.get("quantization_config")
    quantization = read_quant_config(declared, _QUANT_SOURCE) if isinstance(declared, dict) else None
    tied = scope.get("tie_word_embeddings")
    return ModelConfig(
        architecture=architectures[0] if isinstance(architectures, list) and architectures else None,
        model_type=_text(value.get("model_type")),
        layers=scope["num_hidden_layers"] if type(scope.get("num_hidden_layers")) is int else None,
        draft_layers=scope[draft_key] if draft_key else 0,
        draft_key=draft_key,
        quant_method=quantization.method if quantization is not None else None,
        quantization=quantization,
        routed_experts=_first(scope, _EXPERT_KEYS),
        shared_experts=_first(scope, _SHARED_KEYS),
        tied_embeddings=tied if isinstance(tied, bool) else None,
    )


def _first(scope: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """The whole number under the first of `keys` that has one."""
    return next((scope[key] for key in keys if type(scope.get(key)) is int), None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
