"""Clearing: the tensors that stand in an engine's way, and the shards whose names do, as a manifest says it.

A tensor that an engine knows no place for is dropped where the engine ends with an error about it; a shard that loaders
pass over by its name is grafted under another one.  What only looks like a draft under another name is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from overlay.core.deriving import roll_up
from overlay.engines.inventory import EXPERTS, needs_of
from overlay.engines.judging import NOTHING_DECLARED, Found, Plan, judge_layer, judge_trunk, setting_for
from overlay.engines.layers import Seen
from overlay.engines.predicting import Facts, Prediction
from overlay.engines.simulating import Gap
from overlay.engines.subject import Subject

OWN: Final = "own"
"""What a manifest calls its base where it is also a donor."""
_DROPPED: Final = frozenset({"ENG011", "ENG014", "MTP002", "MTP006"})
"""Codes of tensors that an engine knows no place for."""
_OF_DRAFTS: Final = ("layers.", "mtp", "nextn")
"""Parts of names outside of the trunk that may be a draft under another name."""
_MOST: Final = 500
"""Patterns of a manifest; what needs more is no case for one."""


def plan_drops(predictions: Sequence[Prediction], facts: Mapping[str, Facts]) -> list[str]:
    """Patterns that describe the tensors with which an engine ends, for no place to put them; few, or none at all."""
    gone: set[str] = set()
    for prediction in predictions:
        refused = {said.finding.code for said in prediction.remarks if said.effect == "refuses"}
        if refused & _DROPPED:
            gone.update(_unknown(prediction, facts[prediction.engine.name]))
    return _patterns(gone, next(iter(facts.values())).subject)


def plan_renames(subject: Subject, shards: Sequence[str], drops: Sequence[str]) -> list[dict[str, Any]]:
    """Grafts that hold what `shards` hold, under names that begin with ``model``; none where a pattern cannot say it."""
    grafts = []
    for shard in shards:
        name = f"model-{shard}"
        patterns = _patterns(set(subject.headers[shard].names), subject)
        if patterns and name not in subject.names and not drops:
            grafts.append({"shard": name, "from": OWN, "tensors": patterns, "mode": "replace"})
    return grafts


def _patterns(names: set[str], subject: Subject) -> list[str]:
    if not names or any("*" in name for name in names):
        return []
    listed = {*subject.weight_map.values()} if subject.weight_map is not None else subject.headers.keys()
    everything = [name for shard in listed if shard in subject.headers for name in subject.headers[shard].names]
    if not len(names) < len(everything):
        return []
    patterns = roll_up(sorted(names), everything)
    return patterns if len(patterns) <= _MOST else []


def _unknown(prediction: Prediction, facts: Facts) -> Iterator[str]:
    engine, subject, family = prediction.engine, facts.subject, facts.family
    seen, trunk = facts.seen(prediction.opening.files), subject.number("num_hidden_layers")
    if family is None or family.beside or trunk is None:
        return
    setting = setting_for(engine, family, "draft", subject, NOTHING_DECLARED)
    found = judge_trunk(engine, subject, family, seen, NOTHING_DECLARED)
    for number in range(trunk, trunk + subject.draft_layers):
        layer, needs = seen.layers.get(number), needs_of(subject, family, number, draft=True)
        if layer is not None and needs is not None:
            plan = Plan(number, layer.prefix, NOTHING_DECLARED)
            found += judge_layer(layer, needs, plan, setting, family.copies)
    yield from _names_of(found)
    if subject.draft_layers:
        yield from _beyond(seen, trunk + subject.draft_layers)


def _names_of(found: Sequence[Found]) -> Iterator[str]:
    routers = {gap.prefix for gap, _, _ in found if gap.path == "mlp.gate"}  # of another number of experts
    for gap, effect, _ in found:
        if gap.slot is not None or effect != "refuses" or gap.form is None:
            continue
        if not gap.prefix and any(part in gap.path for part in _OF_DRAFTS):
            continue
        if not (gap.is_expert and gap.prefix in routers):
            yield from _tensors_of(gap)


def _tensors_of(gap: Gap) -> Iterator[str]:
    modules = [f"{gap.prefix}{gap.path}"]
    if gap.is_expert:
        projection = gap.path.rpartition(".")[2]
        modules = [f"{gap.prefix}{EXPERTS}.{number}.{projection}" for number in gap.experts]
    for module in modules:
        yield from (f"{module}.{part.suffix}" for part in gap.form or ())


def _beyond(seen: Seen, first: int) -> Iterator[str]:
    """Every tensor of the layers from number `first` on."""
    prefixes = tuple(layer.prefix for number, layer in seen.layers.items() if number >= first)
    yield from (name for names in seen.held for name in names if prefixes and name.startswith(prefixes))
