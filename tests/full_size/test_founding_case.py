"""The founding case at full size, on sparse files: 460 GB of base and graft, 1.5 TB of donor, a few MB of disk."""

from __future__ import annotations

import json
import os
import runpy
import stat
from pathlib import Path

import pytest

from tests.full_size.running import overlay, tree

REPOSITORY = Path(__file__).resolve().parents[2]
GRAFT = "model-00046-of-00046.safetensors"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full-size")
    runpy.run_path(str(REPOSITORY / "benchmarks" / "full_size.py"))["write_full_size"](folder)
    manifest = (REPOSITORY / "manifests" / "glm-5.2-nvfp4-mtp.yaml").read_text()
    (folder / "founding.yaml").write_text(manifest)
    return folder


def test_the_founding_case_comes_out_to_the_published_byte(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(work / "base"), tree(work / "donor")
    places = ("--base", "base", "--donor", "bf16=donor")

    locked, lock_read, lock_peak = overlay(work, "lock", "founding.yaml", "--level", "headers", *places)
    applied, apply_read, apply_peak = overlay(work, "apply", "founding.yaml", *places, "-o", "serve")
    verdict, verify_read, verify_peak = overlay(work, "verify", "serve", "--level", "headers")

    index = json.loads((work / "serve" / "model.safetensors.index.json").read_bytes())
    graft = [name for name, shard in index["weight_map"].items() if shard == GRAFT]
    assert {"tensors": 233087, "shards": 46, "total_size": 459748734800} == {
        key: value for key, value in locked["lock"]["result"].items() if key != "index_sha256"
    }
    assert 233087 == len(index["weight_map"])
    assert 459748734800 == index["metadata"]["total_size"]
    assert 791 == len(graft)
    assert 19905841664 + 100168 == (work / "serve" / GRAFT).stat().st_size
    assert 45 == sum(path.is_symlink() for path in (work / "serve").iterdir())
    assert 45 == len(applied["unproven"])
    assert verdict["ok"] is True
    assert [] == verdict["findings"]
    assert before == (tree(work / "base"), tree(work / "donor"))
    # Headers are 27.7 MB (base) and 7.5 MB (donor), the indexes 22.2 and 5.4 MB, the new index is read back; Python
    # reads about 15 MB of modules.  Of 460 GB of weights nothing is read but the donor's stamps.
    assert lock_read < 100_000_000
    assert apply_read < 150_000_000
    assert verify_read < 100_000_000
    assert max(lock_peak, apply_peak, verify_peak) < 250_000_000
    on_disk = (work / "serve" / GRAFT).stat().st_blocks * 512
    assert on_disk < 50_000_000, "holes of the donor must stay holes"
    with capsys.disabled():
        print(
            f"\nfull size: 233,087 tensors, total_size 459748734800, graft 791 tensors in {on_disk / 1e6:.1f} MB of disk;"
            f" read: lock {lock_read / 1e6:.0f} MB, apply {apply_read / 1e6:.0f} MB, verify {verify_read / 1e6:.0f} MB;"
            f" peak memory: {lock_peak / 1e6:.0f}, {apply_peak / 1e6:.0f}, {verify_peak / 1e6:.0f} MB"
        )


def test_a_second_apply_has_nothing_to_do_and_the_base_stays_links(work: Path) -> None:
    applied, _, _ = overlay(work, "apply", "founding.yaml", "--base", "base", "--donor", "bf16=donor", "-o", "serve")

    assert applied["changed"] is False
    link = work / "serve" / "model-00001-of-00045.safetensors"
    assert stat.S_ISLNK(link.lstat().st_mode)
    assert str((work / "base" / link.name).resolve()) == os.readlink(link)


def test_the_base_alone_lacks_the_draft_layer_and_the_result_has_it(work: Path) -> None:
    base, _, _ = overlay(work, "verify", "base")
    serve, _, _ = overlay(work, "verify", "serve")

    assert ["MTP001"] == [finding["code"] for finding in base["findings"]]
    assert [] == serve["findings"]


def test_the_difference_is_791_added_and_nothing_else(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = overlay(work, "diff", "base", "serve", code=1)

    totals = {change: amount["tensors"] for change, amount in ran.document["totals"].items() if amount["tensors"]}
    assert totals == {"added": 791, "identical": 232296}
    assert [(row["change"], row["where"], row["tensors"]) for row in ran.document["rollup"]] == [
        ("added", "model.layers.78.**", 791)
    ]
    assert ran.document["sidecars"] == []
    assert ran.peak < 350_000_000
    with capsys.disabled():
        print(f"\ndiff: 791 added of 233,087; read {ran.read / 1e6:.0f} MB, peak memory {ran.peak / 1e6:.0f} MB")


def test_the_audit_counts_the_published_bytes_and_proves_the_donor(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With bytes compared: holes need no reading, the 791 tensors are stamped in the donor."""
    claims = ("791 tensors", "790 BF16 + 1 F32", "19905841664 bytes", "unmodified tensors of zai-org/GLM-5.2")
    arguments = [part for claim in claims for part in ("--claim", claim)]
    donor = ("--donor", "zai-org/GLM-5.2=donor")
    ran = overlay(work, "audit", "serve", "--against", "base", *arguments, *donor, "--content", "--html", "audit.html")

    assert ran.document["totals"]["added"] == {"tensors": 791, "parameters": 9952920576, "bytes": 19905841664}
    assert ran.document["findings"] == []
    standings = {claim["text"]: claim["standing"] for claim in ran.document["claims"]}
    assert standings == dict.fromkeys(("every tensor of base is there unchanged", *claims), "holds")
    page = (work / "audit.html").stat().st_size
    assert page < 2_000_000
    assert ran.peak < 350_000_000
    with capsys.disabled():
        print(f"\naudit: page {page / 1e3:.0f} kB, read {ran.read / 1e6:.0f} MB, peak memory {ran.peak / 1e6:.0f} MB")
