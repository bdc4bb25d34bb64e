"""The memory of digests: it may forget, it never lies."""

from __future__ import annotations

import os
import time
from pathlib import Path

import orjson
import pytest

from overlay.core.checkpoint import FileSeen
from overlay.formats.digest import Digests
from overlay.storage import proofs
from overlay.storage.proofs import STORE_NAME, Memory, ProofStore, cache_folder, settle
from tests.storage.files import seen

DIGESTS = Digests(3, "ab" * 32, "cd" * 16)
OTHER = Digests(3, "12" * 32, "34" * 16)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.fixture
def file(tmp_path: Path) -> FileSeen:
    return seen(tmp_path / "file", b"abc")


def lines(folder: str) -> list[bytes]:
    return Path(folder, STORE_NAME).read_bytes().splitlines()


def test_a_digest_is_known_to_this_store_and_the_next(folder: str, file: FileSeen) -> None:
    store = ProofStore(folder)
    assert (Memory.UNKNOWN, None) == store.recall(file)

    store.remember(file, DIGESTS)

    assert (Memory.KNOWN, DIGESTS) == store.recall(file)
    assert (Memory.KNOWN, DIGESTS) == ProofStore(folder).recall(file)


def test_a_file_that_was_touched_is_changed_and_its_digest_is_gone(folder: str, file: FileSeen) -> None:
    ProofStore(folder).remember(file, DIGESTS)
    os.utime(file.location, ns=(1, 1))

    assert (Memory.CHANGED, None) == ProofStore(folder).recall(seen(Path(file.location)))


def test_a_change_that_hides_its_time_is_seen_by_ctime(folder: str, file: FileSeen) -> None:
    ProofStore(folder).remember(file, DIGESTS)
    settle(file)
    Path(file.location).write_bytes(b"xyz")
    os.utime(file.location, ns=(file.fingerprint.mtime_ns, file.fingerprint.mtime_ns))

    assert (Memory.CHANGED, None) == ProofStore(folder).recall(seen(Path(file.location)))


def test_a_renamed_folder_keeps_its_digests(folder: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    ProofStore(folder).remember(seen(tmp_path / "old" / "file", b"abc"), DIGESTS)
    (tmp_path / "old").rename(tmp_path / "new")

    assert (Memory.KNOWN, DIGESTS) == ProofStore(folder).recall(seen(tmp_path / "new" / "file"))


def test_another_file_in_the_place_of_a_known_one_is_not_known(folder: str, file: FileSeen, tmp_path: Path) -> None:
    ProofStore(folder).remember(file, DIGESTS)
    (tmp_path / "other").write_bytes(b"abc")
    (tmp_path / "other").rename(file.location)

    assert (Memory.CHANGED, None) == ProofStore(folder).recall(seen(Path(file.location)))


def test_the_last_word_counts(folder: str, file: FileSeen) -> None:
    ProofStore(folder).remember(file, DIGESTS)
    ProofStore(folder).remember(file, OTHER)

    assert (Memory.KNOWN, OTHER) == ProofStore(folder).recall(file)


FOREIGN = [
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"null",
    b"42",
    b"{}",
    b"[]",
    b'["path"]',
    b'["path", [1, 2], 3, "a", "b"]',
    b'["path", null, 3, "a", "b"]',
    b'["path", [[], 2, 3, 4, 5], 3, "a", "b"]',
    b'[["path"], [1, 2, 3, 4, 5], 3, "a", "b"]',
    b'{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}',
    b'["path", "12345", 3, "a", "b", "one more"]',
]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_foreign_line_is_skipped(line: bytes, folder: str, file: FileSeen) -> None:
    ProofStore(folder).remember(file, DIGESTS)
    path = Path(folder, STORE_NAME)
    path.write_bytes(line + b"\n" + path.read_bytes() + line)

    assert (Memory.KNOWN, DIGESTS) == ProofStore(folder).recall(file)


def test_a_torn_line_costs_its_own_digest_and_no_other(folder: str, tmp_path: Path) -> None:
    files = [seen(tmp_path / f"file-{number}", b"abc") for number in range(3)]
    for file in files:
        ProofStore(folder).remember(file, DIGESTS)
    path = Path(folder, STORE_NAME)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])

        store = ProofStore(folder)

        assert [Memory.KNOWN] * 2 == [store.recall(file)[0] for file in files[:2]]
        memory, digests = store.recall(files[2])  # only the line's end may be missing
        assert digests in (None, DIGESTS), end
        assert (memory is Memory.KNOWN) == (end == len(whole) - 1)


def test_what_follows_a_torn_line_is_at_worst_forgotten(folder: str, tmp_path: Path) -> None:
    files = [seen(tmp_path / f"file-{number}", b"abc") for number in range(3)]
    ProofStore(folder).remember(files[0], DIGESTS)
    path = Path(folder, STORE_NAME)
    path.write_bytes(path.read_bytes()[:-20])

    ProofStore(folder).remember(files[1], OTHER)
    ProofStore(folder).remember(files[2], DIGESTS)

    store = ProofStore(folder)
    assert (Memory.UNKNOWN, None) == store.recall(files[0])
    assert store.recall(files[1])[1] in (None, OTHER)
    assert (Memory.KNOWN, DIGESTS) == store.recall(files[2])


def test_a_large_store_is_rewritten_with_a_line_a_path(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = seen(tmp_path / "one", b"abc"), seen(tmp_path / "other", b"abc")
    store = ProofStore(folder)
    for _ in range(50):
        store.remember(one, DIGESTS)
    store.remember(one, OTHER)
    store.remember_recipe(other, "r" * 64)
    monkeypatch.setattr(proofs, "_COMPACT_ABOVE", 1000)

    compacted = ProofStore(folder)

    assert 2 == len(lines(folder))
    assert [STORE_NAME] == os.listdir(folder)
    assert 0o600 == Path(folder, STORE_NAME).stat().st_mode & 0o777
    for again in (compacted, ProofStore(folder)):
        assert (Memory.KNOWN, OTHER) == again.recall(one)
        assert (Memory.UNKNOWN, None) == again.recall(other)
        assert "r" * 64 == again.recipe_of(other)


def test_a_store_that_cannot_be_rewritten_stays_as_it_is(
    folder: str, file: FileSeen, monkeypatch: pytest.MonkeyPatch
) -> None:
    ProofStore(folder).remember(file, DIGESTS)
    before = lines(folder)
    Path(folder, f"{STORE_NAME}.{os.getpid()}").write_bytes(b"in the way")
    monkeypatch.setattr(proofs, "_COMPACT_ABOVE", 1)

    assert (Memory.KNOWN, DIGESTS) == ProofStore(folder).recall(file)
    assert before == lines(folder)


def test_a_recipe_never_answers_for_bytes(folder: str, file: FileSeen) -> None:
    store = ProofStore(folder)
    store.remember_recipe(file, "r" * 64)

    for one in (store, ProofStore(folder)):
        assert (Memory.UNKNOWN, None) == one.recall(file)
        assert "r" * 64 == one.recipe_of(file)
    assert "" == store.recipe_of(None)


def test_a_recipe_does_not_outlive_a_change(folder: str, file: FileSeen) -> None:
    ProofStore(folder).remember_recipe(file, "r" * 64)
    os.utime(file.location, ns=(1, 1))

    assert "" == ProofStore(folder).recipe_of(seen(Path(file.location)))


def test_a_digest_is_no_recipe(folder: str, file: FileSeen) -> None:
    ProofStore(folder).remember(file, DIGESTS)

    assert "" == ProofStore(folder).recipe_of(file)


def test_processes_that_append_at_once_lose_nothing(folder: str, tmp_path: Path) -> None:
    files = [[seen(tmp_path / f"{process}-{number}", b"abc") for number in range(60)] for process in range(6)]
    children = []
    for number, own in enumerate(files):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                store = ProofStore(folder)
                for file in own:
                    store.remember(file, Digests(3, f"{number:064d}", "0" * 32))
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [0] * 6 == [os.waitpid(child, 0)[1] for child in children]

    store = ProofStore(folder)

    assert 360 == len(lines(folder))
    for number, own in enumerate(files):
        assert all(store.recall(file)[1] == Digests(3, f"{number:064d}", "0" * 32) for file in own)


def test_names_of_any_kind_are_remembered(folder: str, tmp_path: Path) -> None:
    odd = [seen(tmp_path / name, b"abc") for name in ("größe", 'a "b"', "line\nbreak", "tab\t")]
    for file in odd:
        ProofStore(folder).remember(file, DIGESTS)

    assert all((Memory.KNOWN, DIGESTS) == ProofStore(folder).recall(file) for file in odd)
    assert all(orjson.loads(line) for line in lines(folder))


@pytest.mark.parametrize("obstacle", ["file", "folder", "link", "full"])
def test_a_cache_that_cannot_be_written_fails_nothing(
    obstacle: str, folder: str, file: FileSeen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    match obstacle:
        case "file":
            Path(folder).write_bytes(b"")
        case "folder":
            Path(folder, STORE_NAME).mkdir(parents=True)
        case "link":
            Path(folder).mkdir()
            Path(folder, STORE_NAME).symlink_to(victim)
        case _:
            monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    store = ProofStore(folder)

    store.remember(file, DIGESTS)

    assert (Memory.KNOWN, DIGESTS) == store.recall(file)
    assert b"precious" == victim.read_bytes()


def test_the_store_is_private(folder: str, file: FileSeen) -> None:
    ProofStore(folder).remember(file, DIGESTS)

    assert 0o700 == Path(folder).stat().st_mode & 0o777
    assert 0o600 == Path(folder, STORE_NAME).stat().st_mode & 0o777


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("OVERLAY_CACHE", "/own")
    assert "/own" == cache_folder()
    monkeypatch.delenv("OVERLAY_CACHE")
    assert "/xdg/overlay" == cache_folder()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert "/home/user/.cache/overlay" == cache_folder()


def test_a_file_that_just_changed_is_waited_for(file: FileSeen, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    changed = file.fingerprint.ctime_ns

    for now in (changed + 5_000_000, changed + 30_000_000, changed - 5):  # the last one is a clock that was set back
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        settle(file)

    assert [0.015] == slept
