"""Where the names of a checkpoint may lead, judged place by place.

That commands refuse what leads out is shown in `tests/laws`; here are the edges of the judgement itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.core.checkpoint import FileSeen
from overlay.core.findings import Finding
from overlay.storage.links import Roots, resolve, roots_for

SNAPSHOT = "/hub/models--org--name/snapshots/0123"
SHA256, SHA1 = "ab" * 32, "cd" * 20


@pytest.mark.parametrize(
    ("location", "admitted"),
    [
        (f"{SNAPSHOT}/file", True),
        (f"{SNAPSHOT}/sub/file", True),
        (f"{SNAPSHOT}4/file", False),
        ("/hub/models--org--name/snapshots/other/file", False),
        (f"/hub/models--org--name/blobs/{SHA256}", True),
        (f"/hub/models--org--name/blobs/{SHA1}", True),
        (f"/hub/models--org--name/blobs/{SHA256.upper()}", False),
        (f"/hub/models--org--name/blobs/{SHA256}.incomplete", False),
        ("/hub/models--org--name/blobs/config.json", False),
        (f"/hub/models--org--name/refs/{SHA1}", False),
        (f"/hub/models--other--name/blobs/{SHA256}", False),
        (f"/hub/blobs/{SHA256}", True),
        (f"/hub/blobs/ab/{SHA256}", True),
        (f"/hub/blobs/ab/cd/{SHA256}", False),
        (f"/blobs/{SHA256}", False),
        (f"/hub/models--org--name/snapshots/blobs/{SHA256}", True),
        ("/etc/passwd", False),
    ],
)
def test_blobs_of_the_snapshot_and_of_the_shared_store_belong_to_it(location: str, admitted: bool) -> None:
    assert admitted is Roots(SNAPSHOT).admit("file", location)


@pytest.mark.parametrize(
    ("allowed", "location", "admitted"),
    [
        ("/store", "/store/file", True),
        ("/store", "/store", True),
        ("/store/", "/store/file", True),
        ("/store", "/store2/file", False),
        ("/store/deep", "/store/file", False),
        ("/", "/anywhere/file", True),
    ],
)
def test_an_allowed_root_admits_what_lies_in_it(allowed: str, location: str, admitted: bool) -> None:
    assert admitted is Roots("/base", (allowed,)).admit("file", location)


def test_a_link_that_we_made_may_lead_where_the_receipt_says_and_nowhere_else() -> None:
    roots = Roots("/serve", expected={"shard": "/base/shard"})

    assert roots.admit("shard", "/base/shard")
    assert not roots.admit("shard", "/base/other")
    assert not roots.admit("other", "/base/shard")


def test_an_allowed_root_is_taken_with_its_links_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "base").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    (tmp_path / "alias").symlink_to("real")
    (tmp_path / "base" / "file").symlink_to("../alias/file")

    found = resolve(roots_for(str(tmp_path / "base"), [str(tmp_path / "alias")]), "file")

    assert isinstance(found, FileSeen)
    assert (str(tmp_path / "real" / "file"), True) == (found.location, found.via_link)


def kinds(folder: Path) -> None:
    """One entry of every kind in `folder`."""
    (folder / "file").write_bytes(b"x")
    (folder / "link").symlink_to("file")
    (folder / "dangling").symlink_to("nothing")
    (folder / "dangling through a file").symlink_to("file/nothing")
    (folder / "loop").symlink_to("loop2")
    (folder / "loop2").symlink_to("loop")
    (folder / "folder").mkdir()
    (folder / "to a folder").symlink_to("folder")
    os.mkfifo(folder / "pipe")
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "device").symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("nothing", "IDX003", "found nothing of that name"),
        ("dangling", "LNK002", "found a dangling link to nothing"),
        ("loop", "LNK003", "found a loop of links"),
        ("folder", "LNK004", "found a directory"),
        ("to a folder", "LNK004", "found a directory"),
        ("pipe", "LNK004", "found a FIFO"),
        ("out", "LNK001", "found a link to /etc/passwd"),
        ("device", "LNK001", "found a link to /dev/zero"),
    ],
)
def test_what_is_no_file_of_the_checkpoint_is_a_finding(name: str, code: str, said: str, tmp_path: Path) -> None:
    kinds(tmp_path)

    found = resolve(roots_for(str(tmp_path)), name)

    assert isinstance(found, Finding)
    assert (code, name) == (found.code, found.file)
    assert said in found.message


def test_a_device_is_no_shard_even_where_it_may_be_reached(tmp_path: Path) -> None:
    kinds(tmp_path)

    found = resolve(roots_for(str(tmp_path), ["/dev"]), "device")

    assert isinstance(found, Finding)
    assert "LNK004" == found.code
    assert "found a device" in found.message


def test_only_a_link_into_a_repositorys_own_blobs_states_a_sha256(tmp_path: Path) -> None:
    snapshot, blobs, shared = tmp_path / "m" / "snapshots" / "1", tmp_path / "m" / "blobs", tmp_path / "blobs" / "ab"
    for folder in (snapshot, blobs, shared):
        folder.mkdir(parents=True)
    (blobs / SHA256).write_bytes(b"x")
    (blobs / SHA1).write_bytes(b"x")
    (shared / SHA256).write_bytes(b"x")
    (snapshot / "large").symlink_to(f"../../blobs/{SHA256}")
    (snapshot / "small").symlink_to(f"../../blobs/{SHA1}")
    (snapshot / "shared").symlink_to(f"../../../blobs/ab/{SHA256}")
    (snapshot / SHA256).write_bytes(b"a plain file of that name")

    found = {name: resolve(roots_for(str(snapshot)), name) for name in ("large", "small", "shared", SHA256)}

    stated = {name: file.stated_sha256 for name, file in found.items() if isinstance(file, FileSeen)}
    assert {"large": SHA256, "small": "", "shared": "", SHA256: ""} == stated
