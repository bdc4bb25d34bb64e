"""A disk that is full: one line of ours, and none of the libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback_hub.hub import LoopbackHub
from tests.support.checkpoints import Checkpoint, donor, manifest_text, tensor

BIG = 2_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("needs root, to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_cache_that_is_full_is_said_in_one_line_with_its_hint(
    hub: LoopbackHub, tmp_path: Path, small_disk: Path
) -> None:
    shards = {"model.safetensors": [tensor("model.layers.0.w", "U8", (BIG,))]}
    hub.seed("org/base", Checkpoint(shards=shards, sidecars={"config.json": b"{}"}, index=None).files())
    hub.seed("org/donor", donor().files())
    manifest = tmp_path / "overlay.yaml"
    manifest.write_text(manifest_text(base="hf://org/base", donors={"bf16": "hf://org/donor"}))
    shutil.copytree(os.environ["HF_HOME"], small_disk / "huggingface")
    command = [sys.executable, "-m", "overlay", "apply", str(manifest), "-o", str(tmp_path / "serve"), "-q"]
    environment = {**os.environ, "HF_HOME": str(small_disk / "huggingface")}

    ended = subprocess.run(command, env=environment, capture_output=True, text=True)

    assert 5 == ended.returncode, ended.stderr
    first, second, *rest = ended.stderr.splitlines()
    assert first.startswith("error: hf://org/base@")
    assert first.endswith("the system says: No space left on device")
    assert second.startswith("hint: free space")
    assert [] == rest
    assert not (tmp_path / "serve").exists()
