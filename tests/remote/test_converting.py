"""Drafts converted out of a donor on the Hub, over HTTP and through the chunk store: the bytes of a local donor."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.demo.replica import write_dense
from tests.building.donors import draft_donor, manifest_text, target_sidecars
from tests.loopback_hub.hub import LoopbackHub
from tests.support.checkpoints import GRAFT_SHARD, donor, sharded, write_files, write_graft
from tests.support.checkpoints import manifest_text as graft_text
from tests.support.commands import overlay

pytest.importorskip("torch")


def _files(folder: Path) -> dict[str, bytes | Path]:
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["hub", "xet_hub"])
def test_a_converted_draft_is_the_same_wherever_its_donor_is(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    hub: LoopbackHub = request.getfixturevalue(kind)
    write_dense(draft_donor(), tmp_path / "donor", 1)
    write_files(tmp_path / "target", target_sidecars(8))
    (tmp_path / "local.yaml").write_text(manifest_text())
    hub.seed("org/donor", _files(tmp_path / "donor"))
    hub.seed("org/target", _files(tmp_path / "target"))
    text = manifest_text().replace('"mtp": "donor"', '"mtp": "hf://org/donor"').replace('"target/', '"hf://org/target/')
    text = text.replace('"target": "target"', '"target": "hf://org/target"')
    assert text.count("hf://") >= 2
    (tmp_path / "remote.yaml").write_text(text)

    assert overlay("build", tmp_path / "local.yaml", "-o", tmp_path / "one").code == 0
    assert overlay("build", tmp_path / "remote.yaml", "-o", tmp_path / "other").code == 0

    for name in ("model-mtp.safetensors", "config.json", "model.safetensors.index.json"):
        if (tmp_path / "one" / name).exists():
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name
    shards = {path.name: path.read_bytes() for path in (tmp_path / "one").glob("*.safetensors")}
    assert shards == {path.name: path.read_bytes() for path in (tmp_path / "other").glob("*.safetensors")}
    assert not list(tmp_path.glob(".other*build"))


def test_what_a_conversion_reads_is_fetched_once_when_it_is_interrupted(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dense(draft_donor(), tmp_path / "donor", 1)
    write_files(tmp_path / "target", target_sidecars(8))
    hub.seed("org/donor", _files(tmp_path / "donor"))
    (tmp_path / "m.yaml").write_text(manifest_text().replace('"mtp": "donor"', '"mtp": "hf://org/donor"'))

    def fail(*arguments: object) -> None:
        raise RuntimeError("stop")

    with monkeypatch.context() as patch:
        patch.setattr("overlay.running.building.convert", fail)
        with pytest.raises(RuntimeError, match="stop"):
            overlay("build", tmp_path / "m.yaml", "-o", tmp_path / "built")
    hub.log.clear()

    assert overlay("build", tmp_path / "m.yaml", "-o", tmp_path / "built").code == 0
    assert hub.log.bytes_of("*.safetensors") == 0
    assert not list(tmp_path.glob(".built.overlay-build*"))


def test_a_graft_through_the_chunk_store_is_byte_exact(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    xet_hub.seed("org/base", sharded().files())
    xet_hub.seed("org/donor", donor().files())
    manifest = tmp_path / "overlay.yaml"
    manifest.write_text(graft_text(base="hf://org/base", donors={"bf16": "hf://org/donor"}))
    assert overlay("apply", manifest, "-o", tmp_path / "serve").code == 0
    assert overlay("apply", write_graft(tmp_path / "local"), "-o", tmp_path / "local" / "serve").code == 0

    expected = (tmp_path / "local" / "serve" / GRAFT_SHARD).read_bytes()
    assert (tmp_path / "serve" / GRAFT_SHARD).read_bytes() == expected
    assert overlay("verify", tmp_path / "serve", "--level", "content").code == 0
