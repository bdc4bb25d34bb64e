"""From what a loader did to the words that lint predicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.engines.real.trees import Tree

Outcome = Mapping[str, Any]
"""What a runner wrote: ``{"error": text, "at": place}`` or ``{"values": {...}, "unset": [...]}``."""

SHARED = ("embed_tokens", "lm_head", "shared_head.head")
"""What a draft takes from its target at run time, whatever was loaded."""


def judge_target(outcome: Outcome, references: Iterable[Outcome]) -> str:
    """``ok``, ``refuses`` or ``wrong``."""
    if "error" in outcome:
        return "refuses"
    return "ok" if _is_true(outcome, references, outcome["values"]) else "wrong"


def judge_draft(outcome: Outcome, references: Iterable[Outcome], tree: Tree) -> str:
    """``ok``, ``refuses``, ``wrong`` or ``absent``.

    ``absent``: nobody would ask for a draft, because the config declares none and no shard holds one; or the engine was
    asked, raised nothing, and set nothing of the draft.
    """
    if not declares(tree) and not holds(tree):
        return "absent"
    if "error" in outcome:
        return "refuses"
    own = [name for name in outcome["values"] if not any(part in name for part in SHARED)]
    if set(own) <= set(outcome["unset"]):
        return "absent"
    return "ok" if _is_true(outcome, references, own) else "wrong"


def _is_true(outcome: Outcome, references: Iterable[Outcome], names: Iterable[str]) -> bool:
    """Whether every parameter has the value that it has in a directory known to be good."""
    loaded = [reference["values"] for reference in references if "values" in reference]
    return not any(name in outcome["unset"] for name in names) and all(
        any(values.get(name) == outcome["values"][name] for values in loaded) for name in names
    )


def declares(tree: Tree) -> bool:
    """Whether the config says that there is a draft layer."""
    return any(tree.config.get(key) for key in ("num_nextn_predict_layers", "num_mtp_layers"))


def holds(tree: Tree) -> bool:
    """Whether a shard has a tensor of a layer after the last one."""
    last = tree.config.get("num_hidden_layers", 0)
    return any(
        tensor.name.startswith(f"model.layers.{last}.")
        for shard, held in tree.shards.items()
        if not isinstance(held, bytes)
        for tensor in tree.tensors(shard)
    )
