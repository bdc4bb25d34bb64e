"""Limits: what an engine cannot serve whatever the files say, so that nothing about single tensors is worth saying.

Measured with the loaders of vLLM 0.33.0, SGLang 0.5.23 and transformers 5.23.0 on small checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

from overlay.engines.families import Family
from overlay.engines.inventory import EXPERTS, Needs, needs_of
from overlay.engines.layers import LayerSeen, Seen
from overlay.engines.matching import Matcher
from overlay.engines.outcomes import Stage
from overlay.engines.remarks import Remark, remark
from overlay.engines.subject import Subject
from overlay.engines.versions import Engine
from overlay.formats.model_config import CONFIG_NAME
from overlay.formats.weight_schemes import WeightScheme

_KEY = "quantization_config"


class Limits(NamedTuple):
    """What an engine cannot do with a checkpoint."""

    remarks: tuple[Remark, ...] = ()
    target: bool = False
    """Whether the target is decided already."""
    draft: bool = False


def limits_of(engine: Engine, subject: Subject, family: Family, seen: Seen, matcher: Matcher) -> Limits:
    """What `engine` cannot do with the declared quantisation."""
    if not matcher.quantises or not matcher.understood or family.attention == "unknown":
        return Limits()
    number = max((subject.number("num_hidden_layers") or 1) - 1, 0)
    needs = needs_of(subject, family, number, draft=False)
    prefix = f"{seen.stack}{number}."
    if engine.name == "transformers":
        return _transformers(matcher, _schemes(prefix, needs, matcher))
    if engine.name == "sglang":
        said = sglang_limits(family, needs, seen.layers.get(number), prefix, matcher, "target")
        return Limits(tuple(said), target=bool(said))
    return Limits()


class _Schemes(NamedTuple):
    experts: WeightScheme | None
    """Of the routed experts of a layer."""
    latent: WeightScheme | None
    """Of ``q_a_proj``, which is stacked with ``kv_a_proj_with_mqa``."""
    values: WeightScheme | None
    """Of ``kv_b_proj``."""
    any: WeightScheme | None


def _schemes(prefix: str, needs: Needs | None, matcher: Matcher) -> _Schemes:
    if needs is None:
        return _Schemes(None, None, None, None)
    experts = matcher.decide_experts(f"{prefix}{EXPERTS}", tuple(needs.projections)).scheme if needs.experts else None
    linear = [path for path, slot in needs.slots.items() if slot.role == "linear"]
    own = {path: matcher.decide(f"{prefix}{path}").scheme for path in linear}
    found = experts or next((scheme for scheme in own.values() if scheme is not None), None)
    return _Schemes(experts, own.get("self_attn.q_a_proj"), own.get("self_attn.kv_b_proj"), found)


def _transformers(matcher: Matcher, schemes: _Schemes) -> Limits:
    if schemes.any is None:
        return Limits()
    if matcher.method == "modelopt":
        message = "transformers passes over quant_method modelopt, and refuses the packed shapes"
    elif _packed(schemes.experts, symmetric=False):
        message = "transformers refuses experts with zero points: RuntimeError while converting"
    elif schemes.experts is not None:
        message = "transformers cannot draft here: MtpModel expects the names of quantised experts, and finds none"
        return Limits((remark("ENG023", CONFIG_NAME, message, "refuses", "draft", key=_KEY),), target=True, draft=True)
    else:
        return Limits(target=True, draft=False)
    return Limits((remark("ENG025", CONFIG_NAME, message, "refuses", key=_KEY),), target=True, draft=True)


def sglang_limits(
    family: Family, needs: Needs | None, layer: LayerSeen | None, prefix: str, matcher: Matcher, stage: Stage
) -> list[Remark]:
    """What SGLang refuses of a layer that it builds by `matcher` under the name `prefix`, as far as it is stored so."""
    if family.attention != "mla" and family.attention != "gqa":
        return []
    schemes = _schemes(prefix, needs, matcher)
    held = {part.suffix for _, form in layer.experts for part in form} if layer is not None else set()
    said = []
    if _packed(schemes.experts, symmetric=False) and "weight_zero_point" in held:
        said.append("zero points of experts: RuntimeError: output with shape … doesn't match")
    latent = layer.modules.get("self_attn.q_a_proj", ()) if layer is not None else ()
    if _packed(schemes.latent, symmetric=None) and any(part.suffix == "weight_shape" for part in latent):
        said.append("a packed q_a_proj: AssertionError: param.shape=[2] loaded_weight.shape=[4]")
    if family.attention == "mla" and matcher.method == "compressed-tensors" and _has_no_weight(schemes.values):
        said.append("a packed kv_b_proj: AttributeError: 'ColumnParallelLinear' object has no attribute 'weight'")
    return [remark("ENG025", CONFIG_NAME, f"SGLang refuses {words}", "refuses", stage, key=_KEY) for words in said]


def _packed(scheme: WeightScheme | None, *, symmetric: bool | None) -> bool:
    if scheme is None or scheme.format != "pack-quantized":
        return False
    return symmetric is None or scheme.symmetric == symmetric


def _has_no_weight(scheme: WeightScheme | None) -> bool:
    return scheme is not None and scheme.format in ("pack-quantized", "nvfp4-pack-quantized", "mxfp4")
