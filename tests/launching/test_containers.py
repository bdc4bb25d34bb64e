"""What a container needs: every folder that links lead through, by the path that they spell, read-only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay import api
from overlay.core.launching import Mount
from tests.support import small
from tests.support.checkpoints import write_hub_cache
from tests.support.commands import overlay


def mounts(folder: Path | str, *arguments: str) -> list[Mount]:
    document = overlay("launch", str(folder), "--engine", "vllm", *arguments, "--json").document
    return [Mount(**mount) for mount in document["mounts"]]


def same(path: Path | str) -> Mount:
    return Mount(str(path), str(path))


def readable_through(found: list[Mount], folder: Path, root: Path) -> set[str]:
    """The files of `folder` that can be read where only `found` is mounted: links are followed in a tree made of them."""
    tree = root / "container"
    for mount in found:
        place = tree / mount.target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.is_dir():
            os.symlink(mount.source, place)
    return {name for name in os.listdir(folder) if _reads(tree, f"{folder}/{name}")}


def _reads(tree: Path, path: str) -> bool:
    """Follow `path` as a process would whose root is `tree`, whose only links are the mounts themselves."""
    for _ in range(40):
        outer = f"{tree}{os.path.dirname(path)}"
        inside = next((f for f in _parents(outer) if os.path.islink(f)), None)
        if inside is None:
            return False
        place = os.path.realpath(inside) + outer.removeprefix(inside) + "/" + os.path.basename(path)
        if not os.path.islink(place):
            return os.path.isfile(place)
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(place)))
    return False


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(2, len(parts) + 1)]


def test_a_checkpoint_of_its_own_needs_itself(tmp_path: Path) -> None:
    small.base().write(tmp_path / "base")

    assert [same(tmp_path / "base")] == mounts(tmp_path / "base")


def test_a_target_needs_the_base_that_its_links_lead_to(tmp_path: Path) -> None:
    path = small.write(tmp_path)
    api.apply(api.Request(sources=(str(path),)), str(tmp_path / "serve"), link="symlink")

    assert [same(tmp_path / "serve"), same(tmp_path / "base")] == mounts(tmp_path / "serve")


def test_a_target_of_a_hub_snapshot_needs_its_blobs(tmp_path: Path) -> None:
    snapshot = write_hub_cache(tmp_path / "cache", small.base())
    path = small.write(tmp_path, base=str(snapshot))
    api.apply(api.Request(sources=(str(path),)), str(tmp_path / "serve"), link="symlink")

    found = mounts(tmp_path / "serve")

    assert [same(tmp_path / "serve"), same(snapshot.parents[1] / "blobs")] == found
    assert set(os.listdir(tmp_path / "serve")) - {".overlay"} == readable_through(found, tmp_path / "serve", tmp_path)


def test_a_snapshot_whose_blobs_are_links_themselves_needs_both_hops(tmp_path: Path) -> None:
    snapshot = write_hub_cache(tmp_path / "cache", small.base())
    blobs, store = snapshot.parents[1] / "blobs", tmp_path / "cache" / "blobs"
    for blob in sorted(blobs.iterdir()):
        place = store / blob.name[:2] / blob.name
        place.parent.mkdir(parents=True, exist_ok=True)
        blob.rename(place)
        blob.symlink_to(f"../../blobs/{blob.name[:2]}/{blob.name}")

    found = mounts(snapshot)

    assert same(snapshot) == found[0]
    assert {same(blobs), *(same(folder) for folder in store.iterdir())} == set(found[1:])
    assert set(os.listdir(snapshot)) == readable_through(found, snapshot, tmp_path)


def test_paths_that_lead_through_links_to_folders_keep_their_spelling(tmp_path: Path) -> None:
    (tmp_path / "disk/models").mkdir(parents=True)
    (tmp_path / "data").symlink_to("disk/models")
    path = small.write(tmp_path / "disk/models")
    api.apply(api.Request(sources=(str(path),)), str(tmp_path / "disk/models/serve"), link="symlink")
    (tmp_path / "current").symlink_to("data/serve")

    found = mounts(tmp_path / "current")

    real = tmp_path / "disk/models"
    assert [Mount(str(real / "serve"), str(tmp_path / "current")), same(real / "base")] == found
    assert {small.FIRST, small.SECOND, small.NEW} <= readable_through(found, tmp_path / "current", tmp_path)


def test_the_command_runs_in_a_container_with_all_it_needs(tmp_path: Path) -> None:
    path = small.write(tmp_path / "my models")
    api.apply(api.Request(sources=(str(path),)), str(tmp_path / "serve"), link="symlink")

    sglang = overlay(
        "launch", tmp_path / "serve", "--engine", "sglang", "--docker", "lmsysorg/sglang", "--json"
    ).document
    vllm = overlay(
        "launch", tmp_path / "serve", "--engine", "vllm", "--docker", "img", "--port", "81", "--json"
    ).document

    base = f"{tmp_path}/my models/base"
    assert [
        *("docker", "run", "--rm", "--gpus", "all", "--ipc=host", "-p", "127.0.0.1:30000:30000"),
        *("-v", f"{tmp_path}/serve:{tmp_path}/serve:ro", "-v", f"{base}:{base}:ro"),
        *(
            "--entrypoint",
            "python3",
            "lmsysorg/sglang",
            "-m",
            "sglang.launch_server",
            "--model-path",
            f"{tmp_path}/serve",
        ),
        *("--host", "0.0.0.0"),
    ] == [word for word in sglang["words"] if word not in ("--speculative-algorithm", "NEXTN")]
    assert "127.0.0.1:81:81" in vllm["words"]
    assert "--host" not in vllm["words"]


def test_the_draft_is_mounted_too(tmp_path: Path) -> None:
    small.base().write(tmp_path / "base")
    small.base().write(tmp_path / "draft")

    assert [same(tmp_path / "base"), same(tmp_path / "draft")] == mounts(
        tmp_path / "base", "--draft", str(tmp_path / "draft")
    )


def test_links_that_lead_to_somebody_elses_files_are_not_mounted(tmp_path: Path) -> None:
    small.base().write(tmp_path / "base")
    (tmp_path / "private").mkdir()
    (tmp_path / "private/id_rsa").write_text("secret")
    (tmp_path / "base/notes.txt").symlink_to(tmp_path / "private/id_rsa")

    refused = overlay("launch", tmp_path / "base", "--engine", "vllm")
    allowed = mounts(tmp_path / "base", "--allow-root", str(tmp_path / "private"))

    assert 3 == refused.code
    assert "found a link to" in str(refused.refusal)
    assert [same(tmp_path / "base"), same(tmp_path / "private")] == allowed


@pytest.mark.parametrize("target", ["gone", "notes.txt"])
def test_links_that_lead_nowhere_are_refused(tmp_path: Path, target: str) -> None:
    small.base().write(tmp_path / "base")
    (tmp_path / "base/notes.txt").symlink_to(target)

    assert 3 == overlay("launch", tmp_path / "base", "--engine", "vllm").code


def test_a_colon_in_a_path_cannot_be_mounted(tmp_path: Path) -> None:
    small.base().write(tmp_path / "a:b")

    ended = overlay("launch", tmp_path / "a:b", "--engine", "vllm", "--docker", "img")

    assert 2 == ended.code
    assert "expected paths without a colon" in str(ended.refusal)
    assert 0 == overlay("launch", tmp_path / "a:b", "--engine", "vllm").code
