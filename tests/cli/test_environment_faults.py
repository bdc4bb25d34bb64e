"""Faults of the machine: exit 5, said in words, refused before anything is staged."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_inputs.running import command, run_here
from tests.bad_inputs.world import World, build, snapshot, write_shard

APPLY = ["apply", "recipe/mtp.yaml", "-o"]


@pytest.fixture
def common() -> Iterator[World]:
    """A world that every user may read, with a folder that nobody but root may write."""
    root = Path(tempfile.mkdtemp(prefix="overlay-test-"))
    root.chmod(0o755)
    world = build(root)
    (world / "closed").mkdir()
    (world / "closed").chmod(0o555)
    yield world
    shutil.rmtree(root)


def test_a_parent_that_may_not_be_written_is_refused(common: World) -> None:
    before = snapshot(common.root)

    code, err = _as_nobody([*APPLY, "closed/serve"], common)

    assert 5 == code
    assert "closed" in err.splitlines()[0]
    assert "Permission denied" in err.splitlines()[0]
    assert "hint: check the owner and mode of the file and its folders" == err.splitlines()[-1]
    assert before == snapshot(common.root)


def test_a_manifest_that_may_not_be_read_is_refused(common: World) -> None:
    (common / "recipe/mtp.yaml").chmod(0o000)

    code, err = _as_nobody([*APPLY, "closed/serve"], common)

    assert 5 == code
    assert "recipe/mtp.yaml" in err.splitlines()[0]


def test_a_shard_that_may_not_be_read_is_refused(common: World) -> None:
    (common / "base/model-00001-of-00002.safetensors").chmod(0o000)

    code, err = _as_nobody(["verify", "base"], common)

    assert code in (1, 5)
    assert "model-00001-of-00002.safetensors" in err


def test_a_lock_that_may_not_be_written_is_refused_and_nothing_is_left(common: World) -> None:
    (common / "recipe").chmod(0o555)
    before = snapshot(common.root)

    code, err = _as_nobody(["lock", "recipe/mtp.yaml"], common)

    assert 5 == code
    assert "recipe/mtp.lock.json" in err.splitlines()[0]
    assert before == snapshot(common.root)


@pytest.mark.parametrize(
    ("options", "word", "hint"),
    [("size=64k", "bytes of free space", "hint: free space"), ("nr_inodes=6", "free inodes", "hint: remove files")],
    ids=["no space", "no inodes"],
)
def test_a_full_disk_is_refused_before_anything_is_staged(options: str, word: str, hint: str, world: World) -> None:
    write_shard(world / "base/model-00001-of-00002.safetensors", {"large.weight": ("U8", [200_000])})
    (world / "base/model.safetensors.index.json").unlink()
    (world / "base/model-00002-of-00002.safetensors").unlink()
    (world / "base/model-00001-of-00002.safetensors").rename(world / "base/model.safetensors")
    _mount(world / "full", options)
    try:
        said = run_here([*APPLY, "full/serve", "--link", "copy"])
        left = os.listdir(world / "full")
    finally:
        subprocess.run(["umount", str(world / "full")], check=True)

    assert 5 == said.code
    assert word in said.err.splitlines()[0]
    assert said.err.splitlines()[-1].startswith(hint)
    assert [] == left


def test_a_read_only_file_system_is_refused(world: World) -> None:
    _mount(world / "full", "ro")
    try:
        said = run_here([*APPLY, "full/serve"])
    finally:
        subprocess.run(["umount", str(world / "full")], check=True)

    assert 5 == said.code
    assert "Read-only file system" in said.err
    assert "hint: the file system is read-only; choose another target" == said.err.splitlines()[-1]


def test_a_hard_link_to_another_file_system_is_refused_with_another_way(world: World) -> None:
    _mount(world / "full", "size=4m")
    try:
        said = run_here([*APPLY, "full/serve", "--link", "hardlink"])
        left = [name for name in os.listdir(world / "full") if name != ".serve.overlay.lock"]
    finally:
        subprocess.run(["umount", str(world / "full")], check=True)

    assert 5 == said.code
    assert "hint: use --link symlink, or --link copy where a full copy is wanted" == said.err.splitlines()[-1]
    assert [] == left


def test_a_repository_that_is_not_in_the_cache_is_refused_with_the_command_that_fetches_it(world: World) -> None:
    said = run_here(["verify", "hf://org/gone@v2"])

    assert 5 == said.code
    assert "hf download org/gone --revision v2" in said.err.splitlines()[-1]


def _mount(folder: Path, options: str) -> None:
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")


def _as_nobody(arguments: list[str], world: World) -> tuple[int, str]:
    """Run as a user whom permissions bind; root is none."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root cannot be refused, and there is no setpriv to become somebody else")
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    environment = {**os.environ, "OVERLAY_CACHE": str(world / "closed/cache"), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(line: list[str]) -> subprocess.CompletedProcess[str]:
        line = [*prefix, *command(line)]
        return subprocess.run(line, cwd=world.root, env=environment, capture_output=True, text=True, check=False)

    if run(["--version"]).returncode:
        pytest.skip("somebody else cannot read this Python's files")
    done = run(arguments)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr + done.stdout
