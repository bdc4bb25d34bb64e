"""Watch every call that changes a file system, and make one of them go wrong.

The package changes files through the functions of `os` (and one ``renameat2`` of its own), so that replacing those
functions sees everything.  The n-th change is the same one in every run over the same inputs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from overlay.storage import folders

Strike = Callable[[int], None]
"""Called with the number of a change, counted from 1."""

_ON_PATHS = ("mkdir", "symlink", "link", "unlink", "rmdir", "rename", "replace", "chmod")
_ON_DESCRIPTORS = ("write", "pwrite", "ftruncate", "fsync")


class Change(NamedTuple):
    """One call: its name and the entry that it changes."""

    call: str
    path: str


def nothing(number: int) -> None:
    """Let the change happen."""


def failing(at: int, number: int) -> Strike:
    """The change `at` fails with the error `number`."""

    def strike(count: int) -> None:
        if count == at:
            raise OSError(number, os.strerror(number))

    return strike


def interrupting(at: int) -> Strike:
    """Ctrl-C arrives at the change `at`."""

    def strike(count: int) -> None:
        if count == at:
            raise KeyboardInterrupt

    return strike


def killing(at: int) -> Strike:
    """The process dies at the change `at`."""

    def strike(count: int) -> None:
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return strike


@contextmanager
def watched(before: Strike = nothing, after: Strike = nothing) -> Iterator[list[Change]]:
    """Every change made inside, in order; `before` and `after` are called around each."""
    changes: list[Change] = []

    def watch(name: str, call: Callable[..., Any], path_of: Callable[..., str | None]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            path = path_of(*args, **kwargs)
            if path is None:
                return call(*args, **kwargs)
            changes.append(Change(name, path))
            number = len(changes)
            before(number)
            result = call(*args, **kwargs)
            after(number)
            return result

        return changed

    with pytest.MonkeyPatch.context() as patch:
        for name in _ON_PATHS:
            patch.setattr(os, name, watch(name, getattr(os, name), _changed_path(name)))
        for name in _ON_DESCRIPTORS:
            patch.setattr(os, name, watch(name, getattr(os, name), _path_behind))
        patch.setattr(os, "open", watch("create", os.open, _created_path))
        patch.setattr(os, "copy_file_range", watch("write", os.copy_file_range, lambda _, to, *rest: _path_behind(to)))
        patch.setattr(fcntl, "ioctl", watch("write", fcntl.ioctl, _path_behind))
        patch.setattr(folders, "_rename", watch("commit", folders._rename, lambda source, target, flag: str(target)))
        yield changes


def died(action: Callable[[], object], before: Strike) -> bool:
    """Carry `action` out in a child process; true when it was killed on the way.

    Raises:
        RuntimeError: it ended in another way than by success or a kill.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with watched(before):
                action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if status:
        raise RuntimeError(f"the child ended with status {status}")
    return False


def _changed_path(name: str) -> Callable[..., str]:
    """What a call on paths changes: the new name for a link, the old one for the rest."""
    place = 1 if name in ("symlink", "link") else 0

    def path_of(*args: Any, dir_fd: int | None = None, **_: Any) -> str:
        return _joined(args[place], dir_fd)

    return path_of


def _created_path(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> str | None:
    del mode
    return _joined(path, dir_fd) if flags & os.O_CREAT else None


def _path_behind(descriptor: int, *_: Any) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _joined(path: Any, folder: int | None) -> str:
    name = os.fsdecode(path)
    return name if folder is None else os.path.join(_path_behind(folder), name)


ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
"""What a disk says when it is full, broken, or was remounted."""
