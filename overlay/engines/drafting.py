"""Drafting: whether an engine finds the draft of a checkpoint, and what it makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from overlay.engines.families import Family
from overlay.engines.inventory import needs_of
from overlay.engines.judging import NOTHING_DECLARED, Plan, judge_layer, setting_for, to_remarks
from overlay.engines.layers import LayerSeen, Seen
from overlay.engines.limits import sglang_limits
from overlay.engines.matching import Matcher
from overlay.engines.remarks import Remark, remark
from overlay.engines.simulating import Gap
from overlay.engines.subject import Subject
from overlay.engines.versions import Engine
from overlay.formats.model_config import CONFIG_NAME

_TRUNK: Final = "num_hidden_layers"
_DECODER: Final = "model.decoder."
"""What SGLang calls the draft's layer when it asks the declaration."""


def judge_draft(engine: Engine, subject: Subject, family: Family, seen: Seen, matcher: Matcher) -> list[Remark]:
    """Everything that `engine` says about the draft of `subject`."""
    if family.beside:
        return _judge_beside(engine, subject, family, seen)
    trunk = subject.number(_TRUNK)
    if trunk is None:
        return []
    past = sorted(number for number in seen.layers if number >= trunk)
    declared = subject.draft_layers if subject.draft_key else _default(engine, family)
    if not declared and not past:
        return [remark("MTP001", CONFIG_NAME, "declares no draft layer, and there is none", "absent", "draft")]
    return _WAYS[engine.name](engine, subject, family, seen, matcher)


def _default(engine: Engine, family: Family) -> int:
    """What an engine takes for the number of draft layers where the config is silent."""
    return 0


def _vllm(engine: Engine, subject: Subject, family: Family, seen: Seen, matcher: Matcher) -> list[Remark]:
    trunk, count = subject.number(_TRUNK) or 0, subject.draft_layers
    if not count:
        message = "declares no draft layer, and there is one"
        return [remark("MTP002", CONFIG_NAME, message, "refuses", "draft", key="num_nextn_predict_layers")]
    said: list[Remark] = []
    for number in range(trunk, trunk + count):
        layer = seen.layers.get(number)
        if layer is None or not _own(layer, family):
            said.append(_vllm_absent(engine, subject, family, number, matcher))
            continue
        said += _judge(engine, subject, family, layer, Plan(number, layer.prefix, matcher))
    if matcher.understood and matcher.decide(f"{seen.stack}{trunk}.head").scheme is not None:
        said += _vllm_head(engine, family, matcher, f"{seen.stack}{trunk}.head")
    return said


def _vllm_head(engine: Engine, family: Family, matcher: Matcher, head: str) -> Iterator[Remark]:
    """ModelOpt's NVFP4 also covers the draft's output layer (`modelopt.py:2076-2085`)."""
    scheme = matcher.decide(head).scheme
    if matcher.method == "modelopt" and scheme is not None and scheme.format == "modelopt-nvfp4":
        loaded = family.sglang_loader == "glm4"  # glm4_moe_mtp.py:275 loads lm_head.weight into it
        if not loaded and not engine.has("refuses scales left NaN"):
            return  # built in NVFP4, and replaced by the target's before it is used
        text = "size of tensor" if loaded else "weight_scale … was never loaded (still NaN)"
        message = f"expected an entry that describes {head}, found none (RuntimeError: {text})"
        yield remark("QNT016", CONFIG_NAME, message, "refuses", "draft", key="quantization_config")


def _vllm_absent(engine: Engine, subject: Subject, family: Family, number: int, matcher: Matcher) -> Remark:
    checks = family.vllm_checks == "layer" and engine.has("checks that the draft layer came")
    if checks or not matcher.quantises:
        text = f"ValueError: MTP speculative decoding layer {number} weights missing from checkpoint"
        text = text if checks else "ValueError: Following weights were not initialized from checkpoint"
        return _absent(subject, number, f"vLLM refuses: {text}", "refuses")
    return _absent(subject, number, "vLLM drafts from uninitialised weights", "absent")


def _sglang(engine: Engine, subject: Subject, family: Family, seen: Seen, matcher: Matcher) -> list[Remark]:
    trunk = subject.number(_TRUNK) or 0
    if subject.number("num_nextn_predict_layers") != 1:
        found = subject.number("num_nextn_predict_layers")
        text = "ValueError" if found is None else "AssertionError"
        message = f"expected exactly 1, found {'none' if found is None else found} ({text})"
        return [remark("MTP003", CONFIG_NAME, message, "refuses", "draft", key="num_nextn_predict_layers")]
    layer = seen.layers.get(trunk)
    built = NOTHING_DECLARED if matcher.is_fp4 else matcher
    if built.understood:
        needs = needs_of(subject, family, trunk, draft=True)
        if limits := sglang_limits(family, needs, layer, _DECODER, built, "draft"):
            return limits
    if layer is None or not _own(layer, family):
        return [_absent(subject, trunk, "SGLang loads without a word and drafts from uninitialised weights", "absent")]
    plan = Plan(trunk, _DECODER, built)
    said = _judge(engine, subject, family, layer, plan, lambda gap: _sglang_code(gap, matcher, layer))
    return [_explained(one, matcher) for one in said]


def _sglang_code(gap: Gap, matcher: Matcher, layer: LayerSeen) -> str:
    if gap.scheme_differs and matcher.is_fp4:
        return "QNT003"
    if gap.scheme_differs and matcher.understood and gap.scheme is not None:
        own = matcher.decide(f"{layer.prefix}{gap.path}").scheme
        if own is None:  # the entry describes the checkpoint's name, and not SGLang's
            return "QNT004"
    return draft_code(gap)


def _explained(one: Remark, matcher: Matcher) -> Remark:
    """A remark that says why SGLang's draft is built in another scheme than the declaration's."""
    reason = {
        "QNT003": "; SGLang builds the draft of a modelopt_fp4 target unquantised",
        "QNT004": "; SGLang asks about model.decoder, which no entry describes",
    }.get(one.finding.code)
    if reason is None:
        return one
    return replace(one, finding=replace(one.finding, message=f"{one.finding.message}{reason}"))


def _transformers(engine: Engine, subject: Subject, family: Family, seen: Seen, matcher: Matcher) -> list[Remark]:
    """`MtpModel` of transformers, which ``generate(use_mtp=True)`` loads."""
    trunk = subject.number(_TRUNK) or 0
    if (reason := _transformers_cannot(subject, family, trunk)) is not None:
        return [remark("ENG023", CONFIG_NAME, f"transformers cannot draft here: {reason}", "refuses", "draft")]
    count = subject.draft_layers if subject.draft_key else 1
    said: list[Remark] = []
    mapped = subject.weight_map
    if not count:
        return [remark("MTP001", CONFIG_NAME, "declares 0 draft layers: transformers loads none", "absent", "draft")]
    for number in range(trunk, trunk + count):
        layer = seen.layers.get(number)
        if layer is None or not _own(layer, family):
            said.append(_absent(subject, number, "transformers refuses: MtpModel weights are missing", "refuses"))
            continue
        said += _judge(engine, subject, family, layer, Plan(number, layer.prefix, NOTHING_DECLARED))
        if mapped is not None and any("/" in shard for shard in subject.headers):
            paths = [name for name, shard in mapped.items() if "/" in shard and name.startswith(layer.prefix)]
            if paths:
                message = f"expected a bare file name in the index, found {mapped[paths[0]]}; MtpModel does not find it"
                said.append(remark("IDX002", mapped[paths[0]], message, "refuses", "draft", tensor=paths[0]))
        if mapped is None or not seen.differs_from(mapped):
            continue
        if unmapped := [name for name in seen.names if name.startswith(layer.prefix) and name not in mapped]:
            message = f"expected the index to map it, found {len(unmapped)} such tensors; MtpModel goes by the index"
            said.append(remark("IDX005", layer.prefix.rstrip("."), message, "refuses", "draft", tensor=min(unmapped)))
    return said


def _transformers_cannot(subject: Subject, family: Family, trunk: int) -> str | None:
    if family.transformers_keys is None:
        return f"its MtpModel does not know drafts of {family.name}"
    if missing := [key for key in family.transformers_keys if key not in subject.scope]:
        return f"config.json lacks {', '.join(missing)}"
    if trunk not in family.transformers_layers:
        known = " or ".join(map(str, family.transformers_layers))
        return f"it knows the draft of {family.name} as layer {known}, and this one is layer {trunk}"
    return None


def _naming(engine: Engine, subject: Subject, family: Family, seen: Seen, matcher: Matcher) -> list[Remark]:
    """Converters: whether the files that they glob hold the draft."""
    trunk = subject.number(_TRUNK) or 0
    if trunk in seen.layers:
        return []
    return [_absent(subject, trunk, "no file that is called model*.safetensors holds it", "absent")]


_WAYS: Final[dict[str, Callable[[Engine, Subject, Family, Seen, Matcher], list[Remark]]]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "transformers": _transformers,
    "llama.cpp": _naming,
    "mlx": _naming,
}


def _judge_beside(engine: Engine, subject: Subject, family: Family, seen: Seen) -> list[Remark]:
    """A draft beside the trunk: its names are known, its shapes are not derived."""
    prefix = f"{family.beside}."
    present = {module for module in seen.outside if module.startswith(prefix)}
    if not present:
        effect = "absent"
        declared = "declares" if subject.draft_layers else "declares no draft layer, and there is none:"
        return [
            remark(
                "MTP001",
                CONFIG_NAME,
                f"{declared} a draft under {family.beside}, found no tensor of it",
                effect,
                "draft",
            )
        ]
    if engine.name == "transformers":
        message = f"transformers cannot draft here: its MtpModel does not know drafts of {family.name}"
        return [remark("ENG023", CONFIG_NAME, message, "refuses", "draft")]
    said = []
    for join in family.joins:
        if f"{prefix}{join}" not in present:
            message = "expected a module that joins the draft to the trunk, found nothing (silent)"
            said.append(remark("MTP004", family.beside, message, "wrong", "draft", tensor=f"{prefix}{join}.weight"))
    return said


def _judge(
    engine: Engine,
    subject: Subject,
    family: Family,
    layer: LayerSeen,
    plan: Plan,
    code_of: Callable[[Gap], str] | None = None,
) -> list[Remark]:
    needs = needs_of(subject, family, plan.layer, draft=True)
    if needs is None:
        return []
    setting = setting_for(engine, family, "draft", subject, plan.matcher)
    found = judge_layer(layer, needs, plan, setting, family.copies)
    said = to_remarks(found, "draft", code_of or draft_code)
    for copy in family.copies:
        if copy in layer.modules:
            message = "found a copy of the target's, which the engine does not use"
            said.append(
                remark(
                    "MTP005", layer.prefix.rstrip("."), message, "none", "draft", tensor=f"{layer.prefix}{copy}.weight"
                )
            )
    return said


def draft_code(gap: Gap) -> str:
    """The code of a gap in a draft layer."""
    return code_of(gap, "MTP004", "MTP006")


def trunk_code(gap: Gap) -> str:
    """The code of a gap in the trunk."""
    return code_of(gap, "ENG010", "ENG011")


def code_of(gap: Gap, missing: str, unknown: str) -> str:
    """The code of a gap; `missing` and `unknown` are those of a tensor that is not there, and of one too many."""
    if not gap.agreed:
        return "QNT006"
    if gap.is_expert and (gap.slot is None or gap.form is None) and gap.path.count(".") == 3:
        return "ENG014"
    if gap.slot is None:
        return unknown
    if gap.form is None:
        return missing
    if gap.slot.role != "linear" and any(trouble.suffix.startswith("weight_") for trouble in gap.troubles):
        return "QNT013" if all(trouble.kind == "missing" for trouble in gap.troubles) else "QNT001"
    if {"weight_scale", "weight_scale_inv"} == {trouble.suffix for trouble in gap.troubles}:
        return "QNT014"
    if gap.scheme_differs:
        return "QNT002"
    kinds = {trouble.kind for trouble in gap.troubles}
    if kinds & {"shape", "smaller"}:
        return "QNT008" if gap.scheme is not None else "ENG012"
    if "dtype" in kinds:
        return "QNT009"
    return missing if "missing" in kinds else unknown


def _own(layer: LayerSeen, family: Family) -> bool:
    """Whether anything but copies of the target's modules is there."""
    return bool(layer.experts) or bool(layer.modules.keys() - set(family.copies))


def _absent(subject: Subject, number: int, outcome: str, effect: str) -> Remark:
    message = f"declares layer {number}, found no tensor of it; {outcome}"
    return remark("MTP001", CONFIG_NAME, message, effect, "draft", key=subject.draft_key or "num_nextn_predict_layers")
