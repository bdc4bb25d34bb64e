"""Outcomes: what each engine does with a tensor that is not what it builds.

==================  ==========================================  ===============================  ==========================
a tensor is         vLLM                                        SGLang                           transformers
==================  ==========================================  ===============================  ==========================
missing             says nothing; unquantised: ValueError for   says nothing                     a warning; an expert:
                    norms and what no quantiser touches                                          RuntimeError
unknown             KeyError; a bias: nothing                   a warning; part of a stacked     nothing
                                                                linear: KeyError; GLM-4: nothing
of another shape    AssertionError; smaller, of an expert,      an error                         RuntimeError
                    since 0.20: says nothing
of another dtype    says nothing                                says nothing                     says nothing
==================  ==========================================  ===============================  ==========================

Sources: vLLM 0.33 `deepseek_mtp.py:400-537`, `default_loader.py:510-572`; SGLang 0.5.23
`deepseek_weight_loader.py:390, 528`, `glm4_moe.py:1195-1238`; transformers 5.23 `modeling_utils.py`,
`modeling_layers.py` (`MtpModel`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from overlay.engines.comparing import FLOATS, Trouble
from overlay.engines.families import Family
from overlay.engines.remarks import Effect
from overlay.engines.simulating import Gap
from overlay.engines.versions import Engine

Stage = Literal["target", "draft"]

_WORST: Final[dict[Effect, int]] = {"none": 0, "wrong": 1, "absent": 1, "refuses": 2}
_LAYER: Final = re.compile(r"layers\.(\d{1,6})\.")
_STACKED: Final = ("gate_proj", "up_proj")
_FUSED_EXPERTS: Final = (256, 384)
"""Numbers of routed experts with which SGLang makes one shared expert of DeepSeek's families an expert more."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What an outcome depends on besides the gap."""

    engine: Engine
    family: Family
    stage: Stage
    quantised: bool
    """Whether the engine goes by a declaration of quantisation; vLLM checks completeness only without one."""
    layers: int = 0
    """Of the trunk."""
    experts: int = 0
    shared_experts: int = 0


def outcome(gap: Gap, setting: Setting) -> tuple[Effect, str]:
    """What the engine does with `gap`: the worst of its tensors, and the words that a person sees, if any."""
    if not gap.agreed:
        return "refuses", "ValueError: Found different quantization schemes for the shards of a fused module"
    found = [_OUTCOMES[setting.engine.name](gap, trouble, setting) for trouble in gap.troubles]
    return max(found, key=lambda entry: _WORST[entry[0]], default=("none", ""))


def _vllm(gap: Gap, trouble: Trouble, setting: Setting) -> tuple[Effect, str]:
    if trouble.kind == "unexpected":
        forgiven = setting.stage == "target" or setting.family.sglang_loader != "glm4"  # glm4_moe_mtp.py:405
        if "rotary_emb" in gap.path and forgiven:
            return "none", ""
        return ("none", "") if trouble.suffix == "bias" else ("refuses", f"KeyError: …{_last(gap)}.{trouble.suffix}")
    if trouble.kind == "missing":
        if trouble.suffix == "weight_shape" and gap.is_expert:
            return "none", ""  # gate and up write the same row, and no kernel reads it
        if trouble.suffix == "weight_scale" and _is_fp4_linear(gap) and setting.engine.has("refuses scales left NaN"):
            return "refuses", "RuntimeError: NVFP4 weight_scale … was never loaded (still NaN)"
        tracked = gap.slot is not None and (gap.slot.role == "norm" or gap.path == "eh_proj")
        if tracked and not setting.quantised:
            return "refuses", "ValueError: Following weights were not initialized from checkpoint"
        return "wrong", "silent: the weight stays as it was initialised"
    if trouble.kind == "dtype":
        return "wrong", "silent: the bytes are taken for numbers of another dtype"
    if trouble.kind == "smaller" and gap.is_expert and setting.engine.has("fills part of an expert"):
        return "wrong", "silent: part of the expert's weight is filled"
    return "refuses", "AssertionError or RuntimeError: the shape of a weight differs"


def _is_fp4_linear(gap: Gap) -> bool:
    return not gap.is_expert and gap.scheme is not None and gap.scheme.format == "modelopt-nvfp4"


def _sglang(gap: Gap, trouble: Trouble, setting: Setting) -> tuple[Effect, str]:
    if trouble.kind == "unexpected":
        if _is_past_trunk(gap, setting):
            return "none", ""
        stacked = not gap.is_expert and gap.path.endswith(_STACKED) and "mlp.experts." not in gap.path
        stacked = stacked and trouble.suffix != "bias"
        if setting.family.sglang_loader == "deepseek" and stacked and not _is_fused(gap, setting):
            return "refuses", f"KeyError: …gate_up_proj.{trouble.suffix}"
        return "none", "a warning: not found in params_dict"
    if trouble.kind == "missing":
        if trouble.suffix == "weight_shape" and gap.is_expert:
            return "none", ""
        return "wrong", "silent: the weight stays as it was initialised"
    if trouble.kind == "dtype":
        return "wrong", "silent: the bytes are taken for numbers of another dtype"
    if trouble.kind == "smaller" and gap.is_expert and trouble.axes == (1 if gap.path.endswith("down_proj") else 0,):
        return "wrong", "silent: the rest of the expert's weight is filled with zeros"  # fused_moe_triton/layer.py
    return "refuses", "RuntimeError or AssertionError: the size of a tensor must match"


def _is_past_trunk(gap: Gap, setting: Setting) -> bool:
    """Whether the name has a layer number that the target has no layer for; SGLang passes over such names."""
    match = _LAYER.search(gap.path)
    return not gap.prefix and setting.layers > 0 and match is not None and int(match[1]) >= setting.layers


def _is_fused(gap: Gap, setting: Setting) -> bool:
    """Whether the gap is in a shared expert that is one of the routed ones."""
    return "shared_experts" in gap.path and fuses_shared_expert(setting)


def fuses_shared_expert(setting: Setting) -> bool:
    """Whether the engine makes the shared expert one of the routed ones, which are declared by one name.

    Source: SGLang 0.5.23 `deepseek_v2.py:3325-3394`, `glm4_moe.py:1012-1030`.
    """
    counts = setting.experts in _FUSED_EXPERTS or setting.family.sglang_loader == "glm4"
    return setting.engine.name == "sglang" and setting.shared_experts == 1 and counts


def _transformers(gap: Gap, trouble: Trouble, setting: Setting) -> tuple[Effect, str]:
    if trouble.kind == "unexpected":
        if gap.is_expert and gap.slot is None and gap.prefix and trouble.suffix == "weight":
            return "refuses", "RuntimeError: one expert too many is stacked"
        return "none", ""
    if trouble.kind == "missing":
        if setting.stage == "draft":
            return "refuses", "RuntimeError: MtpModel weights are missing"
        if gap.is_expert and not gap.whole:
            return "refuses", "RuntimeError: converting the experts failed"
        return "wrong", "a warning: newly initialized"
    if trouble.kind == "dtype":
        if gap.is_expert and trouble.found.split(" ")[0] not in FLOATS and not trouble.found.startswith("F8"):
            return "refuses", "RuntimeError: converting the experts failed"
        return "wrong", "silent: the numbers are cast"
    return "refuses", "RuntimeError: size mismatch"


def _none(gap: Gap, trouble: Trouble, setting: Setting) -> tuple[Effect, str]:
    return "none", ""


_OUTCOMES: Final[dict[str, Callable[[Gap, Trouble, Setting], tuple[Effect, str]]]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "transformers": _transformers,
    "llama.cpp": _none,
    "mlx": _none,
}


def _last(gap: Gap) -> str:
    return gap.path.rpartition(".")[2] if not gap.is_expert else "routed_experts"
