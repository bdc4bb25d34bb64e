"""What a recipe means for ``config.json``: the count of experts, and the quantisation that it has to declare.

Engines decide from the config, and not from the shards, how they build a module; a shard that is right beside a config that
is not loads as garbage or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from overlay.formats.quantization_config import LINEAR, QuantizationConfig
from overlay.formats.weight_schemes import WeightScheme
from overlay.formats.weight_words import compressed_group

EXPERT_KEYS: Final = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
"""Keys under which configs count the routed experts of a layer: DeepSeek and GLM, Qwen, Mixtral and GPT-OSS, ERNIE."""
_NESTED: Final = ("text_config", "llm_config", "language_config")
"""Keys of configs inside a config: those of the language part of a multimodal model."""


class Undeclarable(ValueError):
    """Schemes that no single ``quantization_config`` can declare together."""


@dataclass(frozen=True)
class ConfigChange:
    """What follows from a recipe; `operations` turns it into a patch."""

    experts: int | None = None
    """Experts of each layer, where some were dropped."""
    quantization_config: Mapping[str, Any] | None = field(default=None, hash=False)
    """What has to be declared, where something was quantised: complete for a checkpoint that is the recipe alone."""
    unquantised: tuple[str, ...] = ()
    """Linear-looking modules of the result that are not quantised: what an ``ignore`` list has to cover."""
    dequantised: bool = False
    """Whether nothing is quantised any more, so that nothing must be declared."""


def operations(change: ConfigChange, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """RFC 6902 operations that make `config`, the ``config.json`` of the donor, fit the result.

    Raises:
        Undeclarable: experts were dropped, and the config counts them nowhere.
    """
    patch: list[dict[str, Any]] = []
    if change.experts is not None:
        places = [
            *_expert_places(config, ""),
            *(p for key in _NESTED for p in _expert_places(config.get(key), f"/{key}")),
        ]
        if not places:
            raise Undeclarable(f"expected one of {', '.join(EXPERT_KEYS)} in the config, found none")
        patch += [{"op": "replace", "path": place, "value": change.experts} for place in places]
    if change.quantization_config is not None:
        patch.append({"op": "add", "path": "/quantization_config", "value": dict(change.quantization_config)})
    elif change.dequantised and "quantization_config" in config:
        patch.append({"op": "remove", "path": "/quantization_config"})
    return patch


def _expert_places(config: object, at: str) -> list[str]:
    return [f"{at}/{key}" for key in EXPERT_KEYS if type(config.get(key)) is int] if isinstance(config, Mapping) else []


def declare_like(config: QuantizationConfig, unquantised: Sequence[str]) -> dict[str, Any]:
    """The declaration of another checkpoint, with the unquantised modules of this one in its list."""
    return {**config.document, config.ignore_key: list(unquantised)}


def declare(schemes: Mapping[str, WeightScheme], unquantised: Sequence[str]) -> dict[str, Any]:
    """The declaration of modules that are stored in `schemes`, in the words of the library that reads the format.

    Raises:
        Undeclarable: formats of different libraries.
    """
    kinds: dict[WeightScheme, list[str]] = {}
    for module, scheme in sorted(schemes.items()):
        kinds.setdefault(scheme, []).append(module)
    methods = {_method(scheme) for scheme in kinds}
    if len(methods) > 1:
        raise Undeclarable(f"expected formats of one library, found those of {' and '.join(sorted(methods))}")
    if methods == {"compressed-tensors"}:
        return _compressed(kinds, unquantised)
    if len(kinds) > 1:
        found = " and ".join(scheme.label for scheme in kinds)
        raise Undeclarable(f"expected one scheme, which is all that {min(methods)} declares, found {found}")
    return _MODELOPT[next(iter(kinds)).format](next(iter(kinds)), list(unquantised))


def _method(scheme: WeightScheme) -> str:
    if scheme.format == "modelopt-nvfp4":
        return "modelopt"
    return "fp8" if scheme.scale_name == "weight_scale_inv" else "compressed-tensors"


def _compressed(kinds: Mapping[WeightScheme, list[str]], unquantised: Sequence[str]) -> dict[str, Any]:
    """One group a scheme; a single one is for every linear module, so that the list of others decides."""
    targets = [[LINEAR]] if len(kinds) == 1 else list(kinds.values())
    groups = {f"group_{n}": compressed_group(s, t) for n, (s, t) in enumerate(zip(kinds, targets, strict=True))}
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(unquantised),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _declare_nvfp4(scheme: WeightScheme, unquantised: list[str]) -> dict[str, Any]:
    weights = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": scheme.group_size}
    algorithm = "NVFP4" if scheme.static_inputs else "W4A16_NVFP4"
    groups = {"group_0": {"weights": weights, "targets": [LINEAR]}}
    return {"config_groups": groups, "ignore": unquantised, "quant_algo": algorithm, "quant_method": "modelopt"}


def _declare_fp8(scheme: WeightScheme, unquantised: list[str]) -> dict[str, Any]:
    block = list(scheme.block or ())
    words = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": block}
    return {**words, "modules_to_not_convert": unquantised}


_MODELOPT: Final = {"modelopt-nvfp4": _declare_nvfp4, "fp8-block": _declare_fp8}


def merge(changes: Iterable[ConfigChange]) -> ConfigChange:
    """One change for a checkpoint of several recipes.

    Raises:
        Undeclarable: they disagree about the experts or the quantisation.
    """
    found = list(changes)
    counts = {change.experts for change in found} - {None}
    if len(counts) > 1:
        raise Undeclarable(f"expected one number of experts, found {' and '.join(map(str, sorted(counts, key=str)))}")
    unquantised = tuple(sorted({name for change in found for name in change.unquantised}))
    declared = [change.quantization_config for change in found if change.quantization_config is not None]
    bare = [{k: v for k, v in one.items() if k not in _LISTS} for one in declared]
    if any(one != bare[0] for one in bare):
        raise Undeclarable("expected one quantisation in all grafts, found several")
    merged = {k: list(unquantised) if k in _LISTS else v for k, v in declared[0].items()} if declared else None
    dequantised = bool(found) and all(change.dequantised for change in found)
    return ConfigChange(next(iter(counts), None), merged, unquantised, dequantised)


_LISTS: Final = ("ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers")
