"""The manifests that we publish do what they say, on replicas of the repositories that they name.

The replicas lie in a Hub cache, so that each manifest is used as it stands; only the counts of `expect` are those of
the replica.  The real files were not at hand: what is shown here is what a manifest does to files of this form.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import pytest
import yaml

import overlay as package
from overlay.demo.geometry import SCALED_DOWN
from overlay.demo.layout import base_layout, donor_layout
from overlay.demo.replica import write_dense
from overlay.formats.manifest import parse_manifest
from tests.manifests.conftest import MANIFESTS
from tests.manifests.looking import appended, changed_sidecars, names
from tests.oracles.hub_cache import Repository, add_repository
from tests.support.checkpoints import INDEX, Checkpoint, read_tensors, read_weight_map, shard_bytes, tensor, write_files
from tests.support.commands import overlay

ALL = sorted(MANIFESTS.glob("*.yaml"))

MTP = "glm-5.2-nvfp4-mtp.yaml"
IGNORE = "glm-5.3-flash-nvfp4-ignore.yaml"
TEMPLATE = "qwen3.6-27b-vlm-nvfp4-mtp-template.yaml"
DRAFTS = ("glm-5.2-mtp-int4.yaml", "glm-5.2-mtp-int4-aligned.yaml")
"""Tried in `test_drafts`."""
HEADS = ("glm-5-nvfp4-mtp.yaml", "qwen3.5-27b-nvfp4-mtp.yaml")
"""Tried in `test_heads`."""

_FULL_SIZE = "expect: {tensors: 791, bytes: 19905841664, dtypes: {BF16: 790, F32: 1}}"
_REPLICA = "expect: {tensors: 47, bytes: 82144, dtypes: {BF16: 46, F32: 1}}"


def test_every_manifest_is_tried_here() -> None:
    assert {MTP, IGNORE, TEMPLATE, *DRAFTS, *HEADS} == {path.name for path in ALL}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_a_manifest_parses_is_valid_by_the_schema_and_bears_the_name_of_its_file(path: Path) -> None:
    jsonschema.Draft202012Validator(package.schema()).validate(yaml.safe_load(path.read_text()))

    assert path.stem == parse_manifest(path.read_bytes()).name


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_a_manifest_says_what_it_is_for_before_it_says_what_to_do(path: Path) -> None:
    assert path.read_text().startswith("# ")


# The draft layer of GLM-5.2


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The replicas of base and donor in a cache; gives back the base's repository."""
    root = tmp_path_factory.mktemp("glm")
    write_dense(base_layout(SCALED_DOWN), root / "base", 1)
    write_dense(donor_layout(SCALED_DOWN), root / "donor", 1)
    add_repository(root / "hub", "zai-org/GLM-5.2", root / "donor", "one hop")
    return add_repository(root / "hub", "Mapika/GLM-5.2-NVFP4", root / "base", "one hop")


@pytest.fixture
def glm(hub: Repository, work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base's snapshot; in `work` lies the manifest with the counts of the replica."""
    monkeypatch.setenv("HF_HUB_CACHE", str(hub.cache))
    text = (work / MTP).read_text()
    assert _FULL_SIZE in text
    (work / "replica.yaml").write_text(text.replace(_FULL_SIZE, _REPLICA))
    return hub.snapshot


def test_the_founding_manifest_refuses_a_donor_of_another_size(glm: Path, work: Path) -> None:
    ended = overlay("apply", work / MTP, "-o", work / "serve")

    assert ended.refusal is not None
    assert (1, "model-00046-of-00046.safetensors: expect: expected 791 tensors, found 47") == (
        ended.code,
        ended.refusal.line,
    )
    assert not (work / "serve").exists()


def test_the_founding_manifest_adds_layer_78_and_nothing_else(glm: Path, work: Path) -> None:
    assert 0 == overlay("apply", work / "replica.yaml", "-o", work / "serve").code

    before, after = read_tensors(glm), read_tensors(work / "serve")
    added = after.keys() - before.keys()
    assert before == {name: after[name] for name in before}
    assert 47 == len(added)
    assert all(name.startswith("model.layers.78.") for name in added)
    assert {"model-00046-of-00046.safetensors"} == {after[name][0] for name in added}
    assert {name: shard for name, (shard, _) in after.items()} == read_weight_map(work / "serve")
    assert {} == changed_sidecars(glm, work / "serve")


def test_for_vllm_the_founding_manifest_also_excludes_layer_78_from_quantisation(glm: Path, work: Path) -> None:
    assert 0 == overlay("apply", work / "replica.yaml", "--engine", "vllm", "-o", work / "serve").code

    entry = ["model.layers.78*"]
    assert {
        "config.json": appended(glm / "config.json", ("quantization_config", "ignore"), entry),
        "hf_quant_config.json": appended(glm / "hf_quant_config.json", ("quantization", "exclude_modules"), entry),
    } == changed_sidecars(glm, work / "serve")
    assert 47 == len(read_tensors(work / "serve")) - len(read_tensors(glm))
    assert 0 == overlay("verify", work / "serve", "--level", "content").code


def test_for_sglang_the_founding_manifest_changes_no_file(glm: Path, work: Path) -> None:
    assert 0 == overlay("apply", work / "replica.yaml", "--engine", "sglang", "-o", work / "serve").code

    assert {} == changed_sidecars(glm, work / "serve")


# The lists of excluded modules of GLM-5.3-Flash

_EXCLUDED = ["lm_head", "model.language_model.layers.0.self_attn*"]
_ENTRIES = ["model.language_model.layers.45*", "model.layers.45*"]


def flash(quant_method: str = "modelopt") -> Checkpoint:
    """A base whose layer 45 is BF16 but for one tensor, and whose lists do not say so."""
    config = {
        "model_type": "glm",
        "quantization_config": {"ignore": _EXCLUDED, "quant_algo": "NVFP4", "quant_method": quant_method},
    }
    hf_quant = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": _EXCLUDED, "kv_cache_quant_algo": None}}
    prefix = "model.language_model.layers"
    return Checkpoint(
        shards={
            "model-00001-of-00002.safetensors": [
                tensor(f"{prefix}.44.mlp.up_proj.weight", "U8", (4, 8)),
                tensor(f"{prefix}.44.mlp.up_proj.weight_scale", "F8_E4M3", (4, 1)),
            ],
            "model-00002-of-00002.safetensors": [
                tensor(f"{prefix}.45.mlp.gate.e_score_correction_bias", "F32", (4,)),
                tensor(f"{prefix}.45.mlp.up_proj.weight", "BF16", (4, 16)),
            ],
        },
        sidecars={
            "config.json": (json.dumps(config, indent=2) + "\n").encode(),
            "hf_quant_config.json": json.dumps(hf_quant, indent=4).encode(),
        },
    )


@pytest.mark.parametrize("locked", [False, True], ids=["without a lock", "locked"])
def test_the_correction_of_the_lists_appends_two_entries_to_each_and_links_every_shard(
    cache: Path, tmp_path: Path, work: Path, locked: bool
) -> None:
    base = add_repository(cache, "nvidia/GLM-5.3-Flash-NVFP4", flash().write(tmp_path / "base"), "two hops").snapshot
    if locked:
        assert 0 == overlay("lock", work / IGNORE).code

    assert 0 == overlay("apply", work / IGNORE, "--link", "symlink", "-o", work / "serve").code

    assert {
        "config.json": appended(base / "config.json", ("quantization_config", "ignore"), _ENTRIES),
        "hf_quant_config.json": appended(base / "hf_quant_config.json", ("quantization", "exclude_modules"), _ENTRIES),
    } == changed_sidecars(base, work / "serve")
    shards = [name for name in names(work / "serve") if name.endswith(".safetensors")]
    assert shards == [name for name in names(base) if name.endswith(".safetensors")]
    assert all((work / "serve" / name).is_symlink() for name in shards)
    assert (base / INDEX).read_bytes() == (work / "serve" / INDEX).read_bytes()


def test_the_correction_of_the_lists_keeps_every_other_byte(cache: Path, tmp_path: Path, work: Path) -> None:
    base = add_repository(cache, "nvidia/GLM-5.3-Flash-NVFP4", flash().write(tmp_path / "base"), "one hop").snapshot

    assert 0 == overlay("apply", work / IGNORE, "-o", work / "serve").code

    last = f'      "{_EXCLUDED[-1]}"'
    assert [f"-{last}", f"+{last},", f'+      "{_ENTRIES[0]}",', f'+      "{_ENTRIES[1]}"'] == differing_lines(
        base / "config.json", work / "serve" / "config.json"
    )


def test_over_another_scheme_the_correction_of_the_lists_stops_and_shows_what_it_found(
    cache: Path, tmp_path: Path, work: Path
) -> None:
    other = flash("compressed-tensors").write(tmp_path / "base")
    add_repository(cache, "nvidia/GLM-5.3-Flash-NVFP4", other, "one hop")

    ended = overlay("apply", work / IGNORE, "-o", work / "serve")

    assert ended.refusal is not None
    assert (4, "config.json: /quantization_config/quant_method") == (ended.code, ended.refusal.subject)
    assert 'expected "modelopt", found "compressed-tensors"' in ended.refusal.line
    assert not (work / "serve").exists()


# The chat template of Qwen3.6


@pytest.fixture
def qwen(cache: Path, tmp_path: Path) -> Path:
    """A base and the repository of templates, which holds no weights; gives back the base's snapshot."""
    base = write_files(
        tmp_path / "base",
        {
            "model.safetensors": shard_bytes([tensor("model.visual.proj.weight"), tensor("mtp.fc.weight")]),
            "config.json": b"{}\n",
            "chat_template.jinja": b"{{ old }}\n",
        },
    )
    templates = write_files(tmp_path / "templates", {"chat_template.jinja": b"{{ new }}\n", "README.md": b"new\n"})
    add_repository(cache, "froggeric/Qwen-Fixed-Chat-Templates", templates, "one hop")
    return add_repository(cache, "natfii/Qwen3.6-27B-VLM-NVFP4-MTP", base, "one hop").snapshot


def test_the_template_is_taken_from_the_other_repository_and_nothing_else_is(qwen: Path, work: Path) -> None:
    assert 0 == overlay("apply", work / TEMPLATE, "-o", work / "serve").code

    assert {"chat_template.jinja": b"{{ new }}\n"} == changed_sidecars(qwen, work / "serve")
    assert not (work / "serve" / "chat_template.jinja").is_symlink()
    assert read_tensors(qwen) == read_tensors(work / "serve")


def test_a_template_that_moved_since_the_lock_is_refused(cache: Path, qwen: Path, work: Path) -> None:
    assert 0 == overlay("lock", work / TEMPLATE).code
    moved = write_files(work / "moved", {"chat_template.jinja": b"{{ newest }}\n"})
    add_repository(cache, "froggeric/Qwen-Fixed-Chat-Templates", moved, "one hop", commit="e" * 40)

    ended = overlay("apply", work / TEMPLATE, "-o", work / "serve")

    assert ended.refusal is not None
    assert 1 == ended.code
    assert "chat_template.jinja" in ended.refusal.line


# Looking


def differing_lines(old: Path, new: Path) -> list[str]:
    """What a line-by-line comparison removes and adds."""
    lines = difflib.unified_diff(old.read_text().split("\n"), new.read_text().split("\n"), n=0, lineterm="")
    return [line for line in lines if line[:1] in "+-" and not line.startswith(("+++", "---"))]
