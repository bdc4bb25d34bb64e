"""The command that `overlay launch` prints: which options, from where, and how they are quoted."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.errors import InvalidInput
from tests.support import small
from tests.support.checkpoints import Checkpoint
from tests.support.commands import overlay

NEXTN = {"speculative-algorithm": "NEXTN", "moe-runner-backend": "flashinfer_cutlass"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``base``, a checkpoint with a draft layer, and ``plain``, one without; the working directory is there."""
    monkeypatch.chdir(tmp_path)
    small.base().write(tmp_path / "base")
    write_config(tmp_path / "plain", num_nextn_predict_layers=None)
    return tmp_path


def write_config(folder: Path, **changes: Any) -> None:
    """A checkpoint whose config differs from that of `small`; None leaves a key out."""
    config = {key: value for key, value in {**small.CONFIG, **changes}.items() if value is not None}
    base = small.base()
    Checkpoint(shards=base.shards, sidecars={**base.sidecars, "config.json": json.dumps(config).encode()}).write(folder)


def words(*arguments: str) -> list[str]:
    """The words that are printed, as a shell takes them."""
    ended = overlay("launch", "-q", *arguments)
    assert 0 == ended.code, ended
    assert 1 == ended.output.count("\n")
    return as_bash_reads(ended.output)


def as_bash_reads(line: str) -> list[str]:
    """The words of `line`, in the judgement of a shell."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


def notes(*arguments: str) -> list[str]:
    found: list[str] = overlay("launch", *arguments, "--json").document["notes"]
    return found


def manifest(root: Path, engine: str, launch: dict[str, Any]) -> str:
    (root / "small.yaml").write_text(small.manifest(engines={engine: {"launch": launch}}))
    return "small.yaml"


# What decides


def test_sglang_drafts_with_the_layer_of_the_checkpoint_itself(world: Path) -> None:
    path = str(world / "base")

    assert ["python3", "-m", "sglang.launch_server", "--model-path", path, "--speculative-algorithm", "NEXTN"] == words(
        "base", "--engine", "sglang"
    )


def test_vllm_drafts_with_the_layer_of_the_checkpoint_itself(world: Path) -> None:
    said = overlay("launch", "base", "--engine", "vllm").output

    config = '{"method": "mtp", "num_speculative_tokens": 1}'
    assert f"vllm serve {world}/base --speculative-config '{config}'\n" == said


def test_transformers_serves_and_does_not_draft(world: Path) -> None:
    assert ["transformers", "serve", f"{world}/base", "--port", "9"] == words(
        "base", "--engine", "transformers", "--port", "9"
    )
    assert ["transformers serve does not use a draft layer; model.generate(use_mtp=True) does"] == notes(
        "base", "--engine", "transformers"
    )


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_without_a_draft_layer_there_are_no_speculative_options_and_it_says_why(world: Path, engine: str) -> None:
    options = NEXTN if engine == "sglang" else {"speculative-config": {"method": "mtp", "num_speculative_tokens": 2}}

    assert "spec" not in " ".join(words("plain", "--engine", engine, "--manifest", manifest(world, engine, options)))
    (note,) = notes("plain", "--engine", engine, "--manifest", "small.yaml")
    assert "no speculative options: config.json: declares no draft layer (num_nextn_predict_layers is not there" in note
    assert f"left out: {next(iter(options))}" in note


def test_a_layer_that_is_declared_and_not_there_is_not_drafted_with(world: Path) -> None:
    write_config(world / "hollow", num_hidden_layers=7)

    assert "NEXTN" not in words("hollow", "--engine", "sglang")
    assert "found no tensor of it" in notes("hollow", "--engine", "sglang")[0]


def test_a_way_to_speculate_that_needs_no_layer_stands(world: Path) -> None:
    ngram = {"speculative-algorithm": "NGRAM"}
    lookup = {"speculative-config": {"method": "ngram", "num_speculative_tokens": 4}}

    for folder in ("plain", "base"):
        said = words(folder, "--engine", "sglang", "--manifest", manifest(world, "sglang", ngram))
        assert ["--speculative-algorithm", "NGRAM"] == said[-2:]
        said = words(folder, "--engine", "vllm", "--manifest", manifest(world, "vllm", lookup))
        assert ["--speculative-config", json.dumps(lookup["speculative-config"])] == said[-2:]


def test_a_separate_draft_is_named(world: Path) -> None:
    draft = f"{world}/base"

    vllm = words("base", "--engine", "vllm", "--draft", "base")
    sglang = words("base", "--engine", "sglang", "--draft", "base")

    assert {"method": "mtp", "model": draft, "num_speculative_tokens": 1} == json.loads(vllm[-1])
    assert ["--speculative-algorithm", "NEXTN", "--speculative-draft-model-path", draft] == sglang[-4:]
    assert (
        "config.json of the draft: declares no draft layer" in notes("base", "--engine", "vllm", "--draft", "plain")[0]
    )
    assert (
        "config.json of the target declares no draft layer" in notes("plain", "--engine", "vllm", "--draft", "base")[0]
    )


def test_what_engines_would_stumble_over_is_said(world: Path) -> None:
    write_config(world / "three", num_nextn_predict_layers=3)
    small.base().write(world / "EAGLE-3")

    assert notes("three", "--engine", "sglang")[0].startswith("SGLang takes exactly 1 draft layer, and 3 are declared")
    assert "vLLM takes a draft whose path holds 'eagle-'" in notes("EAGLE-3", "--engine", "vllm")[0]
    assert [] == notes("EAGLE-3", "--engine", "sglang")


# Options


def test_options_of_the_manifest_and_of_the_command_line(world: Path) -> None:
    path = manifest(world, "sglang", {**NEXTN, "tp": 4, "port": 1, "host": "0.0.0.0"})

    said = words(
        "base", "--engine", "sglang", "--manifest", path, "--port", "2", "--tensor-parallel", "8", "--", "-x", "a b"
    )

    assert [
        *("--speculative-algorithm", "NEXTN", "--moe-runner-backend", "flashinfer_cutlass"),
        *("--tensor-parallel-size", "8", "--port", "2", "--host", "0.0.0.0", "-x", "a b"),
    ] == said[5:]


def test_values_of_every_kind(world: Path) -> None:
    launch = {
        "trust_remote_code": True,
        "enable-prefix-caching": False,
        "nothing": None,
        "none": [],
        "share": 0.85,
        "list": ["a b", 2],
        "text": "it's $HOME; `rm`\nnext",
        "dashed": "-1",
        "empty": "",
        "json": {"ü": [1, {"b": None}]},
    }
    path = manifest(world, "vllm", launch)

    said = words("plain", "--engine", "vllm", "--manifest", path)

    assert [
        *("--trust-remote-code", "--no-enable-prefix-caching", "--share", "0.85", "--list", "a b", "2"),
        *("--text", "it's $HOME; `rm`\nnext", "--dashed=-1", "--empty", "", "--json", '{"ü": [1, {"b": null}]}'),
    ] == said[3:]
    assert "Python code that lies in the checkpoint will run" in " ".join(
        notes("plain", "--engine", "vllm", "--manifest", path)
    )


@pytest.mark.parametrize(
    "text", ["two\nlines", "\x1b[2J\\ 'a'", "\u202eabc\x7f0", "a\tb", "$(touch x)", "!!", "~", "*", "ü b"]
)
def test_the_line_says_the_words_exactly(world: Path, text: str) -> None:
    path = manifest(world, "vllm", {"text": text})

    document = overlay("launch", "plain", "--engine", "vllm", "--manifest", path, "--json").document

    assert text == document["words"][-1]
    assert document["command"].isprintable()
    assert document["words"] == as_bash_reads(document["command"])


def test_a_path_that_is_not_utf_8(world: Path) -> None:
    name = os.fsdecode(b"b\xffse")
    small.base().write(world / name)

    assert f"{world}/{name}" == words(name, "--engine", "vllm")[2]


def test_flags_that_sglang_turns_off_are_left_out(world: Path) -> None:
    path = manifest(world, "sglang", {"disable-radix-cache": False, "enable-metrics": True})

    assert ["--enable-metrics"] == words("plain", "--engine", "sglang", "--manifest", path)[5:]


def test_more_draft_tokens_come_from_the_manifest(world: Path) -> None:
    path = manifest(world, "vllm", {"speculative-config": {"num_speculative_tokens": 3}})

    said = words("base", "--engine", "vllm", "--manifest", path)

    assert [{"method": "mtp", "num_speculative_tokens": 3}] == [json.loads(word) for word in said if word[0] == "{"]


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        ({"--tp": 1}, "expected the name of an option, found '--tp'"),
        ({"a b": 1}, "expected the name of an option, found 'a b'"),
        ({"": 1}, "expected the name of an option, found ''"),
        ({"tp": 1, "tensor_parallel_size": 2}, "expected each option once, found tensor_parallel_size again"),
        ({"model-path": "/etc"}, "expected options beside the model, found model-path"),
        ({"model": "/etc"}, "expected options beside the model, found model"),
        ({"a": [[1]]}, "expected a list of texts and numbers, found something nested"),
    ],
)
def test_options_that_are_none(world: Path, launch: dict[str, Any], expected: str) -> None:
    ended = overlay("launch", "base", "--engine", "sglang", "--manifest", manifest(world, "sglang", launch))

    assert 3 == ended.code
    assert expected in str(ended.refusal)
    assert "engines.sglang.launch" in str(ended.refusal)


def test_a_manifest_without_options_for_the_engine_is_said(world: Path) -> None:
    path = manifest(world, "sglang", NEXTN)

    assert ["the manifest names no launch options for vllm"] == notes("base", "--engine", "vllm", "--manifest", path)


def test_the_receipt_of_a_target_is_held_against_the_manifest(world: Path) -> None:
    small.write(world, drop=[], engines={"sglang": {"launch": NEXTN}})
    api.apply(api.Request(sources=("small.yaml",)), "serve")

    assert [] == notes("serve", "--engine", "sglang", "--manifest", "small.yaml")
    assert "the receipt holds no launch options: --manifest FILE takes" in notes("serve", "--engine", "sglang")[0]
    (world / "small.yaml").write_text(small.manifest(engines={"sglang": {"launch": NEXTN}}))
    assert "says something else than when" in notes("serve", "--engine", "sglang", "--manifest", "small.yaml")[0]
    (world / "small.yaml").write_text(small.manifest(name="other", engines={"sglang": {"launch": NEXTN}}))
    assert "was assembled from small, and small.yaml is other" in " ".join(
        notes("serve", "--engine", "sglang", "--manifest", "small.yaml")
    )


def test_the_founding_manifest_gives_its_command(world: Path) -> None:
    founding = Path(__file__).parents[2] / "manifests" / "glm-5.2-nvfp4-mtp.yaml"

    said = words("base", "--engine", "sglang", "--manifest", str(founding))

    assert "--speculative-algorithm NEXTN --moe-runner-backend flashinfer_cutlass" == " ".join(said[5:])


# Refusals


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("gone", "--engine", "vllm"), 3),
        (("base/config.json", "--engine", "vllm"), 3),
        (("empty", "--engine", "vllm"), 3),
        (("broken", "--engine", "vllm"), 3),
        (("base",), 2),
        (("base", "--engine", "ollama"), 2),
        (("base", "--engine", "transformers", "--tensor-parallel", "2"), 2),
        (("base", "--engine", "transformers", "--draft", "plain"), 2),
        (("base", "--engine", "vllm", "--port", "0"), 2),
        (("base", "--engine", "vllm", "--unknown"), 2),
        (("base", "--engine", "vllm", "--manifest", "gone.yaml"), 3),
        (("base", "--engine", "vllm", "--manifest", "empty"), 3),
        (("base", "--engine", "vllm", "--manifest", "base/config.json"), 3),
        (("base", "--engine", "vllm", "--draft", "gone"), 3),
        (("base", "--engine", "vllm", "--docker", "--privileged"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_launched(world: Path, arguments: tuple[str, ...], code: int) -> None:
    (world / "empty").mkdir()
    small.base().write(world / "broken")
    (world / "broken/config.json").write_text("{")

    assert code == overlay("launch", *arguments).code


def test_a_function_refuses_numbers_that_make_no_sense(world: Path) -> None:
    for wrong in ({"port": 70000}, {"tensor_parallel": 0}):
        with pytest.raises(api.launch.__globals__["UsageError"]):
            api.launch("base", "vllm", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="found something else"):
        api.launch("gone", "vllm")
