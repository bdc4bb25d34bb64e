"""SGLang's own parser on the words of a command, its own counters as a page, its own check of files:
``serve_sglang.py OUT.json WORDS``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ |= {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}

import sglang_stand_ins  # noqa: F401  # it comes before the first import of sglang
from prometheus_client import generate_latest
from sglang.srt.entrypoints.openai.protocol import CompletionRequest, SglExt
from sglang.srt.entrypoints.openai.utils import spec_tokens_details_from_meta_info
from sglang.srt.observability import metrics_collector
from sglang.srt.server_args import ServerArgs
from sglang.srt.utils.model_file_verifier import IntegrityError, verify


def parse(words: list[str]) -> dict[str, object]:
    """What the options of ``sglang.launch_server`` mean."""
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    found = parser.parse_args(words)
    keys = (
        "model_path",
        "speculative_algorithm",
        "speculative_draft_model_path",
        "moe_runner_backend",
        "tp_size",
        "port",
    )
    return {key: getattr(found, key) for key in (*keys, "model_checksum", "mem_fraction_static")}


def count() -> str:
    """The page after a completion of 31 tokens that took 15 steps."""
    # Buckets of histograms come from a running server's settings.
    metrics_collector.get_observability = lambda: SimpleNamespace(
        prompt_tokens_buckets=None, generation_tokens_buckets=None
    )
    collector = metrics_collector.TokenizerMetricsCollector(labels={"model_name": "x"})
    collector.observe_one_finished_request({"model_name": "x"}, 5, 31, 0, 1.0, False, spec_verify_ct=15)
    return generate_latest().decode()


def tell() -> dict[str, object]:
    """A completion's ``sglext``, as the server renders it, and whether the wish for it is known."""
    told = {
        "spec_accept_rate": 0.5,
        "spec_accept_length": 31 / 15,
        "spec_num_correct_drafts": 15,
        "spec_num_proposed_drafts": 30,
        "spec_verify_ct": 15,
        "spec_correct_drafts_histogram": [5, 5, 5],
    }
    asked = CompletionRequest(model="x", prompt="y", return_spec_tokens_details=True)
    assert asked.return_spec_tokens_details
    return SglExt(spec_tokens_details=spec_tokens_details_from_meta_info(told)).model_dump(mode="json")


def check(words: list[str], *, damaged: bool) -> str:
    """What the check of files says of the file that a command names; "" when it is content."""
    options = parse(words)
    path = Path(str(options["model_checksum"]))
    if damaged:
        document = json.loads(path.read_bytes())
        document["files"]["config.json"]["sha256"] = "0" * 64
        path = path.with_suffix(".damaged.json")
        path.write_text(json.dumps(document))
    try:
        verify(model_path=str(options["model_path"]), checksums_source=str(path))
    except IntegrityError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    words = json.loads(sys.argv[2])
    checks = [check(words, damaged=damaged) for damaged in (False, True)]
    answer = {"parsed": parse(words), "metrics": count(), "sglext": tell(), "checks": checks}
    Path(sys.argv[1]).write_text(json.dumps(answer))
