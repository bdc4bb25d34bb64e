"""Fixing: the manifest whose target an engine loads, for what a manifest can mend.

Entries for the lists of unquantised modules, under the name that each engine has for the draft; an entry that describes
more layers than it means; a number of draft layers that is not declared; backups of ``hf_quant_config.json``; tensors and
names of shards that stand in the way (`clearing`).  What the index does not name is left out by `apply` itself.  Whoever
writes the manifest looks at it again, which says what no manifest can mend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from overlay.engines.clearing import OWN, plan_drops, plan_renames
from overlay.engines.predicting import Facts, Prediction
from overlay.engines.remarks import Remark
from overlay.engines.subject import Subject
from overlay.formats.json_pointer import JsonPointer
from overlay.formats.model_config import CONFIG_NAME
from overlay.formats.quant_config import QUANT_CONFIG_NAME

_SCHEME: Final = frozenset({"QNT002", "QNT004", "QNT016"})
"""Codes that an entry in a list of unquantised modules answers."""
_KEYS: Final = {"compressed-tensors": "ignore", "modelopt": "ignore", "fp8": "modules_to_not_convert"}


def plan_fix(
    name: str, base: str, predictions: Sequence[Prediction], facts: Mapping[str, Facts], *, asked: bool
) -> dict[str, Any]:
    """The manifest over the checkpoint `base` with what a manifest can mend; without changes it still leaves strays out.

    Args:
        name: the manifest's name.
        base: the reference of the checkpoint.
        predictions: what each engine does with it.
        facts: engine to what it was told.
        asked: whether the user named the engines; shards are copied under other names for those alone.
    """
    engines: dict[str, Any] = {}
    for prediction in predictions:
        told = facts[prediction.engine.name]
        bad = [said for said in prediction.remarks if said.effect in ("refuses", "wrong")]
        entries = list(_entries(prediction.engine.name, told, bad))
        narrowed = _narrowed(prediction, bad)
        if patches := _files(told.subject, entries, narrowed):
            engines[prediction.engine.name] = {"files": patches}
    files: dict[str, Any] = {}
    if declared := _declared(predictions, facts):
        files[CONFIG_NAME] = {"patch": declared}
    subject = next(iter(facts.values())).subject
    for backup in subject.names:
        if backup.endswith(QUANT_CONFIG_NAME) and backup != QUANT_CONFIG_NAME:
            files[backup] = {"remove": True}
    drops = plan_drops(predictions, facts)
    grafts = plan_renames(subject, _passed_over(predictions, subject, asked=asked), drops)
    manifest: dict[str, Any] = {"overlay": 1, "name": name, "base": base}
    parts = {"grafts": grafts, "drop": drops, "files": files, "engines": engines}
    if grafts:
        manifest["donors"] = {OWN: base}
    return {**manifest, **{key: value for key, value in parts.items() if value}}


def _passed_over(predictions: Sequence[Prediction], subject: Subject, *, asked: bool) -> list[str]:
    """Listed shards that a converter passes over by their names."""
    wanted = [one for one in predictions if asked and one.engine.name in ("llama.cpp", "mlx")]
    names = {said.finding.file for one in wanted for said in one.remarks if said.finding.code == "IDX017"}
    return sorted(names & subject.headers.keys())


def _narrowed(prediction: Prediction, bad: Sequence[Remark]) -> list[str]:
    """Entries that leave more layers unquantised than they mean, where the engine stumbles over such a layer."""
    if not any(said.finding.code == "QNT002" and said.scope == "target" for said in bad):
        return []
    found = [said.finding for said in prediction.remarks if said.finding.code == "QNT015"]
    return [finding.subject.removeprefix(f"{finding.file}: ") for finding in found]


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


def _files(subject: Subject, entries: Sequence[str], narrowed: Sequence[str]) -> dict[str, Any]:
    """The patches of both lists; they are kept equal."""
    if not entries and not narrowed:
        return {}
    files: dict[str, Any] = {}
    declared = (subject.config or {}).get("quantization_config")
    if isinstance(declared, dict):
        key = _KEYS.get(str(declared.get("quant_method")), "ignore")
        at = str(JsonPointer(("quantization_config", key)))
        files[CONFIG_NAME] = {"patch": _changes(at, declared.get(key), entries, narrowed)}
    inner = (subject.hf_quant or {}).get("quantization")
    if isinstance(inner, dict):
        at = "/quantization/exclude_modules"
        files[QUANT_CONFIG_NAME] = {"patch": _changes(at, inner.get("exclude_modules"), entries, narrowed)}
    return {name: change for name, change in files.items() if change["patch"]}


def _changes(at: str, present: object, entries: Sequence[str], narrowed: Sequence[str]) -> list[dict[str, Any]]:
    if not isinstance(present, list):
        return [{"op": "add", "path": at, "value": list(entries)}] if entries else []
    replaced = [
        {"op": "replace", "path": f"{at}/{position}", "value": f"{entry}.*"}
        for position, entry in enumerate(present)
        if entry in narrowed
    ]
    return replaced + [{"op": "add", "path": f"{at}/-", "value": entry} for entry in entries if entry not in present]


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
