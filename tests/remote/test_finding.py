"""A base whose place is gone: found by content, or the error says what would do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from overlay.storage import stores
from tests.loopback_hub.hub import LoopbackHub
from tests.support.checkpoints import donor, manifest_text, sharded
from tests.support.commands import overlay

BASE = "org/base"


@pytest.fixture
def locked(hub: LoopbackHub, tmp_path: Path) -> Path:
    """A locked manifest whose base is on the Hub and whose donor lies beside it."""
    hub.seed(BASE, sharded().files())
    donor().write(tmp_path / "donor")
    path = tmp_path / "overlay.yaml"
    path.write_text(manifest_text(base=f"hf://{BASE}"))
    assert overlay("lock", path).code == 0
    return path


def _forget(caches: Path) -> None:
    """What this machine knows of repositories, but not of hashes."""
    stores._opened.clear()
    for folder in (caches / "overlay" / "hub", caches / "overlay" / "headers", caches / "huggingface"):
        shutil.rmtree(folder, ignore_errors=True)


def test_a_renamed_repository_is_followed(hub: LoopbackHub, locked: Path, tmp_path: Path, private_caches: Path) -> None:
    hub.rename(BASE, "new/name")
    _forget(private_caches)

    assert overlay("apply", locked, "-o", tmp_path / "serve").code == 0


def test_a_deleted_repository_is_found_in_a_folder_that_the_user_names(
    hub: LoopbackHub, locked: Path, tmp_path: Path, private_caches: Path
) -> None:
    hub.delete(BASE)
    _forget(private_caches)
    sharded().write(tmp_path / "disk" / "some" / "where")
    (tmp_path / "disk" / "other").mkdir()
    (tmp_path / "disk" / "other" / "model-00001-of-00002.safetensors").write_bytes(b"another")

    assert overlay("apply", locked, "--look-in", tmp_path / "disk", "-o", tmp_path / "serve").code == 0
    link = (tmp_path / "serve" / "model-00001-of-00002.safetensors").resolve()
    assert link.parent == (tmp_path / "disk" / "some" / "where").resolve()


def test_a_forced_push_is_answered_by_a_copy_in_the_cache(
    hub: LoopbackHub, locked: Path, tmp_path: Path, private_caches: Path
) -> None:
    """The same bytes under another commit, of another repository."""
    hub.seed("other/fork", sharded().files())
    other = tmp_path / "other.yaml"
    other.write_text(manifest_text(base="hf://other/fork", name="other"))
    assert overlay("apply", other, "-o", tmp_path / "fork").code == 0
    hub.force_push(BASE, {"README.md": b"gone"})
    stores._opened.clear()
    shutil.rmtree(private_caches / "overlay" / "hub")

    assert overlay("apply", locked, "-o", tmp_path / "serve").code == 0
    assert "fork" in str((tmp_path / "serve" / "model-00001-of-00002.safetensors").resolve())


def test_a_commit_that_only_changes_the_card_costs_no_weights(hub: LoopbackHub, locked: Path, tmp_path: Path) -> None:
    assert overlay("apply", locked, "-o", tmp_path / "one").code == 0
    hub.seed(BASE, {"README.md": b"# new words\n"})
    hub.seed("org/renamed", sharded().files())
    stores._opened.clear()
    hub.log.clear()

    for number, repo in enumerate((BASE, "org/renamed")):
        manifest = tmp_path / f"{number}.yaml"
        manifest.write_text(manifest_text(base=f"hf://{repo}"))
        assert overlay("apply", manifest, "-o", tmp_path / f"again-{number}").code == 0
    assert hub.log.bytes_of("*.safetensors") == 0, str(hub.log)


def test_what_would_satisfy_the_lock_is_said(
    hub: LoopbackHub, locked: Path, tmp_path: Path, private_caches: Path
) -> None:
    hub.delete(BASE)
    _forget(private_caches)
    half = sharded().files()
    name = "model-00001-of-00002.safetensors"
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / name).write_bytes(half[name])

    ended = overlay("apply", locked, "--look-in", tmp_path / "disk", "-o", tmp_path / "serve")
    assert ended.code == 5
    assert ended.refusal is not None
    assert BASE in ended.refusal.line
    (what,) = ended.refusal.others
    assert "the same 2 shards" in what
    assert f"{tmp_path / 'disk'} holds 1 of them" in what
    assert not (tmp_path / "serve").exists()


def test_a_copy_with_other_bytes_is_not_taken(
    hub: LoopbackHub, locked: Path, tmp_path: Path, private_caches: Path
) -> None:
    hub.delete(BASE)
    _forget(private_caches)
    folder = sharded().write(tmp_path / "disk")
    shard = folder / "model-00002-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    # Its header is right, and nobody has hashed it: it is taken, and refused as soon as it is.
    assert overlay("verify", folder, "--level", "content").code == 0

    assert overlay("apply", locked, "--look-in", tmp_path / "disk", "-o", tmp_path / "serve").code == 5


def test_the_copy_without_anything_else_is_preferred(
    hub: LoopbackHub, locked: Path, tmp_path: Path, private_caches: Path
) -> None:
    hub.delete(BASE)
    _forget(private_caches)
    for name, more in (("a", {"README.md": b"mine"}), ("b", {}), ("c", {"config.json": b"{}"})):
        folder = sharded().write(tmp_path / "disk" / name)
        for file, data in more.items():
            (folder / file).write_bytes(data)

    assert overlay("apply", locked, "--look-in", tmp_path / "disk", "-o", tmp_path / "serve").code == 0
    assert (tmp_path / "serve" / "model-00001-of-00002.safetensors").resolve().parent.name == "b"
