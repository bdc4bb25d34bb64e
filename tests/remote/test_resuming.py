"""Grafts that are fetched: what breaks, what a killed run leaves, and what the next one asks for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from overlay.core.checkpoint import TensorSource
from overlay.errors import EnvironmentFault
from overlay.formats.header_text import render_header
from overlay.storage import fetching, stores
from overlay.storage.fetching import fetch_shard
from overlay.storage.hub.patience import Patience
from tests.loopback_hub import faults
from tests.loopback_hub.hub import LoopbackHub
from tests.support.checkpoints import Checkpoint, Tensor, manifest_text, read_tensors, sharded, tensor
from tests.support.commands import overlay

DONOR = "org/donor"
BIG = 300_000
"""Elements of BF16 in a large tensor: 600 kB."""


def _donor() -> Checkpoint:
    """Layer 2 in two shards, behind things that nobody wants."""
    return Checkpoint(
        shards={
            "model-00001-of-00003.safetensors": sharded().tensors,
            "model-00002-of-00003.safetensors": [
                tensor("lm_head.weight", "BF16", (BIG,)),
                *(tensor(f"model.layers.2.a{number}.weight", "BF16", (BIG,)) for number in range(4)),
            ],
            "model-00003-of-00003.safetensors": [
                *(tensor(f"model.layers.2.b{number}.weight", "BF16", (BIG,)) for number in range(4)),
                tensor("model.layers.2.empty", "F32", (0,)),
                tensor("other.weight", "BF16", (BIG,)),
            ],
        },
        sidecars={"config.json": b"{}"},
    )


def _wanted() -> dict[str, Tensor]:
    return {entry.name: entry for entry in _donor().tensors if entry.name.startswith("model.layers.2.")}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon: nothing here gets better by waiting."""
    quick = Patience(tries=2, first_wait=0.01, total=5.0)
    monkeypatch.setattr("overlay.storage.hub.patience.PATIENCE", quick)


@pytest.fixture
def sources(hub: LoopbackHub) -> list[TensorSource]:
    """Layer 2 of a donor on `hub`, in the order of a new shard."""
    from overlay.running.locating import Places, locate, open_checkpoint

    hub.seed(DONOR, _donor().files())
    places = Places()
    seen = open_checkpoint(DONOR, locate(f"hf://{DONOR}", ".", places), places)
    found = [
        TensorSource(
            name,
            info.dtype,
            info.shape,
            shard.file,
            shard.header.data_start + info.begin,
            shard.header.data_start + info.end,
        )
        for shard in seen.shards.values()
        for name in shard.header.names
        if name in _wanted()
        for info in [shard.header[name]]
    ]
    hub.log.clear()
    return sorted(found, key=lambda source: source.name)


def _header(sources: list[TensorSource]) -> bytes:
    return render_header((s.name, s.dtype, s.shape) for s in sources)


def _fetch(path: Path, sources: list[TensorSource], recipe: str = "r") -> None:
    fetch_shard(str(path), _header(sources), sources, recipe, lambda count: None)


def _holds_layer_2(path: Path) -> bool:
    from tests.support.checkpoints import read_shard

    return read_shard(path) == _wanted()


def _data(sources: list[TensorSource]) -> int:
    return sum(source.end - source.begin for source in sources)


def test_neighbours_come_in_one_answer_and_nothing_else_comes(
    hub: LoopbackHub, sources: list[TensorSource], tmp_path: Path
) -> None:
    _fetch(tmp_path / "graft.safetensors", sources)

    assert _holds_layer_2(tmp_path / "graft.safetensors")
    assert hub.log.bytes_of("*.safetensors") == _data(sources)
    assert len(hub.log.about(stage="bytes")) == 2, str(hub.log)
    assert not (tmp_path / "graft.safetensors.journal").exists()


def test_a_broken_run_is_continued_where_it_stopped(
    hub: LoopbackHub, sources: list[TensorSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_JOURNALLED", 500_000)
    monkeypatch.setattr(fetching, "CONNECTIONS", 1)  # the first shard is there when the second one fails
    path = tmp_path / "graft.safetensors"
    with (
        hub.failing(faults.when(faults.bytes_of("*-00003-*"), faults.server_error(500))),
        pytest.raises(EnvironmentFault),
    ):
        _fetch(path, sources)
    hub.log.clear()
    stores._opened.clear()

    _fetch(path, sources)

    assert _holds_layer_2(path)
    assert hub.log.bytes_of("*-00002-*") == 0, "the first shard's tensors were on the disk"
    assert hub.log.bytes_of("*-00003-*") == sum(
        s.end - s.begin for s in sources if s.file.name.startswith("model-00003")
    )


def test_what_the_disk_lost_since_is_fetched_again(
    hub: LoopbackHub, sources: list[TensorSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_JOURNALLED", 1)
    monkeypatch.setattr(fetching, "CONNECTIONS", 1)
    path = tmp_path / "graft.safetensors"
    with (
        hub.failing(faults.when(faults.bytes_of("*-00003-*"), faults.server_error(500))),
        pytest.raises(EnvironmentFault),
    ):
        _fetch(path, sources)
    with path.open("r+b") as stream:  # a byte of the first tensor
        stream.seek(len(_header(sources)) + 7)
        stream.write(b"\xff\xff")
    with Path(f"{path}.journal").open("ab") as stream:
        stream.write(b'["model.layers.2.b0.weight","0')  # torn, as a killed run leaves it
    hub.log.clear()

    _fetch(path, sources)

    assert _holds_layer_2(path)
    assert hub.log.bytes_of("*-00002-*") == 2 * BIG


def test_another_recipe_begins_anew(hub: LoopbackHub, sources: list[TensorSource], tmp_path: Path) -> None:
    path = tmp_path / "graft.safetensors"
    with (
        hub.failing(faults.when(faults.bytes_of("*-00003-*"), faults.server_error(500))),
        pytest.raises(EnvironmentFault),
    ):
        _fetch(path, sources, "one")
    hub.log.clear()
    _fetch(path, sources, "another")

    assert _holds_layer_2(path)
    assert hub.log.bytes_of("*.safetensors") == _data(sources)


def test_what_was_fetched_whole_is_not_fetched_again_when_the_rest_fails(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharded().write(tmp_path / "base")
    hub.seed(DONOR, _donor().files())
    manifest = tmp_path / "overlay.yaml"
    manifest.write_text(manifest_text(base="base", donors={"bf16": f"hf://{DONOR}"}))

    def fail(*arguments: object) -> None:
        raise RuntimeError("stop")

    with monkeypatch.context() as patch:
        patch.setattr("overlay.running.applying._recheck", fail)
        with pytest.raises(RuntimeError, match="stop"):
            overlay("apply", manifest, "-o", tmp_path / "serve")
    hub.log.clear()

    assert overlay("apply", manifest, "-o", tmp_path / "serve").code == 0
    assert hub.log.bytes_of("*.safetensors") == 0
    assert not list(tmp_path.glob(".serve.overlay-build*"))


def test_apply_killed_while_it_fetches_leaves_no_target_and_goes_on(hub: LoopbackHub, tmp_path: Path) -> None:
    sharded().write(tmp_path / "base")
    hub.seed(DONOR, _donor().files())
    manifest = tmp_path / "overlay.yaml"
    manifest.write_text(manifest_text(base="base", donors={"bf16": f"hf://{DONOR}"}))
    command = [sys.executable, "-m", "overlay", "apply", str(manifest), "-o", str(tmp_path / "serve")]
    with hub.failing(faults.when(faults.bytes_of("*-00003-*"), faults.stall(after=700_000))):
        process = subprocess.Popen(command, env=os.environ.copy(), stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not hub.log.bytes_of("*-00003-*") or not list(tmp_path.glob(".serve*/*.journal")):
            assert time.monotonic() < deadline, str(hub.log)
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (tmp_path / "serve").exists()
    hub.log.clear()

    assert overlay("apply", manifest, "-o", tmp_path / "serve").code == 0
    assert set(read_tensors(tmp_path / "serve")) >= set(_wanted())
    assert hub.log.bytes_of("*-00002-*") in (0, 8 * BIG)  # kept, unless the kill came before its flush
    assert not list(tmp_path.glob(".serve*/*.journal"))
    assert overlay("apply", manifest, "-o", tmp_path / "serve", "--json").document["changed"] is False
    assert overlay("verify", tmp_path / "serve", "--level", "content").code == 0
