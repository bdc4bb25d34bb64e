"""Explaining: which files an engine opens, which parameter each tensor ends in, and which parameters stay unset.

Sources of the names: vLLM 0.33 `deepseek_mtp.py:305-317, 541-570`, `deepseek_v2.py`, `glm4_moe.py`; SGLang 0.5.23
`deepseek_weight_loader.py:319-335`, `glm4_moe.py`; transformers 5.23 `modeling_layers.py` (`MtpModel`),
`conversion_mapping.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from overlay.engines.comparing import wanted_tensors
from overlay.engines.families import Family
from overlay.engines.inventory import EXPERTS, Needs, needs_of
from overlay.engines.judging import MOST_LAYERS, NOTHING_DECLARED
from overlay.engines.layers import LayerSeen, Seen
from overlay.engines.matching import Matcher
from overlay.engines.outcomes import Stage
from overlay.engines.predicting import Facts, Prediction
from overlay.engines.versions import Engine

_JOINS: Final = ("enorm", "hnorm", "eh_proj", "shared_head")
_STACKED: Final = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}
_ATTENTION: Final = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj"}
_LATENT: Final = {
    "vllm": {"q_a_proj": "fused_qkv_a_proj", "kv_a_proj_with_mqa": "fused_qkv_a_proj"},
    "sglang": {"q_a_proj": "fused_qkv_a_proj_with_mqa", "kv_a_proj_with_mqa": "fused_qkv_a_proj_with_mqa"},
}
_INDEXER: Final = {"wk": "wk_weights_proj", "weights_proj": "wk_weights_proj"}
_EXPERT: Final = {"gate_proj": "w13_", "up_proj": "w13_", "down_proj": "w2_"}


@dataclass(slots=True)
class Parameter:
    """A parameter of an engine; those that differ in the layer of the trunk alone are one."""

    name: str
    """With ``*`` for the number of a trunk's layer."""
    stage: Stage
    expected: int = 0
    """Tensors that it is made of."""
    found: int = 0
    """Those that are there."""

    @property
    def state(self) -> str:
        """``set``, ``partly`` or ``unset``."""
        return "set" if self.found >= self.expected else "partly" if self.found else "unset"

    def document(self) -> dict[str, Any]:
        """The parameter as it stands in JSON documents."""
        return {
            "name": self.name,
            "stage": self.stage,
            "state": self.state,
            "expected": self.expected,
            "found": self.found,
        }


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine would load."""

    files: tuple[str, ...]
    order: str
    parameters: tuple[Parameter, ...]
    shared: str
    """What the draft takes from the target, in words; "" where the family is not known."""

    def document(self) -> dict[str, Any]:
        """The load as it stands in JSON documents."""
        return {
            "files": list(self.files),
            "order": self.order,
            "shared": self.shared,
            "parameters": [parameter.document() for parameter in self.parameters],
        }


def explain_load(prediction: Prediction, facts: Facts) -> Load:
    """What the engine of `prediction` would load; parameters where the family is known module by module."""
    engine, subject, family = prediction.engine, facts.subject, facts.family
    opening = prediction.opening
    seen = facts.seen(opening.files)
    parameters: dict[tuple[Stage, str], Parameter] = {}
    if family is not None and family.attention != "unknown" and engine.name in ("vllm", "sglang", "transformers"):
        trunk = subject.number("num_hidden_layers") or 0
        layers = trunk + subject.draft_layers if trunk <= MOST_LAYERS else 0
        for number in range(layers):
            stage: Stage = "draft" if number >= trunk else "target"
            needs = needs_of(subject, family, number, draft=stage == "draft")
            if needs is None:
                break
            layer = seen.layers.get(number, LayerSeen(f"{seen.stack}{number}."))
            naming = Naming(engine, family, stage, layer.prefix, number - trunk)
            _count(parameters, layer, needs, naming, _matcher(engine, stage, facts))
        if engine.name != "llama.cpp":
            _count_outside(parameters, seen)
    shared = family.shared if family is not None else ""
    return Load(opening.files, opening.order, tuple(parameters.values()), shared)


def _matcher(engine: Engine, stage: Stage, facts: Facts) -> Matcher:
    thrown_away = engine.name == "sglang" and stage == "draft" and facts.matcher.is_fp4
    return NOTHING_DECLARED if thrown_away or engine.name == "transformers" else facts.matcher_of(engine)


@dataclass(frozen=True, slots=True)
class Naming:
    """How an engine calls what it makes of a layer's modules."""

    engine: Engine
    family: Family
    stage: Stage
    prefix: str
    """Of the layer in the checkpoint."""
    draft: int
    """Number of the draft layer among the draft's."""

    def asked(self, path: str) -> str:
        """The name under which the declaration is asked about the module at `path`."""
        decoder = self.engine.name == "sglang" and self.stage == "draft"
        return f"model.decoder.{path}" if decoder else f"{self.prefix}{path}"

    def parameter(self, path: str, suffix: str) -> str:
        """The parameter that the tensor `suffix` of the module at `path` ends in."""
        head, _, last = path.rpartition(".")
        fused = {**_STACKED, **_ATTENTION, **_LATENT.get(self.engine.name, {})}
        if self.engine.name == "transformers":
            fused = {}
        if head.endswith("indexer") and self.engine.has("stacks the indexer"):
            fused = _INDEXER
        name = fused.get(last, last)
        return f"{self._prefix(path)}{head}{'.' if head else ''}{name}.{suffix}"

    def expert_parameter(self, projection: str, suffix: str) -> str:
        """The parameter that a tensor of the routed experts ends in."""
        path = f"{self._prefix(EXPERTS)}{EXPERTS}."
        if self.engine.name == "transformers":
            return path + ("down_proj" if projection == "down_proj" else "gate_up_proj")
        segment = "routed_experts." if self.engine.has("has a routed_experts module") else ""
        return f"{path}{segment}{_EXPERT.get(projection, projection)}{suffix}"

    def _prefix(self, path: str) -> str:
        joins = path.startswith(_JOINS)
        if self.stage == "target":
            return f"{self.prefix.rpartition('layers.')[0]}layers.*."
        if self.engine.name == "vllm":
            return f"{self.prefix}{'' if joins else 'mtp_block.'}"
        if self.engine.name == "sglang":
            return "model." if joins else "model.decoder."
        return f"layers.{self.draft}." + ("" if joins else "mtp_block.")


def _count(
    parameters: dict[tuple[Stage, str], Parameter], layer: LayerSeen, needs: Needs, naming: Naming, matcher: Matcher
) -> None:
    """Add a layer's tensors to `parameters`, which is filled in place."""
    for path, slot in needs.slots.items():
        form = layer.modules.get(path)
        if form is None and path in needs.may:
            continue
        held = {part.suffix for part in form or ()}
        scheme = matcher.decide(naming.asked(path)).scheme if slot.role == "linear" else None
        for suffix, _ in wanted_tensors(slot, scheme):
            _add(parameters, naming.stage, naming.parameter(path, suffix), 1, suffix in held)
    if needs.experts:
        scheme = matcher.decide_experts(naming.asked(EXPERTS), tuple(needs.projections)).scheme
        for projection, slot in needs.projections.items():
            for suffix, _ in wanted_tensors(slot, scheme):
                found = sum(
                    len(numbers)
                    for (name, form), numbers in layer.experts.items()
                    if name == projection and any(part.suffix == suffix for part in form)
                )
                _add(parameters, naming.stage, naming.expert_parameter(projection, suffix), needs.experts, found)


def _count_outside(parameters: dict[tuple[Stage, str], Parameter], seen: Seen) -> None:
    for module in _outside(seen):
        _add(parameters, "target", f"{module}.weight", 1, module in seen.outside)


def _outside(seen: Seen) -> Iterator[str]:
    root = seen.stack.removesuffix("layers.")
    yield from (f"{root}embed_tokens", f"{root}norm", "lm_head")


def _add(parameters: dict[tuple[Stage, str], Parameter], stage: Stage, name: str, expected: int, found: int) -> None:
    parameter = parameters.setdefault((stage, name), Parameter(name, stage))
    parameter.expected += expected
    parameter.found += found
