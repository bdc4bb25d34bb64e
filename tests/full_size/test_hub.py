"""The founding case with base and donor on a Hub: at full size from headers alone, and scaled down to the last byte."""

from __future__ import annotations

import json
import re
import runpy
from hashlib import sha256
from pathlib import Path

import pytest

from overlay.demo.geometry import SCALED_DOWN
from overlay.demo.layout import base_layout, donor_layout
from overlay.demo.replica import write_dense
from tests.full_size.running import overlay
from tests.loopback_hub.hub import LoopbackHub
from tests.loopback_hub.repositories import Seed
from tests.support.checkpoints import read_tensors

REPOSITORY = Path(__file__).resolve().parents[2]
BASE, DONOR = "Mapika/GLM-5.2-NVFP4", "zai-org/GLM-5.2"

pytestmark = pytest.mark.slow


def _seed(hub: LoopbackHub, repo: str, folder: Path, *, hashed: bool) -> None:
    """Put a folder on the hub; unless `hashed`, shards get made-up digests, since 1.9 TB take their time."""
    files: dict[str, Seed | bytes | Path] = {}
    for path in sorted(folder.iterdir()):
        stated = sha256(f"{repo}/{path.name}".encode()).hexdigest()
        large = path.suffix == ".safetensors"
        files[path.name] = path if hashed or not large else Seed(data=path, sha256=stated)
    hub.seed(repo, files)


def _header_bytes(path: Path) -> int:
    with path.open("rb") as stream:
        return 8 + int.from_bytes(stream.read(8), "little")


def test_lock_of_460_gb_and_1_5_tb_transfers_headers_alone(
    hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(REPOSITORY / "benchmarks" / "full_size.py"))["write_full_size"](tmp_path)
    _seed(hub, BASE, tmp_path / "base", hashed=False)
    _seed(hub, DONOR, tmp_path / "donor", hashed=False)
    (tmp_path / "founding.yaml").write_text((REPOSITORY / "manifests" / "glm-5.2-nvfp4-mtp.yaml").read_text())

    locked, _, peak = overlay(tmp_path, "lock", "founding.yaml")
    requests, sent = len(hub.log), sum(record.sent for record in hub.log)
    headers = sum(
        _header_bytes(path) for folder in ("base", "donor") for path in (tmp_path / folder).glob("*.safetensors")
    )
    result = {key: value for key, value in locked["lock"]["result"].items() if key != "index_sha256"}
    assert result == {"tensors": 233087, "shards": 46, "total_size": 459748734800}
    assert hub.log.bytes_of("*.safetensors") < 1.5 * headers
    hub.log.clear()

    overlay(tmp_path, "lock", "founding.yaml")
    again = len(hub.log)
    overlay(tmp_path, "lock", "founding.yaml", "--upgrade")
    upgraded = len(hub.log)
    plan, _, _ = overlay(tmp_path, "plan", "founding.yaml", "-o", "serve")

    assert (again, upgraded) == (0, 2)
    assert (
        plan["plan"]["bytes"]["fetched"]
        == sum(p.stat().st_size for p in (tmp_path / "base").glob("*.safetensors")) + 19905841664
    )
    with capsys.disabled():
        print(
            f"\nlock of 45 + 282 shards: {requests} requests, {sent / 1e6:.1f} MB, headers {headers / 1e6:.1f} MB;"
            f" peak memory {peak / 1e6:.0f} MB; again: {again} requests; --upgrade: {upgraded}"
        )


def test_the_graft_comes_as_one_range_a_shard_and_no_cached_byte_of_the_base_comes(
    hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thousandth of the size; the shape, the names and the number of runs are those of the real one."""
    write_dense(base_layout(SCALED_DOWN), tmp_path / "base", 1)
    write_dense(donor_layout(SCALED_DOWN), tmp_path / "donor", 2)
    _seed(hub, BASE, tmp_path / "base", hashed=True)
    _seed(hub, DONOR, tmp_path / "donor", hashed=True)
    donor = read_tensors(tmp_path / "donor")
    wanted = {name: shard for name, (shard, _) in donor.items() if name.startswith(SCALED_DOWN.mtp_prefix)}
    size = sum(len(donor[name][1].data) for name in wanted)
    manifest = (REPOSITORY / "manifests" / "glm-5.2-nvfp4-mtp.yaml").read_text()
    (tmp_path / "m.yaml").write_text(re.sub(r"(?m)^ *expect:.*\n(?: {6,}.*\n)*", "", manifest))
    overlay(tmp_path, "lock", "m.yaml")
    hub.log.clear()

    applied, _, peak = overlay(tmp_path, "apply", "m.yaml", "-o", "serve")

    shards = sorted(set(wanted.values()))
    whole = sum((tmp_path / "donor" / shard).stat().st_size for shard in shards)
    of_donor = [
        r for r in hub.log.about(stage="bytes") if r.repository == DONOR and str(r.file).endswith(".safetensors")
    ]
    assert len(of_donor) == len(shards)
    assert sum(record.sent for record in of_donor) == size < whole
    assert applied["changed"] is True
    assert {name: t for name, (_, t) in read_tensors(tmp_path / "serve").items() if name in wanted} == {
        name: donor[name][1] for name in wanted
    }
    hub.log.clear()
    overlay(tmp_path, "apply", "m.yaml", "-o", "another")
    of_base = [r for r in hub.log.about(stage="bytes") if r.repository == BASE]
    assert of_base == []
    index = json.loads((tmp_path / "serve" / "model.safetensors.index.json").read_bytes())
    assert {name for name, shard in index["weight_map"].items() if "00046" in shard} == set(wanted)
    with capsys.disabled():
        print(
            f"\ngraft: {len(wanted)} tensors, {size} bytes in {len(of_donor)} ranges of {whole} bytes of shards;"
            f" peak memory {peak / 1e6:.0f} MB; base, cached: 0 bytes"
        )
