"""``overlay explain``: what a finding means, where a tensor lies and where it came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from overlay.core.codes import CODES
from overlay.core.tracing import near_names
from overlay.errors import UsageError
from tests.support import small
from tests.support.checkpoints import (
    COMMIT,
    Checkpoint,
    read_tensors,
    sharded,
    tensor,
    write_diff_only,
    write_hub_cache,
)
from tests.support.commands import Ended, overlay

NORM, PROJ = "model.layers.0.norm.weight", small.PROJ


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAY_CACHE", str(tmp_path / "cache"))


def explain(*arguments: str | Path) -> dict[str, Any]:
    ended = overlay("explain", *arguments, "--json")
    assert 0 == ended.code
    assert "explain" == ended.document["kind"]
    return ended.document


def assembled(root: Path, *options: str, **changes: Any) -> Path:
    """The small case, locked and applied."""
    path = small.write(root, **changes)
    assert 0 == overlay("lock", path, "-q").code
    assert 0 == overlay("apply", path, "-o", root / "serve", "-q", *options).code
    return root / "serve"


def sha256_in(folder: Path, name: str) -> str:
    return hashlib.sha256(read_tensors(folder)[name][1].data).hexdigest()


def bytes_at(document: dict[str, Any]) -> bytes:
    return Path(document["file"]).read_bytes()[document["begin"] : document["end"]]


# Codes


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_is_explained(code: str) -> None:
    document, text = explain(code), overlay("explain", code).output

    meaning = CODES[code]
    assert (code, meaning.title, meaning.hint) == tuple(document[key] for key in ("code", "title", "hint"))
    assert (meaning.severity.value, meaning.detail) == (document["severity"], document["detail"])
    assert (dict(meaning.engines), list(meaning.references)) == (document["engines"], document["references"])
    words = " ".join(text.split())
    for part in (code, meaning.title, meaning.hint, meaning.detail, *meaning.engines.values(), *meaning.references):
        assert " ".join(part.split()) in words


def test_a_code_may_be_written_small() -> None:
    assert "IDX003" == explain("idx003")["code"]


def test_alone_it_lists_every_code_by_family() -> None:
    document, text = explain(), overlay("explain").output

    assert sorted(CODES) == [entry["code"] for entry in document["codes"]]
    assert "IDX: index" in text.splitlines()
    assert all(f"  {code}  " in text for code in CODES)


@pytest.mark.parametrize(("text", "near"), [("IDX03", "IDX003"), ("LCK1", "LCK001"), ("SHD", "SHD001")])
def test_an_unknown_code_gets_those_that_are_near(text: str, near: str) -> None:
    ended = overlay("explain", text)

    assert 2 == ended.code
    assert isinstance(ended.refusal, UsageError)
    assert near in ended.refusal.hint


def test_a_word_that_is_near_to_nothing() -> None:
    refusal = overlay("explain", "zzzzzz").refusal

    assert refusal is not None
    assert "overlay explain lists every code" == refusal.hint


@pytest.mark.parametrize("text", ["model.layers.0.proj.weight", "hf://org/name", "."])
def test_a_tensor_or_a_checkpoint_alone_is_a_matter_of_usage(text: str) -> None:
    assert 2 == overlay("explain", text).code


# Tensors of a plain checkpoint


def test_a_tensor_of_a_plain_checkpoint(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "model")

    document = explain("model.layers.1.proj.weight", folder)

    assert ("model-00002-of-00002.safetensors", "BF16", [4, 8], 64) == tuple(
        document[key] for key in ("shard", "dtype", "shape", "bytes")
    )
    assert document["sha256"] == sha256_in(folder, "model.layers.1.proj.weight")
    assert document["sha256"] == hashlib.sha256(bytes_at(document)).hexdigest()
    assert ("dense BF16", []) == (document["module"]["scheme"], document["module"]["partners"])
    assert ("checkpoint", "", None) == tuple(document["origin"][key] for key in ("kind", "how", "source"))


def test_tensor_and_folder_may_come_in_either_order(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "model")

    assert explain(PROJ, folder) == explain(folder, PROJ)


def test_partners_are_found_in_other_shards(tmp_path: Path) -> None:
    case = sharded()
    case.shards["model-00001-of-00002.safetensors"].append(tensor("q.weight", "F8_E4M3", (4, 8)))
    case.shards["model-00002-of-00002.safetensors"].append(tensor("q.weight_scale", "F32", (4, 1)))

    module = explain("q.weight", case.write(tmp_path / "model"))["module"]

    assert ("q", "fp8-channel") == (module["name"], module["scheme"])
    assert [("q.weight_scale", "model-00002-of-00002.safetensors", "F32", [4, 1])] == [
        tuple(partner.values()) for partner in module["partners"]
    ]


def test_a_snapshot_of_the_hub(tmp_path: Path) -> None:
    snapshot = write_hub_cache(tmp_path / "hub", sharded())

    origin = explain(PROJ, snapshot)["origin"]

    assert ("checkpoint", COMMIT) == (origin["kind"], origin["commit"])
    assert str((snapshot / "model-00001-of-00002.safetensors").resolve()) == origin["link"]


def test_a_single_shard(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "model")

    assert explain(PROJ, folder)["sha256"] == explain(PROJ, folder / "model-00001-of-00002.safetensors")["sha256"]


def test_a_tensor_in_two_shards_is_said_to_be(tmp_path: Path) -> None:
    case = sharded()
    case.shards["model-00002-of-00002.safetensors"].append(case.shards["model-00001-of-00002.safetensors"][0])
    folder = case.write(tmp_path / "model")

    document, text = explain(NORM, folder), overlay("explain", NORM, folder).output

    assert 1 == len(document["also_in"])
    assert "engines load both" in text


def test_quiet_is_the_digest(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "model")

    assert f"{sha256_in(folder, PROJ)}\n" == overlay("explain", PROJ, folder, "-q").output


# Tensors of a target


def test_a_tensor_of_the_base_that_was_linked(tmp_path: Path) -> None:
    document = explain("model.layers.1.norm.weight", assembled(tmp_path))

    origin = document["origin"]
    assert ("base", "symlink", None, []) == tuple(origin[key] for key in ("kind", "how", "superseded", "notes"))
    assert str(tmp_path / "base" / small.SECOND) == origin["source"]["file"] == origin["link"]
    assert (document["begin"], document["end"]) == (origin["source"]["begin"], origin["source"]["end"])


def test_a_tensor_that_stayed_in_a_trimmed_shard(tmp_path: Path) -> None:
    document = explain(NORM, assembled(tmp_path))

    origin = document["origin"]
    assert ("base", "trim", "") == tuple(origin[key] for key in ("kind", "how", "link"))
    source = origin["source"]
    raw = Path(source["file"]).read_bytes()
    assert raw[source["begin"] : source["end"]] == bytes_at(document)


def test_a_graft_with_its_lock_says_what_it_is_made_of_and_what_it_replaced(tmp_path: Path) -> None:
    target = assembled(tmp_path)

    document = explain(PROJ, target, "--lock", tmp_path / "small.lock.json")

    origin = document["origin"]
    assert ("graft", "build", "new", "donor", []) == tuple(
        origin[key] for key in ("kind", "how", "donor", "reference", "notes")
    )
    donated, gone = origin["donated"], origin["superseded"]
    raw = (tmp_path / "donor" / donated["file"]).read_bytes()
    assert raw[donated["begin"] : donated["end"]] == bytes_at(document)
    assert (str(tmp_path / "base" / small.FIRST), "BF16", [40, 80]) == (gone["file"], gone["dtype"], gone["shape"])
    raw = Path(gone["file"]).read_bytes()
    assert sha256_in(tmp_path / "base", PROJ) == hashlib.sha256(raw[gone["begin"] : gone["end"]]).hexdigest()


def test_the_manifest_stands_for_the_lock_beside_it(tmp_path: Path) -> None:
    target = assembled(tmp_path)

    assert explain(PROJ, target, "--lock", tmp_path / "small.yaml")["origin"]["donated"] is not None


def test_without_the_lock_the_bytes_of_the_donor_are_said_to_be_unknown(tmp_path: Path) -> None:
    origin = explain(PROJ, assembled(tmp_path))["origin"]

    assert None is origin["donated"]
    assert ["--lock" in note for note in origin["notes"]] == [True]


def test_another_lock_is_noticed(tmp_path: Path) -> None:
    target = assembled(tmp_path)
    lock = json.loads((tmp_path / "small.lock.json").read_bytes())
    (tmp_path / "other.lock.json").write_text(json.dumps(lock))

    notes = explain(PROJ, target, "--lock", tmp_path / "other.lock.json")["origin"]["notes"]

    assert any("is not the lock that the target was assembled with" in note for note in notes)


def test_a_lock_that_is_none_is_refused(tmp_path: Path) -> None:
    target = assembled(tmp_path)
    (tmp_path / "bad.lock.json").write_text("[]")

    assert 3 == overlay("explain", PROJ, target, "--lock", tmp_path / "bad.lock.json").code
    assert 3 == overlay("explain", PROJ, target, "--lock", tmp_path / "gone.lock.json").code


def test_what_was_superseded_with_its_whole_shard_is_found_in_the_base(tmp_path: Path) -> None:
    norm = "model.layers.0.norm.weight"
    graft = {"shard": small.NEW, "from": "new", "tensors": [PROJ, norm], "mode": "replace"}

    origin = explain(norm, assembled(tmp_path, grafts=[graft]))["origin"]

    assert str(tmp_path / "base" / small.FIRST) == origin["superseded"]["file"]


def test_a_graft_that_adds_replaces_nothing(tmp_path: Path) -> None:
    graft = {"shard": small.NEW, "from": "new", "tensors": ["model.layers.2.extra"]}

    origin = explain("model.layers.2.extra", assembled(tmp_path, grafts=[graft], drop=[]))["origin"]

    assert ("graft", None) == (origin["kind"], origin["superseded"])


def test_where_the_base_lies_in_a_hub_cache_what_was_replaced_may_be_unknown(tmp_path: Path) -> None:
    small.write(tmp_path)
    snapshot = write_hub_cache(tmp_path / "hub", small.base())
    graft = {"shard": small.NEW, "from": "new", "tensors": ["model.layers.2.extra"]}
    path = tmp_path / "small.yaml"
    path.write_text(small.manifest(base=str(snapshot), grafts=[graft], drop=[]))
    assert 0 == overlay("apply", path, "-o", tmp_path / "serve", "-q").code

    notes = explain("model.layers.2.extra", tmp_path / "serve")["origin"]["notes"]

    assert any("is not known" in note for note in notes)


def test_a_shard_that_was_copied_whole_names_the_file_of_the_donor(tmp_path: Path) -> None:
    path = small.write(
        tmp_path, donors={"new": "extra"}, grafts=[{"shard": "extra.safetensors", "from": "new"}], drop=[]
    )
    Checkpoint(shards={"extra.safetensors": [tensor("model.layers.2.extra")]}).write(tmp_path / "extra")
    assert 0 == overlay("apply", path, "-o", tmp_path / "serve", "--link", "copy", "-q").code

    document = explain("model.layers.2.extra", tmp_path / "serve")

    origin = document["origin"]
    assert ("graft", "copy", []) == tuple(origin[key] for key in ("kind", "how", "notes"))
    assert str(tmp_path / "extra" / "extra.safetensors") == origin["source"]["file"]
    assert document["begin"] == origin["source"]["begin"]


def test_a_receipt_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    target = assembled(tmp_path)
    (target / ".overlay" / "receipt.json").write_text("{")

    ended = overlay("explain", NORM, target, "--json")

    assert "receipt cannot be used" in ended.document["origin"]["notes"][0]


# What is not there


def refused(*arguments: str | Path) -> Ended:
    ended = overlay("explain", *arguments)
    assert 3 == ended.code
    assert ended.refusal is not None
    return ended


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("model.layers.1.proj", "model.layers.1.proj.weight"),
        ("model.layers.1.prj.weight", "model.layers.1.proj.weight"),
        ("model.layers.7.norm.weight", "model.layers.1.norm.weight"),
        ("layers.0.norm.weight", "model.layers.0.norm.weight"),
    ],
)
def test_a_tensor_that_is_not_there_gets_names_that_are_near(tmp_path: Path, name: str, near: str) -> None:
    refusal = refused(name, sharded().write(tmp_path / "model")).refusal

    assert refusal is not None
    assert near in refusal.hint


def test_near_names_of_a_quarter_of_a_million_come_at_once() -> None:
    names = [
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
        for layer in range(78)
        for expert in range(256)
        for part in ("gate", "up", "down")
    ]

    found = near_names("model.layers.77.mlp.expert.300.gate_proj.weight", names)

    assert "model.layers.77.mlp.experts.255.gate_proj.weight" == found[0]


def test_a_tensor_that_the_overlay_leaves_out(tmp_path: Path) -> None:
    refusal = refused("model.layers.2.norm.weight", assembled(tmp_path)).refusal

    assert refusal is not None
    assert f"the base holds it in {tmp_path / 'base' / small.THIRD}" == refusal.hint


def test_a_tensor_whose_shard_is_elsewhere(tmp_path: Path) -> None:
    refusal = refused(PROJ, write_diff_only(tmp_path / "graft")).refusal

    assert refusal is not None
    assert "model-00001-of-00002.safetensors" in refusal.problem


def test_a_phantom(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "model")
    index = folder / "model.safetensors.index.json"
    value = json.loads(index.read_bytes())
    value["weight_map"]["ghost"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(value))

    refusal = refused("ghost", folder).refusal

    assert refusal is not None
    assert "phantom" in refusal.problem


def test_no_checkpoint(tmp_path: Path) -> None:
    refused(PROJ, tmp_path)
