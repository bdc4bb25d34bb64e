"""Checkpoints that somebody made from others: tensors changed, dropped and added, cut into shards anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st

from tests.support import json_model
from tests.support.changes import replace_data
from tests.support.checkpoints import SINGLE, Checkpoint, Tensor, bases, index_styles, tensor, tensors
from tests.support.json_model import text_of


@st.composite
def derivations(draw: st.DrawFn) -> tuple[Checkpoint, Checkpoint]:
    """A base, and a checkpoint made from it: tensors changed, dropped and added, cut into shards anew, sidecars changed."""
    base = draw(bases())
    config = {
        "model_type": "tiny",
        "own": draw(json_model.json_values),
        "list": draw(st.lists(json_model.json_values, max_size=4)),
    }
    base = replace(base, sidecars={**base.sidecars, "config.json": text_of(config)})
    derived = Checkpoint(
        shards=draw(_cut(draw(_derived_tensors(base.tensors)), base)),
        sidecars=draw(_derived_sidecars(base.sidecars)),
        index=draw(index_styles),
        metadata=draw(st.none() | st.just({"format": "pt"})),
    )
    return base, replace(derived, index=None) if list(derived.shards) == [SINGLE] else derived


@st.composite
def _derived_tensors(draw: st.DrawFn, before: list[Tensor]) -> list[Tensor]:
    after = []
    for entry in before:
        fate = draw(st.sampled_from(["same", "same", "same", "other", "retyped", "reshaped", "dropped"]))
        if fate == "other":
            after.append(replace_data(entry))
        elif fate == "retyped":
            after.append(tensor(entry.name, draw(st.sampled_from(["F32", "U8"])), entry.shape))
        elif fate == "reshaped":
            after.append(tensor(entry.name, entry.dtype, (*entry.shape, 2)))
        elif fate == "same":
            after.append(entry)
    least = 0 if after else 1
    return [
        *after,
        *draw(tensors("model.layers.9.", least=least, most=3)),
        *draw(tensors("model.layers.0.new.", least=0, most=2)),
    ]


@st.composite
def _cut(draw: st.DrawFn, entries: list[Tensor], base: Checkpoint) -> dict[str, list[Tensor]]:
    """The tensors in shards: of the base's names, or of others, or in one file."""
    kind = draw(st.sampled_from(["one file", "as before", "anew"]))
    if kind == "one file":
        return {SINGLE: entries}
    if kind == "as before" and base.index is not None:
        homes, names = base.weight_map, list(base.shards)
        shards: dict[str, list[Tensor]] = {}
        for entry in entries:
            shards.setdefault(homes.get(entry.name) or draw(st.sampled_from(names)), []).append(entry)
        return shards
    count = draw(st.integers(1, 4))
    pools: list[list[Tensor]] = [[] for _ in range(count)]
    for entry in draw(st.permutations(entries)):
        pools[draw(st.integers(0, count - 1))].append(entry)
    return {f"part-{number}-of-{count}.safetensors": pool for number, pool in enumerate(pools) if pool}


@st.composite
def _derived_sidecars(draw: st.DrawFn, before: Mapping[str, bytes]) -> dict[str, bytes]:
    after = {}
    for name, data in before.items():
        fate = draw(st.sampled_from(["same", "changed", "removed", "rewritten"]))
        if name == "config.json" and fate in ("changed", "removed"):
            value = json.loads(data)
            value |= {draw(st.sampled_from(["own", "list", "new"])): draw(json_model.json_values)}
            after[name] = text_of(value)
        elif fate == "rewritten":
            after[name] = data + b" \n" if draw(st.booleans()) else b"other " + data
        elif fate != "removed":
            after[name] = data
    return {
        **after,
        **draw(st.dictionaries(st.sampled_from(["README.md", "extra.json", "sub.txt"]), st.binary(max_size=9))),
    }
