"""What a manifest that came from the Hub may name of this machine: nothing, whether or not its repository is cached."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.storage import stores
from tests.loopback_hub import faults
from tests.loopback_hub.hub import LoopbackHub
from tests.support.checkpoints import donor, manifest_text, shard_bytes, sharded, tensor
from tests.support.commands import Ended, overlay

BASE, DONOR, REPO = "org/base", "org/donor", "me/diff"


@pytest.fixture(params=["asked", "cached"])
def cached(request: pytest.FixtureRequest) -> bool:
    """Whether all of the repository lies in the Hub's cache, as `hf download` leaves it."""
    return bool(request.param == "cached")


def _refused(hub: LoopbackHub, tmp_path: Path, *, cached: bool, **manifest: object) -> Ended:
    """How ``apply`` ends for a repository with `manifest`."""
    hub.seed(BASE, sharded().files())
    hub.seed(DONOR, donor().files())
    named = {"base": f"hf://{BASE}", "donors": {"bf16": f"hf://{DONOR}"}, **manifest}
    hub.seed(REPO, {"overlay.yaml": manifest_text(**named).encode()})
    if cached:
        from huggingface_hub import snapshot_download

        snapshot_download(REPO)
    ended = overlay("apply", f"hf://{REPO}", "-o", tmp_path / "serve")
    assert not (tmp_path / "serve").exists()
    return ended


@pytest.mark.parametrize("named", ["base", "donor"])
def test_a_checkpoint_of_this_machine_is_refused(hub: LoopbackHub, tmp_path: Path, cached: bool, named: str) -> None:
    sharded().write(tmp_path / "base")
    donor().write(tmp_path / "donor")
    place = str(tmp_path / named)
    manifest = {"base": place} if named == "base" else {"donors": {"bf16": place}}

    ended = _refused(hub, tmp_path, cached=cached, **manifest)

    assert 3 == ended.code
    assert ended.refusal is not None
    assert (
        "expected a reference that means the same for everybody, found a place of one machine" == ended.refusal.problem
    )


def test_a_manifest_of_this_machine_is_no_base(hub: LoopbackHub, tmp_path: Path, cached: bool) -> None:
    sharded().write(tmp_path / "base")
    donor().write(tmp_path / "donor")
    (tmp_path / "mine.yaml").write_text(manifest_text(base="base", donors={"bf16": "donor"}))

    ended = _refused(hub, tmp_path, cached=cached, base=str(tmp_path / "mine.yaml"))

    assert 3 == ended.code
    assert "found a place of one machine" in str(ended.refusal)


def test_a_server_of_this_machine_is_not_asked(hub: LoopbackHub, tmp_path: Path, cached: bool) -> None:
    place = f"{hub.url}/internal"
    base = _refused(hub, tmp_path, cached=cached, base=place)
    file = _refused(hub, tmp_path, cached=cached, files={"x.json": {"from": f"{place}/x.json"}})

    for ended in (base, file):
        assert 3 == ended.code
        assert "found a place of one machine" in str(ended.refusal)
    assert not [record for record in hub.log if record.path.startswith("/internal")], str(hub.log)


def test_the_user_may_name_a_checkpoint_of_this_machine_all_the_same(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import snapshot_download

    hub.seed(DONOR, donor().files())
    hub.seed(REPO, {"overlay.yaml": manifest_text(base=f"hf://{BASE}", donors={"bf16": f"hf://{DONOR}"}).encode()})
    sharded().write(tmp_path / "base")
    monkeypatch.chdir(snapshot_download(REPO))  # where "." is makes no difference to what the user types

    assert 0 == overlay("apply", f"hf://{REPO}", "--base", tmp_path / "base", "-o", tmp_path / "serve").code


@pytest.mark.parametrize("verb", ["lock", "build"])
@pytest.mark.parametrize("file", ["", "/overlay.yaml"])
def test_a_verb_that_works_on_a_manifest_of_this_machine_says_so(
    hub: LoopbackHub, tmp_path: Path, verb: str, file: str
) -> None:
    hub.seed(REPO, {"overlay.yaml": b"overlay: 1\n"})

    ended = overlay(verb, f"hf://{REPO}{file}", *(["-o", str(tmp_path / "built")] if verb == "build" else []))

    assert 2 == ended.code
    assert ended.refusal is not None
    assert f"hf://{REPO}{file}: expected a file on this machine, found a reference to the Hub" == ended.refusal.line


def test_a_manifest_in_a_folder_of_a_repository_is_refused_by_its_address(hub: LoopbackHub, tmp_path: Path) -> None:
    commit = hub.seed(REPO, {"sub/overlay.yaml": b"overlay: 1\n"})

    ended = overlay("plan", f"hf://{REPO}/sub/overlay.yaml", "-o", tmp_path / "serve")

    assert 3 == ended.code
    assert ended.refusal is not None
    assert (
        f"hf://{REPO}@{commit}/sub: expected a repository of the Hub as a whole, found a folder in it"
        == ended.refusal.line
    )


def test_a_header_that_was_spoilt_on_its_way_is_noticed_when_the_file_is_here(hub: LoopbackHub, tmp_path: Path) -> None:
    """A valid header with another dtype, which no check of headers alone can tell from the right one."""
    name = "model.safetensors"
    data = shard_bytes([tensor("model.layers.0.proj.weight", "BF16", (4, 8))])
    hub.seed(BASE, {name: data, "config.json": b"{}"})
    hub.seed(DONOR, donor().files())
    path = tmp_path / "overlay.yaml"
    path.write_text(manifest_text(base=f"hf://{BASE}", donors={"bf16": f"hf://{DONOR}"}))
    with hub.failing(faults.when(faults.bytes_of(name), faults.flip_bit(data.index(b"model.layers") + 13))):
        assert 0 == overlay("inspect", f"hf://{BASE}").code
    stores._opened.clear()

    ended = overlay("apply", path, "-o", tmp_path / "serve")

    assert 1 == ended.code
    assert ended.refusal is not None
    assert "expected the header that was read before" in ended.refusal.problem
    assert ended.refusal.hint.startswith("rm -r ")
    assert not (tmp_path / "serve").exists()


def test_what_one_hub_says_of_a_digest_is_not_believed_of_another(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror lists a shard of its own under the sha256 of somebody else's."""
    name = "model.safetensors"
    good = shard_bytes([tensor("good.weight", "BF16", (8,))])
    evil = shard_bytes([tensor("evil.weight", "BF16", (8,))])
    hub.seed(BASE, {name: good, "config.json": b"{}"})
    with LoopbackHub(tmp_path / "mirror") as mirror:
        mirror.seed("evil/twin", {name: evil, "config.json": b"{}"})
        mirror.misstate("evil/twin", name, sha256=hub.files(BASE)[name].sha256)
        with monkeypatch.context() as there:
            there.setenv("HF_ENDPOINT", mirror.url)
            assert 0 == overlay("inspect", "hf://evil/twin").code

    assert '"good.weight"' in overlay("diff", f"hf://{BASE}", _empty(tmp_path), "--tensors", "--json").output


def _empty(tmp_path: Path) -> Path:
    return sharded().write(tmp_path / "other")
