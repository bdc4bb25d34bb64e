"""``config.json``, as far as this project understands it.  What it does not know, it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from overlay.formats import strict_json

_DRAFT_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")


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
    quantization = scope.get("quantization_config")
    return ModelConfig(
        architecture=architectures[0] if isinstance(architectures, list) and architectures else None,
        model_type=_text(value.get("model_type")),
        layers=scope["num_hidden_layers"] if type(scope.get("num_hidden_layers")) is int else None,
        draft_layers=scope[draft_key] if draft_key else 0,
        draft_key=draft_key,
        quant_method=_text(quantization.get("quant_method")) if isinstance(quantization, dict) else None,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
