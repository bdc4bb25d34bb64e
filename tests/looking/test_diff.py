"""`overlay diff`: every change is named, nothing else is, at the price that was asked for."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from overlay import api
from overlay.core.diffing import DIFFERENT, Change
from overlay.core.view import View
from tests.support import small
from tests.support.checkpoints import Checkpoint, Tensor, tensor, write_hub_cache
from tests.support.commands import overlay
from tests.support.derivations import derivations

RENAMED = "renamed"


def _expected(old: Checkpoint, new: Checkpoint, *, content: bool) -> dict[str, str]:
    """Tensor to change, as a dictionary of tensors says it."""
    before, after = ({t.name: t for t in side.tensors} for side in (old, new))
    homes, there = old.weight_map, new.weight_map
    changes = dict.fromkeys(before.keys() - after.keys(), "removed")
    for name, entry in after.items():
        was = before.get(name)
        if was is None:
            changes[name] = "added"
        elif was.dtype != entry.dtype:
            changes[name] = "retyped"
        elif was.shape != entry.shape:
            changes[name] = "reshaped"
        elif content and was.data != entry.data:
            changes[name] = "rewritten"
        elif homes[name] != there[name]:
            changes[name] = "moved"
    return changes


def _found(view: View) -> dict[str, str]:
    """Tensor to change, renames taken apart again."""
    found = {}
    for entry in view.difference.changes:
        if entry.change is Change.RENAMED:
            found[entry.was], found[entry.name] = "removed", "added"
        else:
            found[entry.name] = entry.change.value
    return found


def _write(root: str | Path, old: Checkpoint, new: Checkpoint) -> tuple[str, str]:
    return str(old.write(f"{root}/old")), str(new.write(f"{root}/new"))


def _check(old: Checkpoint, new: Checkpoint) -> None:
    with tempfile.TemporaryDirectory() as root:
        folders = _write(root, old, new)
        by_headers, by_content = (api.diff(*folders, content=content) for content in (False, True))
        assert _found(by_headers) == _expected(old, new, content=False)
        assert _found(by_content) == _expected(old, new, content=True)
        assert by_content.difference.unread == 0
        for view in (by_headers, by_content):
            _require_counts_that_add_up(view, old, new)
            assert view.differs == (bool(view.difference.changes) or old.sidecars != new.sidecars)


def _require_counts_that_add_up(view: View, old: Checkpoint, new: Checkpoint) -> None:
    totals = view.counted.by_change
    assert {change: amount.tensors for change, amount in totals.items()} == dict(view.difference.counts)
    kept = {change: amount for change, amount in totals.items() if change is not Change.REMOVED}
    assert sum(amount.tensors for amount in kept.values()) == len(new.tensors)
    assert sum(amount.bytes for amount in kept.values()) == new.total_size
    assert sum(amount.parameters for amount in kept.values()) == new.total_parameters
    assert sum(row.amount.tensors for row in view.rows) == len(view.difference.changes)
    assert sum(family.amount.tensors for family in view.families) == len(new.tensors) + totals[Change.REMOVED].tensors
    by_family = Counter(dict.fromkeys(Change, 0))
    for family in view.families:
        by_family[family.change] += family.amount.tensors
    assert dict(by_family) == {change: amount.tensors for change, amount in totals.items()}


@given(case=derivations())
@settings(max_examples=60, deadline=None)
def test_every_change_is_named_and_nothing_else(case: tuple[Checkpoint, Checkpoint]) -> None:
    _check(*case)


@pytest.mark.slow
@given(case=derivations())
@settings(max_examples=1500, deadline=None)
def test_every_change_is_named_and_nothing_else_at_full_depth(case: tuple[Checkpoint, Checkpoint]) -> None:
    _check(*case)


@given(case=derivations())
@settings(max_examples=25, deadline=None)
def test_turning_the_sides_round_turns_the_changes_round(case: tuple[Checkpoint, Checkpoint]) -> None:
    turned = {"added": "removed", "removed": "added"}
    with tempfile.TemporaryDirectory() as root:
        old, new = _write(root, *case)
        there, back = _found(api.diff(old, new, content=True)), _found(api.diff(new, old, content=True))
    assert {name: turned.get(change, change) for name, change in there.items()} == back


def test_a_checkpoint_does_not_differ_from_itself(tmp_path: Path) -> None:
    folder = str(small.base().write(tmp_path / "base"))
    view = api.diff(folder, folder)
    assert not view.differs
    assert view.difference.unread == 0, "one file need not be read"
    assert overlay("diff", folder, folder).code == 0


def test_equal_digests_of_the_hub_cache_need_no_reading(tmp_path: Path) -> None:
    one = write_hub_cache(tmp_path / "one", small.base())
    other = write_hub_cache(tmp_path / "other", small.base())
    view = api.diff(str(one), str(other))
    assert view.difference.counts[Change.IDENTICAL] == len(small.base().tensors)
    assert view.difference.unread == 0


def _renamed(checkpoint: Checkpoint, old: str, new: str) -> Checkpoint:
    shards = {
        shard: [entry._replace(name=entry.name.replace(old, new)) for entry in tensors]
        for shard, tensors in checkpoint.shards.items()
    }
    return replace(checkpoint, shards=shards)


def test_a_renamed_tensor_is_found_by_its_bytes(tmp_path: Path) -> None:
    old = small.base()
    folders = _write(tmp_path, old, _renamed(old, "proj", "projection"))
    by_headers, by_content = (api.diff(*folders, content=content).difference for content in (False, True))
    assert by_headers.counts[Change.ADDED] == by_headers.counts[Change.REMOVED] == 3
    assert by_content.counts[Change.RENAMED] == 3
    assert by_content.counts[Change.ADDED] == by_content.counts[Change.REMOVED] == 0
    names = {entry.was: entry.name for entry in by_content.changes}
    assert names == {name: name.replace("proj", "projection") for name in names}


def test_tensors_too_small_to_tell_apart_are_not_called_renamed(tmp_path: Path) -> None:
    old = Checkpoint(shards={"a.safetensors": [tensor("layers.0.scale", "F32", ()), tensor("kept")]})
    new = Checkpoint(
        shards={"a.safetensors": [Tensor("layers.9.other", "F32", (), old.tensors[0].data), tensor("kept")]}
    )
    counts = api.diff(*_write(tmp_path, old, new), content=True).difference.counts
    assert counts[Change.ADDED] == counts[Change.REMOVED] == 1
    assert counts[Change.RENAMED] == 0


def test_one_flipped_byte_is_found_by_content_alone(tmp_path: Path) -> None:
    old = small.base()
    entry = old.tensors[1]
    damaged = entry._replace(data=entry.data[:-1] + bytes([entry.data[-1] ^ 1]))
    shards = {s: [damaged if t is entry else t for t in tensors] for s, tensors in old.shards.items()}
    folders = _write(tmp_path, old, replace(old, shards=shards))
    assert not api.diff(*folders).differs
    changes = api.diff(*folders, content=True).difference.changes
    assert [(c.change, c.name) for c in changes] == [(Change.REWRITTEN, entry.name)]


def test_a_hole_reads_as_zeros(tmp_path: Path) -> None:
    """A sparse file and one that holds the zeros differ in nothing; one byte behind a hole is seen."""
    blank = Tensor("big", "U8", (9 << 20,), bytes(9 << 20))
    dense = Checkpoint(shards={"model.safetensors": [blank, tensor("after")]}, index=None)
    folders = [Path(folder) for folder in _write(tmp_path, dense, dense)]
    raw = (folders[1] / "model.safetensors").read_bytes()
    start = raw.index(b"}}") + 8
    with (folders[1] / "model.safetensors").open("wb") as stream:
        stream.write(raw[:start])
        stream.seek(start + (8 << 20))
        stream.write(raw[start + (8 << 20) :])
    assert not api.diff(*map(str, folders), content=True).differs
    with (folders[0] / "model.safetensors").open("r+b") as stream:
        stream.seek(start + (4 << 20))
        stream.write(b"\1")
    assert api.diff(*map(str, folders), content=True).difference.counts[Change.REWRITTEN] == 1


def test_files_that_are_not_read_are_told_by_name_and_size(tmp_path: Path) -> None:
    folders = [Path(folder) for folder in _write(tmp_path, small.base(), small.base())]
    for name, sizes in {"same.bin": (3, 3), "gone.bin": (3, None), "come.bin": (None, 3), "other.bin": (3, 4)}.items():
        for folder, size in zip(folders, sizes, strict=True):
            if size is not None:
                (folder / name).write_bytes(bytes(size))
    view = api.diff(*map(str, folders))
    assert {(c.name, c.kind) for c in view.sidecars} == {
        ("gone.bin", "removed"),
        ("come.bin", "added"),
        ("other.bin", "changed"),
    }


class TestCommand:
    """What a person sees and a script reads."""

    @pytest.fixture
    def folders(self, tmp_path: Path) -> tuple[str, str]:
        old = small.base()
        new = replace(
            old,
            shards={**old.shards, small.NEW: [tensor(f"model.layers.3.mlp.experts.{n}.w.weight") for n in range(9)]},
            sidecars={**old.sidecars, "config.json": small.CONFIG_TEXT.replace(b'"bits": 4', b'"bits": 8')},
        )
        return _write(tmp_path, old, new)

    def test_nine_experts_read_as_one_line(self, folders: tuple[str, str]) -> None:
        ended = overlay("diff", *folders)
        assert ended.code == 1
        (line,) = [line for line in ended.output.splitlines() if "model.layers.3" in line]
        assert line.split()[:3] == ["added", "model.layers.3.**", "9"]
        assert "/quantization_config/bits" in ended.output

    def test_tensors_are_listed_when_asked_for(self, folders: tuple[str, str]) -> None:
        lines = overlay("diff", *folders, "--tensors").output.splitlines()
        listed = [line.strip() for line in lines if line.strip().startswith("+ added")]
        assert listed == [f"+ added model.layers.3.mlp.experts.{n}.w.weight {small.NEW}" for n in range(9)]

    def test_the_document_says_the_same(self, folders: tuple[str, str]) -> None:
        ended = overlay("diff", *folders, "--json", "--tensors")
        document = ended.document
        assert (document["kind"], document["differs"], ended.code) == ("diff", True, 1)
        assert document["totals"]["added"]["tensors"] == 9 == len(document["tensors"])
        assert {change.value for change in DIFFERENT} <= document["totals"].keys()
        (sidecar,) = document["sidecars"]
        assert (sidecar["name"], sidecar["kind"]) == ("config.json", "changed")

    def test_markdown_has_tables(self, folders: tuple[str, str]) -> None:
        lines = overlay("diff", *folders, "--format", "markdown").output.splitlines()
        assert "| added | `model.layers.3.**` | 9 | 72 B | BF16 |" in lines

    def test_the_page_is_written_and_shards_are_safe_from_it(self, folders: tuple[str, str], tmp_path: Path) -> None:
        page = tmp_path / "report.html"
        assert overlay("diff", *folders, "--html", page).code == 1
        assert page.read_text().startswith("<!DOCTYPE html>")
        shard = Path(folders[0], small.FIRST)
        before = shard.read_bytes()
        assert overlay("diff", *folders, "--html", shard).code == 2
        assert shard.read_bytes() == before

    @pytest.mark.parametrize("side", [0, 1])
    def test_a_page_is_not_written_into_a_checkpoint(self, folders: tuple[str, str], side: int) -> None:
        assert overlay("diff", *folders, "--html", f"{folders[side]}/page.html").code == 4
        assert not Path(folders[side], "page.html").exists()

    def test_a_file_of_a_repository_is_no_checkpoint(self, folders: tuple[str, str]) -> None:
        assert overlay("diff", folders[0], "hf://org/name/config.json").code == 2

    def test_a_missing_shard_ends_it(self, folders: tuple[str, str]) -> None:
        Path(folders[1], small.NEW).unlink()
        ended = overlay("diff", *folders)
        assert ended.code == 3
        assert ended.refusal is not None
        assert small.NEW in ended.refusal.line

    def test_json_of_hostile_names_is_ascii(self, tmp_path: Path) -> None:
        hostile = "evil\x1b[2J\u202e<script>{{ 7*7 }}"
        old = small.base()
        new = replace(old, shards={**old.shards, small.NEW: [tensor(hostile)]})
        folders = _write(tmp_path, old, new)
        for form in ("human", "markdown"):
            text = overlay("diff", *folders, "--tensors", "--format", form).output
            assert "\x1b" not in text
            assert "\u202e" not in text
        assert json.loads(overlay("diff", *folders, "--json", "--tensors").output)["tensors"][0]["name"] == hostile
