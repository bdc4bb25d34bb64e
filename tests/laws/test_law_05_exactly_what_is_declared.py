"""Law 5: the difference between a base and what is composed over it is exactly what the overlay declares."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from overlay import api
from tests.support.checkpoints import INDEX, Case, Tensor, overlays, read_tensors, read_weight_map


def _check(case: Case) -> None:
    with tempfile.TemporaryDirectory() as root:
        request, target = api.Request(sources=(str(case.write(root)),)), Path(root, "serve")
        applied = api.apply(request, str(target))
        held = read_tensors(target)

        declared = {entry.name: (graft.shard, entry) for graft in case.grafts for entry in graft.tensors}
        kept = {
            entry.name: (case.base_names[shard], entry)
            for shard, entries in case.base.shards.items()
            for entry in entries
        }
        assert _minus(held, kept) == declared
        assert _minus(held, declared) == kept
        if (target / INDEX).exists():
            assert case.weight_map == read_weight_map(target)
        total = case.base.total_size + case.added_bytes
        assert (len(held), total) == (applied.receipt.tensors, applied.receipt.total_size)
        assert {**case.base.sidecars, **case.files} == _sidecars(target)


def _minus(held: dict[str, tuple[str, Tensor]], known: dict[str, tuple[str, Tensor]]) -> dict[str, tuple[str, Tensor]]:
    return {name: entry for name, entry in held.items() if known.get(name) != entry}


def _sidecars(target: Path) -> dict[str, bytes]:
    files = [path for path in target.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    names = {path.relative_to(target).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in names.items() if name not in (INDEX, ".overlay/receipt.json")}


@given(case=overlays())
@settings(max_examples=40, deadline=None)
def test_a_result_differs_from_its_base_by_what_the_overlay_declares(case: Case) -> None:
    _check(case)


@pytest.mark.slow
@given(case=overlays())
@settings(max_examples=1000, deadline=None)
def test_a_result_differs_from_its_base_by_what_the_overlay_declares_at_full_depth(case: Case) -> None:
    _check(case)
