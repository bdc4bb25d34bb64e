"""Writing shards: the right bytes whatever the kernel does, holes kept, and nothing left behind by a failure."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.parts import Run
from overlay.errors import Conflict, EnvironmentFault
from overlay.storage.shard_writer import copy_bytes, digest_shard, digest_trimmed, write_shard, write_trimmed
from tests.storage.files import MB, on_disk, pattern, seen, silent, source, sparse

HEADER = b"\x10\0\0\0\0\0\0\0{              }"
BLOCK = 4096

Write = Callable[[Path, Callable[[int], None]], None]


@pytest.fixture
def data() -> bytes:
    return pattern(3 * MB + 12_345)


@pytest.fixture(params=["built", "trimmed"])
def write(request: pytest.FixtureRequest, tmp_path: Path, data: bytes) -> Write:
    """Both ways to write two ranges of one file behind a header."""
    file = seen(tmp_path / "source", data)

    def build(path: Path, advance: Callable[[int], None]) -> None:
        sources = [source(file, "a", 11, 2 * MB + 5), source(file, "b", 2 * MB + 9, len(data))]
        write_shard(str(path), HEADER, sources, advance)

    def trim(path: Path, advance: Callable[[int], None]) -> None:
        write_trimmed(str(path), HEADER, file, [Run(11, 2 * MB + 5), Run(2 * MB + 9, len(data))], advance)

    return build if request.param == "built" else trim


@pytest.fixture
def expected(data: bytes) -> bytes:
    return HEADER + data[11 : 2 * MB + 5] + data[2 * MB + 9 :]


def limited(call: Callable[..., Any], most: int) -> Callable[..., Any]:
    """A call that handles fewer bytes than it was asked to, as the kernel may."""

    def short(first: Any, second: Any, *rest: Any) -> Any:
        if call is os.copy_file_range:
            return call(first, second, min(rest[0], most), *rest[1:])
        if isinstance(second, list):
            return call(first, [memoryview(second[0])[:most]], *rest)
        return call(first, min(second, most) if isinstance(second, int) else second[:most], *rest)

    return short


def spoil(patch: pytest.MonkeyPatch, calls: tuple[str, ...], good: int, number: int) -> None:
    """Let `calls` of `os` go well `good` times in all, and then fail with the error `number`."""
    made = 0

    def spoiled(call: Callable[..., Any]) -> Callable[..., Any]:
        def fail(*arguments: Any) -> Any:
            nonlocal made
            made += 1
            if made > good:
                raise OSError(number, os.strerror(number))
            return call(*arguments)

        return fail

    for name in calls:
        patch.setattr(os, name, spoiled(getattr(os, name)))


def test_a_shard_is_its_header_and_the_ranges_in_order(write: Write, expected: bytes, tmp_path: Path) -> None:
    steps: list[int] = []

    write(tmp_path / "shard", steps.append)

    assert expected == (tmp_path / "shard").read_bytes()
    assert len(expected) - len(HEADER) <= sum(steps) <= len(expected)


def test_digests_are_those_of_the_bytes_written(tmp_path: Path, data: bytes) -> None:
    one, other = seen(tmp_path / "one", data), seen(tmp_path / "other", data[::-1])
    sources = [source(one, "a", 3, MB), source(other, "b", 0, 2 * MB), source(one, "c", MB, MB), source(one, "d", 0, 9)]

    written = write_shard(str(tmp_path / "shard"), HEADER, sources, silent)

    raw = (tmp_path / "shard").read_bytes()
    assert (len(raw), hashlib.sha256(raw).hexdigest()) == (written.digests.size, written.digests.sha256)
    assert xxhash.xxh3_128(raw).hexdigest() == written.digests.xxh3_128
    pieces = {"a": data[3:MB], "b": data[::-1][: 2 * MB], "c": b"", "d": data[:9]}
    assert {name: xxhash.xxh3_128(piece).hexdigest() for name, piece in pieces.items()} == written.tensors
    assert HEADER + b"".join(pieces.values()) == raw
    assert written == digest_shard(HEADER, sources, silent)


def test_a_trimmed_shard_can_be_digested_without_being_written(tmp_path: Path, data: bytes) -> None:
    file, runs = seen(tmp_path / "source", data), [Run(5, MB), Run(2 * MB, len(data))]

    write_trimmed(str(tmp_path / "shard"), HEADER, file, runs, silent)

    digests = digest_trimmed(HEADER, file, runs, silent)
    assert hashlib.sha256((tmp_path / "shard").read_bytes()).hexdigest() == digests.sha256
    assert ["shard", "source"] == sorted(os.listdir(tmp_path))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_is_what_the_umask_leaves(mask: int, write: Write, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "shard", silent)
    finally:
        os.umask(before)

    assert 0o644 & ~mask == (tmp_path / "shard").stat().st_mode & 0o7777


@pytest.mark.parametrize("call", ["preadv", "pread", "pwrite", "copy_file_range"])
@pytest.mark.parametrize("most", [1000, 4096, 65_537])
def test_a_short_count_is_continued(
    call: str, most: int, write: Write, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, call, limited(getattr(os, call), most))

    write(tmp_path / "shard", silent)

    assert expected == (tmp_path / "shard").read_bytes()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_where_the_kernel_cannot_copy_the_bytes_are_read_and_written(
    number: int, write: Write, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, ("copy_file_range",), 1, number)

    write(tmp_path / "shard", silent)

    assert expected == (tmp_path / "shard").read_bytes()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_failure_leaves_nothing(
    good: int, number: int, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, ("pwrite", "copy_file_range"), good, number)

    with pytest.raises((EnvironmentFault, OSError)) as failure:
        write(tmp_path / "shard", silent)

    assert os.strerror(number) in str(failure.value)
    assert ["source"] == os.listdir(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "ftruncate"])
def test_a_file_that_did_not_reach_the_disk_is_taken_away(
    call: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, (call,), 0, errno.EIO)

    with pytest.raises((EnvironmentFault, OSError)):
        write(tmp_path / "shard", silent)

    assert ["source"] == os.listdir(tmp_path)


def test_a_full_disk_is_said_in_words_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = seen(tmp_path / "source", b"x" * 100)
    spoil(monkeypatch, ("pwrite",), 0, errno.ENOSPC)

    with pytest.raises(EnvironmentFault) as failure:
        write_shard(str(tmp_path / "shard"), HEADER, [source(file, "a", 0, 100)], silent)

    assert "No space left on device" in str(failure.value)
    assert "free space or choose a target on another file system" == failure.value.hint


def test_an_interrupt_leaves_nothing(write: Write, tmp_path: Path) -> None:
    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "shard", interrupt)

    assert ["source"] == os.listdir(tmp_path)


def test_a_file_in_the_way_is_not_touched(write: Write, tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(b"precious")

    with pytest.raises(FileExistsError):
        write(tmp_path / "shard", silent)

    assert b"precious" == (tmp_path / "shard").read_bytes()


def rewritten(path: Path) -> None:
    path.write_bytes(pattern(path.stat().st_size, seed=99))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def cut(path: Path) -> None:
    os.truncate(path, MB)


@pytest.mark.parametrize("change", [rewritten, replaced, cut])
def test_a_source_that_changed_since_it_was_seen_is_refused(
    change: Callable[[Path], None], write: Write, tmp_path: Path
) -> None:
    change(tmp_path / "source")

    with pytest.raises(Conflict) as refusal:
        write(tmp_path / "shard", silent)

    assert "source" == refusal.value.subject
    assert ["source"] == os.listdir(tmp_path)


@pytest.mark.parametrize("change", [rewritten, cut])
def test_a_source_that_changes_while_it_is_read_is_refused(
    change: Callable[[Path], None], write: Write, tmp_path: Path
) -> None:
    changed = False

    def advance(count: int) -> None:
        nonlocal changed
        if not changed:
            changed = True
            change(tmp_path / "source")

    with pytest.raises((Conflict, EnvironmentFault, OSError)):
        write(tmp_path / "shard", advance)

    assert ["source"] == os.listdir(tmp_path)


def test_a_source_that_is_cut_within_its_holes_does_not_pass_for_zeros(tmp_path: Path) -> None:
    file = sparse(tmp_path / "source", 16 * MB, [(0, b"x" * BLOCK)])

    def advance(count: int) -> None:
        os.truncate(tmp_path / "source", BLOCK)

    with pytest.raises(Conflict):
        write_trimmed(str(tmp_path / "shard"), HEADER, file, [Run(0, 16 * MB)], advance)
    with pytest.raises(Conflict):
        write_shard(str(tmp_path / "shard"), HEADER, [source(file, "a", 0, 16 * MB)], silent)


def test_a_second_name_for_a_source_is_no_change(write: Write, expected: bytes, tmp_path: Path) -> None:
    os.link(tmp_path / "source", tmp_path / "second")

    write(tmp_path / "shard", silent)

    assert expected == (tmp_path / "shard").read_bytes()


@pytest.mark.parametrize("kind", ["built", "trimmed"])
def test_holes_stay_holes_at_the_start_within_and_at_the_end(kind: str, tmp_path: Path) -> None:
    size = 64 * MB
    file = sparse(tmp_path / "source", size, [(20 * MB, pattern(BLOCK)), (40 * MB + 3, b"stamp")])
    if on_disk(tmp_path / "source") > MB:
        pytest.skip("this file system keeps no holes")

    if kind == "built":
        sources = [source(file, "a", 0, 30 * MB), source(file, "b", 30 * MB + 5, size)]
        write_shard(str(tmp_path / "shard"), HEADER, sources, silent)
    else:
        write_trimmed(str(tmp_path / "shard"), HEADER, file, [Run(0, 30 * MB), Run(30 * MB + 5, size)], silent)

    raw = (tmp_path / "source").read_bytes()
    assert HEADER + raw[: 30 * MB] + raw[30 * MB + 5 :] == (tmp_path / "shard").read_bytes()
    assert on_disk(tmp_path / "shard") < 64 * BLOCK


def test_many_sources_are_open_one_at_a_time(tmp_path: Path) -> None:
    files = [seen(tmp_path / f"source-{number}", bytes([number]) * 10) for number in range(40)]
    most = 0

    def advance(count: int) -> None:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))

    before = len(os.listdir("/proc/self/fd"))
    write_shard(str(tmp_path / "shard"), HEADER, [source(file, file.name, 0, 10) for file in files], advance)

    assert most <= before + 2
    assert before == len(os.listdir("/proc/self/fd"))


# Copying inside the kernel


@st.composite
def copies(draw: st.DrawFn) -> tuple[bytes, int, int, int]:
    """A source of data and holes, a range of it, and where that goes; most begin and end near the edge of a block."""
    blocks = draw(st.lists(st.booleans(), min_size=1, max_size=6))
    data = b"".join(pattern(BLOCK, seed=1 + n * BLOCK) if full else bytes(BLOCK) for n, full in enumerate(blocks))
    data += pattern(draw(st.integers(0, 100)), seed=7)
    near = st.builds(lambda block, away: max(0, block * BLOCK + away), st.integers(0, 6), st.integers(-9, 9))
    place = st.one_of(near, st.integers(0, len(data)))
    begin, end = sorted((min(draw(place), len(data)), min(draw(place), len(data))))
    at = draw(st.one_of(near, st.integers(0, 3 * BLOCK), st.builds(lambda n: begin + n * BLOCK, st.integers(0, 2))))
    return data, begin, end, at


@given(copies())
def test_copied_bytes_are_the_bytes_whatever_the_alignment(
    tmp_path_factory: pytest.TempPathFactory, copy: tuple[bytes, int, int, int]
) -> None:
    data, begin, end, at = copy
    folder = tmp_path_factory.getbasetemp()
    with (folder / "copy-source").open("wb+") as one, (folder / "copy-target").open("wb+") as other:
        one.truncate(len(data))
        for offset in range(0, len(data), BLOCK):
            if any(data[offset : offset + BLOCK]):
                os.pwrite(one.fileno(), data[offset : offset + BLOCK], offset)
        steps: list[int] = []

        copy_bytes(one.fileno(), other.fileno(), begin, end, at, steps.append)

        os.ftruncate(other.fileno(), at + end - begin)
        assert bytes(at) + data[begin:end] == (folder / "copy-target").read_bytes()
        assert end - begin == sum(steps)


@given(begin=st.integers(0, 3 * BLOCK), size=st.integers(1, 9 * BLOCK), blocks=st.integers(0, 3))
def test_where_both_sides_agree_whole_blocks_are_copied_by_calls_of_their_own(
    tmp_path_factory: pytest.TempPathFactory, begin: int, size: int, blocks: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    asked: list[tuple[int, int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        (folder / "blocks-source").write_bytes(pattern(13 * BLOCK))
        with (folder / "blocks-source").open("rb") as one, (folder / "blocks-target").open("wb") as other:
            copy = os.copy_file_range

            def record(source: int, target: int, count: int, offset: int, at: int) -> int:
                asked.append((count, offset, at))
                return copy(source, target, count, offset, at)

            patch.setattr(os, "copy_file_range", record)
            copy_bytes(one.fileno(), other.fileno(), begin, begin + size, begin % BLOCK + blocks * BLOCK, silent)

    whole = max(0, (begin + size) // BLOCK - -(-begin // BLOCK))
    aligned = sum(count for count, offset, at in asked if not (count % BLOCK or offset % BLOCK or at % BLOCK))
    assert whole * BLOCK == aligned
    assert all(count < BLOCK for count, offset, at in asked if count % BLOCK)
