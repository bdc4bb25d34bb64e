"""vLLM's own parser on the words of a command, and its own counters as a page: ``serve_vllm.py OUT.json WORDS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from prometheus_client import generate_latest
from vllm.entrypoints.common.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.spec_decode.metrics import SpecDecodingProm, SpecDecodingStats


def parse(words: list[str]) -> dict[str, object]:
    """What the options of ``vllm serve`` mean."""
    found = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    keys = ("model_tag", "speculative_config", "tensor_parallel_size", "port", "enable_prefix_caching", "max_model_len")
    return {key: getattr(found, key) for key in keys}


def count() -> str:
    """The page after three drafts of two tokens, of which 2, 1 and 0 were accepted, over two engines."""
    labels = {engine: ['a"b\\c', str(engine)] for engine in (0, 1)}
    counters = SpecDecodingProm(SimpleNamespace(num_speculative_tokens=2), ["model_name", "engine"], labels)
    for engine, accepted in ((0, 2), (0, 1), (1, 0)):
        stats = SpecDecodingStats.new(2)
        stats.observe_draft(2, accepted)
        counters.observe(stats, engine)
    return generate_latest().decode()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({"parsed": parse(json.loads(sys.argv[2])), "metrics": count()}))
