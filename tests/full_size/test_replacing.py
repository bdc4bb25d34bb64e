"""Replacing 372 tensors over 62 of 83 shards at full size, on sparse files: only those shards are rewritten."""

from __future__ import annotations

import json
import os
import runpy
import struct
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.full_size.running import overlay, tree

REPOSITORY = Path(__file__).resolve().parents[2]
INDEX = "model.safetensors.index.json"
GRAFT = "model-00084-of-00084.safetensors"
DONOR = "model-00001-of-00001.safetensors"
STAMPED = "model.layers.3."
"""What is marked in the base, so that a tensor that moved can be told from a hole."""

SHARDS, TRIMMED, REPLACED = 83, 62, 372

pytestmark = pytest.mark.slow


class Entry(NamedTuple):
    """A tensor in a file: ``[begin, end)`` counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Table(NamedTuple):
    """The header of a shard, read with struct and json alone."""

    tensors: dict[str, Entry]
    metadata: dict[str, str] | None
    data_start: int


def read_table(path: Path) -> Table:
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        table = json.loads(stream.read(length))
    metadata, start = table.pop("__metadata__", None), 8 + length
    tensors = {
        name: Entry(e["dtype"], tuple(e["shape"]), start + e["data_offsets"][0], start + e["data_offsets"][1])
        for name, e in table.items()
    }
    return Table(tensors, metadata, start)


def read_tables(folder: Path) -> dict[str, Table]:
    return {path.name: read_table(path) for path in sorted(folder.glob("*.safetensors"))}


def stamps(path: Path, table: Table, prefix: str) -> Iterator[tuple[str, bytes]]:
    """The first bytes of the tensors below `prefix`."""
    with path.open("rb", buffering=0) as stream:
        for name, entry in table.tensors.items():
            if name.startswith(prefix):
                yield name, os.pread(stream.fileno(), min(16, entry.end - entry.begin), entry.begin)


def expected_stamp(name: str, entry: Entry) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()[: entry.end - entry.begin]


def on_disk(*paths: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in paths)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replacing")
    runpy.run_path(str(REPOSITORY / "benchmarks" / "replacing.py"))["write_replacing"](folder)
    return folder


@pytest.fixture(scope="module")
def serve(work: Path) -> Path:
    """The target, assembled once; the base is compared on the way."""
    before = tree(work / "base83"), tree(work / "requantised")
    ran = overlay(work, "apply", "replacing.yaml", "-o", "serve", "--link", "symlink")
    assert before == (tree(work / "base83"), tree(work / "requantised"))
    assert ran.peak < 250_000_000
    print(f"\nreplacing: apply read {ran.read / 1e6:.0f} MB, peak memory {ran.peak / 1e6:.0f} MB")
    return work / "serve"


def replaced_of(work: Path) -> dict[str, list[str]]:
    """The base's shards that hold something to replace, to what they hold of it."""
    base = json.loads((work / "base83" / INDEX).read_bytes())["weight_map"]
    found: dict[str, list[str]] = {}
    for name in read_table(work / "requantised" / DONOR).tensors:
        found.setdefault(base[name], []).append(name)
    return found


def test_the_plan_trims_the_shards_that_are_touched_and_links_the_rest(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = overlay(work, "plan", "replacing.yaml", "-o", "planned")

    plan = ran.document["plan"]
    named = {(action["do"], action["name"]) for action in plan["actions"] if action["origin"] in ("base", "graft")}
    replaced = replaced_of(work)
    shards = {path.name for path in (work / "base83").glob("*.safetensors")}
    assert TRIMMED == len(replaced)
    assert REPLACED == sum(map(len, replaced.values()))
    assert SHARDS == len(shards)
    assert {("trim", name) for name in replaced} | {("link", name) for name in shards - replaced.keys()} | {
        ("build", GRAFT)
    } == named
    total = json.loads((work / "base83" / INDEX).read_bytes())["metadata"]["total_size"]
    assert {"tensors": 232_296, "total_size": total} == plan["result"]
    assert not (work / "planned").exists()
    assert ran.read < 100_000_000, "a plan reads headers and indexes, not weights"
    assert ran.peak < 250_000_000
    with capsys.disabled():
        print(
            f"\nreplacing: {dict(Counter(do for do, _ in named))}, {plan['bytes']['linked'] / 1e9:.1f} GB linked, "
            f"{plan['bytes']['written'] / 1e9:.1f} GB to write; plan read {ran.read / 1e6:.0f} MB, "
            f"peak memory {ran.peak / 1e6:.0f} MB"
        )


def test_only_the_touched_shards_are_rewritten_and_holes_stay_holes(
    work: Path, serve: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced = replaced_of(work)
    shards = sorted(serve.glob("*.safetensors"))

    links = {path.name for path in shards if path.is_symlink()}

    assert SHARDS + 1 == len(shards)
    assert {path.name for path in shards} - replaced.keys() - {GRAFT} == links
    assert all(str(work / "base83" / name) == os.readlink(serve / name) for name in links)
    trimmed = [serve / name for name in replaced]
    assert on_disk(*trimmed) < on_disk(*(work / "base83" / name for name in replaced)) + TRIMMED * 2**20
    size, taken = sum(path.stat().st_size for path in trimmed), on_disk(*trimmed, serve / GRAFT)
    assert taken < 60_000_000
    with capsys.disabled():
        print(
            f"\nreplacing: {len(trimmed)} trimmed shards of {size / 1e9:.1f} GB and a graft of "
            f"{(serve / GRAFT).stat().st_size / 1e6:.0f} MB take {taken / 1e6:.1f} MB of disk; "
            f"the base takes {on_disk(*(work / 'base83').iterdir()) / 1e6:.1f} MB"
        )


def test_every_replaced_tensor_lies_in_the_graft_and_nowhere_else(work: Path, serve: Path) -> None:
    tables, before = read_tables(serve), read_tables(work / "base83")
    wanted = read_table(work / "requantised" / DONOR).tensors
    index = json.loads((serve / INDEX).read_bytes())

    holders: dict[str, str] = {}
    for shard, table in tables.items():
        for name in table.tensors:
            assert holders.setdefault(name, shard) == shard, f"{name} lies in {holders[name]} and in {shard}"

    assert holders == index["weight_map"]
    assert REPLACED == len(wanted)
    assert dict.fromkeys(wanted, GRAFT) == {name: holders[name] for name in wanted}
    assert wanted.keys() == tables[GRAFT].tensors.keys()
    for shard, table in before.items():
        kept = [name for name in table.tensors if name not in wanted]
        assert kept == list(tables[shard].tensors), "the others stay, in their order"
        assert all(table.tensors[name][:2] == tables[shard].tensors[name][:2] for name in kept)
        assert table.metadata == tables[shard].metadata
    sizes = [entry.end - entry.begin for table in tables.values() for entry in table.tensors.values()]
    assert sum(sizes) == index["metadata"]["total_size"]


def test_every_shard_is_tiled_by_its_tensors(serve: Path) -> None:
    for shard, table in read_tables(serve).items():
        spans = sorted((entry.begin, entry.end) for entry in table.tensors.values())
        assert table.data_start == spans[0][0]
        assert all(one[1] == other[0] for one, other in pairwise(spans)), shard
        assert (serve / shard).stat().st_size == spans[-1][1]


def test_stamped_tensors_keep_their_stamps_where_they_are_now(work: Path, serve: Path) -> None:
    replaced = replaced_of(work)
    moved = 0
    for shard in replaced:
        before, after = read_table(work / "base83" / shard), read_table(serve / shard)
        for name, stamp in stamps(serve / shard, after, STAMPED):
            assert expected_stamp(name, after.tensors[name]) == stamp, name
            distance = after.data_start - before.data_start
            moved += after.tensors[name].begin - before.tensors[name].begin != distance
    assert moved > 100, "some of them must lie behind a tensor that left"
    grafted = read_table(serve / GRAFT)
    found = dict(stamps(serve / GRAFT, grafted, ""))
    assert {name: expected_stamp(name, entry) for name, entry in grafted.tensors.items()} == found


def test_the_result_verifies_and_a_second_apply_has_nothing_to_do(work: Path, serve: Path) -> None:
    before = tree(serve)

    verdict = overlay(work, "verify", "serve", "--level", "headers")
    again = overlay(work, "apply", "replacing.yaml", "-o", "serve", "--link", "symlink")

    assert verdict.document["ok"] is True
    assert {"MTP001"} == {finding["code"] for finding in verdict.document["findings"]}, "the base has no draft layer"
    assert again.document["changed"] is False
    assert before == tree(serve)
    assert max(verdict.peak, again.peak) < 250_000_000
