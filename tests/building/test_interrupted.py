"""A build that is interrupted goes on where it stopped, and takes over nothing that would come out otherwise now."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.building.donors import DRAFT_SHARD, graft, manifest_text
from tests.building.running import build
from tests.support.checkpoints import contents_of
from tests.support.commands import overlay

_KILLED_AFTER_THE_FIRST_SHARD = """
import os, signal, sys
from overlay.storage.drafts import Drafts
finish = Drafts.finish
def finish_and_die(self, *arguments):
    finish(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)
Drafts.finish = finish_and_die
from overlay.cli.main import main
sys.argv = ["overlay", "build", "draft.yaml", "-o", "built"]
main()
"""


@pytest.fixture
def two_shards(work: Path) -> Path:
    """`work` with a manifest of two grafts, each with half of the experts."""
    half = [
        graft(
            shard=f"model-0000{number}-of-00002.safetensors",
            tensors=[f"**.mlp.experts.{expert}.**" for expert in experts],
        )
        for number, experts in ((1, range(4)), (2, range(4, 8)))
    ]
    (work / "draft.yaml").write_text(manifest_text(grafts=half))
    return work


def interrupt(work: Path) -> None:
    """A build that is killed when its first shard is finished."""
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED_AFTER_THE_FIRST_SHARD], cwd=work, capture_output=True, check=False
    )
    assert -signal.SIGKILL == ended.returncode, ended.stderr
    assert not (work / "built").exists()


def test_an_interrupted_build_goes_on_with_the_shard_that_was_finished(two_shards: Path) -> None:
    interrupt(two_shards)
    draft = two_shards / ".built.overlay-build" / "model-00001-of-00002.safetensors"
    inode = draft.stat().st_ino

    ended = overlay("build", two_shards / "draft.yaml", "-o", two_shards / "built", "--json")

    assert [True, False] == [shard["taken_over"] for shard in ended.document["shards"]]
    assert inode == (two_shards / "built" / draft.name).stat().st_ino
    assert not draft.parent.exists()
    assert contents_of(two_shards / "built") == contents_of(build(two_shards, "whole"))


def test_a_finished_shard_that_was_touched_is_made_again(two_shards: Path) -> None:
    interrupt(two_shards)
    draft = two_shards / ".built.overlay-build" / "model-00001-of-00002.safetensors"
    draft.write_bytes(draft.read_bytes()[:-1] + b"?")

    ended = overlay("build", two_shards / "draft.yaml", "-o", two_shards / "built", "--json")

    assert [False, False] == [shard["taken_over"] for shard in ended.document["shards"]]
    assert contents_of(two_shards / "built") == contents_of(build(two_shards, "whole"))


@pytest.mark.parametrize("change", ["donor", "limits"])
def test_a_finished_shard_is_not_taken_over_for_another_donor_or_stricter_limits(two_shards: Path, change: str) -> None:
    interrupt(two_shards)
    if change == "donor":
        os.utime(two_shards / "donor" / DRAFT_SHARD, ns=(0, 0))
    else:
        document = json.loads((two_shards / "draft.yaml").read_text())
        document["grafts"][0]["limits"] = {"relative_rms": 0.5}
        (two_shards / "draft.yaml").write_text(json.dumps(document))

    ended = overlay("build", two_shards / "draft.yaml", "-o", two_shards / "built", "--json")

    assert [False, False] == [shard["taken_over"] for shard in ended.document["shards"]]


def test_a_full_disk_keeps_what_is_finished(two_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overlay.errors import EnvironmentFault
    from overlay.running import building

    convert, calls = building.convert, []

    def convert_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            raise EnvironmentFault("the system says: No space left on device")
        return convert(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(building, "convert", convert_once)
        assert 5 == overlay("build", two_shards / "draft.yaml", "-o", two_shards / "built").code

    assert not (two_shards / "built").exists()
    ended = overlay("build", two_shards / "draft.yaml", "-o", two_shards / "built", "--json")
    assert [True, False] == [shard["taken_over"] for shard in ended.document["shards"]]
