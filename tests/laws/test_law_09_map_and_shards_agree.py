"""Law 9: no tensor is in a listed shard without being mapped to it, and none is mapped that is not there."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from safetensors import safe_open

from overlay import api
from tests.support.checkpoints import INDEX, SINGLE, Case, overlays


def _check(case: Case) -> None:
    with tempfile.TemporaryDirectory() as root:
        request, target = api.Request(sources=(str(case.write(root)),)), Path(root, "serve")
        api.apply(request, str(target))

        if not (target / INDEX).exists():
            assert [SINGLE] == [path.name for path in target.glob("*.safetensors")]
            return
        weight_map = json.loads((target / INDEX).read_bytes())["weight_map"]
        listed = sorted(set(weight_map.values()))
        held = [(name, shard) for shard in listed for name in _names_in(target / shard)]
        assert sorted(weight_map.items()) == sorted(held)
        assert listed == sorted(path.name for path in target.glob("*.safetensors"))


def _names_in(shard: Path) -> list[str]:
    """The tensors of a shard, as the safetensors library reads them."""
    with safe_open(str(shard), framework="np") as opened:
        return list(opened.offset_keys())


@given(case=overlays())
@settings(max_examples=40, deadline=None)
def test_the_weight_map_and_the_tensors_of_the_listed_shards_are_a_bijection(case: Case) -> None:
    _check(case)


@pytest.mark.slow
@given(case=overlays())
@settings(max_examples=1000, deadline=None)
def test_the_weight_map_and_the_tensors_of_the_listed_shards_are_a_bijection_at_full_depth(case: Case) -> None:
    _check(case)
