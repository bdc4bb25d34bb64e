"""Predicting: what each engine will do with a checkpoint, target and draft, with the reasons.

``ok``: loads what the files hold.  ``refuses``: ends with an error.  ``wrong``: loads, and weights differ or stay unset.
``absent``: nothing of the draft is there, and no error says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from overlay.engines import declarations
from overlay.engines.drafting import judge_draft, trunk_code
from overlay.engines.families import Family, family_of
from overlay.engines.files import Opening, open_files
from overlay.engines.judging import MOST_LAYERS, NOTHING_DECLARED, judge_trunk, to_remarks
from overlay.engines.layers import Seen, see
from overlay.engines.limits import limits_of
from overlay.engines.matching import Matcher
from overlay.engines.remarks import Remark, Scope, remark
from overlay.engines.sglang_matching import SglangMatcher
from overlay.engines.subject import Subject
from overlay.engines.values import check_values
from overlay.engines.versions import Engine
from overlay.formats.model_config import CONFIG_NAME

Answer = Literal["ok", "refuses", "wrong", "absent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one engine will do."""

    engine: Engine
    target: Answer
    draft: Answer
    remarks: tuple[Remark, ...]
    opening: Opening

    def fails(self, *, asked: bool) -> bool:
        """Whether lint must fail for this engine, which the user named or did not."""
        return any(said.fails(asked=asked) for said in self.remarks)

    def document(self) -> dict[str, Any]:
        """The prediction as it stands in JSON documents."""
        return {
            "version": self.engine.version,
            "profile": self.engine.profile,
            "target": self.target,
            "draft": self.draft,
            "findings": [said.document() for said in self.remarks],
        }


class Facts:
    """What several engines are told about one checkpoint, worked out once."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.family = family_of(subject.model_type)
        self.matcher = Matcher(subject.quantization[0])
        self._sglang: SglangMatcher | None = None
        self._seen: dict[tuple[str, ...], Seen] = {}

    def matcher_of(self, engine: Engine) -> Matcher:
        """The declaration as `engine` asks it: SGLang takes ModelOpt's list in its own way."""
        if engine.name != "sglang" or self.matcher.method != "modelopt":
            return self.matcher
        if self._sglang is None:
            self._sglang = SglangMatcher(self.subject.quantization[0])
        return self._sglang

    def seen(self, files: tuple[str, ...]) -> Seen:
        """The tensors of `files`; orders that no copy of a tensor depends on share theirs."""
        key = tuple(sorted(files))
        found = self._seen.get(files) or self._seen.get(key)
        if found is None or (found.duplicates and files not in self._seen):
            found = self._seen[files] = see(self.subject.headers, files)
            self._seen.setdefault(key, found)
        return found

    def with_values(self, values: Mapping[str, bytes]) -> Facts:
        """The same, with the bytes of some tensors; what was worked out is kept."""
        facts = Facts(replace(self.subject, values=values))
        facts._seen = self._seen
        return facts


def predict(engine: Engine, facts: Facts) -> Prediction:
    """What `engine` will do with the checkpoint that `facts` are about."""
    matcher = facts.matcher_of(engine)
    understood = matcher.understood
    prediction = _predict(engine, facts)
    if understood and not matcher.understood:  # given up on the way: what was compared before does not count
        prediction = _predict(engine, facts)
    return prediction


def _predict(engine: Engine, facts: Facts) -> Prediction:
    subject, family = facts.subject, facts.family
    opening = open_files(engine, subject)
    seen = facts.seen(opening.files)
    said: list[Remark] = [*opening.remarks, *declarations.check_names(engine, subject)]
    said += declarations.check_map(engine, subject, seen, opening.files, opening.order)
    said += declarations.check_headers(engine, subject, opening.files)
    said += declarations.check_declarations(engine, subject, seen, facts.matcher_of(engine))
    standalone = is_standalone(subject, seen, family)
    if subject.config is None:
        said.append(remark("CFG001", CONFIG_NAME, "expected a JSON object, found none or a broken one", "refuses"))
    elif not subject.model_type:
        message = "expected a model_type, found none (ValueError: Unrecognized model)"
        said.append(remark("CFG001", CONFIG_NAME, message, "refuses", key="model_type"))
    elif family is None:
        said += _generic(engine, subject, seen)
    elif engine.name in _SIMULATED:
        said += _simulated(engine, facts, family, seen, standalone=standalone)
    else:
        said += judge_draft(engine, subject, family, seen, facts.matcher_of(engine))
    if standalone:
        said.append(remark("ENG024", subject.label, "expected a trunk, found a draft alone", "none"))
    if not engine.exact:
        message = f"expected a release that was looked at, found {engine.version}; {engine.profile} speaks for it"
        said.append(remark("ENG021", engine.name, message, "none"))
    remarks = in_order(one.of(engine.name) for one in said)
    target = "absent" if standalone else answer(remarks, "target")
    drafts = answer(remarks, "draft")
    if engine.name == "transformers" and target == "refuses" and drafts in ("ok", "wrong"):
        drafts = "refuses"  # its draft is loaded beside a target that was loaded before
    return Prediction(engine=engine, target=target, draft=drafts, remarks=remarks, opening=opening)


_SIMULATED: Final = ("vllm", "sglang", "transformers")


def _simulated(engine: Engine, facts: Facts, family: Family, seen: Seen, *, standalone: bool) -> Iterable[Remark]:
    subject = _with_default(facts.subject, family, seen)
    trunk = subject.number("num_hidden_layers")
    if trunk is None or not 0 < trunk <= MOST_LAYERS:
        found = "none" if trunk is None else trunk
        message = f"expected 1 to {MOST_LAYERS} layers, found {found}; nothing is said about their tensors"
        yield remark("ENG020", CONFIG_NAME, message, "none", key="num_hidden_layers")
    declared = facts.matcher_of(engine)
    matcher = declared if engine.name != "transformers" else NOTHING_DECLARED
    limits = limits_of(engine, subject, family, seen, declared)
    yield from (one for one in limits.remarks if not (standalone and one.scope == "target"))
    yield from declarations.check_sizes(engine, subject, family, declared)
    yield from check_values(engine, subject, seen)
    if not standalone:
        yield from declarations.check_layers(engine, subject, seen)
        if not limits.target:
            yield from to_remarks(judge_trunk(engine, subject, family, seen, matcher), "target", trunk_code)
    if not limits.draft:
        yield from judge_draft(engine, subject, family, seen, matcher)


def _with_default(subject: Subject, family: Family, seen: Seen) -> Subject:
    """`subject` as its config class completes it, where it holds a draft that it does not declare."""
    trunk = subject.number("num_hidden_layers")
    if subject.draft_key or not family.default_drafts or trunk not in seen.layers:
        return subject
    return replace(subject, config={**subject.scope, "num_nextn_predict_layers": family.default_drafts})


def _generic(engine: Engine, subject: Subject, seen: Seen) -> Iterable[Remark]:
    """What can be said without knowing the family."""
    name = subject.model_type or "no model_type"
    yield remark("ENG020", CONFIG_NAME, f"expected a family that lint knows, found {name}", "none", key="model_type")
    mapped = subject.weight_map or {}
    phantoms = [tensor for tensor in mapped if tensor not in seen.names]
    if phantoms and engine.name in _SIMULATED:
        message = f"expected every mapped tensor in an opened file, found {len(phantoms)} nowhere; they stay unset"
        yield remark("IDX004", mapped[phantoms[0]], message, "wrong", "target", tensor=phantoms[0])
    trunk = subject.number("num_hidden_layers")
    past = trunk is not None and any(number >= trunk for number in seen.layers)
    beside = any("mtp" in module or "nextn" in module for module in seen.outside)
    if not past and not beside:
        said = "declares a draft layer" if subject.draft_layers else "declares no draft layer"
        yield remark("MTP001", CONFIG_NAME, f"{said}, found no tensor of one", "absent", "draft")


def is_standalone(subject: Subject, seen: Seen, family: Family | None) -> bool:
    """Whether it holds a draft and nothing of the trunk."""
    trunk = subject.number("num_hidden_layers")
    if family is not None and family.beside:
        inside = any(module.startswith(f"{family.beside}.") for module in seen.outside)
        return inside and not seen.layers
    return trunk is not None and bool(seen.layers) and min(seen.layers) >= trunk > 0


def in_order(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """Each remark once, the worst first."""
    return tuple(sorted(set(remarks), key=_order))


def answer(remarks: Iterable[Remark], scope: Scope) -> Answer:
    """What the effects of all remarks about one model come to."""
    effects = {said.effect for said in remarks if said.scope in (scope, "both")}
    return next((effect for effect in _PRIORITY if effect in effects), "ok")


_PRIORITY: Final[tuple[Literal["refuses", "absent", "wrong"], ...]] = ("refuses", "absent", "wrong")


def _order(said: Remark) -> tuple[object, ...]:
    rank = {"refuses": 0, "wrong": 1, "absent": 2, "none": 3}[said.effect]
    return rank, said.finding.code, said.finding.subject, said.finding.message
