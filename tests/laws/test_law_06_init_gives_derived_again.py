"""Law 6: what `init --derived` writes down of a base and a derived checkpoint, applied, gives the derived one again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from overlay import api
from tests.support.changes import replace_data, sidecars_of
from tests.support.checkpoints import (
    Checkpoint,
    Tensor,
    read_tensors,
    snapshot_of,
    tensor,
    write_hub_cache,
)
from tests.support.derivations import derivations
from tests.support.json_model import text_of


def _check(base: Checkpoint, derived: Checkpoint) -> None:
    with tempfile.TemporaryDirectory() as root:
        base.write(f"{root}/base")
        derived.write(f"{root}/derived")
        before = snapshot_of(f"{root}/base", f"{root}/derived")
        if {t.name: t for t in base.tensors} == {
            t.name: t for t in derived.tensors
        } and base.sidecars == derived.sidecars:
            return

        made = api.init_derived(f"{root}/base", f"{root}/derived", f"{root}/diff")
        applied = api.apply(api.Request(sources=(f"{root}/diff",)), f"{root}/serve")

        assert {t.name: t for t in derived.tensors} == _held(f"{root}/serve")
        assert dict(derived.sidecars) == sidecars_of(f"{root}/serve")
        assert len(derived.tensors) == applied.receipt.tensors
        _require_only_the_difference(base, derived, Path(root, "diff"))
        counts = _counts(base, derived)
        assert counts == (made.added, made.replaced, made.dropped)
        assert before == snapshot_of(f"{root}/base", f"{root}/derived")


def _held(folder: str | Path) -> dict[str, Tensor]:
    return {name: entry for name, (_, entry) in read_tensors(folder).items()}


def _require_only_the_difference(base: Checkpoint, derived: Checkpoint, folder: Path) -> None:
    known, new = {t.name: t for t in base.tensors}, {t.name: t for t in derived.tensors}

    assert {name: entry for name, entry in new.items() if known.get(name) != entry} == _held(folder)
    brought = {name: data for name, data in sidecars_of(folder).items() if name != "overlay.yaml"}
    assert {
        name: data
        for name, data in brought.items()
        if derived.sidecars.get(name) == data and base.sidecars.get(name) != data
    } == brought


def _counts(base: Checkpoint, derived: Checkpoint) -> tuple[int, int, int]:
    known, new = {t.name: t for t in base.tensors}, {t.name: t for t in derived.tensors}
    replaced = sum(name in known and known[name] != entry for name, entry in new.items())
    return len(new.keys() - known.keys()), replaced, len(known.keys() - new.keys())


@given(case=derivations())
@settings(max_examples=40, deadline=None)
def test_init_of_a_base_and_a_derived_checkpoint_then_apply_gives_derived_again(
    case: tuple[Checkpoint, Checkpoint],
) -> None:
    _check(*case)


@pytest.mark.slow
@given(case=derivations())
@settings(max_examples=1000, deadline=None)
def test_init_of_a_base_and_a_derived_checkpoint_then_apply_gives_derived_again_at_full_depth(
    case: tuple[Checkpoint, Checkpoint],
) -> None:
    _check(*case)


def _derive(root: Path, sidecars: Mapping[str, bytes], *, before: Mapping[str, bytes] | None = None) -> Path:
    """Two checkpoints that differ in a sidecar; gives back the diff-only repository."""
    entries = {"model-00001-of-00001.safetensors": [tensor("a.weight")]}
    Checkpoint(shards=entries, sidecars=before or {}).write(root / "base")
    Checkpoint(shards=entries, sidecars=sidecars).write(root / "derived")
    api.init_derived(str(root / "base"), str(root / "derived"), str(root / "diff"))
    return root / "diff"


def _apply(diff: Path) -> dict[str, bytes]:
    api.apply(api.Request(sources=(str(diff),)), str(diff.parent / "serve"))
    return sidecars_of(diff.parent / "serve")


_VALUES: list[Any] = [
    None,
    10**45,
    -(10**39),
    0.1,
    1e300,
    -0.0,
    "on",
    "2026-01-01",
    "0x1F",
    "1_000",
    "é\u2028",
    "\x7f",
    "",
    "~",
]


@pytest.mark.parametrize("value", _VALUES, ids=repr)
def test_a_change_to_any_value_survives_the_manifest(value: Any, tmp_path: Path) -> None:
    after = {"config.json": text_of({"a": 1, "b": [value, {"on": value}], "c": value})}

    assert after == _apply(_derive(tmp_path, after, before={"config.json": text_of({"a": 1, "b": [0], "c": 7})}))


def test_a_change_of_a_member_becomes_a_patch_and_no_file(tmp_path: Path) -> None:
    diff = _derive(tmp_path, {"config.json": text_of({"a": 2})}, before={"config.json": text_of({"a": 1})})

    assert {"overlay.yaml"} == sidecars_of(diff).keys()


def test_a_change_of_blanks_brings_the_whole_file(tmp_path: Path) -> None:
    diff = _derive(tmp_path, {"config.json": b'{ "a":1}'}, before={"config.json": b'{"a": 1}'})

    assert b'{ "a":1}' == sidecars_of(diff)["config.json"]


def test_a_large_change_brings_the_whole_file_so_that_the_manifest_stays_readable(tmp_path: Path) -> None:
    old, new = ({"vocab": {f"token-{n}": n + shift for n in range(20_000)}} for shift in (0, 1))
    after = {"tokenizer.json": text_of(new)}

    assert after == _apply(_derive(tmp_path, after, before={"tokenizer.json": text_of(old)}))


def test_a_sidecar_of_the_manifests_own_name_comes_through(tmp_path: Path) -> None:
    after = {"overlay.yaml": b"overlay: 1\n"}

    assert after == _apply(_derive(tmp_path, after))


def test_a_base_in_the_hubs_cache_is_named_by_digest_and_not_read(tmp_path: Path) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": [tensor(f"layers.{n}.weight")] for n in (1, 2)}
    base = write_hub_cache(tmp_path / "cache", Checkpoint(shards=shards))
    derived = Checkpoint(
        shards={**shards, "model-00002-of-00002.safetensors": [replace_data(tensor("layers.2.weight"))]}
    )
    derived.write(tmp_path / "derived")

    made = api.init_derived(str(base), str(tmp_path / "derived"), str(tmp_path / "diff"))

    assert (0, 1, 0) == (made.added, made.replaced, made.dropped)
    assert {"layers.2.weight": replace_data(tensor("layers.2.weight"))} == _held(tmp_path / "diff")
