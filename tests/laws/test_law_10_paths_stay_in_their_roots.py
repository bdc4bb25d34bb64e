"""Law 10: every path stays in its root, whatever a manifest, an index or a link says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import (
    COMMIT,
    GRAFT_SHARD,
    INDEX,
    Checkpoint,
    manifest_text,
    sharded,
    snapshot_of,
    tensor,
    write_diff_only,
    write_graft,
    write_hub_cache,
)
from tests.support.commands import Ended, overlay

CANARY = b"the canary sings outside"

HOSTILE_SHARDS = (
    "../outside/canary.safetensors",
    "/tmp/canary.safetensors",
    "..",
    ".",
    "",
    "sub/x.safetensors",
    "..\\outside\\canary.safetensors",
    "nul\0.safetensors",
    "line\nbreak.safetensors",
    "~/canary.safetensors",
    "x" * 300 + ".safetensors",
)
HOSTILE_FILES = (
    "../canary.txt",
    "/tmp/canary.txt",
    "..",
    "sub/../../canary.txt",
    "sub//x.txt",
    "..\\canary.txt",
    "nul\0.txt",
    "~/canary.txt",
    "$HOME/x.txt",
    ".overlay/receipt.json",
    ".git/config",
    "-rf",
    "config.json/../../x",
    "a/b/c/d/e.txt",
    INDEX,
    "model.safetensors",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """``inside`` with a base, a donor and a manifest; ``outside`` with canaries in every form."""
    outside = tmp_path / "outside"
    Checkpoint(shards={"canary.safetensors": [_canary_tensor()]}, sidecars={"canary.txt": CANARY}).write(outside)
    write_graft(tmp_path / "inside")
    return tmp_path


def _canary_tensor() -> Any:
    return tensor("model.layers.0.canary", "U8", (len(CANARY),))._replace(data=CANARY)


def _require_contained(root: Path, command: Callable[[], Ended], *, code: int | tuple[int, ...] = 3) -> None:
    """`command` refuses, writes nowhere, and leaves no target."""
    before = snapshot_of(root)

    ended = command()

    assert ended.code in (code if isinstance(code, tuple) else (code,)), ended
    assert not os.path.lexists(root / "serve")
    assert snapshot_of(root) == before


def _apply(root: Path, *more: str | Path) -> Callable[[], Ended]:
    return lambda: overlay("apply", root / "inside" / "overlay.yaml", "-o", root / "serve", *more)


# Names in a manifest


@pytest.mark.parametrize("name", HOSTILE_SHARDS)
def test_a_manifest_cannot_name_a_shard_outside_the_target(root: Path, name: str) -> None:
    graft = {"shard": name, "from": "bf16", "tensors": ["model.layers.2.**"]}
    (root / "inside" / "overlay.yaml").write_text(manifest_text(grafts=[graft]))

    _require_contained(root, _apply(root))


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_a_manifest_cannot_name_a_sidecar_outside_the_target(root: Path, name: str) -> None:
    (root / "inside" / "notes.txt").write_text("harmless")
    (root / "inside" / "overlay.yaml").write_text(manifest_text(files={name: {"from": "notes.txt"}}))

    _require_contained(root, _apply(root))


@pytest.mark.parametrize("text", ["hf://org/../canary.txt", "hf://org/name/../../../canary.txt", "file:///etc/passwd"])
def test_a_manifest_cannot_leave_a_repository_by_its_address(root: Path, text: str) -> None:
    (root / "inside" / "overlay.yaml").write_text(manifest_text(files={"x.txt": {"from": text}}))

    _require_contained(root, _apply(root))


@pytest.mark.parametrize("revision", ["../../../outside", "..", "%2e%2e%2f%2e%2e"])
def test_a_revision_cannot_leave_the_cache(root: Path, revision: str) -> None:
    write_hub_cache(Path(os.environ["HF_HOME"]) / "hub", sharded())
    (root / "inside" / "overlay.yaml").write_text(manifest_text(base=f"hf://org/tiny@{revision}"))

    _require_contained(root, _apply(root), code=(3, 5))


def test_a_ref_cannot_lead_out_of_the_cache(root: Path) -> None:
    cache = Path(os.environ["HF_HOME"]) / "hub"
    write_hub_cache(cache, sharded())
    (cache / "models--org--tiny" / "refs" / "main").write_text("../../../outside")
    (root / "inside" / "overlay.yaml").write_text(manifest_text(base="hf://org/tiny"))

    _require_contained(root, _apply(root), code=5)


# Names in an index


@pytest.mark.parametrize("where", ["base", "donor"])
@pytest.mark.parametrize("name", HOSTILE_SHARDS)
def test_an_index_cannot_name_a_shard_outside_its_folder(root: Path, where: str, name: str) -> None:
    _map(root / "inside" / where / INDEX, "model.layers.0.canary", name)

    _require_contained(root, _apply(root))


@pytest.mark.parametrize("name", HOSTILE_SHARDS)
def test_the_index_of_a_diff_only_repository_cannot_name_a_shard_outside(root: Path, name: str) -> None:
    repo = write_diff_only(root / "repo")
    _map(repo / INDEX, "model.layers.2.canary", name)

    _require_contained(
        root, lambda: overlay("apply", "--base", root / "inside" / "base", "--graft", repo, "-o", root / "serve")
    )


# Links


def _link_shard(folder: Path) -> None:
    shard = next(iter(sorted(folder.glob("*.safetensors"))))
    shard.unlink()
    shard.symlink_to("../../outside/canary.safetensors")


def _link_sidecar(folder: Path) -> None:
    (folder / "x.txt").symlink_to("../../outside/canary.txt")


def _link_absolutely(folder: Path) -> None:
    (folder / "x.txt").symlink_to((folder / "../../outside/canary.txt").resolve())


def _link_in_two_steps(folder: Path) -> None:
    (folder / "y.txt").symlink_to("../../outside/canary.txt")
    (folder / "x.txt").symlink_to("y.txt")


def _link_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / INDEX).symlink_to(f"../../outside/{INDEX}")


def _link_folder(folder: Path) -> None:
    (folder / "additional_chat_templates").symlink_to("../../outside")


def _link_to_a_blob_elsewhere(folder: Path) -> None:
    blob = folder / "../../outside/blobs" / ("0" * 64)
    blob.parent.mkdir()
    blob.write_bytes(CANARY)
    (folder / "x.txt").symlink_to(f"../../outside/blobs/{'0' * 64}")


def _loop(folder: Path) -> None:
    (folder / "x.txt").symlink_to("x.txt")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "x.txt")


_LINKS = (
    _link_shard,
    _link_sidecar,
    _link_absolutely,
    _link_in_two_steps,
    _link_index,
    _link_folder,
    _link_to_a_blob_elsewhere,
    _loop,
    _fifo,
)


@pytest.mark.parametrize("where", ["base", "donor"])
@pytest.mark.parametrize("link", _LINKS)
def test_a_link_out_of_a_checkpoint_is_refused(root: Path, where: str, link: Callable[[Path], None]) -> None:
    link(root / "inside" / where)

    _require_contained(root, _apply(root))


def test_a_link_out_of_a_diff_only_repository_is_refused(root: Path) -> None:
    repo = write_diff_only(root / "inside" / "repo")
    _link_sidecar(repo)

    _require_contained(
        root, lambda: overlay("apply", "--base", root / "inside" / "base", "--graft", repo, "-o", root / "serve")
    )


def test_a_link_out_of_a_snapshot_is_refused_although_blobs_lie_outside(root: Path) -> None:
    snapshot = write_hub_cache(root / "inside" / "cache", sharded())
    (snapshot / "x.txt").symlink_to(root / "outside" / "canary.txt")

    _require_contained(root, _apply(root, "--base", snapshot))


def test_a_sidecar_that_the_manifest_takes_from_its_folder_may_not_be_a_link_out_of_it(root: Path) -> None:
    (root / "inside" / "x.txt").symlink_to(root / "outside" / "canary.txt")
    (root / "inside" / "overlay.yaml").write_text(manifest_text(files={"x.txt": {"from": "x.txt"}}))

    _require_contained(root, _apply(root))


def test_a_folder_that_the_manifest_takes_from_may_not_be_a_link_out_of_it(root: Path) -> None:
    (root / "inside" / "sub").symlink_to(root / "outside")
    (root / "inside" / "overlay.yaml").write_text(manifest_text(files={"x.txt": {"from": "sub/canary.txt"}}))

    _require_contained(root, _apply(root))


def test_a_shard_that_was_built_before_may_not_be_a_link_out_of_its_folder(root: Path) -> None:
    (root / "inside" / GRAFT_SHARD).symlink_to(root / "outside" / "canary.safetensors")
    graft = {"shard": GRAFT_SHARD, "from": "bf16", "tensors": ["model.layers.0.canary"]}
    (root / "inside" / "overlay.yaml").write_text(manifest_text(grafts=[graft]))

    _require_contained(root, _apply(root))


def test_a_sidecar_may_be_a_link_to_a_blob_of_its_snapshot(root: Path) -> None:
    files = {**sharded().sidecars, "x.txt": b"of the repository"}
    snapshot = write_hub_cache(Path(os.environ["HF_HOME"]) / "hub", Checkpoint(shards={}, sidecars=files, index=None))
    changes = {"a.txt": {"from": f"hf://org/tiny@{COMMIT}/x.txt"}, "b.txt": {"from": str(snapshot / "x.txt")}}
    (root / "inside" / "overlay.yaml").write_text(manifest_text(files=changes))

    ended = _apply(root)()

    assert ended.code == 0, ended
    assert [b"of the repository"] * 2 == [(root / "serve" / name).read_bytes() for name in ("a.txt", "b.txt")]


# Targets


def test_a_target_that_is_a_link_is_refused(root: Path) -> None:
    (root / "link").symlink_to(root / "outside")
    before = snapshot_of(root)

    ended = overlay("apply", root / "inside" / "overlay.yaml", "-o", root / "link")

    assert ended.code == 4, ended
    assert snapshot_of(root) == before


def test_the_lock_of_a_target_is_not_followed(root: Path) -> None:
    (root / ".serve.overlay.lock").symlink_to(root / "outside" / "canary.txt")

    _require_contained(root, _apply(root), code=5)


def test_a_receipt_cannot_name_a_file_outside_its_target(root: Path) -> None:
    assert _apply(root)().code == 0
    receipt = root / "serve" / ".overlay" / "receipt.json"
    document = json.loads(receipt.read_bytes())
    document["files"]["../outside/canary.txt"] = document["files"].pop("LICENSE")
    receipt.write_text(json.dumps(document))
    before = snapshot_of(root / "outside", root / "inside")

    verified, applied = overlay("verify", root / "serve"), _apply(root)()

    assert (1, 0) == (verified.code, applied.code)
    assert snapshot_of(root / "outside", root / "inside") == before


def test_a_private_file_that_became_a_link_out_is_replaced_and_not_written_through(root: Path) -> None:
    assert _apply(root)().code == 0
    before = snapshot_of(root / "outside", root / "inside", root / "serve")
    (root / "serve" / "LICENSE").unlink()
    (root / "serve" / "LICENSE").symlink_to(root / "outside" / "canary.txt")

    verified, applied = overlay("verify", root / "serve"), _apply(root)()

    assert (1, 0) == (verified.code, applied.code)
    assert b"MIT\n" == (root / "serve" / "LICENSE").read_bytes()
    assert not (root / "serve" / "LICENSE").is_symlink()
    outside = {path: seen for path, seen in before.items() if not path.startswith(str(root / "serve"))}
    assert snapshot_of(root / "outside", root / "inside") == outside


def _map(index: Path, name: str, shard: str) -> None:
    document = json.loads(index.read_bytes())
    document["weight_map"][name] = shard
    index.write_text(json.dumps(document))
