"""``verify --fix``: the index that the headers call for, written somewhere else, as close to the old text as can be."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from overlay import api
from overlay.core.mending import is_mendable, missing_numbers
from overlay.errors import Conflict, InvalidInput, OverlayError, UsageError
from overlay.running.locating import Places
from tests.support import damage
from tests.support.checkpoints import (
    INDEX,
    SINGLE,
    Checkpoint,
    IndexStyle,
    bases,
    read_shard,
    read_weight_map,
    shard_bytes,
    sharded,
    single_file,
    snapshot_of,
    tensor,
    write_hub_cache,
)
from tests.support.commands import overlay
from tests.support.damage import Damage

FIRST, SECOND = sharded().shards


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / INDEX).read_bytes())
    change(document)
    (folder / INDEX).write_text(json.dumps(document, indent=2) + "\n")


def _with_index(folder: Path, index: Path, goal: Path) -> Path:
    """The files of `folder` as links in the new folder `goal`, and `index` in the place of its index."""
    goal.mkdir()
    for path in folder.iterdir():
        if path.name != INDEX:
            (goal / path.name).symlink_to(path.resolve())
    shutil.copyfile(index, goal / INDEX)
    return goal


def _codes(folder: Path, *allowed: Path) -> set[str]:
    verdict = api.verify(str(folder), places=Places(allowed_roots=tuple(map(str, allowed))))
    return {finding.code for finding in verdict.findings}


MENDED: dict[str, tuple[list[Damage], set[str]]] = {
    "a phantom": ([damage.invent_a_tensor], {"IDX004"}),
    "an orphan": ([damage.forget_a_tensor], {"IDX005"}),
    "a tensor in another shard": ([damage.map_a_tensor_elsewhere], {"IDX006"}),
    "two shards swapped": ([damage.swap_two_shards], {"IDX006"}),
    "a renamed tensor": ([damage.rename_a_tensor], {"IDX004", "IDX005"}),
    "a wrong total_size": ([damage.change_total_size], {"IDX008"}),
    "wrong total_parameters": ([damage.state_wrong_parameters], {"IDX014"}),
    "no metadata": ([damage.remove_the_metadata], {"IDX009"}),
    "no index": ([damage.remove_the_index], {"IDX013"}),
    "half an index": ([damage.break_the_index], {"IDX001"}),
    "paths in the weight map": ([damage.map_to_a_path], {"IDX002"}),
    "all at once": (
        [damage.invent_a_tensor, damage.forget_a_tensor, damage.map_a_tensor_elsewhere, damage.remove_the_metadata],
        {"IDX004", "IDX005", "IDX006", "IDX009"},
    ),
}


@pytest.mark.parametrize("what", MENDED)
def test_with_the_new_index_in_its_place_a_checkpoint_is_sound(what: str, tmp_path: Path) -> None:
    damages, codes = MENDED[what]
    folder = sharded().write(tmp_path / "base")
    for act in damages:
        act(folder, FIRST)
    before = snapshot_of(folder)

    verdict = api.verify(str(folder))
    fixed = api.mend(str(folder), str(tmp_path / "new.json"))

    assert codes == {finding.code for finding in verdict.findings}
    assert verdict.mendable
    assert (fixed.written, fixed.ok, fixed.left) == (True, True, ())
    assert before == snapshot_of(folder)
    assert set() == _codes(_with_index(folder, tmp_path / "new.json", tmp_path / "linked"), folder)


def test_a_folder_of_links_with_the_new_index_has_no_error_of_the_index_even_without_leave(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    damage.forget_a_tensor(folder, FIRST)

    api.mend(str(folder), str(tmp_path / "new.json"))

    assert {"LNK001"} == _codes(_with_index(folder, tmp_path / "new.json", tmp_path / "linked"))


@given(base=bases(), data=st.data())
@settings(max_examples=60)
def test_whatever_is_wrong_with_an_index_the_new_one_says_what_the_headers_say_and_keeps_the_rest(
    base: Checkpoint, data: st.DataObject
) -> None:
    assume(base.index is not None)
    with tempfile.TemporaryDirectory() as root:
        folder = base.write(Path(root, "base"))
        text = (folder / INDEX).read_text()
        document = json.loads(text)
        truth = dict(document["weight_map"])
        names, shards = sorted(truth), sorted(base.shards)
        for name in data.draw(st.lists(st.sampled_from(names), unique=True)):
            document["weight_map"][name] = data.draw(st.sampled_from(shards))
        for name in data.draw(st.lists(st.sampled_from(["ghost", "größe", 'a"b']), unique=True)):
            document["weight_map"][name] = data.draw(st.sampled_from(shards))
        unlisted = data.draw(st.lists(st.sampled_from(names), unique=True))
        for name in unlisted:
            del document["weight_map"][name]
        assume(set(document["weight_map"].values()) == set(shards))
        document["metadata"]["total_size"] += data.draw(st.integers(0, 1))
        (folder / INDEX).write_text(json.dumps(document, indent=base.index.indent) + "\n" * base.index.newline)

        fixed = api.mend(str(folder), str(Path(root, "new.json")))

        after = Path(root, "new.json").read_text() if fixed.written else (folder / INDEX).read_text()
        metadata = {**document["metadata"], "total_size": base.total_size}
        assert {"metadata": metadata, "weight_map": truth} == json.loads(after)
        kept = [name for name in document["weight_map"] if name in truth]
        assert kept == [name for name in json.loads(after)["weight_map"] if name not in unlisted]
        assert after.endswith("\n") == base.index.newline
        assert list(json.loads(after)) == list(document)


@given(base=bases())
@settings(max_examples=30)
def test_an_index_that_is_right_is_not_written_again(base: Checkpoint) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = base.write(Path(root, "base"))

        fixed = api.mend(str(folder), str(Path(root, "new.json")))

        assert not fixed.written
        assert fixed.ok
        assert not Path(root, "new.json").exists()


def test_only_what_was_wrong_changes_in_the_text(tmp_path: Path) -> None:
    folder = Checkpoint(
        shards=sharded().shards, index=IndexStyle(indent=None, newline=False, extra={"x": [1, "}"]})
    ).write(tmp_path / "base")
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace('"total_size": 152', '"total_size": 1'))

    api.mend(str(folder), str(tmp_path / "new.json"))

    assert text == (tmp_path / "new.json").read_text()


def test_total_parameters_are_put_right_only_where_they_cannot_be_right(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    elements = sharded().total_parameters

    for stated, codes, written in [
        (elements, set(), False),
        (elements - 6, set(), False),  # without the norms
        (elements + 1, {"IDX014"}, True),
        (1, {"IDX014"}, True),
    ]:
        _edit(folder, lambda document, value=stated: document["metadata"].update(total_parameters=value))

        assert codes == _codes(folder)
        fixed = api.mend(str(folder), str(tmp_path / f"{stated}.json"))

        assert fixed.written == written
        assert dict(fixed.mended.metadata) == ({"total_parameters": (stated, elements)} if written else {})


def test_packed_weights_may_be_counted_packed_or_one_by_one_and_with_or_without_scales(tmp_path: Path) -> None:
    entries = [
        tensor("model.layers.0.proj.weight", "U8", (8, 4)),
        tensor("model.layers.0.proj.weight_scale", "F8_E4M3", (8, 1)),
        tensor("model.layers.0.proj.weight_scale_2", "F32", ()),
    ]
    folder = Checkpoint(shards={"model-00001-of-00001.safetensors": entries}).write(tmp_path / "base")

    found = {}
    for stated in (31, 32, 41, 64, 74):
        _edit(folder, lambda document, value=stated: document["metadata"].update(total_parameters=value))
        found[stated] = _codes(folder)

    assert found == {31: {"IDX014"}, 32: set(), 41: set(), 64: set(), 74: {"IDX014"}}


def test_a_stray_is_not_listed_unless_it_is_adopted(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    (folder / "mtp.safetensors").write_bytes(shard_bytes([tensor("mtp.fc.weight")]))
    _edit(folder, lambda document: document["weight_map"].update({"mtp.fc.weight": SECOND}))

    without = api.mend(str(folder), str(tmp_path / "without.json"))
    adopted = api.mend(str(folder), str(tmp_path / "with.json"), adopt=["mtp.safetensors"])

    assert (without.mended.removed, without.strays) == (1, ["mtp.safetensors"])
    assert (adopted.mended.moved, adopted.mended.removed, adopted.strays) == (1, 0, [])
    assert {"mtp.fc.weight"} == json.loads((tmp_path / "with.json").read_bytes())[
        "weight_map"
    ].keys() - read_weight_map(_with_index(folder, tmp_path / "without.json", tmp_path / "linked")).keys()
    assert ["IDX017"] == [finding.code for finding in adopted.left]


def test_a_shard_that_is_there_twice_leaves_the_index_only_when_it_is_unlisted(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    copy = "model-00003-of-00003.safetensors"
    (folder / copy).write_bytes((folder / FIRST).read_bytes())
    _edit(folder, lambda document: document["weight_map"].update({"ghost": copy}))

    with pytest.raises(InvalidInput, match="IDX007") as refused:
        api.mend(str(folder), str(tmp_path / "new.json"))
    fixed = api.mend(str(folder), str(tmp_path / "new.json"), unlist=[copy])

    assert f"--unlist {copy}" in refused.value.hint
    assert 1 == len(refused.value.others)
    assert sharded().weight_map == json.loads((tmp_path / "new.json").read_bytes())["weight_map"]
    assert [("IDX010", copy)] == [(finding.code, finding.file) for finding in fixed.left]


def test_a_shard_that_is_missing_may_be_unlisted_when_all_its_tensors_are_elsewhere(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    (folder / FIRST).rename(folder / "model-extra.safetensors")
    names = ["model-extra.safetensors"]

    fixed = api.mend(str(folder), str(tmp_path / "new.json"), adopt=names, unlist=[FIRST])

    assert fixed.ok
    assert {"model-extra.safetensors", SECOND} == set(
        json.loads((tmp_path / "new.json").read_bytes())["weight_map"].values()
    )


UNMENDABLE: dict[str, tuple[Damage, str]] = {
    "a missing shard": (damage.remove_the_shard, "IDX003"),
    "a duplicate": (damage.duplicate_a_tensor, "IDX007"),
    "a broken header": (damage.break_a_byte_of_the_header, "SHD001"),
    "a cut shard": (damage.truncate, "SHD002"),
    "a dangling link": (damage.replace_the_shard_by_a_dangling_link, "LNK002"),
    "a link that leaves": (damage.replace_the_shard_by_a_link_out, "LNK001"),
    "a loop": (damage.make_a_loop_of_links, "LNK003"),
    "a folder": (damage.replace_the_shard_by_a_folder, "LNK004"),
}


@pytest.mark.parametrize("index", ["right", "gone", "wrong", "half"])
@pytest.mark.parametrize("what", UNMENDABLE)
def test_what_no_index_can_mend_is_refused_and_named(what: str, index: str, tmp_path: Path) -> None:
    act, code = UNMENDABLE[what]
    folder = sharded().write(tmp_path / "base")
    act(folder, FIRST)
    if index == "gone":
        damage.remove_the_index(folder, FIRST)
    elif index == "wrong":
        damage.map_to_a_path(folder, SECOND)
    elif index == "half":
        damage.break_the_index(folder, FIRST)

    with pytest.raises(InvalidInput) as refused:
        api.mend(str(folder), str(tmp_path / "new.json"))

    assert f"{code} {FIRST}" in refused.value.line
    assert refused.value.hint
    assert not (tmp_path / "new.json").exists()
    if index == "right":  # with an index that cannot be read, verify does not know which shards to look into
        assert not api.verify(str(folder)).mendable


def test_every_obstacle_is_named_up_to_a_number(tmp_path: Path) -> None:
    many = [tensor(f"x.{number}", "U8", (1,)) for number in range(50)]
    folder = Checkpoint(shards={FIRST: [*many, tensor("y")], SECOND: [*many, tensor("z")]}).write(tmp_path / "base")

    with pytest.raises(InvalidInput) as refused:
        api.mend(str(folder), str(tmp_path / "new.json"))

    assert 20 == len(refused.value.others)
    assert "and 30 more" == refused.value.others[-1]
    assert "--unlist" in refused.value.hint


def test_a_tensor_that_is_mapped_to_a_shard_in_another_folder_is_an_obstacle(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    (folder / "mtp").mkdir()
    (folder / "mtp" / "model-3.safetensors").write_bytes(shard_bytes([tensor("mtp.fc.weight")]))
    _edit(folder, lambda document: document["weight_map"].update({"mtp.fc.weight": "mtp/model-3.safetensors"}))

    with pytest.raises(InvalidInput, match=r"IDX002 .*mtp\.fc\.weight"):
        api.mend(str(folder), str(tmp_path / "new.json"))


def test_a_shard_that_is_needed_is_not_unlisted(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")

    with pytest.raises(Conflict, match="in other listed shards, found .* in none"):
        api.mend(str(folder), str(tmp_path / "new.json"), unlist=[FIRST])


@pytest.mark.parametrize("option", ["adopt", "unlist"])
@pytest.mark.parametrize("name", ["config.json", "nothing.safetensors", "../base.safetensors"])
def test_only_a_stray_is_adopted_and_only_a_listed_shard_unlisted(option: str, name: str, tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")

    with pytest.raises(UsageError, match=f"--{option} "):
        api.mend(str(folder), str(tmp_path / "new.json"), **{option: [name]})


PLACES: dict[str, tuple[str, type[OverlayError]]] = {
    "the index itself": (f"base/{INDEX}", Conflict),
    "the checkpoint's folder": ("base", Conflict),
    "another file in it": ("base/new.json", Conflict),
    "a folder in it": ("base/sub/new.json", Conflict),
    "a link to it": ("link/new.json", Conflict),
    "a file that is there": ("there.json", Conflict),
    "a dangling link": ("dangling.json", Conflict),
    "a folder with an index": ("other", Conflict),
    "a manifest": ("new.yaml", UsageError),
    "a folder that is not there": ("gone/new.json", UsageError),
    "a new folder": ("gone/", UsageError),
}


@pytest.mark.parametrize("what", PLACES)
def test_a_place_where_something_would_be_overwritten_is_refused(what: str, tmp_path: Path) -> None:
    place, error = PLACES[what]
    folder = sharded().write(tmp_path / "base")
    sharded().write(tmp_path / "other")
    (folder / "sub").mkdir()
    (tmp_path / "link").symlink_to("base")
    (tmp_path / "dangling.json").symlink_to(f"base/{INDEX}.new")
    (tmp_path / "there.json").write_text("{}")
    damage.forget_a_tensor(folder, FIRST)
    before = snapshot_of(tmp_path)

    with pytest.raises(error):
        api.mend(str(folder), f"{tmp_path}/{place}")

    assert before == snapshot_of(tmp_path)


def test_a_folder_gets_the_index_under_its_name(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    damage.forget_a_tensor(folder, FIRST)
    (tmp_path / "out").mkdir()

    fixed = api.mend(str(folder), str(tmp_path / "out"))

    assert str(tmp_path / "out" / INDEX) == fixed.path
    assert sharded().weight_map == read_weight_map(tmp_path / "out")


def test_a_snapshot_of_the_cache_is_mended_beside_it(tmp_path: Path) -> None:
    snapshot = write_hub_cache(tmp_path / "cache", sharded())
    damage.forget_a_tensor(snapshot, FIRST)
    before = snapshot_of(tmp_path / "cache")

    fixed = api.mend(str(snapshot), str(tmp_path / "new.json"))

    assert fixed.ok
    assert before == snapshot_of(tmp_path / "cache")
    assert sharded().weight_map == json.loads((tmp_path / "new.json").read_bytes())["weight_map"]


def test_a_lone_file_needs_no_index_until_a_stray_joins_it(tmp_path: Path) -> None:
    folder = single_file().write(tmp_path / "base")
    (folder / "model-mtp.safetensors").write_bytes(shard_bytes([tensor("mtp.fc.weight")]))

    alone = api.mend(str(folder), str(tmp_path / "alone.json"))
    joined = api.mend(str(folder), str(tmp_path / "joined.json"), adopt=["model-mtp.safetensors"])

    assert not alone.written
    assert joined.written
    assert [("IDX015", SINGLE)] == [(finding.code, finding.file) for finding in joined.left]


def test_errors_that_are_not_the_index_s_remain(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    damage.forget_a_tensor(folder, FIRST)
    damage.break_a_json_sidecar(folder, FIRST)

    ended = overlay("verify", folder, "--fix", tmp_path / "new.json")

    assert 1 == ended.code
    assert (tmp_path / "new.json").exists()
    assert "1 error that no index can mend: CFG001" in ended.output


def test_what_was_mended_is_said_in_words_and_in_json(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    damage.forget_a_tensor(folder, FIRST)
    damage.invent_a_tensor(folder, FIRST)
    damage.change_total_size(folder, FIRST)
    damage.add_a_stray_shard(folder, SECOND)

    said = overlay("verify", folder, "--fix", tmp_path / "one.json")
    told = overlay("verify", folder, "--fix", tmp_path / "two.json", "--json").document
    brief = overlay("verify", folder, "--fix", tmp_path / "three.json", "-q")

    assert (0, 0) == (said.code, brief.code)
    assert f"wrote {tmp_path}/one.json: 1 tensor mapped, 1 tensor removed, total_size 153 -> 152" in said.output
    assert "extra.safetensors is not in it: --adopt extra.safetensors maps its tensors as well" in said.output
    assert f"{tmp_path}/three.json\n" == brief.output
    assert (True, "verify") == (told["ok"], told["kind"])
    fix = told["fix"]
    assert ["IDX010"] == [finding["code"] for finding in fix.pop("left")]
    assert fix == {
        "path": f"{tmp_path}/two.json",
        "written": True,
        "anew": False,
        "mapped": 1,
        "removed": 1,
        "moved": 0,
        "metadata": {"total_size": {"from": 153, "to": 152}},
        "tensors": 4,
        "shards": 2,
    }


@pytest.mark.parametrize(
    "options",
    [["--adopt", "x.safetensors"], ["--unlist", "x.safetensors"], ["--fix", "new.json", "--level", "content"]],
)
def test_options_that_do_not_fit_together_are_a_matter_of_usage(options: list[str], tmp_path: Path) -> None:
    assert 2 == overlay("verify", sharded().write(tmp_path / "base"), *options).code


@pytest.mark.parametrize("name", ["overlay.yaml", "base/model-00001-of-00002.safetensors"])
def test_only_a_checkpoint_is_mended(name: str, tmp_path: Path) -> None:
    sharded().write(tmp_path / "base")
    (tmp_path / "overlay.yaml").write_text("overlay: 1")

    with pytest.raises(UsageError, match="expected a checkpoint"):
        api.mend(str(tmp_path / name), str(tmp_path / "new.json"))


def test_the_numbers_of_shards_tell_what_is_missing() -> None:
    row = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]

    assert [] == missing_numbers(row)
    assert [] == missing_numbers([*row, "model-00004-of-00004.safetensors", "mtp.safetensors"])
    assert row[1:2] == missing_numbers([row[0], row[2]])
    assert ["model-00004-of-00005.safetensors"] == missing_numbers([*row, "model-00005-of-00005.safetensors"])
    assert 1999 == len(missing_numbers(["a-00001-of-99999.safetensors"]))


def test_nothing_is_mendable_where_nothing_is_wrong() -> None:
    assert not is_mendable([])


def test_the_shards_themselves_are_never_written(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    entries = read_shard(folder / FIRST)
    damage.forget_a_tensor(folder, FIRST)

    api.mend(str(folder), str(tmp_path / "new.json"))

    assert entries == read_shard(folder / FIRST)
