"""Staging: one run a target, garbage told from what is alive, and file systems that can do less."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from overlay.errors import Conflict, EnvironmentFault
from overlay.storage import folders
from overlay.storage.staging import remove_abandoned, staged

HOST = socket.gethostname()
DAY = 24 * 3600


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "serve"


def old_tree(target: Path) -> None:
    """A target without a receipt, so that what is replaced is no generation."""
    target.mkdir()
    (target / "old").write_text("old")


def names(target: Path) -> list[str]:
    """What lies beside and at the target, its lock file excepted."""
    return sorted(name for name in os.listdir(target.parent) if name != ".serve.overlay.lock")


@contextmanager
def held_by_another(target: Path) -> Iterator[int]:
    """Another process is filling a stage; gives back its id.  It is killed at the end."""
    ready, said = os.pipe()
    child = os.fork()
    if child == 0:
        with staged(str(target)) as stage:
            stage.write("half", b"done")
            os.write(said, b"x")
            signal.pause()
        os._exit(1)
    try:
        assert b"x" == os.read(ready, 1)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(said)


def assemble(target: Path) -> None:
    with staged(str(target)) as stage:
        stage.write("new", b"new")
        stage.write("sub/deep", b"deep")
        stage.commit()


def test_a_second_run_is_refused_and_told_who_is_at_work(target: Path) -> None:
    with held_by_another(target) as child:
        before = names(target)
        with pytest.raises(Conflict) as refusal, staged(str(target)):
            pytest.fail("two runs at one target")

        assert before == names(target), "the other's stage is alive"
    assert f"found that process {child} on {HOST} is assembling it" in str(refusal.value)
    assert str(target) == refusal.value.subject
    assert "wait for it to end, then run the command again" == refusal.value.hint


def test_a_run_that_was_killed_stands_in_nobodys_way_and_its_stage_goes(target: Path) -> None:
    with held_by_another(target):
        pass
    assert 1 == len(names(target))

    assemble(target)

    assert ["serve"] == names(target)


def test_looking_again_removes_what_a_killed_run_left_but_not_what_a_living_one_makes(target: Path) -> None:
    with held_by_another(target):
        remove_abandoned(str(target))
        assert 1 == len(names(target))
    remove_abandoned(str(target))

    assert [] == names(target)


def test_only_stages_of_this_target_and_dead_ones_of_other_hosts_go(target: Path) -> None:
    gone = [f".serve.overlay-stage-{HOST}-12-abcd", ".serve.overlay-stage-elsewhere-34-abcd"]
    kept = [".serve.overlay-stage-young-56-abcd", f".served.overlay-stage-{HOST}-12-abcd", ".serve", "serve.bak"]
    for name in (*gone, *kept):
        (target.parent / name / "sub").mkdir(parents=True)
    os.utime(target.parent / gone[1], (time.time() - DAY - 60,) * 2)
    os.utime(target.parent / kept[0], (time.time() - DAY + 600,) * 2)

    assemble(target)

    assert sorted([*kept, "serve"]) == names(target)


def test_a_lock_file_is_left_and_signed_only_while_it_is_held(target: Path) -> None:
    lock = target.parent / ".serve.overlay.lock"
    with staged(str(target)):
        assert f"process {os.getpid()} on {HOST}\n" == lock.read_text()

    assert "" == lock.read_text()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_hindrance(
    number: int, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)

    assemble(target)

    assert b"new" == (target / "new").read_bytes()


def test_a_new_target_has_the_mode_of_any_new_folder(target: Path) -> None:
    before = os.umask(0o027)
    try:
        assemble(target)
    finally:
        os.umask(before)

    assert 0o750 == target.stat().st_mode & 0o7777


def test_a_target_keeps_its_mode(target: Path) -> None:
    old_tree(target)
    target.chmod(0o2711)

    assemble(target)

    assert 0o2711 == target.stat().st_mode & 0o7777
    assert ["new", "sub"] == sorted(os.listdir(target))


def test_a_stage_that_is_not_committed_goes(target: Path) -> None:
    def fail() -> None:
        with staged(str(target)) as stage:
            stage.write("sub/deep", b"x")
            assert 0o700 == Path(stage.path).stat().st_mode & 0o7777
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert [] == names(target)


def without_renameat2(patch: pytest.MonkeyPatch, number: int) -> None:
    """``renameat2`` fails with the error `number`, as it does where the file system knows no flags."""
    libc = SimpleNamespace(renameat2=lambda *_: -1)
    patch.setattr(folders, "ctypes", SimpleNamespace(CDLL=lambda *_, **__: libc, get_errno=lambda: number))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
@pytest.mark.parametrize("state", ["absent", "empty"])
def test_where_folders_cannot_be_exchanged_a_plain_rename_does_for_a_new_target(
    state: str, number: int, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if state == "empty":
        target.mkdir()
    without_renameat2(monkeypatch, number)

    assemble(target)

    assert b"deep" == (target / "sub" / "deep").read_bytes()
    assert ["serve"] == names(target)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_where_folders_cannot_be_exchanged_an_old_target_stays_and_another_way_is_named(
    number: int, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_tree(target)
    without_renameat2(monkeypatch, number)

    with pytest.raises(EnvironmentFault) as fault:
        assemble(target)

    assert "cannot exchange two folders in one step" in str(fault.value)
    assert "apply to a new folder, then point the server at it" == fault.value.hint
    assert ["old"] == os.listdir(target)
    assert ["serve"] == names(target)


def test_a_target_that_somebody_made_meanwhile_is_not_replaced(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lexists = os.path.lexists

    def look_too_early(path: str) -> bool:
        if path != str(target):
            return lexists(path)
        old_tree(target)
        return False

    monkeypatch.setattr(os.path, "lexists", look_too_early)

    with pytest.raises(Conflict) as refusal:
        assemble(target)

    assert "made meanwhile" in str(refusal.value)
    assert ["old"] == os.listdir(target)
    assert ["serve"] == names(target)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_any_other_refusal_is_said_as_it_is(number: int, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_tree(target)
    without_renameat2(monkeypatch, number)

    with pytest.raises(EnvironmentFault) as fault:
        assemble(target)

    assert os.strerror(number) in str(fault.value)
    assert str(target) == fault.value.subject
    assert ["old"] == os.listdir(target)
    assert ["serve"] == names(target)


def test_a_stages_name_says_whose_it_is(target: Path) -> None:
    with staged(str(target)) as stage:
        name = os.path.basename(stage.path)

    assert re.fullmatch(rf"\.serve\.overlay-stage-{re.escape(HOST)}-{os.getpid()}-[0-9a-f]{{8}}", name)
