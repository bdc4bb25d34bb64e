"""A lock pins what is trimmed and patched, and whatever differs from it later is found."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.errors import Conflict, Mismatch
from tests.support import damage, small
from tests.support.small import FIRST, NEW, SECOND


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return small.write(tmp_path)


def locked(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.with_suffix(".lock.json").read_bytes())
    return document


def assemble(manifest: Path, **options: Any) -> Path:
    target = manifest.parent / "serve"
    api.apply(api.Request(sources=(str(manifest),)), str(target), **options)
    return target


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def codes(target: Path, level: Any) -> dict[str, str]:
    return {finding.file: finding.code for finding in api.verify(str(target), level=level).findings}


def test_at_level_content_it_holds_the_digests_of_what_will_be_written(manifest: Path) -> None:
    api.lock(str(manifest), level="content")
    target, lock = assemble(manifest), locked(manifest)

    assert {FIRST: digest(target / FIRST)} == {name: pinned["sha256"] for name, pinned in lock["trims"].items()}
    assert {NEW: digest(target / NEW)} == {name: pinned["sha256"] for name, pinned in lock["grafts"].items()}
    assert {"config.json": digest(target / "config.json")} == {
        n: pinned["sha256"] for n, pinned in lock["files"].items()
    }


def test_at_level_headers_it_holds_sizes_and_headers_of_trims(manifest: Path) -> None:
    api.lock(str(manifest), level="headers")
    target, trims = assemble(manifest), locked(manifest)["trims"]

    assert {FIRST: ((target / FIRST).stat().st_size, None)} == {n: (p["size"], p["sha256"]) for n, p in trims.items()}


def test_every_shard_of_a_locked_target_is_compared_at_level_content(manifest: Path) -> None:
    api.lock(str(manifest), level="content")
    target = assemble(manifest)

    verdict = api.verify(str(target), level="content")

    assert (True, 3, ()) == (verdict.ok, verdict.compared, verdict.uncompared)


def test_without_a_lock_verify_says_that_a_trim_was_not_compared(manifest: Path) -> None:
    verdict = api.verify(str(assemble(manifest)), level="content")

    assert (True, [FIRST, SECOND]) == (verdict.ok, sorted(verdict.uncompared))


@pytest.mark.parametrize("shard", [FIRST, NEW])
def test_a_changed_byte_of_a_locked_trim_or_graft_is_found_and_repaired(manifest: Path, shard: str) -> None:
    api.lock(str(manifest), level="content")
    target = assemble(manifest)
    good = (target / shard).read_bytes()
    damage.flip_last_data_byte(target, shard)

    found = [codes(target, level) for level in ("structure", "headers", "content")]
    assemble(manifest)

    assert [{}, {}, {shard: "LCK001"}] == found
    assert good == (target / shard).read_bytes()


@pytest.mark.parametrize("level", ["headers", "content"])
def test_a_changed_byte_of_a_locked_copy_is_repaired(manifest: Path, level: str) -> None:
    api.lock(str(manifest), level="content")
    target = assemble(manifest, link="copy")
    good = (target / SECOND).read_bytes()
    damage.flip_last_data_byte(target, SECOND)

    assemble(manifest, link="copy", level=level)

    assert good == (target / SECOND).read_bytes()


def test_a_base_that_changed_under_a_trim_is_found_in_the_target(manifest: Path) -> None:
    api.lock(str(manifest), level="content")
    damage.flip_last_data_byte(manifest.parent / "base", FIRST)
    damage.flip_first_data_byte(manifest.parent / "base", FIRST)  # one of the two stays in the trim

    assert {FIRST: "LCK001"} == codes(assemble(manifest), "content")


def test_a_base_that_changed_under_a_trim_is_refused_at_level_content(manifest: Path) -> None:
    api.lock(str(manifest), level="content")
    damage.flip_first_data_byte(manifest.parent / "base", FIRST)

    with pytest.raises(Mismatch, match=FIRST):
        assemble(manifest, level="content")

    assert not (manifest.parent / "serve").exists()


def test_a_manifest_whose_base_changed_under_a_trim_does_not_verify_at_level_content(manifest: Path) -> None:
    api.lock(str(manifest), level="content")
    damage.flip_first_data_byte(manifest.parent / "base", FIRST)

    verdict = api.verify(str(manifest), level="content")

    assert [(FIRST, "LCK001")] == [(finding.file, finding.code) for finding in verdict.findings]


def test_level_content_proves_trims_as_well(manifest: Path) -> None:
    api.lock(str(manifest), level="content")

    applied = api.apply(api.Request(sources=(str(manifest),)), str(manifest.parent / "serve"), level="content")

    assert [] == applied.unproven


def test_a_manifest_below_that_changed_since_the_lock_is_a_conflict(manifest: Path) -> None:
    top = manifest.parent / "top.yaml"
    top.write_text('{"overlay": 1, "name": "top", "base": "small.yaml", "drop": ["model.layers.1.norm.weight"]}')
    api.lock(str(top))
    manifest.write_text(small.manifest(drop=[]))

    with pytest.raises(Conflict, match="found one that was changed since"):
        assemble(top)


def test_a_sidecar_of_the_base_that_changed_since_the_lock_is_named(manifest: Path) -> None:
    api.lock(str(manifest))
    (manifest.parent / "base" / "LICENSE").write_bytes(b"GPL\n")

    with pytest.raises(Mismatch, match="LICENSE"):
        assemble(manifest)


def test_donors_of_two_manifests_may_bear_one_name(manifest: Path) -> None:
    """The lock of the upper one pins the donor's shards of both."""
    (manifest.parent / "donor").rename(manifest.parent / "lower")
    manifest.write_text(small.manifest(donors={"new": "lower"}))
    small.donor().write(manifest.parent / "donor")
    top = manifest.parent / "top.yaml"
    graft = {"shard": "model-00005-of-00005.safetensors", "from": "new", "tensors": ["model.layers.2.extra"]}
    top.write_text(
        json.dumps({"overlay": 1, "name": "top", "base": "small.yaml", "donors": {"new": "donor"}, "grafts": [graft]})
    )

    api.lock(str(top))
    target = assemble(top)

    assert (True, 4) == ((verdict := api.verify(str(target), level="content")).ok, verdict.compared)
    assert {NEW, "model-00005-of-00005.safetensors"} == locked(top)["grafts"].keys()


def test_a_target_inside_a_donor_of_a_manifest_below_is_refused(manifest: Path) -> None:
    top = manifest.parent / "top.yaml"
    top.write_text('{"overlay": 1, "name": "top", "base": "small.yaml", "drop": ["model.layers.1.norm.weight"]}')

    with pytest.raises(Conflict, match="expected a folder apart from"):
        api.apply(api.Request(sources=(str(top),)), str(manifest.parent / "donor" / "serve"))
