"""``overlay lint``: the founding cases, the manifest that mends, and what scripts get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from overlay import api
from overlay.demo.story import write_inputs
from tests.engines.tiny import MODELOPT, PACKED, bf16, good, int4, nvfp4, quantised
from tests.support.checkpoints import contents_of
from tests.support.commands import overlay

ENGINES = ("--engine", "vllm==0.33.0", "--engine", "sglang==0.5.23")
PATCHES = """
engines:
  vllm:
    files:
      config.json: {patch: [{op: add, path: /quantization_config/ignore/-, value: "model.layers.78*"}]}
      hf_quant_config.json: {patch: [{op: add, path: /quantization/exclude_modules/-, value: "model.layers.78*"}]}
"""


@pytest.fixture(scope="module")
def founding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Replicas of base and donor, the manifest with its patches for vLLM, and the target without them."""
    root = tmp_path_factory.mktemp("founding")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERLAY_CACHE", str(root / "cache"))
        manifest = Path(write_inputs(root, lambda line: None))
        manifest.write_text(manifest.read_text() + PATCHES)
        for engine in ("", "vllm"):
            api.apply(api.Request(sources=(str(manifest),), engine=engine), str(root / f"serve{engine}"))
    return root


def answers(*arguments: str | Path) -> dict[str, tuple[str, str]]:
    engines = overlay("lint", *arguments, "--json").document["engines"]
    return {name: (found["target"], found["draft"]) for name, found in engines.items()}


def test_the_base_alone_has_no_draft(founding: Path) -> None:
    assert {"vllm": ("ok", "refuses"), "sglang": ("ok", "absent")} == answers(founding / "base", *ENGINES)


def test_a_draft_that_is_needed_must_be_there(founding: Path) -> None:
    need = ("--engine", "sglang", "--need-draft")

    assert (0, 1, 0) == (
        overlay("lint", founding / "base", "--engine", "sglang").code,
        overlay("lint", founding / "base", *need).code,
        overlay("lint", founding / "serve", *need).code,
    )
    assert overlay("lint", founding / "base", *need).output.endswith("not ok for SGLang 0.5.23\n")


def test_the_assembled_target_is_clean_on_sglang_and_vllm_needs_the_patches(founding: Path) -> None:
    expected = {"vllm": ("ok", "refuses"), "sglang": ("ok", "ok")}
    assert expected == answers(founding / "serve", *ENGINES)
    assert {"vllm": ("ok", "ok"), "sglang": ("ok", "ok")} == answers(founding / "servevllm", *ENGINES)
    assert (1, 0) == (
        overlay("lint", founding / "serve", "--engine", "vllm").code,
        overlay("lint", founding / "serve", "--engine", "sglang").code,
    )


def test_one_manifest_serves_both_engines(founding: Path) -> None:
    manifest = next(founding.glob("*.yaml"))

    assert {"vllm": ("ok", "ok"), "sglang": ("ok", "ok")} == answers(manifest, *ENGINES)


def test_the_document_says_what_scripts_need(founding: Path) -> None:
    document = overlay("lint", founding / "serve", "--engine", "vllm", "--json").document

    finding = document["engines"]["vllm"]["findings"][0]
    assert ("lint", 1, False, "0.33.0") == (
        document["kind"],
        document["format"],
        document["ok"],
        document["engines"]["vllm"]["version"],
    )
    assert ("QNT002", "error", "vllm", "refuses", "draft") == tuple(
        finding[key] for key in ("code", "severity", "engine", "effect", "scope")
    )
    assert {"subject", "message", "hint", "file", "tensor"} <= finding.keys()


def test_without_an_engine_all_are_asked_and_what_one_cannot_do_is_no_failure(tmp_path: Path) -> None:
    folder = good("glm_moe_dsa").write(tmp_path / "good")

    ended = overlay("lint", folder, "--json")

    assert (0, ["vllm", "sglang", "transformers", "llama.cpp", "mlx"]) == (ended.code, [*ended.document["engines"]])
    assert "refuses" == ended.document["engines"]["transformers"]["draft"]
    assert 1 == overlay("lint", folder, "--engine", "transformers").code


def test_a_release_that_nobody_looked_at_gets_the_nearest_and_a_note(tmp_path: Path) -> None:
    folder = good().write(tmp_path / "good")

    newer, older = (overlay("lint", folder, "--engine", f"vllm=={v}", "--json").document for v in ("0.99", "0.1"))

    for document, version, profile in ((newer, "0.99", "0.33.0"), (older, "0.1", "0.16.0")):
        found = document["engines"]["vllm"]
        assert (version, profile, ["ENG021"]) == (
            found["version"],
            found["profile"],
            [f["code"] for f in found["findings"]],
        )


@pytest.mark.parametrize("words", [("nosuch",), ("vllm==x",), ("vllm=0.33",), ("vllm", "vllm==0.33.0"), ("",)])
def test_an_engine_that_there_is_not(tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = good().write(tmp_path / "good")

    assert 2 == overlay("lint", folder, *(part for word in words for part in ("--engine", word))).code


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert 3 == overlay("lint", tmp_path / "gone").code
    assert 3 == overlay("lint", tmp_path).code


MENDED = [(MODELOPT, nvfp4, bf16, "vllm"), (MODELOPT, nvfp4, nvfp4, "vllm"), (PACKED, int4, bf16, "vllm")]


@pytest.mark.parametrize(("declared", "linear", "of_draft", "engine"), MENDED)
def test_a_manifest_makes_it_load_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: object, linear: object, of_draft: object, engine: str
) -> None:
    monkeypatch.setenv("OVERLAY_CACHE", str(tmp_path / "cache"))
    folder = quantised("deepseek_v3", declared, linear, of_draft).write(tmp_path / "base")  # type: ignore[arg-type]
    before, path = contents_of(folder), tmp_path / "fixed.yaml"

    assert 1 == overlay("lint", folder, "--engine", engine).code
    assert 0 == overlay("lint", folder, "--engine", engine, "--fix", "-o", path).code
    assert 0 == overlay("apply", path, "-o", tmp_path / "serve", "--engine", engine).code
    assert 0 == overlay("lint", tmp_path / "serve", "--engine", engine).code
    assert before == contents_of(folder)


def test_an_undeclared_draft_is_declared_and_a_backup_is_left_out(tmp_path: Path) -> None:
    folder = good("glm_moe_dsa").with_config(num_nextn_predict_layers=...).write(tmp_path / "base")
    (folder / "old_hf_quant_config.json").write_text("{}")
    path = tmp_path / "fixed.yaml"

    assert 0 == overlay("lint", folder, *ENGINES, "--fix", "-o", path).code
    assert 0 == overlay("apply", path, "-o", tmp_path / "serve").code

    assert 1 == json.loads((tmp_path / "serve/config.json").read_text())["num_nextn_predict_layers"]
    assert not (tmp_path / "serve/old_hf_quant_config.json").exists()


def test_what_no_manifest_mends_is_still_said(tmp_path: Path) -> None:
    folder = good().without("eh_proj.weight").write(tmp_path / "base")

    ended = overlay("lint", folder, "--engine", "sglang", "--fix", "-o", tmp_path / "fixed.yaml", "--json")

    assert (1, "MTP004") == (ended.code, ended.document["engines"]["sglang"]["findings"][0]["code"])


def test_where_the_manifest_may_not_be_written(tmp_path: Path) -> None:
    folder = good().write(tmp_path / "base")
    (tmp_path / "there.yaml").write_text("mine\n")

    assert 4 == overlay("lint", folder, "--fix", "-o", tmp_path / "there.yaml").code
    assert 4 == overlay("lint", folder, "--fix", "-o", folder / "fixed.yaml").code
    assert 2 == overlay("lint", folder, "--fix", "-o", tmp_path / "fixed.txt").code
    assert 2 == overlay("lint", folder, "--fix").code
    assert "mine\n" == (tmp_path / "there.yaml").read_text()


def test_what_would_load_is_explained(founding: Path) -> None:
    load = overlay("lint", founding / "servevllm", "--engine", "vllm", "--explain-load", "--json").document["engines"][
        "vllm"
    ]["load"]

    of_draft = [parameter for parameter in load["parameters"] if parameter["stage"] == "draft"]
    assert (46, "model-00046-of-00046.safetensors") == (len(load["files"]), load["files"][-1])
    assert (22, 47, {"set"}) == (len(of_draft), sum(p["found"] for p in of_draft), {p["state"] for p in of_draft})
    assert "model.layers.78.mtp_block.mlp.experts.routed_experts.w13_weight" in {p["name"] for p in of_draft}


def test_what_stays_unset_is_explained(founding: Path) -> None:
    ended = overlay("lint", founding / "base", "--engine", "sglang", "--explain-load")

    lines = [line.split() for line in ended.output.splitlines() if line.startswith("  draft")]
    assert {"unset"} == {words[-1] for words in lines}
    assert ["draft", "model.decoder.mlp.experts.w13_weight", "0", "of", "16", "unset"] in lines
