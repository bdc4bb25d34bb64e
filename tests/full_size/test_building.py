"""The drafts of the second founding case from a donor of full size, on sparse files; and a conversion of some gigabytes."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from overlay.demo.geometry import FULL_SIZE
from overlay.demo.replica import write_sparse
from tests.building.donors import DRAFT_SHARD, INT4, draft_donor, target_sidecars
from tests.building.running import read_ranges
from tests.full_size.running import overlay
from tests.support.checkpoints import write_files

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
SHARD = "model-00001-of-00001.safetensors"
PEAK = 600_000_000
"""Most memory of a build, torch included."""

pytestmark = pytest.mark.slow

DRAFTS = [
    pytest.param("glm-5.2-mtp-int4", 3122, 5_865_075_344, 256, id="256 experts"),
    pytest.param("glm-5.2-mtp-int4-aligned", 2666, 5_035_313_880, 218, id="218 experts"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The donor with holes for data, both targets' small files, and the manifests with paths instead of repositories."""
    folder = tmp_path_factory.mktemp("drafts")
    write_sparse(draft_donor(FULL_SIZE), folder / "donor")
    for path in MANIFESTS.glob("glm-5.2-mtp-*"):
        text = path.read_text()
        for repository, experts in (("cyankiwi/GLM-5.2-AWQ-INT4", 256), ("CosmicRaisins/GLM-5.2-AWQ-INT4-15pct", 218)):
            text = text.replace(f"hf://{repository}@main/", f"target-{experts}/")
            if not (folder / f"target-{experts}").exists():
                write_files(folder / f"target-{experts}", target_sidecars(experts, FULL_SIZE))
        (folder / path.name).write_text(text)
    return folder


@pytest.mark.parametrize(("name", "tensors", "size", "experts"), DRAFTS)
def test_plan_and_lock_come_to_the_published_counts(
    work: Path, name: str, tensors: int, size: int, experts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    donor = ("--donor", "mtp=donor")

    planned = overlay(work, "plan", f"{name}.yaml", "-o", "planned", *donor)
    locked = overlay(work, "lock", f"{name}.yaml", "--level", "headers", *donor)

    assert {"tensors": tensors, "total_size": size} == planned.document["plan"]["result"]
    result = locked.document["lock"]["result"]
    assert (tensors, size, 1) == (result["tensors"], result["total_size"], result["shards"])
    made = locked.document["lock"]["grafts"][SHARD]["tensors"]
    assert expected_layout(experts) == {
        tensor: (entry["dtype"], tuple(entry["shape"])) for tensor, entry in made.items()
    }
    assert max(planned.peak, locked.peak) < 250_000_000
    assert max(planned.read, locked.read) < 100_000_000
    with capsys.disabled():
        print(f"\n{name}: {tensors} tensors, {size} bytes; peak memory {max(planned.peak, locked.peak) / 1e6:.0f} MB")


def expected_layout(experts: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor to dtype and shape, written down from the published description."""
    layer, hidden, width = "model.layers.78", 6144, 2048
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
    linears = {
        f"{attention}.q_a_proj": (2048, hidden),
        f"{attention}.q_b_proj": (64 * 256, 2048),
        f"{attention}.kv_a_proj_with_mqa": (512 + 64, hidden),
        f"{attention}.kv_b_proj": (64 * (192 + 256), 512),
        f"{attention}.o_proj": (hidden, 64 * 256),
        f"{attention}.indexer.wq_b": (32 * 128, 2048),
    }
    for module in (*(f"{mlp}.experts.{expert}" for expert in range(experts)), f"{mlp}.shared_experts"):
        linears |= {f"{module}.{part}_proj": (width, hidden) for part in ("gate", "up")}
        linears[f"{module}.down_proj"] = (hidden, width)
    plain = {
        f"{layer}.eh_proj.weight": (hidden, 2 * hidden),
        f"{attention}.indexer.wk.weight": (128, hidden),
        f"{attention}.indexer.weights_proj.weight": (32, hidden),
        f"{attention}.indexer.k_norm.weight": (128,),
        f"{attention}.indexer.k_norm.bias": (128,),
        f"{attention}.q_a_layernorm.weight": (2048,),
        f"{attention}.kv_a_layernorm.weight": (512,),
        f"{mlp}.gate.weight": (experts, hidden),
        **{
            f"{layer}.{norm}.weight": (hidden,)
            for norm in ("enorm", "hnorm", "input_layernorm", "post_attention_layernorm", "shared_head.norm")
        },
    }
    found: dict[str, tuple[str, tuple[int, ...]]] = {name: ("BF16", shape) for name, shape in plain.items()}
    found[f"{mlp}.gate.e_score_correction_bias"] = ("F32", (experts,))
    for module, (rows, columns) in linears.items():
        found[f"{module}.weight_packed"] = ("I32", (rows, columns // 8))
        found[f"{module}.weight_scale"] = ("BF16", (rows, columns // 32))
        found[f"{module}.weight_shape"] = ("I64", (2,))
        found[f"{module}.weight_zero_point"] = ("I32", (rows // 8, columns // 32))
    return found


def give_scales(path: Path) -> None:
    """Put a scale of the whole tensor into every NVFP4 weight: zero is refused there."""
    with path.open("r+b") as stream:
        for name, (begin, end) in read_ranges(path).items():
            if name.endswith(".weight_scale_2"):
                os.pwrite(stream.fileno(), struct.pack("<f", 0.01), begin)
                assert begin + 4 == end


def test_a_donor_of_nothing_but_zeros_is_refused(work: Path) -> None:
    refused = overlay(work, "build", "glm-5.2-mtp-int4.yaml", "-o", "built", "--donor", "mtp=donor", code=3)

    assert "model.layers.78.mlp.experts.0.down_proj.weight_scale_2 (model-mtp.safetensors)" in str(refused.document)
    assert not (work / "built").exists()
    assert not (work / ".built.overlay-build").exists()


def test_a_build_of_gigabytes_keeps_its_memory_and_can_be_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """32 of the 256 experts, with linears of full size: holes are groups of zeros, which are legal."""
    geometry = replace(FULL_SIZE, experts=32)
    write_sparse(draft_donor(geometry), tmp_path / "donor")
    give_scales(tmp_path / "donor" / DRAFT_SHARD)
    write_files(tmp_path / "target", target_sidecars(32, geometry))
    graft: dict[str, Any] = {"shard": SHARD, "from": "mtp", "tensors": ["model.layers.78.**"]}
    steps = [{"dequantize": "modelopt-nvfp4"}, {"quantize": INT4}]
    manifest = {
        "overlay": 1,
        "name": "draft",
        "base": None,
        "donors": {"mtp": "donor"},
        "grafts": [{**graft, "steps": steps}],
        "files": {"config.json": {"from": "target/config.json"}},
    }
    (tmp_path / "draft.yaml").write_text(json.dumps(manifest))

    built = overlay(tmp_path, "build", "draft.yaml", "-o", "built", "--jobs", "2")
    verified = overlay(tmp_path, "verify", "built", "--level", "content", "--donors")

    (shard,) = built.document["shards"]
    assert 4 * (32 * 3 + 9) + 14 == shard["tensors"]
    assert shard["file_bytes"] == os.path.getsize(tmp_path / "built" / SHARD)
    experts = next(loss for kind, loss in shard["accuracy"].items() if kind.startswith("mlp.experts"))
    assert (32 * 3, experts["groups"], 0.0) == (experts["tensors"], experts["zero_groups"], experts["relative_rms"])
    assert [] == verified.document["findings"]
    assert built.peak < PEAK
    assert verified.peak < PEAK
    with capsys.disabled():
        donor = os.path.getsize(tmp_path / "donor" / DRAFT_SHARD)
        print(
            f"\nbuild: {donor / 1e9:.1f} GB of donor to {shard['file_bytes'] / 1e9:.1f} GB;"
            f" peak memory: build {built.peak / 1e6:.0f} MB, verify --donors {verified.peak / 1e6:.0f} MB"
        )
