"""Judging: a model of the two, target or draft, as one engine would load it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from overlay.core.describing import ranges
from overlay.core.schemes import scheme_of
from overlay.engines.families import Family
from overlay.engines.inventory import EXPERTS, Needs, Slot, needs_of
from overlay.engines.layers import LayerSeen, Seen
from overlay.engines.matching import Decision, Matcher
from overlay.engines.outcomes import Setting, Stage, fuses_shared_expert, outcome
from overlay.engines.remarks import Effect, Remark, remark
from overlay.engines.simulating import Gap, gaps_of
from overlay.engines.subject import Subject
from overlay.engines.versions import Engine


@dataclass(frozen=True, slots=True)
class Plan:
    """How an engine builds one layer."""

    layer: int
    prefix: str
    """What the engine calls the layer when it asks the declaration: ``model.layers.78.`` or ``model.decoder.``."""
    matcher: Matcher
    """The declaration that it goes by; an empty one where it goes by none."""


Found = tuple[Gap, Effect, str]
"""A gap, what the engine does about it, and the words that a person sees."""

MOST_LAYERS: Final = 1000
"""Layers that a trunk may have; models have about a hundred, and a config can say anything."""

NOTHING_DECLARED: Final = Matcher(None)


def judge_layer(
    seen: LayerSeen, needs: Needs, plan: Plan, setting: Setting, copies: tuple[str, ...] = ()
) -> Iterator[Found]:
    """Every gap of a layer with what the engine does about it."""
    decide, experts = _deciding(plan, needs, setting)
    fp8_key = setting.engine.has("dequantises an FP8 indexer")
    for gap in gaps_of(seen, needs, decide, experts, copies, fp8_key=fp8_key):
        yield gap, *outcome(gap, setting)


def _deciding(plan: Plan, needs: Needs, setting: Setting) -> tuple[Callable[[str], Decision] | None, Decision | None]:
    if not plan.matcher.understood:
        return None, None
    experts = (
        plan.matcher.decide_experts(f"{plan.prefix}{EXPERTS}", tuple(needs.projections)) if needs.experts else None
    )
    shared = experts if fuses_shared_expert(setting) else None

    def decide(path: str) -> Decision:
        if shared is not None and path.startswith(_SHARED):
            return shared
        return plan.matcher.decide(f"{plan.prefix}{path}")

    return decide, experts


_SHARED: Final = "mlp.shared_experts."


def setting_for(engine: Engine, family: Family, stage: Stage, subject: Subject, matcher: Matcher) -> Setting:
    """The setting of a model of `subject`."""
    return Setting(
        engine,
        family,
        stage,
        matcher.quantises,
        subject.number("num_hidden_layers") or 0,
        subject.number("n_routed_experts") or 0,
        subject.number("n_shared_experts") or 0,
    )


def judge_trunk(engine: Engine, subject: Subject, family: Family, seen: Seen, matcher: Matcher) -> list[Found]:
    """Every gap of the layers that `num_hidden_layers` counts, and of what stands outside of them."""
    layers = subject.number("num_hidden_layers") or 0
    setting = setting_for(engine, family, "target", subject, matcher)
    found: list[Found] = []
    for number in range(layers if layers <= MOST_LAYERS else 0):
        needs = needs_of(subject, family, number, draft=False)
        if needs is None:
            return []
        layer = seen.layers.get(number) or LayerSeen(f"{seen.stack}{number}.")
        found += judge_layer(layer, needs, Plan(number, layer.prefix, matcher), setting)
    found += _judge_outside(subject, seen, setting)
    return found


def _judge_outside(subject: Subject, seen: Seen, setting: Setting) -> Iterator[Found]:
    """Embedding, last norm and output layer."""
    hidden, vocabulary = subject.number("hidden_size"), subject.number("vocab_size")
    if hidden is None or vocabulary is None:
        return
    root = seen.stack.removesuffix("layers.")
    slots = {f"{root}embed_tokens": Slot("plain", vocabulary, hidden), f"{root}norm": Slot("norm", hidden, 0)}
    if subject.scope.get("tie_word_embeddings") is not True:
        slots["lm_head"] = Slot("plain", vocabulary, hidden)
    layer = LayerSeen("", dict(seen.outside))
    if "lm_head" in layer.modules and {part.suffix for part in layer.modules["lm_head"]} != {"weight"}:
        del layer.modules["lm_head"], slots["lm_head"]  # quantised: engines differ, and nothing is guessed
    for gap in gaps_of(layer, Needs(slots), lambda path: Decision(None), None):
        yield gap, *outcome(gap, setting)


def to_remarks(found: Iterable[Found], stage: Stage, code_of: Callable[[Gap], str]) -> list[Remark]:
    """One remark for gaps of one kind: those that differ in layer and expert only, or in the module alone where all are
    stored in the same wrong scheme."""
    groups: dict[tuple[object, ...], list[Found]] = {}
    for gap, effect, words in found:
        what: tuple[object, ...] = _path(gap), *((trouble.kind, trouble.suffix) for trouble in gap.troubles)
        if gap.scheme_differs and gap.form is not None:
            what = "scheme", gap.scheme, scheme_of(gap.form).label
        elif gap.is_expert and (gap.slot is None or gap.form is None):  # all projections of the experts in one
            what = "experts", gap.slot is None, gap.path.count("."), gap.experts
        elif gap.slot is None and not gap.prefix:
            what = ("outside", gap.path.partition(".")[0])
        groups.setdefault((code_of(gap), effect, what), []).append((gap, effect, words))
    return [_as_remark(str(key[0]), members, stage) for key, members in _few(groups).items()]


def _few(groups: dict[tuple[object, ...], list[Found]]) -> dict[tuple[object, ...], list[Found]]:
    """At most `_MOST` groups as they are; the others by code and effect alone, since nobody reads a thousand lines."""
    kept = dict(islice(groups.items(), _MOST))
    for key, members in islice(groups.items(), _MOST, None):
        kept.setdefault((*key[:2], "others"), []).extend(members)
    return kept


_MOST: Final = 100
"""Kinds of gaps that get a remark each."""


def _path(gap: Gap) -> str:
    return f"{EXPERTS}.*.{gap.path.rpartition('.')[2]}" if gap.is_expert else gap.path


def _as_remark(code: str, members: list[Found], stage: Stage) -> Remark:
    gap, effect, words = members[0]
    layers = {number for one, _, _ in members if (number := one.prefix.rstrip(".").rpartition(".")[2]).isdigit()}
    where = f" in layers {ranges(map(int, layers))}" if len(layers) > 1 else ""
    paths = sorted({_path(one) for one, _, _ in members})
    modules = f" in {len(paths)} modules: {', '.join(paths[:_FEW])}{' …' if len(paths) > _FEW else ''}"
    alike = len({one.experts for one, _, _ in members}) == 1
    experts = f" of experts {ranges(gap.experts)}" if len(gap.experts) > 1 and (alike or len(paths) == 1) else ""
    message = f"{_difference(gap)}{experts}{modules if len(paths) > 1 else ''}{where}" + (
        f" ({words})" if words else ""
    )
    return remark(code, gap.prefix.rstrip(".") or "the checkpoint", message, effect, stage, tensor=gap.example)


_FEW: Final = 4
"""Modules that a message names."""


def _difference(gap: Gap) -> str:
    if not gap.agreed:
        return "expected one scheme for the parts of a fused module, found several declared"
    if gap.slot is None:
        return f"expected no such tensor, found {', '.join(trouble.suffix for trouble in gap.troubles)}"
    built = gap.scheme.label if gap.scheme is not None else "an unquantised weight"
    if gap.form is None:
        return f"expected {built if gap.slot.role == 'linear' else gap.troubles[0].expected}, found nothing"
    if gap.scheme_differs:
        return f"expected {built}, found {scheme_of(gap.form).label}"
    first = gap.troubles[0]
    return f"expected {first.expected} as {first.suffix}, found {first.found}"
