"""What `launch` prints and `probe` reads, in the judgement of the engines' own parsers, counters and checks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from overlay import api
from overlay.core.probing import count_sglang, count_vllm
from overlay.formats.metrics import parse_metrics
from overlay.formats.server_answers import Steps, read_completion
from tests.engines.real.matrix import RUNNERS, VENV
from tests.support import small

pytestmark = pytest.mark.engines

LAUNCH = {
    "sglang": {"speculative-algorithm": "NEXTN", "moe-runner-backend": "flashinfer_cutlass", "tp": 4},
    "vllm": {"enable-prefix-caching": False, "speculative-config": {"num_speculative_tokens": 2}},
}


@pytest.fixture(autouse=True)
def installed() -> None:
    if not (VENV / "installed").exists():
        pytest.skip("the engines are not installed: make engines installs them")


@pytest.fixture
def serve(tmp_path: Path) -> Path:
    """A target whose manifest has launch options for both engines, proven."""
    path = small.write(tmp_path, drop=[], engines={name: {"launch": launch} for name, launch in LAUNCH.items()})
    api.apply(api.Request(sources=(str(path),)), str(tmp_path / "serve"), link="symlink", level="content")
    return tmp_path / "serve"


def run(engine: str, words: list[str], work: Path) -> dict[str, Any]:
    """What the engine's runner writes down."""
    out = work / "out.json"
    environment = {**os.environ, "HOME": str(work), "HF_HOME": str(work), "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    command = [VENV / "bin/python", RUNNERS / f"serve_{engine}.py", out, json.dumps(words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert 0 == done.returncode, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(out.read_bytes())
    return document


def test_vllm_understands_what_is_printed_and_is_understood(serve: Path, tmp_path: Path) -> None:
    manifest, extra = str(tmp_path / "small.yaml"), ("--max-model-len", "4096")
    found = api.launch(str(serve), "vllm", manifest=manifest, draft=str(serve), port=81, tensor_parallel=8, extra=extra)

    said = run("vllm", list(found.command.words[2:]), tmp_path)

    assert {
        "model_tag": str(serve),
        "speculative_config": {"method": "mtp", "model": str(serve), "num_speculative_tokens": 2},
        "tensor_parallel_size": 8,
        "port": 81,
        "enable_prefix_caching": False,
        "max_model_len": 4096,
    } == said["parsed"]
    counted = count_vllm(parse_metrics(said["metrics"].encode()))
    assert (3.0, 6.0, 3.0, (2.0, 1.0)) == (counted.drafts, counted.drafted, counted.accepted, counted.positions)


def test_sglang_understands_what_is_printed_and_is_understood(serve: Path, tmp_path: Path) -> None:
    manifest, sums = str(tmp_path / "small.yaml"), str(tmp_path / "sums.json")
    found = api.launch(
        str(serve), "sglang", manifest=manifest, checksum=sums, port=81, extra=("--mem-fraction-static", "0.8")
    )

    said = run("sglang", list(found.command.words[3:]), tmp_path)

    assert {
        "model_path": str(serve),
        "speculative_algorithm": "NEXTN",
        "speculative_draft_model_path": None,
        "moe_runner_backend": "flashinfer_cutlass",
        "tp_size": 4,
        "port": 81,
        "model_checksum": sums,
        "mem_fraction_static": 0.8,
    } == said["parsed"]
    content, damaged = said["checks"]
    assert "" == content
    assert "config.json: mismatch" in damaged
    counted = count_sglang(parse_metrics(said["metrics"].encode()))
    assert (31.0, 15.0) == (counted.tokens, counted.drafts)
    answer = {"choices": [], "usage": {"completion_tokens": 31}, "sglext": said["sglext"]}
    assert Steps(15, 30, 15, (5, 5, 5)) == read_completion(json.dumps(answer).encode()).steps
