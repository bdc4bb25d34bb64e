"""The INT4 drafts of GLM-5.2 on replicas of the donor and of the two targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from overlay.demo.replica import write_dense
from tests.building.donors import draft_donor, load, plain_weight, target_sidecars
from tests.oracles.hub_cache import Repository, add_repository
from tests.support.checkpoints import read_tensors, read_weight_map, write_files
from tests.support.commands import overlay

DONOR = "0xSero/GLM-5.2-NVFP4-REAP-469B"
SHARD = "model-00001-of-00001.safetensors"


class Draft(NamedTuple):
    """A manifest, and what the replicas have in the place of what it names."""

    manifest: str
    target: str
    published: tuple[str, ...]
    """What it says of the published repositories."""
    scaled_down: tuple[str, ...]
    """What it would say of the replicas, line by line."""
    experts: int
    tensors: int


WHOLE = Draft(
    "glm-5.2-mtp-int4.yaml",
    "cyankiwi/GLM-5.2-AWQ-INT4",
    (
        "expect: {tensors: 3122, bytes: 5865075344, dtypes: {BF16: 790, F32: 1, I32: 1554, I64: 777}}",
        "path: /n_routed_experts, value: 256",
    ),
    (
        "expect: {tensors: 146, bytes: 29528, dtypes: {BF16: 46, F32: 1, I32: 66, I64: 33}}",
        "path: /n_routed_experts, value: 8",
    ),
    8,
    146,
)
ALIGNED = Draft(
    "glm-5.2-mtp-int4-aligned.yaml",
    "CosmicRaisins/GLM-5.2-AWQ-INT4-15pct",
    (
        "expect: {tensors: 2666, bytes: 5035313880, dtypes: {BF16: 676, F32: 1, I32: 1326, I64: 663}}",
        "path: /n_routed_experts, value: 218",
    ),
    (
        "expect: {tensors: 122, bytes: 25744, dtypes: {BF16: 40, F32: 1, I32: 54, I64: 27}}",
        "path: /n_routed_experts, value: 6",
    ),
    6,
    122,
)
BOTH = pytest.mark.parametrize("draft", [WHOLE, ALIGNED], ids=lambda draft: draft.manifest)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Donor and both targets in a cache; gives back the donor."""
    root = tmp_path_factory.mktemp("drafts")
    write_dense(draft_donor(), root / "donor", 1)
    for draft in (WHOLE, ALIGNED):
        folder = write_files(root / draft.target, target_sidecars(draft.experts))
        add_repository(root / "hub", draft.target, folder, "one hop")
    return add_repository(root / "hub", DONOR, root / "donor", "two hops")


@pytest.fixture
def manifests(hub: Repository, work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the manifests as they would stand for the replicas."""
    monkeypatch.setenv("HF_HUB_CACHE", str(hub.cache))
    for draft in (WHOLE, ALIGNED):
        text = (work / draft.manifest).read_text()
        for line, other in zip(draft.published, draft.scaled_down, strict=True):
            assert line in text
            text = text.replace(line, other)
        (work / draft.manifest).write_text(text)
    (work / "glm-5.2-mtp-keep-218.json").write_text(json.dumps({"model.layers.78.mlp": [0, 1, 2, 4, 5, 7]}))
    return work


def test_the_published_list_keeps_218_experts_of_256(work: Path) -> None:
    (kept,) = json.loads((work / "glm-5.2-mtp-keep-218.json").read_bytes()).values()

    assert 218 == len(set(kept))
    assert sorted(kept) == kept
    assert 0 <= kept[0] < kept[-1] < 256


@BOTH
def test_a_draft_is_built_verified_and_applied(manifests: Path, draft: Draft) -> None:
    built = manifests / "built"

    assert 0 == overlay("build", manifests / draft.manifest, "-o", built).code
    verified = overlay("verify", built, "--level", "content", "--donors", "--json")
    assert 0 == overlay("apply", built, "-o", manifests / "serve").code

    assert (0, []) == (verified.code, verified.document["findings"])
    names = read_weight_map(built)
    assert (draft.tensors, {SHARD}) == (len(names), set(names.values()))
    assert all(name.startswith("model.layers.78.") for name in names)
    assert read_tensors(built) == read_tensors(manifests / "serve")


@BOTH
def test_the_sidecars_are_the_targets_and_the_config_fits_the_draft(manifests: Path, draft: Draft) -> None:
    assert 0 == overlay("build", manifests / draft.manifest, "-o", manifests / "built").code

    given = target_sidecars(draft.experts)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert given[name] == (manifests / "built" / name).read_bytes()
    before = json.loads(given["config.json"])
    after = json.loads((manifests / "built" / "config.json").read_bytes())
    declared: dict[str, Any] = after.pop("quantization_config")
    assert {key: value for key, value in before.items() if key != "quantization_config"} == after
    linears = ("eh_proj", "mlp.gate", "self_attn.indexer.weights_proj", "self_attn.indexer.wk")
    assert [f"model.layers.78.{name}" for name in linears] == declared["ignore"]


@BOTH
def test_compressed_tensors_reads_the_draft_as_the_donor_within_a_step(
    hub: Repository, manifests: Path, draft: Draft
) -> None:
    compressed_tensors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    assert 0 == overlay("build", manifests / draft.manifest, "-o", manifests / "built").code
    donor, built = load(hub.snapshot), load(manifests / "built")
    weights = quantization.QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32, symmetric=False)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights)

    kept = [0, 1, 2, 4, 5, 7] if draft is ALIGNED else range(8)
    for new, old in enumerate(kept):
        module = f"model.layers.78.mlp.experts.{new}.down_proj"
        parts = {
            part: built[f"{module}.{part}"]
            for part in ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
        }
        read = compressed_tensors.PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
        original = plain_weight(donor, f"model.layers.78.mlp.experts.{old}.down_proj")
        steps = parts["weight_scale"].float().repeat_interleave(32, dim=1)
        assert ((read.float() - original.float()).abs() <= 1.1 * steps).all()


@BOTH
def test_the_published_counts_are_held_against_the_donor(
    hub: Repository, work: Path, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(hub.cache))
    text = (work / draft.manifest).read_text().replace("keep-218.json", "keep-6.json")
    (work / draft.manifest).write_text(text)
    (work / "glm-5.2-mtp-keep-6.json").write_text("[0, 1, 2, 3, 4, 5]")

    ended = overlay("build", work / draft.manifest, "-o", work / "built")

    assert ended.refusal is not None
    assert 1 == ended.code
    assert f"expected {draft.published[0].split()[2].rstrip(',')} tensors, found {draft.tensors}" in ended.refusal.line


def test_a_target_with_another_number_of_experts_is_refused(manifests: Path) -> None:
    path = manifests / ALIGNED.manifest
    path.write_text(path.read_text().replace(ALIGNED.target, WHOLE.target))

    ended = overlay("build", path, "-o", manifests / "built")

    assert ended.refusal is not None
    assert 4 == ended.code
    assert "config.json: /n_routed_experts" in ended.refusal.line
    assert "expected 6, found 8" in ended.refusal.line


def test_an_extract_of_the_draft_alone_will_do_as_donor(manifests: Path) -> None:
    extract = manifests / "extract"
    write_dense(draft_donor(listed=False), extract, 1)

    for name, donor in (("built", ()), ("again", ("--donor", f"mtp={extract}"))):
        assert 0 == overlay("build", manifests / WHOLE.manifest, "-o", manifests / name, *donor).code

    assert (manifests / "built" / SHARD).read_bytes() == (manifests / "again" / SHARD).read_bytes()
