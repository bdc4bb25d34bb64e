"""Stage a directory beside its target and put it in the target's place in one step.

The protocol, and why it is enough (`docs/guarantees.md`): assume only that fsync makes a file's bytes durable, that fsync
of a folder makes its entries durable, and that one rename is atomic.

1. Take the target's lock.  It keeps two runs apart; correctness does not rest on it.
2. Remove stages that an interrupted run left.  A stage is garbage by its name alone; there is no journal.
3. Fill a new stage.  Whoever writes a file fsyncs it.
4. fsync every folder of the stage, then the parent.
5. ``renameat2``: NOREPLACE where there is no target, EXCHANGE where there is one.  This is the commit point.
6. fsync the parent; then keep the old tree, which now bears the stage's name, as a generation, or delete it.

A process that dies before 5 leaves the old target, after 5 the new one; a power cut likewise, because everything the
new tree consists of is durable before 5.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from overlay.errors import Conflict, EnvironmentFault
from overlay.storage.files import fsync_folder, hint_for_errno
from overlay.storage.generations import adopt
from overlay.storage.shard_writer import write_all
from overlay.storage.targets import read_receipt

_AT_FDCWD: Final = -100
_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_ABANDONED_AFTER_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Stage:
    """A directory that is being filled."""

    path: str
    target: str

    def write(self, name: str, data: bytes) -> None:
        """Write the small file `name` and fsync it."""
        path = self.path_of(name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, data, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def path_of(self, name: str) -> str:
        """The path of `name` in the stage; its folders are made."""
        path = os.path.join(self.path, *name.split("/"))
        folder = os.path.dirname(path)
        if folder != self.path:
            os.makedirs(folder, exist_ok=True)
        return path

    def commit(self, *, keep: bool = False) -> None:
        """Make the stage the target: steps 4 to 6.

        With `keep` the tree that was replaced becomes a generation; otherwise it is deleted.

        Raises:
            EnvironmentFault: the file system cannot exchange two folders in one step; nothing was changed.
            Conflict: somebody else made a target in the meantime.
        """
        parent = os.path.dirname(self.target)
        for folder, _, _ in os.walk(self.path, topdown=False):
            fsync_folder(folder)
        os.chmod(self.path, _mode_for(self.target))
        fsync_folder(self.path)
        fsync_folder(parent)
        exists = os.path.lexists(self.target)
        _rename(self.path, self.target, _EXCHANGE if exists else _NOREPLACE)  # the commit point
        fsync_folder(parent)
        if exists and keep:
            with suppress(OSError):  # the new tree is in place: the next run adopts what could not be kept now
                adopt(self.path, self.target)
        elif exists:
            shutil.rmtree(self.path, ignore_errors=True)  # the next run removes what could not be deleted


@contextmanager
def staged(target: str) -> Iterator[Stage]:
    """A stage for the absolute path `target`; removed on the way out unless it was committed.

    Raises:
        Conflict: another run is assembling this target.
        EnvironmentFault: the parent folder cannot be written.
    """
    with locked(target):
        path = f"{_stage_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}"
        try:
            recover(target)
            _make_folder(path)
            yield Stage(path, target)
        except OSError as error:
            raise _refused(error, getattr(error, "filename", None) or target) from None
        finally:
            if not _in_transit(path, target):
                shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(target: str) -> None:
    """Delete what an interrupted run left beside `target`, when there is nothing else to do.

    A run that was killed right after its commit leaves the old tree, which bears the name of a stage then.
    """
    with suppress(OSError, Conflict, EnvironmentFault):  # another run is at work here, or the folder is read-only
        if _abandoned(target):
            with locked(target):
                recover(target)


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise _refused(error, os.path.dirname(path)) from None


@contextmanager
def locked(target: str) -> Iterator[None]:
    """Hold the target's lock file.  It is never unlinked: removing a lock file is a race by itself."""
    parent, name = os.path.split(target)
    path = os.path.join(parent, f".{name}.overlay.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _refused(error, path) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another run"
            raise Conflict(
                f"expected to be alone, found that {holder} is assembling it",
                subject=target,
                hint="wait for it to end, then run the command again",
            ) from None
        except OSError:
            pass  # a file system without flock: the commit stays atomic all the same
        _sign(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
        _sign(descriptor, "")
    finally:
        os.close(descriptor)


def _sign(descriptor: int, holder: str) -> None:
    """Say in the lock file who holds it: a courtesy to whoever is refused, which a full disk must not make a failure."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)


def _stage_prefix(target: str, host: str | None = None) -> str:
    """What the paths of stages for `target` begin with; those of one host, this one unless another is said."""
    parent, name = os.path.split(target)
    return os.path.join(parent, f".{name}.overlay-stage-{socket.gethostname() + '-' if host is None else host}")


def exchange(target: str, entry: str) -> None:
    """Put the tree at `entry`, a generation, in the place of `target`, and what was there in the entry's; one step.

    The caller holds the lock.

    Raises:
        EnvironmentFault: the file system cannot do that in one step; nothing was changed.
    """
    try:
        _rename(entry, target, _EXCHANGE if os.path.lexists(target) else _NOREPLACE)  # the commit point
        fsync_folder(os.path.dirname(target))
        fsync_folder(os.path.dirname(entry))
    except OSError as error:
        raise _refused(error, target) from None


def recover(target: str) -> None:
    """Put in order what an interrupted run left beside `target`; the caller holds the lock.

    A stage that holds an older generation than the target is the tree that the interrupted run replaced: it is kept.
    Every other stage is garbage.
    """
    for path in _abandoned(target):
        if _in_transit(path, target):
            with suppress(OSError):
                adopt(path, target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _in_transit(path: str, target: str) -> bool:
    """Whether the tree at a stage's path is a generation that the target has left behind."""
    old, new = read_receipt(path)[0], read_receipt(target)[0]
    return old is not None and new is not None and old.generation < new.generation


def _abandoned(target: str) -> list[str]:
    """Stages of dead runs, once the caller holds the lock: ours by their names, another host's by age."""
    parent = os.path.dirname(target)
    ours, anybodys = _stage_prefix(target), _stage_prefix(target, "")
    paths = [os.path.join(parent, name) for name in os.listdir(parent)]
    return [
        path
        for path in paths
        if path.startswith(ours) or (path.startswith(anybodys) and _age(path) > _ABANDONED_AFTER_S)
    ]


def _age(path: str) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _mode_for(target: str) -> int:
    """The mode of the folder that is replaced, or what mkdir would give."""
    try:
        return os.stat(target).st_mode & 0o7777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o777 & ~mask


def _rename(source: str, target: str, flag: int) -> None:
    """``renameat2``, which Python does not offer (glibc 2.28 does)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        problem = "expected no such folder, found one that was made meanwhile"
        raise Conflict(problem, subject=target, hint="run the command again")
    if number in (errno.EINVAL, errno.ENOSYS):
        _rename_without_flags(source, target, flag)
        return
    raise OSError(number, os.strerror(number), target)


def _rename_without_flags(source: str, target: str, flag: int) -> None:
    """Some network file systems know only the plain rename: enough for a target that is absent or empty."""
    try:
        os.rename(source, target)
    except OSError as error:
        if flag == _EXCHANGE and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise EnvironmentFault(
                "this file system cannot exchange two folders in one step",
                subject=target,
                hint="apply to a new folder, then point the server at it",
            ) from None
        raise


def _refused(error: OSError, subject: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"the system says: {error.strerror or error}", subject=str(subject), hint=hint_for_errno(error.errno)
    )
