"""Shared blocks, on real XFS and btrfs images: links, trims and what they cost.

The images are mounted through a loop device, which takes root; anywhere else these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import (
    Checkpoint,
    Tensor,
    manifest_text,
    read_shard,
    read_tensors,
    snapshot_of,
    tensor,
)
from tests.support.commands import overlay

MB = 1 << 20
IMAGE_BYTES = 3 << 30
"""Size of an image; it is a sparse file, and takes what is written into it."""

SHARDS = 46
LITTLE = 2 * MB
"""What blocks at the seams, headers and the file system's own tables may take."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mounted file system that can share blocks; unmounted whatever happens."""
    maker = f"mkfs.{request.param}"
    if os.geteuid() != 0:
        pytest.skip("only root can mount an image")
    if shutil.which(maker) is None:
        pytest.skip(f"{maker} is not installed")
    folder = tmp_path_factory.mktemp(str(request.param))
    image, place = folder / "image", folder / "mounted"
    place.mkdir()
    with image.open("wb") as stream:
        stream.truncate(IMAGE_BYTES)
    subprocess.run([maker, "-q", str(image)], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no {request.param} image can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        image.unlink()


@pytest.fixture
def work(disk: Path) -> Iterator[Path]:
    """A new folder on that file system."""
    folder = disk / "work"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def used(folder: Path) -> int:
    """Bytes of the file system that are taken, once everything is on the disk."""
    subprocess.run(["sync", "-f", str(folder)], check=True)
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def available(folder: Path) -> int:
    """Bytes that may still be written, once everything is on the disk."""
    used(folder)
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def dense(name: str, size: int, dtype: str = "U8") -> Tensor:
    """A tensor of random bytes: nothing can be saved by leaving zeros out."""
    return Tensor(name, dtype, (size,), os.urandom(size))


def one_shard(*tensors: Tensor) -> Checkpoint:
    """A base of a large shard and a little one, without sidecars."""
    return Checkpoint(
        shards={
            "model-00001-of-00002.safetensors": list(tensors),
            "model-00002-of-00002.safetensors": [tensor("last")],
        }
    )


def write_manifest(work: Path, **changes: Any) -> Path:
    path = work / "overlay.yaml"
    path.write_text(manifest_text(**{"donors": {}, "grafts": [], **changes}))
    return path


def apply(work: Path, link: str = "auto") -> dict[str, Any]:
    """Apply the manifest in `work`; gives back the receipt's files."""
    done = overlay("apply", work / "overlay.yaml", "-o", work / "serve", "--link", link, "--json")
    assert 0 == done.code, done.refusal
    files: dict[str, Any] = done.document["receipt"]["files"]
    return files


def require_content(work: Path) -> None:
    """Every byte of the target is what a content lock pins, and what the receipt says."""
    locked = overlay("lock", work / "overlay.yaml", "--upgrade", "--json")
    assert 0 == locked.code, locked.refusal
    assert 0 == overlay("apply", work / "overlay.yaml", "-o", work / "serve", "--json").code
    verdict = overlay("verify", work / "serve", "--level", "content", "--json")
    assert 0 == verdict.code, verdict.output
    assert [] == verdict.document["findings"]


@pytest.mark.parametrize("link", ["auto", "reflink"])
def test_linked_shards_take_no_space(link: str, work: Path) -> None:
    names = [f"model-{number:05d}-of-{SHARDS:05d}.safetensors" for number in range(1, SHARDS + 1)]
    Checkpoint(shards={name: [dense(f"t{n}", 4 * MB)] for n, name in enumerate(names)}).write(work / "base")
    write_manifest(work)
    before, inputs = used(work), snapshot_of(work / "base")

    files = apply(work, link)

    cost = used(work) - before
    assert dict.fromkeys(names, "reflink") == {name: files[name]["how"] for name in names}
    assert cost < LITTLE
    assert all(not (work / "serve" / name).is_symlink() for name in names)
    assert all((work / "serve" / n).stat().st_ino != (work / "base" / n).stat().st_ino for n in names)
    assert all((work / "serve" / n).read_bytes() == (work / "base" / n).read_bytes() for n in names)
    (work / "serve" / names[0]).write_bytes(b"a private copy")
    assert inputs == snapshot_of(work / "base")
    print(f"\n{work.parent}: {SHARDS} shards of 4 MB as {link}: {cost / 1e3:.0f} kB")


CASES = {
    "whole blocks leave": ([("a", 100 * MB), ("gone", 16 * MB), ("z", 140 * MB)], {"gone"}),
    "the first leaves": ([("gone", 12_345 * 8), ("z", 256 * MB)], {"gone"}),
    "the last leaves": ([("a", 256 * MB), ("gone", 1_000_003)], {"gone"}),
    "a pair of scalars leaves": (
        [("gone", 4), ("gone2", 4), ("small", 40_000), ("z", 256 * MB + 77)],
        {"gone", "gone2"},
    ),
    "several leave": ([("a", 64 * MB), ("g", 4 * MB), ("m", 128 * MB), ("h", 8 * MB), ("z", 52 * MB)], {"g", "h"}),
    "an odd one leaves near the end": ([("a", 250 * MB), ("gone", 12_344), ("z", 6 * MB // 8)], {"gone"}),
}


@pytest.mark.parametrize(("sizes", "removed"), CASES.values(), ids=CASES.keys())
def test_a_trim_shares_the_blocks_that_stay(sizes: list[tuple[str, int]], removed: set[str], work: Path) -> None:
    tensors = [dense(name, size) for name, size in sizes]
    one_shard(*tensors).write(work / "base")
    write_manifest(work, drop=sorted(removed))
    before = used(work)

    files = apply(work)

    cost = used(work) - before
    shard = "model-00001-of-00002.safetensors"
    assert "trim" == files[shard]["how"]
    assert {t.name: t for t in tensors if t.name not in removed} == read_shard(work / "serve" / shard)
    print(f"\n{work.parent}: a trim of {files[shard]['size'] / MB:.0f} MiB: {cost / 1e3:.0f} kB")
    assert cost < LITTLE
    require_content(work)


def test_a_trim_that_cannot_share_is_right_all_the_same(work: Path) -> None:
    tensors = [
        dense("a", 16 * MB),
        dense("gone", 4 * MB + 3),
        dense("m", 16 * MB),
        dense("gone2", 13),
        dense("z", 9 * MB),
    ]
    one_shard(*tensors).write(work / "base")
    write_manifest(work, drop=["gone*"])

    apply(work)

    kept = {t.name: t for t in tensors if not t.name.startswith("gone")}
    assert kept == read_shard(work / "serve" / "model-00001-of-00002.safetensors")
    require_content(work)


def test_holes_stay_holes(work: Path) -> None:
    tensors = [Tensor(name, "U8", (48 * MB,), bytes(48 * MB)) for name in ("a", "gone", "z")]
    one_shard(*tensors).write(work / "base")
    shard = work / "base" / "model-00001-of-00002.safetensors"
    subprocess.run(["fallocate", "--dig-holes", str(shard)], check=True)
    write_manifest(work, drop=["gone"])
    before = used(work)

    apply(work)

    assert used(work) - before < LITTLE
    assert 2 * 48 * MB == sum(len(t.data) for t in read_shard(work / "serve" / shard.name).values())


def test_a_replacement_builds_its_graft_and_trims_the_rest(work: Path) -> None:
    old = [dense("a", 64 * MB), dense("b", 8 * MB), dense("c", 64 * MB)]
    new = dense("b", 8 * MB)
    one_shard(*old).write(work / "base")
    Checkpoint(shards={"d.safetensors": [dense("other", MB), new]}).write(work / "donor")
    graft = "model-00003-of-00003.safetensors"
    write_manifest(
        work, donors={"new": "donor"}, grafts=[{"shard": graft, "from": "new", "tensors": ["b"], "mode": "replace"}]
    )
    before, inputs = used(work), snapshot_of(work / "base", work / "donor")

    files = apply(work)

    cost = used(work) - before
    assert ["build", "reflink", "trim"] == sorted(
        placed["how"] for name, placed in files.items() if "saf" in name[-12:]
    )
    found = read_tensors(work / "serve")
    assert (graft, new) == found["b"]
    assert [old[0], old[2]] == [found["a"][1], found["c"][1]]
    assert 8 * MB <= cost + LITTLE
    assert cost < 8 * MB + LITTLE
    assert inputs == snapshot_of(work / "base", work / "donor")
    require_content(work)


def test_a_full_file_system_is_refused_before_anything_is_staged_and_a_link_still_fits(disk: Path, work: Path) -> None:
    one_shard(dense("a", 128 * MB)).write(work / "base")
    write_manifest(work)
    filler = work / "filler"
    try:
        with filler.open("wb") as stream:
            while (too_much := available(disk) - 100 * MB) > 0:  # btrfs finds more room as it fills up
                os.posix_fallocate(stream.fileno(), stream.seek(0, os.SEEK_END), too_much)
        copied = overlay("apply", work / "overlay.yaml", "-o", work / "serve", "--link", "copy")
        left = sorted(os.listdir(work))
        files = apply(work, "reflink")
    finally:
        filler.unlink(missing_ok=True)

    assert 5 == copied.code
    assert ["base", "filler", "overlay.yaml"] == left
    assert {"reflink"} == {placed["how"] for name, placed in files.items() if name.endswith(".safetensors")}
