"""A cache that is full or was damaged: one line of ours and none of the libraries, and a hint that helps."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.storage import stores
from tests.loopback_hub.hub import LoopbackHub
from tests.support.checkpoints import Checkpoint, donor, manifest_text, sharded, tensor
from tests.support.commands import overlay

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
    assert first.startswith(f"error: {small_disk}/huggingface/hub: expected ")
    assert "bytes of free space for what is to be fetched, found " in first
    assert second.startswith("hint: free space")
    assert [] == rest
    assert not (tmp_path / "serve").exists()


def test_a_cache_that_is_named_relatively_and_not_there_yet_has_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", "not/there")
    program = "from overlay.running.spacing import require_space_for; require_space_for([])"

    assert 0 == subprocess.run([sys.executable, "-c", program], timeout=20).returncode


def test_the_hint_about_a_cached_file_of_another_size_mends_it(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.seed("org/base", sharded().files())
    hub.seed("org/donor", donor().files())
    manifest = tmp_path / "overlay.yaml"
    manifest.write_text(manifest_text(base="hf://org/base", donors={"bf16": "hf://org/donor"}))
    assert 0 == overlay("apply", manifest, "-o", tmp_path / "serve").code
    blob = (tmp_path / "serve" / "model-00001-of-00002.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:100])
    stores._opened.clear()

    ended = overlay("apply", manifest, "-o", tmp_path / "other")
    assert ended.refusal is not None
    assert "expected 268 bytes, as the repository lists it, found 100" == ended.refusal.problem
    command = ended.refusal.hint.removesuffix(", then run the command again")
    subprocess.run(shlex.split(command), check=True)
    stores._opened.clear()

    assert 0 == overlay("apply", manifest, "-o", tmp_path / "other").code
