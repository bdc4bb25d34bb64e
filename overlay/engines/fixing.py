"""Fixing: the manifest whose target an engine loads, for what a manifest can mend.

Entries for the lists of unquantised modules, under every name that an engine has for the draft; a declared number of draft
layers; superseded copies and strays that are left out.  What no manifest can mend is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from overlay.engines.families import Family
from overlay.engines.predicting import Facts, Prediction
from overlay.engines.remarks import Remark
from overlay.engines.subject import Subject
from overlay.formats.json_pointer import escape_token
from overlay.formats.model_config import CONFIG_NAME
from overlay.formats.quant_config import QUANT_CONFIG_NAME

_SCHEME: Final = frozenset({"QNT002", "QNT004", "QNT016"})
"""Codes that an entry in a list of unquantised modules answers."""
_KEYS: Final = {"compressed-tensors": "ignore", "modelopt": "ignore", "fp8": "modules_to_not_convert"}


@dataclass(frozen=True, slots=True)
class Fix:
    """What a manifest would change."""

    manifest: Mapping[str, Any]
    """The manifest, ready to be written."""
    mends: tuple[Remark, ...]
    leaves: tuple[Remark, ...]
    """What makes an engine refuse or be wrong and no manifest can mend."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing that it would change."""
        return not self.mends


def plan_fix(name: str, base: str, predictions: Sequence[Prediction], facts: Mapping[str, Facts]) -> Fix:
    """The manifest that makes the checkpoint `base` load in the engines of `predictions`.

    Args:
        name: the manifest's name.
        base: the reference of the checkpoint.
        predictions: what each engine does with it.
        facts: engine to what it was told.
    """
    manifest: dict[str, Any] = {"overlay": 1, "name": name, "base": base}
    mends: list[Remark] = []
    leaves: list[Remark] = []
    engines: dict[str, Any] = {}
    for prediction in predictions:
        told = facts[prediction.engine.name]
        bad = [said for said in prediction.remarks if said.effect in ("refuses", "wrong")]
        entries = list(_entries(prediction.engine.name, told, bad))
        mendable = [said for said in bad if said.finding.code in _SCHEME and said.scope == "draft" and entries]
        mends += mendable
        leaves += [said for said in bad if said not in mendable and not _is_declared(said)]
        files = _files(told.subject, entries) if entries else {}
        if files:
            engines[prediction.engine.name] = {"files": files}
    declared = _declared(predictions, facts)
    if declared:
        mends += [said for prediction in predictions for said in prediction.remarks if _is_declared(said)]
        manifest["files"] = {CONFIG_NAME: {"patch": declared}}
    if engines:
        manifest["engines"] = engines
    return Fix(manifest, tuple(dict.fromkeys(mends)), tuple(dict.fromkeys(leaves)))


def _entries(engine: str, facts: Facts, bad: Sequence[Remark]) -> Iterator[str]:
    """The entries that let the draft be built as it is stored."""
    family, subject = facts.family, facts.subject
    codes = {said.finding.code for said in bad if said.scope == "draft"}
    if family is None or family.beside or not codes & _SCHEME:
        return
    layer = subject.number("num_hidden_layers")
    if codes & {"QNT002", "QNT004"} and not _is_dense(facts):
        return
    yield from _names(engine, facts.matcher.method, layer or 0, family, only_head=codes & _SCHEME == {"QNT016"})


def _names(engine: str, method: str, layer: int, family: Family, *, only_head: bool) -> Iterator[str]:
    regular = method == "compressed-tensors"
    if engine == "vllm":
        path = f"model.layers.{layer}"
        if only_head:
            yield f"re:{_escaped(path)}\\.head.*" if regular else f"{path}.head"
        else:
            yield f"re:{_escaped(path)}\\..*" if regular else f"{path}.*"
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
        at = f"/quantization_config/{escape_token(key)}"
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
