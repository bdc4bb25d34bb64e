"""References: what lint asks of repositories elsewhere, and what it makes of manifests and of diff-only repositories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.running.locating import Places
from tests.engines.tiny import (
    CONFIGS,
    DRAFT,
    DRAFT_SHARD,
    MODELOPT,
    PACKED,
    TRUNK_SHARD,
    Tiny,
    bf16,
    draft,
    good,
    int4,
    nvfp4,
    quantised,
    trunk,
)
from tests.loopback_hub.fixtures import hub as hub
from tests.loopback_hub.hub import LoopbackHub
from tests.support.checkpoints import INDEX, write_files
from tests.support.commands import overlay

FILES = (TRUNK_SHARD, DRAFT_SHARD)


def lint(reference: str | Path, *words: str) -> dict[str, Any]:
    return overlay("lint", reference, *words, "--json").document


def test_a_repository_elsewhere_is_judged_by_its_headers(hub: LoopbackHub, tmp_path: Path) -> None:
    checkpoint = quantised("deepseek_v3", MODELOPT, nvfp4, bf16)
    here = lint(checkpoint.write(tmp_path / "here"))
    hub.seed("org/base", checkpoint.checkpoint().files())
    hub.log.clear()

    there = lint("hf://org/base")

    assert {name: found["findings"] for name, found in here["engines"].items()} == {
        name: found["findings"] for name, found in there["engines"].items()
    }
    assert 12 == len(hub.log), str(hub.log)
    for name, data in checkpoint.checkpoint().files().items():
        if name in FILES:
            header = 8 + int.from_bytes(data[:8], "little")
            assert hub.log.bytes_of(name) < 2 * header + 4096


def test_scales_elsewhere_are_not_read_and_that_is_said(hub: LoopbackHub, tmp_path: Path) -> None:
    differing = quantised("deepseek_v3", MODELOPT, nvfp4, nvfp4)
    hub.seed("org/base", differing.checkpoint().files())

    there, here = lint("hf://org/base"), lint(differing.write(tmp_path / "here"))

    assert (True, 0) == (there["unread"] > 0, here["unread"])
    assert f"{there['unread']} scales and shapes were not read" in overlay("lint", "hf://org/base").output


def test_a_fix_of_a_repository_elsewhere_is_laid_over_it(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.seed("org/base", quantised("deepseek_v3", MODELOPT, nvfp4, bf16).checkpoint().files())
    path = tmp_path / "fixed.yaml"

    fixed = overlay("lint", "hf://org/base", "--engine", "vllm", "--fix", "-o", path)

    assert 0 == fixed.code
    assert f"written: {path}; overlay apply {path} --engine vllm -o DIR" in fixed.output
    assert 0 == overlay("apply", path, "--engine", "vllm", "-o", tmp_path / "serve").code
    assert 0 == overlay("lint", tmp_path / "serve", "--engine", "vllm").code


def test_a_manifest_in_a_repository_elsewhere(hub: LoopbackHub) -> None:
    manifest = json.dumps({"overlay": 1, "name": "x", "base": "hf://org/base", "drop": [f"{DRAFT}**"]})
    hub.seed("org/base", good().checkpoint().files())
    hub.seed("org/manifest", {"overlay.yaml": manifest.encode()})

    assert "absent" == lint("hf://org/manifest/overlay.yaml", "--engine", "sglang")["engines"]["sglang"]["draft"]


@pytest.fixture
def difference(tmp_path: Path) -> Path:
    """A repository that holds the draft alone, with an index over both, beside the base in ``base``."""
    whole = good()
    Tiny(trunk=whole.trunk, config=whole.config).write(tmp_path / "base")
    files = {name: data for name, data in whole.checkpoint().files().items() if name in (INDEX, DRAFT_SHARD)}
    graft = {"shard": DRAFT_SHARD, "from": "own", "tensors": [f"{DRAFT}**"]}
    manifest = {
        "overlay": 1,
        "name": "d",
        "base": "hf://org/base",
        "donors": {"own": "hf://org/own"},
        "grafts": [graft],
    }
    return write_files(tmp_path / "difference", {**files, "overlay.yaml": json.dumps(manifest).encode()})


def test_a_difference_is_judged_as_it_lies_there_or_with_its_base(difference: Path, tmp_path: Path) -> None:
    alone = lint(difference, "--engine", "vllm")["engines"]["vllm"]
    assert ("refuses", True) == (alone["target"], "ENG007" in {found["code"] for found in alone["findings"]})

    assert 0 == overlay("lint", difference, "--base", tmp_path / "base", "--engine", "vllm").code
    whole = api.lint(str(difference), ["vllm"], places=Places(base=str(tmp_path / "base"))).predictions[0]
    assert ("ok", "ok") == (whole.target, whole.draft)


KINDS = [
    ("in its scheme", int4, "ok", set()),
    ("in BF16", bf16, "refuses", {"QNT002"}),
    ("in NVFP4", nvfp4, "refuses", {"QNT002"}),
]


@pytest.mark.parametrize(("kind", "linear", "expected", "codes"), KINDS, ids=[kind[0] for kind in KINDS])
def test_a_draft_beside_an_int4_target_has_one_line_for_each_mismatch(
    tmp_path: Path, kind: str, linear: Any, expected: str, codes: set[str]
) -> None:
    config = {**CONFIGS["glm_moe_dsa"], "quantization_config": PACKED}
    target = Tiny(trunk=trunk("glm_moe_dsa", int4), config=config).write(tmp_path / "target")
    own = Tiny(draft=draft("glm_moe_dsa", linear), config=CONFIGS["glm_moe_dsa"]).write(tmp_path / "draft")

    ended = overlay("lint", own, "--target", target, "--engine", "vllm", "--json")

    found = ended.document["engines"]["vllm"]
    assert ("ok", expected) == (found["target"], found["draft"])
    assert sorted(codes) == [finding["code"] for finding in found["findings"]]
