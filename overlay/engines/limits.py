"""Limits: what an engine cannot serve whatever the files say, so that nothing about single tensors is worth saying.

Measured with the loaders of vLLM 0.33.0, SGLang 0.5.23 and transformers 5.23.0 on small checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

from overlay.engines.families import Family
from overlay.engines.inventory import EXPERTS, needs_of
from overlay.engines.layers import Seen
from overlay.engines.matching import Matcher
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
    schemes = _schemes(subject, family, matcher)
    if engine.name == "transformers":
        return _transformers(matcher, schemes)
    if engine.name == "sglang":
        return _sglang(family, schemes)
    return Limits()


class _Schemes(NamedTuple):
    experts: WeightScheme | None
    """Of the routed experts of the last layer of the trunk."""
    queries: WeightScheme | None
    """Of ``q_a_proj``."""
    any: WeightScheme | None


def _schemes(subject: Subject, family: Family, matcher: Matcher) -> _Schemes:
    layer = max((subject.number("num_hidden_layers") or 1) - 1, 0)
    needs = needs_of(subject, family, layer, draft=False)
    if needs is None:
        return _Schemes(None, None, None)
    prefix = f"model.layers.{layer}."
    experts = matcher.decide_experts(f"{prefix}{EXPERTS}", tuple(needs.projections)).scheme if needs.experts else None
    own = {
        path: matcher.decide(f"{prefix}{path}").scheme for path, slot in needs.slots.items() if slot.role == "linear"
    }
    found = experts or next((scheme for scheme in own.values() if scheme is not None), None)
    return _Schemes(experts, own.get("self_attn.q_a_proj"), found)


def _transformers(matcher: Matcher, schemes: _Schemes) -> Limits:
    if schemes.any is None:
        return Limits()
    if matcher.method == "modelopt":
        message = "transformers passes over quant_method modelopt, and refuses the packed shapes"
    elif schemes.experts is not None and schemes.experts.format == "pack-quantized":
        message = "transformers refuses INT4 experts of compressed-tensors: RuntimeError while converting"
    else:
        return Limits(target=True, draft=False)
    return Limits((remark("ENG025", CONFIG_NAME, message, "refuses", key=_KEY),), target=True, draft=True)


def _sglang(family: Family, schemes: _Schemes) -> Limits:
    said = []
    if schemes.experts is not None and schemes.experts.format == "pack-quantized" and not schemes.experts.symmetric:
        message = "SGLang refuses zero points of experts: RuntimeError: output with shape … doesn't match"
        said.append(remark("ENG025", CONFIG_NAME, message, "refuses", "target", key=_KEY))
    if schemes.queries is not None and schemes.queries.format == "pack-quantized" and family.attention == "mla":
        message = "SGLang refuses a packed q_a_proj: AssertionError: param.shape=[2] loaded_weight.shape=[4]"
        said.append(remark("ENG025", CONFIG_NAME, message, "refuses", "target", key=_KEY))
    return Limits(tuple(said), target=bool(said))
