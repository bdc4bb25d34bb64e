"""What a checkpoint declares of its quantisation: ``quantization_config`` of ``config.json``, and ``hf_quant_config.json``.

Engines read the first, and the second only where the first is missing.  Only what people compare is taken out; what this
module does not know, it leaves alone.

Sources: ModelOpt 0.47 (`unified_export_hf`), compressed-tensors 0.20 (`QuantizationConfig`), transformers 5.23
(`quantization_config` of AWQ, GPTQ, FP8 and MXFP4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from overlay.formats import strict_json

QUANT_CONFIG_NAME: Final = "hf_quant_config.json"
"""ModelOpt's own file."""

_EXCLUDING: Final = ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers")
"""Keys of the list of modules that stay unquantised; each method has its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantConfig:
    """One declaration; None and empty where it is silent."""

    source: str
    """File, and key where there is one."""
    method: str | None
    """``quant_method``: the loader's name of it."""
    algorithm: str | None
    """``quant_algo``; ModelOpt only."""
    format: str | None
    """compressed-tensors: ``format``; FP8: ``fmt``."""
    bits: tuple[int, ...]
    """Bits of a weight's element; several where groups of modules differ."""
    group_sizes: tuple[int, ...]
    block: tuple[int, ...]
    """``weight_block_size``; FP8 only."""
    symmetric: bool | None
    kv_cache: str | None
    """What the KV cache is quantised to."""
    excluded_key: str
    """The key of `excluded`, or ""."""
    excluded: tuple[str, ...]
    """Names and patterns of modules that stay unquantised, as written."""

    @property
    def words(self) -> str:
        """The declaration in a few words."""
        parts = [self.method or "", self.algorithm or "", self.format or ""]
        parts += [f"{bits}-bit" for bits in self.bits] + [f"g{size}" for size in self.group_sizes]
        parts += ["x".join(map(str, self.block)), {None: "", True: "sym", False: "asym"}[self.symmetric]]
        return " ".join(part for part in parts if part) or "no method"

    def document(self) -> dict[str, Any]:
        """The declaration as it stands in JSON documents."""
        return {
            "source": self.source,
            "method": self.method,
            "algorithm": self.algorithm,
            "format": self.format,
            "bits": list(self.bits),
            "group_sizes": list(self.group_sizes),
            "block": list(self.block),
            "symmetric": self.symmetric,
            "kv_cache": self.kv_cache,
            "excluded_key": self.excluded_key,
            "excluded": list(self.excluded),
        }


def parse_quant_config(data: bytes) -> QuantConfig | None:
    """Read the text of a ``hf_quant_config.json``; None when it declares nothing.

    Raises:
        JsonProblem: not a strict JSON object.
    """
    value = strict_json.decode(data)
    if not isinstance(value, dict):
        raise strict_json.JsonProblem("expected a JSON object")
    inner = value.get("quantization")
    return read_quant_config(inner, QUANT_CONFIG_NAME) if isinstance(inner, dict) else None


def read_quant_config(value: Mapping[str, Any], source: str) -> QuantConfig:
    """Take a declaration apart; keys of unexpected types count as absent."""
    weights = list(_weights(value))
    excluded_key = next((key for key in _EXCLUDING if isinstance(value.get(key), list)), "")
    return QuantConfig(
        source=source,
        method=_text(value.get("quant_method")),
        algorithm=_text(value.get("quant_algo")),
        format=_text(value.get("format")) or _text(value.get("fmt")),
        bits=_numbers(weights, "num_bits", "bits"),
        group_sizes=_numbers(weights, "group_size"),
        block=_whole(value.get("weight_block_size")),
        symmetric=_symmetric(weights),
        kv_cache=_kv_cache(value),
        excluded_key=excluded_key,
        excluded=tuple(name for name in value.get(excluded_key, ()) if isinstance(name, str)),
    )


def _weights(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects that say how weights are stored: one for each group of modules, or the declaration itself."""
    groups = value.get("config_groups")
    found = False
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            found = True
            yield weights
    if not found:
        yield value


def _numbers(weights: list[Mapping[str, Any]], *keys: str) -> tuple[int, ...]:
    found = {entry[key] for entry in weights for key in keys if type(entry.get(key)) is int and entry[key] > 0}
    return tuple(sorted(found))


def _symmetric(weights: list[Mapping[str, Any]]) -> bool | None:
    """``symmetric`` (compressed-tensors), ``sym`` (GPTQ) or the opposite of ``zero_point`` (AWQ), where all agree."""
    said = {entry[key] for entry in weights for key in ("symmetric", "sym") if type(entry.get(key)) is bool}
    said |= {not entry["zero_point"] for entry in weights if type(entry.get("zero_point")) is bool}
    return said.pop() if len(said) == 1 else None


def _kv_cache(value: Mapping[str, Any]) -> str | None:
    """``kv_cache_quant_algo`` (a name) or ``kv_cache_scheme`` (a name, or type and bits)."""
    scheme = value.get("kv_cache_scheme")
    if isinstance(scheme, dict):
        return f"{scheme.get('type', '')}{scheme.get('num_bits', '')}" or None
    return _text(value.get("kv_cache_quant_algo")) or _text(scheme)


def _whole(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(entry) is not int for entry in value):
        return ()
    return tuple(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
