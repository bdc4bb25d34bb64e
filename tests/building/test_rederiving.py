"""``verify --donors``: every graft is made again, and what differs is told to be the shard's fault or the donor's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.building.donors import DRAFT_SHARD, graft, manifest_text
from tests.building.running import SHARD, build, read_ranges
from tests.oracles.hub_cache import flip_byte
from tests.support.commands import overlay

CONVERTED, COPIED = "model.layers.78.mlp.experts.5.down_proj", "model.layers.78.enorm.weight"


def findings(subject: Path, *options: str | Path) -> list[dict[str, Any]]:
    """What ``verify --donors`` finds."""
    ended = overlay("verify", subject, "--level", "content", "--donors", "--json", *options)
    found: list[dict[str, Any]] = ended.document["findings"]
    assert (1 if found else 0) == ended.code
    return found


@pytest.mark.parametrize("subject", ["built", "built/overlay.yaml", "built/overlay.lock.json"])
def test_what_was_built_comes_out_again(work: Path, subject: str) -> None:
    build(work)

    assert [] == findings(work / subject)


@pytest.mark.parametrize("tensor", [f"{CONVERTED}.weight_packed", COPIED])
def test_a_byte_of_the_shard_that_changed_is_named_with_its_tensor(work: Path, tensor: str) -> None:
    built = build(work)
    flip_byte(built / SHARD, read_ranges(built / SHARD)[tensor][0])

    found = findings(built)

    assert {(SHARD, ""), (SHARD, tensor)} == {(finding["file"], finding["tensor"]) for finding in found}
    assert {"LCK001"} == {finding["code"] for finding in found}
    assert any("made from the donor" in finding["message"] for finding in found)


@pytest.mark.parametrize(
    ("part", "tensor"),
    [(f"{CONVERTED}.weight", f"{CONVERTED}.weight_packed"), (COPIED, COPIED)],
    ids=["converted", "copied"],
)
def test_a_byte_of_the_donor_that_changed_is_named_with_its_place(work: Path, part: str, tensor: str) -> None:
    built = build(work)
    begin, end = read_ranges(work / "donor" / DRAFT_SHARD)[part]
    flip_byte(work / "donor" / DRAFT_SHARD, begin)

    (found,) = findings(built)

    assert (DRAFT_SHARD, tensor) == (found["file"], found["tensor"])
    assert f"in bytes {begin} to {end} of the donor's shard" in found["message"]


def test_without_a_lock_the_shard_is_held_against_the_donor_alone(work: Path) -> None:
    built = build(work)
    (built / "overlay.lock.json").unlink()
    tensor = f"{CONVERTED}.weight_scale"
    flip_byte(built / SHARD, read_ranges(built / SHARD)[tensor][0])

    (found,) = findings(built / "overlay.yaml")

    assert (SHARD, tensor) == (found["file"], found["tensor"])


def test_the_donor_may_lie_elsewhere(work: Path) -> None:
    built = build(work)
    (work / "donor").rename(work / "moved")

    ended = overlay("verify", built, "--level", "content", "--donors")

    assert ended.refusal is not None
    assert [] == findings(built, "--donor", f"mtp={work / 'moved'}")


def test_a_manifest_that_was_only_locked_is_held_against_its_lock(work: Path) -> None:
    assert 0 == overlay("lock", work / "draft.yaml").code
    assert [] == findings(work / "draft.yaml")
    begin, _ = read_ranges(work / "donor" / DRAFT_SHARD)[f"{CONVERTED}.weight"]
    flip_byte(work / "donor" / DRAFT_SHARD, begin)

    assert [(DRAFT_SHARD, "LCK001")] == [(f["file"], f["code"]) for f in findings(work / "draft.yaml")]


def test_another_number_of_workers_finds_the_same(work: Path) -> None:
    assert [] == findings(build(work), "--jobs", "3")


@pytest.mark.parametrize(
    "options", [["--level", "headers", "--donors"], ["--level", "content", "--donors", "--fix", "x"]]
)
def test_the_flag_needs_the_level_that_reads_bytes(work: Path, options: list[str]) -> None:
    from click.testing import CliRunner

    from overlay.cli.main import cli

    assert 2 == CliRunner().invoke(cli, ["verify", str(work / "draft.yaml"), *options]).exit_code


@pytest.mark.parametrize("subject", ["donor", f"donor/{DRAFT_SHARD}"])
def test_what_names_no_donors_is_refused(work: Path, subject: str) -> None:
    ended = overlay("verify", work / subject, "--level", "content", "--donors")

    assert ended.refusal is not None
    assert 2 == ended.code
    assert "expected a manifest, which names donors" in ended.refusal.line


def test_a_graft_that_is_copied_is_made_again_too(work: Path) -> None:
    (work / "draft.yaml").write_text(manifest_text(grafts=[graft(steps=[])]))
    built = build(work)
    assert [] == findings(built)
    flip_byte(built / SHARD, -1)

    assert 2 == len(findings(built))
