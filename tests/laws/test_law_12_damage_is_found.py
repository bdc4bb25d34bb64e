"""Law 12: verification finds each kind of damage at the cheapest level that can see it, and reports nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay import api
from overlay.running.proving import LEVELS
from tests.support import damage
from tests.support.checkpoints import GRAFT_SHARD, sharded, write_graft, write_hub_cache
from tests.support.damage import Damage

PLAIN, SNAPSHOT, TARGET, GRAFT, LINKED = "plain", "snapshot", "target", "graft", "linked"
"""A folder of files, a snapshot of the Hub cache, a target of copies, the built shard in it, and a target of links."""

ANY_TARGET = (TARGET, GRAFT, LINKED)


class Row(NamedTuple):
    """A kind of damage in some places: the codes at the three levels, in words; "" where it cannot be seen."""

    damage: Damage
    places: tuple[str, ...]
    structure: str
    headers: str
    content: str


TABLE = (
    Row(damage.flip_first_data_byte, (PLAIN,), "", "", ""),
    Row(damage.flip_first_data_byte, (SNAPSHOT, *ANY_TARGET), "", "", "LCK001"),
    Row(damage.flip_last_data_byte, (PLAIN,), "", "", ""),
    Row(damage.flip_last_data_byte, (SNAPSHOT, *ANY_TARGET), "", "", "LCK001"),
    Row(damage.break_a_byte_of_the_header, (PLAIN, SNAPSHOT, *ANY_TARGET), "", "SHD001", "SHD001"),
    Row(damage.truncate, (PLAIN, SNAPSHOT), "", "SHD002", "SHD002"),
    Row(damage.truncate, ANY_TARGET, "LCK004", "LCK004", "LCK004"),
    Row(damage.append, (PLAIN, SNAPSHOT), "", "SHD002", "SHD002"),
    Row(damage.append, ANY_TARGET, "LCK004", "LCK004", "LCK004"),
    Row(damage.swap_two_shards, (PLAIN, SNAPSHOT), "", "IDX006", "IDX006"),
    Row(damage.swap_two_shards, (TARGET,), "", "IDX006 LCK001", "IDX006 LCK001"),
    Row(damage.swap_two_shards, (LINKED,), "LNK005", "LNK005", "LNK005"),
    Row(damage.rename_a_tensor, (PLAIN,), "", "IDX004 IDX005", "IDX004 IDX005"),
    Row(damage.rename_a_tensor, (SNAPSHOT,), "", "IDX004 IDX005", "IDX004 IDX005 LCK001"),
    Row(damage.rename_a_tensor, ANY_TARGET, "", "IDX004 IDX005 LCK001", "IDX004 IDX005 LCK001"),
    Row(damage.change_a_dtype, (PLAIN,), "", "", ""),
    Row(damage.change_a_dtype, (SNAPSHOT,), "", "", "LCK001"),
    Row(damage.change_a_dtype, ANY_TARGET, "", "LCK001", "LCK001"),
    Row(damage.duplicate_a_tensor, (PLAIN,), "", "IDX007 IDX008", "IDX007 IDX008"),
    Row(damage.duplicate_a_tensor, (SNAPSHOT,), "", "IDX007 IDX008", "IDX007 IDX008 LCK001"),
    Row(damage.duplicate_a_tensor, ANY_TARGET, "LCK004", *["IDX007 IDX008 LCK001 LCK004"] * 2),
    Row(damage.map_a_tensor_elsewhere, (PLAIN, SNAPSHOT), "", "IDX006", "IDX006"),
    Row(damage.map_a_tensor_elsewhere, ANY_TARGET, "LCK001", "IDX006 LCK001", "IDX006 LCK001"),
    Row(damage.forget_a_tensor, (PLAIN, SNAPSHOT), "", "IDX005", "IDX005"),
    Row(damage.forget_a_tensor, ANY_TARGET, "LCK004", "IDX005 LCK004", "IDX005 LCK004"),
    Row(damage.invent_a_tensor, (PLAIN, SNAPSHOT), "", "IDX004", "IDX004"),
    Row(damage.invent_a_tensor, ANY_TARGET, "LCK004", "IDX004 LCK004", "IDX004 LCK004"),
    Row(damage.change_total_size, (PLAIN, SNAPSHOT), "", "IDX008", "IDX008"),
    Row(damage.change_total_size, ANY_TARGET, "LCK001", "IDX008 LCK001", "IDX008 LCK001"),
    Row(damage.state_wrong_parameters, (PLAIN, SNAPSHOT), "", "IDX014", "IDX014"),
    Row(damage.state_wrong_parameters, ANY_TARGET, "LCK004", "IDX014 LCK004", "IDX014 LCK004"),
    Row(damage.empty_the_weight_map, (PLAIN, SNAPSHOT), *["IDX010 IDX012"] * 3),
    Row(damage.empty_the_weight_map, ANY_TARGET, *["IDX010 IDX012 LCK004"] * 3),
    Row(damage.map_to_a_path, (PLAIN, SNAPSHOT), *["IDX002"] * 3),
    Row(damage.map_to_a_path, ANY_TARGET, *["IDX002 LCK004"] * 3),
    Row(damage.remove_the_index, (PLAIN, SNAPSHOT), "IDX013", "IDX013", "IDX013"),
    Row(damage.remove_the_index, ANY_TARGET, *["IDX013 LCK002"] * 3),
    Row(damage.remove_the_metadata, (PLAIN, SNAPSHOT), "IDX009", "IDX009", "IDX009"),
    Row(damage.remove_the_metadata, ANY_TARGET, *["IDX009 LCK004"] * 3),
    Row(damage.break_the_index, (PLAIN, SNAPSHOT), "IDX001", "IDX001", "IDX001"),
    Row(damage.break_the_index, ANY_TARGET, *["IDX001 LCK004"] * 3),
    Row(damage.add_a_stray_shard, (PLAIN, SNAPSHOT), "IDX010", "IDX010", "IDX010"),
    Row(damage.add_a_stray_shard, ANY_TARGET, "LCK003", "LCK003", "LCK003"),
    Row(damage.add_a_shard_that_loaders_prefer, (PLAIN, SNAPSHOT), "IDX015", "IDX015", "IDX015"),
    Row(damage.add_a_shard_that_loaders_prefer, ANY_TARGET, "LCK003", "LCK003", "LCK003"),
    Row(damage.add_a_consolidated_shard, (PLAIN, SNAPSHOT), "IDX016", "IDX016", "IDX016"),
    Row(damage.add_a_consolidated_shard, ANY_TARGET, "LCK003", "LCK003", "LCK003"),
    Row(damage.add_a_name_that_differs_in_case, (PLAIN, SNAPSHOT), *["IDX010 IDX011"] * 3),
    Row(damage.add_a_name_that_differs_in_case, ANY_TARGET, *["IDX011 LCK003"] * 3),
    Row(damage.rename_the_shard_and_its_entries, (PLAIN, SNAPSHOT), "IDX017", "IDX017", "IDX017"),
    Row(damage.rename_the_shard_and_its_entries, (TARGET, GRAFT), *["IDX017 LCK002 LCK003 LCK004"] * 3),
    Row(damage.rename_the_shard_and_its_entries, (LINKED,), *["IDX017 LCK002 LCK003 LCK004 LNK001"] * 3),
    Row(damage.give_a_tensor_an_empty_name, (PLAIN,), "", "SHD003", "SHD003"),
    Row(damage.give_a_tensor_an_empty_name, (SNAPSHOT,), "", "SHD003", "LCK001 SHD003"),
    Row(damage.give_a_tensor_an_empty_name, ANY_TARGET, "LCK004", *["LCK001 LCK004 SHD003"] * 2),
    Row(damage.give_a_tensor_a_long_name, (PLAIN,), "", "SHD003", "SHD003"),
    Row(damage.give_a_tensor_a_long_name, (SNAPSHOT,), "", "SHD003", "LCK001 SHD003"),
    Row(damage.give_a_tensor_a_long_name, ANY_TARGET, "LCK004", *["LCK001 LCK004 SHD003"] * 2),
    Row(damage.make_a_loop_of_links, (PLAIN, SNAPSHOT, TARGET, GRAFT), *["LNK003"] * 3),
    Row(damage.make_a_loop_of_links, (LINKED,), "LNK005", "LNK005", "LNK005"),
    Row(damage.add_a_foreign_file, (PLAIN, SNAPSHOT), "", "", ""),
    Row(damage.add_a_foreign_file, ANY_TARGET, "LCK003", "LCK003", "LCK003"),
    Row(damage.remove_the_shard, (PLAIN, SNAPSHOT), "IDX003", "IDX003", "IDX003"),
    Row(damage.remove_the_shard, ANY_TARGET, "LCK002", "LCK002", "LCK002"),
    Row(damage.remove_a_sidecar, (PLAIN, SNAPSHOT), "", "", ""),
    Row(damage.remove_a_sidecar, ANY_TARGET, "LCK002", "LCK002", "LCK002"),
    Row(damage.edit_a_sidecar, (PLAIN, SNAPSHOT), "", "", ""),
    Row(damage.edit_a_sidecar, ANY_TARGET, "LCK001", "LCK001", "LCK001"),
    Row(damage.break_a_json_sidecar, (PLAIN, SNAPSHOT), "CFG001", "CFG001", "CFG001"),
    Row(damage.break_a_json_sidecar, ANY_TARGET, *["CFG001 LCK001"] * 3),
    Row(damage.replace_the_shard_by_a_dangling_link, (PLAIN, SNAPSHOT, TARGET, GRAFT), *["LNK002"] * 3),
    Row(damage.replace_the_shard_by_a_dangling_link, (LINKED,), "LNK005", "LNK005", "LNK005"),
    Row(damage.remove_what_the_shard_leads_to, (SNAPSHOT, LINKED), "LNK002", "LNK002", "LNK002"),
    Row(damage.replace_the_shard_by_a_link_out, (PLAIN, TARGET, GRAFT), "LNK001", "LNK001", "LNK001"),
    Row(damage.replace_the_shard_by_a_folder, (PLAIN, SNAPSHOT, TARGET, GRAFT), *["LNK004"] * 3),
    Row(damage.replace_the_shard_by_a_folder, (LINKED,), *["LNK004"] * 3),
    Row(damage.break_the_receipt, (TARGET, GRAFT), "LCK006", "LCK006", "LCK006"),
)


def _cells() -> Iterator[object]:
    for row in TABLE:
        for place in row.places:
            yield pytest.param(row, place, id=f"{row.damage.__name__}-{place}")


@pytest.mark.parametrize(("row", "place"), list(_cells()))
def test_damage_is_found_at_the_cheapest_level_that_can_see_it(row: Row, place: str, tmp_path: Path) -> None:
    folder, shard = _build(place, tmp_path)
    assert {level: set() for level in LEVELS} == _codes(folder)

    row.damage(folder, shard)

    expected = {"structure": row.structure, "headers": row.headers, "content": row.content}
    assert {level: set(codes.split()) for level, codes in expected.items()} == _codes(folder)


def test_every_kind_of_damage_is_in_the_table() -> None:
    kinds = {name for name, value in vars(damage).items() if getattr(value, "__module__", "") == damage.__name__}

    assert {row.damage.__name__ for row in TABLE} == {name for name in kinds if not name.startswith("_")}


@pytest.mark.parametrize("place", [PLAIN, TARGET, LINKED])
def test_where_no_digest_is_expected_the_verdict_says_which_files_were_not_compared(place: str, tmp_path: Path) -> None:
    folder, shard = _build(place, tmp_path, proven=False)
    damage.flip_last_data_byte(folder, shard)

    verdict = api.verify(str(folder), level="content")

    assert verdict.ok
    assert shard in verdict.uncompared


_ADDING = (damage.rename_the_shard_and_its_entries,)
_REPAIRED = [
    row.damage
    for row in TABLE
    # Files of others are never deleted.
    if GRAFT in row.places and not row.damage.__name__.startswith("add_a_") and row.damage not in _ADDING
]


@pytest.mark.parametrize("broken", _REPAIRED)
def test_applying_again_repairs_what_is_a_targets_own(broken: Damage, tmp_path: Path) -> None:
    folder, shard = _build(GRAFT, tmp_path)
    broken(folder, shard)

    api.apply(api.Request(sources=(str(tmp_path / "overlay.yaml"),)), str(folder), link="copy", level="content")

    assert {level: set() for level in LEVELS} == _codes(folder)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_changed_byte_of_a_proven_target_is_found(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _change_any_byte(data, tmp_path_factory.mktemp("target"))


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_of_a_proven_target_is_found_at_full_depth(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _change_any_byte(data, tmp_path_factory.mktemp("target"))


def _change_any_byte(data: st.DataObject, root: Path) -> None:
    folder, _ = _build(TARGET, root)
    path = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.is_file())))
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)

    verdict = api.verify(str(folder), level="content")

    assert {path.name} == {
        finding.file for finding in verdict.findings if finding.code in ("LCK001", "SHD001", "SHD002")
    }
    assert not verdict.ok


def _build(place: str, root: Path, *, proven: bool = True) -> tuple[Path, str]:
    """A sound checkpoint, and the shard of it that is to be damaged."""
    first = next(iter(sharded().shards))
    if place == PLAIN:
        return sharded().write(root / "base"), first
    if place == SNAPSHOT:
        return write_hub_cache(root / "cache", sharded()), first
    request, target = api.Request(sources=(str(write_graft(root)),)), root / "serve"
    api.apply(
        request,
        str(target),
        link="symlink" if place == LINKED else "copy",
        level="content" if proven else "headers",
    )
    return target, GRAFT_SHARD if place == GRAFT else first


def _codes(folder: Path) -> dict[str, set[str]]:
    """The codes found at each level."""
    return {level: {f.code for f in api.verify(str(folder), level=level).findings} for level in LEVELS}
