"""A branch that nobody could be asked about is taken as it was, and that is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.loopback_hub.hub import LoopbackHub
from tests.support.checkpoints import sharded


def _inspect(reference: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "overlay", "inspect", reference]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ.copy(), check=False)


def test_a_hub_that_is_down_is_not_silently_replaced_by_what_it_said(hub: LoopbackHub, private_caches: Path) -> None:
    hub.seed("org/base", sharded().files())
    first = _inspect("hf://org/base")
    assert first.returncode == 0, first.stderr
    assert "asked the Hub: " in first.stderr
    commit = hub.head("org/base").id
    os.environ["HF_ENDPOINT"], before = "http://127.0.0.1:9", os.environ["HF_ENDPOINT"]
    try:
        down = _inspect("hf://org/base")
    finally:
        os.environ["HF_ENDPOINT"] = before

    assert down.returncode == 5  # another endpoint is another Hub: what the first one said does not count

    hub.close()
    gone = _inspect("hf://org/base")
    assert gone.returncode == 0, gone.stderr
    assert f"is taken to be {commit}" in gone.stderr
