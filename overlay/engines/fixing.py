"""Fixing: the manifest whose target an engine loads, for what a manifest can mend.

Entries for the lists of unquantised modules, under the name that each engine has for the draft; a number of draft layers
that is not declared; backups of ``hf_quant_config.json``.  What the index does not name is left out by `apply` itself.
Whoever writes the manifest looks at it again, which says what no manifest can mend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from overlay.engines.predicting import Facts, Prediction
from overlay.engines.remarks import Remark
from overlay.engines.subject import Subject
from overlay.formats.json_pointer import JsonPointer
from overlay.formats.model_config import CONFIG_NAME
from overlay.formats.quant_config import QUANT_CONFIG_NAME

_SCHEME: Final = frozenset({"QNT002", "QNT004", "QNT016"})
"""Codes that an entry in a list of unquantised modules answers."""
_KEYS: Final = {"compressed-tensors": "ignore", "modelopt": "ignore", "fp8": "modules_to_not_convert"}


def plan_fix(name: str, base: str, predictions: Sequence[Prediction], facts: Mapping[str, Facts]) -> dict[str, Any]:
    """The manifest over the checkpoint `base` with what a manifest can mend; without changes it still leaves strays out.

    Args:
        name: the manifest's name.
        base: the reference of the checkpoint.
        predictions: what each engine does with it.
        facts: engine to what it was told.
    """
    engines: dict[str, Any] = {}
    for prediction in predictions:
        told = facts[prediction.engine.name]
        bad = [said for said in prediction.remarks if said.effect in ("refuses", "wrong")]
        if entries := list(_entries(prediction.engine.name, told, bad)):
            engines[prediction.engine.name] = {"files": _files(told.subject, entries)}
    files: dict[str, Any] = {}
    if declared := _declared(predictions, facts):
        files[CONFIG_NAME] = {"patch": declared}
    subject = next(iter(facts.values())).subject
    for backup in subject.names:
        if backup.endswith(QUANT_CONFIG_NAME) and backup != QUANT_CONFIG_NAME:
            files[backup] = {"remove": True}
    manifest: dict[str, Any] = {"overlay": 1, "name": name, "base": base}
    return {**manifest, **({"files": files} if files else {}), **({"engines": engines} if engines else {})}


def _entries(engine: str, facts: Facts, bad: Sequence[Remark]) -> Iterator[str]:
    """The entries that let the draft be built as it is stored."""
    family, subject = facts.family, facts.subject
    codes = {said.finding.code for said in bad if said.scope == "draft"}
    if family is None or family.beside or not codes & _SCHEME:
        return
    layer = subject.number("num_hidden_layers")
    if codes & {"QNT002", "QNT004"} and not _is_dense(facts):
        return
    yield from _names(engine, facts.matcher.method, layer or 0, only_head=codes & _SCHEME == {"QNT016"})


def _names(engine: str, method: str, layer: int, *, only_head: bool) -> Iterator[str]:
    regular = method == "compressed-tensors"
    if engine == "vllm":
        path = f"model.layers.{layer}"
        if only_head:
            yield f"re:{re.escape(path)}\\.head.*" if regular else f"{path}.head"
        else:
            yield f"re:{re.escape(path)}\\..*" if regular else f"{path}.*"
    elif engine == "sglang" and regular:
        yield "re:model\\.decoder\\..*"


def _is_dense(facts: Facts) -> bool:
    """Whether the draft is stored without any quantisation, so that leaving it out of the declaration is the answer."""
    trunk = facts.subject.number("num_hidden_layers") or 0
    seen = facts.seen(tuple(sorted(facts.subject.headers)))
    layer = seen.layers.get(trunk)
    if layer is None:
        return False
    forms = [*layer.modules.values(), *(form for _, form in layer.experts)]
    return not any(part.suffix.startswith("weight_") for form in forms for part in form)


def _files(subject: Subject, entries: Sequence[str]) -> dict[str, Any]:
    """The patches of both lists; they are kept equal."""
    files: dict[str, Any] = {}
    declared = (subject.config or {}).get("quantization_config")
    if isinstance(declared, dict):
        key = _KEYS.get(str(declared.get("quant_method")), "ignore")
        at = str(JsonPointer(("quantization_config", key)))
        files[CONFIG_NAME] = {"patch": _additions(at, declared.get(key), entries)}
    inner = (subject.hf_quant or {}).get("quantization")
    if isinstance(inner, dict):
        at = "/quantization/exclude_modules"
        files[QUANT_CONFIG_NAME] = {"patch": _additions(at, inner.get("exclude_modules"), entries)}
    return files


def _additions(at: str, present: object, entries: Sequence[str]) -> list[dict[str, Any]]:
    if not isinstance(present, list):
        return [{"op": "add", "path": at, "value": list(entries)}]
    return [{"op": "add", "path": f"{at}/-", "value": entry} for entry in entries if entry not in present]


def _declared(predictions: Sequence[Prediction], facts: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """The number of draft layers, where they are there and not declared."""
    if not any(_is_declared(said) for prediction in predictions for said in prediction.remarks):
        return []
    subject = next(iter(facts.values())).subject
    seen = next(iter(facts.values())).seen(tuple(sorted(subject.headers)))
    trunk = subject.number("num_hidden_layers") or 0
    count = sum(number >= trunk for number in seen.layers)
    return [{"op": "add", "path": "/num_nextn_predict_layers", "value": count}] if count == 1 else []


def _is_declared(said: Remark) -> bool:
    return said.finding.code in ("MTP002", "MTP003") and said.effect == "refuses"
