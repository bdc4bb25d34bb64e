"""Digests of whole files: in parallel, of files at rest, and a fault names the file and the byte."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import xxhash

from overlay.errors import EnvironmentFault
from overlay.storage.hashing import BLOCK, Stopped, default_jobs, hash_file, hash_files
from tests.storage.files import MB, pattern, seen, silent, sparse


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 7])
def test_a_digest_is_that_of_all_bytes(size: int, tmp_path: Path) -> None:
    data, steps = pattern(size), list[int]()

    digests = hash_file(seen(tmp_path / "file", data), steps.append)

    assert (size, hashlib.sha256(data).hexdigest()) == (digests.size, digests.sha256)
    assert xxhash.xxh3_128(data).hexdigest() == digests.xxh3_128
    assert size == sum(steps)


def test_holes_count_as_zeros(tmp_path: Path) -> None:
    file = sparse(tmp_path / "file", 5 * MB, [(2 * MB + 5, b"data")])

    assert hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest() == hash_file(file, silent).sha256


@pytest.mark.parametrize("jobs", [0, 1, 2, 9])
def test_many_files_are_digested_each_with_its_own(jobs: int, tmp_path: Path) -> None:
    datas = {f"file-{number}": pattern(number * 100_003, seed=number + 1) for number in range(12)}
    files = [seen(tmp_path / name, data) for name, data in datas.items()]
    steps: list[int] = []

    found = {file.name: digests.sha256 for file, digests in hash_files(files, steps.append, jobs)}

    assert {name: hashlib.sha256(data).hexdigest() for name, data in datas.items()} == found
    assert sum(map(len, datas.values())) == sum(steps)


def test_the_largest_file_is_begun_first(tmp_path: Path) -> None:
    files = [seen(tmp_path / f"file-{size}", bytes(size)) for size in (5, 900, 0, 70)]
    steps: list[int] = []

    list(hash_files(files, steps.append, 1))

    assert [900, 70, 5] == steps


def test_files_are_read_side_by_side(tmp_path: Path) -> None:
    files = [seen(tmp_path / name, b"x") for name in ("one", "other")]
    together = threading.Barrier(2, timeout=20)
    waiting = threading.local()

    def meet(call: Any) -> Any:
        def read(descriptor: int, buffers: list[memoryview]) -> int:
            if not getattr(waiting, "met", False):
                waiting.met = True
                together.wait()  # breaks unless a second thread arrives
            return int(call(descriptor, buffers))

        return read

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "readv", meet(os.readv))
        assert 2 == len(list(hash_files(files, silent, 2)))


def test_no_more_threads_than_processors_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6})

    assert 3 == default_jobs()


@pytest.mark.parametrize("change", ["append", "cut", "touch", "rewrite"])
def test_a_file_that_changes_while_it_is_read_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = seen(path, pattern(3 * BLOCK))

    def advance(count: int) -> None:
        if path.stat().st_mtime_ns != file.fingerprint.mtime_ns:
            return
        match change:
            case "append":
                os.truncate(path, path.stat().st_size + 1)
            case "cut":
                os.truncate(path, BLOCK)
            case "touch":
                os.utime(path, ns=(5, 5))
            case _:
                path.write_bytes(pattern(3 * BLOCK, seed=9))

    with pytest.raises(EnvironmentFault) as fault:
        hash_file(file, advance)

    assert "file" == fault.value.subject
    assert "changes while it is read" in str(fault.value)
    assert "download" in str(fault.value.hint)


def fail_at(patch: pytest.MonkeyPatch, path: Path, offset: int, number: int) -> None:
    """Reading `path` fails at `offset`, as a bad sector does."""
    readv, inode = os.readv, path.stat().st_ino

    def read(descriptor: int, buffers: list[memoryview]) -> int:
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        if os.fstat(descriptor).st_ino == inode and at >= offset:
            raise OSError(number, os.strerror(number))
        return readv(descriptor, buffers)

    patch.setattr(os, "readv", read)


@pytest.mark.parametrize("block", [0, 1, 3])
def test_an_unreadable_byte_is_named_with_its_file(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = seen(tmp_path / "model-00001.safetensors", bytes(4 * BLOCK))
    fail_at(monkeypatch, tmp_path / file.name, block * BLOCK, errno.EIO)

    with pytest.raises(EnvironmentFault) as fault:
        hash_file(file, silent)

    assert file.name == fault.value.subject
    assert f"expected to read {4 * BLOCK} bytes, found at byte {block * BLOCK}: Input/output error" in str(fault.value)
    assert "the device reports an error; check the disk" == fault.value.hint


def test_one_unreadable_file_ends_the_hashing_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [sparse(tmp_path / name, size, []) for name, size in (("large", 4000 * BLOCK), ("bad", 4 * BLOCK))]
    fail_at(monkeypatch, tmp_path / "bad", 2 * BLOCK, errno.EIO)
    steps: list[int] = []

    with pytest.raises(EnvironmentFault) as fault:
        list(hash_files(files, steps.append, 2))

    assert "bad" == fault.value.subject
    assert sum(steps) < 2000 * BLOCK


def test_whoever_stops_asking_ends_the_hashing(tmp_path: Path) -> None:
    files = [sparse(tmp_path / name, size, []) for name, size in (("large", 4000 * BLOCK), ("small", 5))]
    steps: list[int] = []
    results = hash_files(files, steps.append, 2)

    file, _ = next(results)
    results.close()  # type: ignore[attr-defined]

    assert "small" == file.name
    assert sum(steps) < 2000 * BLOCK


def test_a_stop_is_heard_within_a_block(tmp_path: Path) -> None:
    stop, steps = threading.Event(), list[int]()
    stop.set()

    with pytest.raises(Stopped):
        hash_file(seen(tmp_path / "file", bytes(5 * BLOCK)), steps.append, stop)

    assert 1 == len(steps)


def test_a_file_that_is_gone_or_became_something_else_is_a_fault(tmp_path: Path) -> None:
    gone, link = seen(tmp_path / "gone", b"x"), seen(tmp_path / "link", b"x")
    pipe = seen(tmp_path / "pipe", b"x")
    for path in (tmp_path / "gone", tmp_path / "link", tmp_path / "pipe"):
        path.unlink()
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")

    for file in (gone, link, pipe):
        with pytest.raises(EnvironmentFault) as fault:
            hash_file(file, silent)
        assert file.name == fault.value.subject
