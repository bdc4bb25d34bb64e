"""A target holds what a model in memory says, after any stack of replacing, dropping and patching overlays."""

from __future__ import annotations

import json
import struct
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay import api
from overlay.storage.linking import LinkMode
from tests.support.changes import Model, Stack, same_file, sidecars_of, stacks
from tests.support.checkpoints import INDEX, SINGLE, Tensor, inodes_of, snapshot_of

BLOCK = 4096
LINKS: tuple[LinkMode, ...] = ("auto", "symlink", "hardlink", "copy")


def _check(stack: Stack, link: LinkMode) -> None:
    with tempfile.TemporaryDirectory() as root:
        request, target = _request(stack, root), Path(root, "serve")
        before = snapshot_of(*stack.inputs(root))

        applied = api.apply(request, str(target), link=link)

        _require_model(stack.model, target)
        _require_index(stack, target)
        _require_only_the_touched_shards_are_rewritten(stack, Path(root), link)
        assert (len(stack.model.tensors), stack.model.total_size) == (
            applied.receipt.tensors,
            applied.receipt.total_size,
        )
        if link != "hardlink":  # a new name for an inode is no change of it, but the folder's listing is not compared
            assert before == snapshot_of(*stack.inputs(root))
        inodes = inodes_of(target)
        assert (False, ()) == (
            api.apply(request, str(target), link=link).changed,
            api.plan(request, str(target), link=link).actions,
        )
        assert inodes == inodes_of(target)
        assert before == snapshot_of(*stack.inputs(root))


def _request(stack: Stack, root: str) -> api.Request:
    return api.Request(sources=tuple(str(path) for path in stack.write(root)))


def read(shard: Path) -> dict[str, Tensor]:
    """The tensors of a shard, as the safetensors library reads them."""
    untyped: Any = safetensors.deserialize
    return {
        name: Tensor(name, entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
        for name, entry in untyped(shard.read_bytes())
    }


def _require_model(model: Model, target: Path) -> None:
    """Law 9 as well: every tensor lies in one listed shard, and is mapped to it."""
    present = sorted(path.name for path in target.glob("*.safetensors"))
    held = {(shard, name): entry for shard in present for name, entry in read(target / shard).items()}

    assert {(home, name): model.tensors[name] for name, home in model.homes.items()} == held
    assert sorted(model.shards) == present
    assert dict(model.files) == sidecars_of(target)


def _require_index(stack: Stack, target: Path) -> None:
    """Law 8: of the base's index only what changed has changed."""
    model, style = stack.model, stack.base.index
    if style is None:
        if list(model.shards) == [SINGLE]:
            assert not (target / INDEX).exists()
            return
        document = json.loads((target / INDEX).read_bytes())
        assert {"metadata": {"total_size": model.total_size}, "weight_map": model.homes} == document
        return
    before, text = stack.base.files()[INDEX], (target / INDEX).read_bytes()
    document = json.loads(before)
    homes = model.homes
    if homes != stack.base.weight_map or {t.name: t for t in stack.base.tensors} != model.tensors:
        document["metadata"]["total_size"] = model.total_size
        if "total_parameters" in document["metadata"]:
            document["metadata"]["total_parameters"] = model.total_parameters
    known = {name: homes[name] for name in document["weight_map"] if name in homes}
    added = sorted((shard, name) for name, shard in homes.items() if name not in known)
    document["weight_map"] = {**known, **{name: shard for shard, name in added}}
    expected = json.dumps(document, indent=style.indent, ensure_ascii=before.isascii()) + "\n" * style.newline

    if style.indent is None and len(stack.base.weight_map) == 1:  # one member on one line shows no separator to keep
        assert json.dumps(json.loads(expected)) == json.dumps(json.loads(text))
    else:
        assert expected.encode() == text


def _require_only_the_touched_shards_are_rewritten(stack: Stack, root: Path, link: LinkMode) -> None:
    serve = root / "serve"
    for name, tensors in stack.base.shards.items():
        here = stack.name_of(name)
        if here is None:
            assert not (serve / name).exists()
            continue
        kept = stack.model.shards[here]
        source = root / "base" / name
        if len(kept) == len(tensors):
            assert source.read_bytes() == (serve / here).read_bytes()
            assert same_file(source, serve / here) or link == "copy"
            assert (link in ("auto", "symlink")) == (serve / here).is_symlink()
        else:
            assert not (serve / here).is_symlink()
            assert (serve / here).stat().st_nlink == 1
            _require_trimmed(source, serve / here, [entry.name for entry in kept])


def _require_trimmed(source: Path, trimmed: Path, kept: list[str]) -> None:
    """What stays has its order, its metadata, and, for most bytes, its place within a block."""
    (old, start), (new, begin) = _header(source), _header(trimmed)
    spans = {name: old[name]["data_offsets"] for name in kept}

    assert old.get("__metadata__") == new.get("__metadata__")
    assert kept == [name for name in new if name != "__metadata__"]
    assert 0 == begin % 8
    weights: Counter[int] = Counter()
    for name, (at, end) in spans.items():
        weights[(start + at - new[name]["data_offsets"][0]) % BLOCK] += end - at
    reachable = {residue: weight for residue, weight in weights.items() if residue % 8 == 0}
    assert max(reachable.values(), default=0) == weights[begin % BLOCK]


def _header(path: Path) -> tuple[dict[str, Any], int]:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), 8 + length


@given(stack=stacks(), link=st.sampled_from(LINKS))
@settings(max_examples=30, deadline=None)
def test_a_target_is_what_the_model_says(stack: Stack, link: LinkMode) -> None:
    _check(stack, link)


@pytest.mark.slow
@given(stack=stacks(), link=st.sampled_from(LINKS))
@settings(max_examples=1000, deadline=None)
def test_a_target_is_what_the_model_says_at_full_depth(stack: Stack, link: LinkMode) -> None:
    _check(stack, link)
