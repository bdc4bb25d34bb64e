"""Pairing: a standalone draft beside its target.

vLLM numbers the draft's layer, maps its experts and quantises it by the target's config, and sizes its modules by the
draft's (`deepseek_mtp.py:81, 150-164, 243`); SGLang goes by the draft's config in everything, and by the target's
quantisation where the draft declares none (`model_config.py:2122-2137`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from overlay.engines.drafting import judge_draft
from overlay.engines.files import open_files
from overlay.engines.matching import Matcher
from overlay.engines.predicting import Facts, Prediction, answer, in_order, predict
from overlay.engines.remarks import Remark, remark
from overlay.engines.subject import Subject
from overlay.engines.values import check_values
from overlay.engines.versions import Engine
from overlay.formats.model_config import CONFIG_NAME

_EQUAL: Final = ("hidden_size", "vocab_size")
"""Sizes that draft and target share through embedding and output layer."""
_LAYERS: Final = ("num_hidden_layers", "num_nextn_predict_layers")


def predict_pair(engine: Engine, target: Facts, draft: Facts) -> Prediction:
    """What `engine` does with `draft` beside `target`."""
    whole = predict(engine, target)
    said = [one for one in whole.remarks if one.scope != "draft"]
    opening = open_files(engine, draft.subject)
    seen = draft.seen(opening.files)
    about_draft: list[Remark] = [replace(one, scope="draft") for one in opening.remarks]
    about_draft += _compare(engine, target.subject, draft.subject)
    family = draft.family or target.family
    if family is None:
        name = draft.subject.model_type or "no model_type"
        message = f"expected a family that lint knows, found {name}"
        about_draft.append(remark("ENG020", CONFIG_NAME, message, "none", "draft", key="model_type"))
    else:
        subject, matcher = _as_built(engine, target, draft)
        about_draft += judge_draft(engine, subject, family, seen, matcher)
        about_draft += check_values(engine, draft.subject, seen)
    about_draft = [_named(one, draft.subject.label) for one in about_draft]
    remarks = in_order(one.of(engine.name) for one in (*said, *about_draft))
    return Prediction(
        engine=engine, target=whole.target, draft=answer(remarks, "draft"), remarks=remarks, opening=opening
    )


def _as_built(engine: Engine, target: Facts, draft: Facts) -> tuple[Subject, Matcher]:
    """The draft with the numbers and the declaration that the engine builds it by."""
    if engine.name == "vllm":
        numbers = {key: target.subject.scope.get(key) for key in _LAYERS if key in target.subject.scope}
        config = {**draft.subject.scope, **numbers}
        if draft.subject.number("num_nextn_predict_layers") is not None and _LAYERS[1] not in numbers:
            config.pop(_LAYERS[1], None)
        return replace(draft.subject, config=config), target.matcher_of(engine)
    return draft.subject, (draft if draft.matcher.quantises else target).matcher_of(engine)


def _compare(engine: Engine, target: Subject, draft: Subject) -> Iterator[Remark]:
    """What must be equal in the two configs."""
    if engine.name not in ("vllm", "sglang"):
        return
    for key in (*_EQUAL, "num_hidden_layers", "n_routed_experts"):
        wanted, found = target.number(key), draft.number(key)
        if wanted is None or found is None or wanted == found:
            continue
        effect = _effect(engine, key, wanted, found)
        message = f"expected {wanted} as in the target, found {found}"
        yield remark("MTP007", CONFIG_NAME, message, effect, "draft", key=key)


def _effect(engine: Engine, key: str, wanted: int, found: int) -> str:
    if key in _EQUAL:
        return "refuses"
    if engine.name == "sglang":  # sizes and numbers come from the draft's own config
        return "none"
    if key == "n_routed_experts":  # modules from the draft's config, the map of experts from the target's
        return "refuses" if found > wanted else "wrong"
    return "none"  # the layer's number is the target's: what is missing then is found


def _named(one: Remark, label: str) -> Remark:
    finding = one.finding
    return replace(one, finding=replace(finding, subject=f"{label}/{finding.subject}"))
