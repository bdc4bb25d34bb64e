"""Look at a target: what is there, whose it is, and what its receipt says."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from overlay.core.target import Entry, TargetSeen, TargetState
from overlay.errors import UsageError
from overlay.formats.names import RECEIPT_NAME, STATE_FOLDER
from overlay.storage.files import fingerprint_of, open_regular, read_exactly

if TYPE_CHECKING:
    from overlay.formats.receipt import Receipt

MAX_RECEIPT_BYTES: Final = 64 * 1024 * 1024


def absolute(path: str) -> str:
    """`path` with the links of its parent resolved and its own kept.

    Raises:
        UsageError: the parent is not there, or it is an address.
    """
    _require_path(path)
    parent, name = os.path.split(os.path.abspath(path))
    if not name:
        raise UsageError("expected a folder to make, found the root", subject=path, hint="name a folder with -o")
    if not os.path.isdir(parent):
        raise UsageError("expected an existing parent folder", subject=path, hint=f"mkdir -p {parent}")
    return os.path.join(os.path.realpath(parent), name)


def _require_path(path: str) -> None:
    if "://" in path:
        raise UsageError("expected a folder of this machine, found an address", subject=path, hint="name a folder")


def find_target(path: str) -> str:
    """The real path of a target that exists, or did: all links resolved, so that a link to a target means the target.

    Raises:
        UsageError: it is an address.
    """
    _require_path(path)
    return os.path.realpath(path)


def look_at_target(path: str) -> TargetSeen:
    """What is at `path`, which `absolute` gave.

    A receipt that cannot be parsed makes the target ours all the same: nobody else makes one.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return TargetSeen(path, TargetState.ABSENT)
    if not stat.S_ISDIR(status.st_mode):
        return TargetSeen(path, TargetState.FOREIGN)
    names = os.listdir(path)
    if not names:
        return TargetSeen(path, TargetState.EMPTY)
    receipt, problem = read_receipt(path)
    state = TargetState.OURS if receipt is not None or problem else TargetState.FOREIGN
    return TargetSeen(path, state, receipt, problem, _entries(path) if state is TargetState.OURS else {})


def read_receipt(path: str) -> tuple[Receipt | None, str]:
    """The receipt of the tree at `path`, or None and why it cannot be used; None and "" where there is none."""
    try:
        with open_regular(os.path.join(path, RECEIPT_NAME)) as descriptor:
            data = read_exactly(descriptor, MAX_RECEIPT_BYTES, 0)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"the system says: {error.strerror}"
    from overlay.formats.lock import LockProblems  # these take 0.1 s that other folders need not wait for
    from overlay.formats.receipt import parse_receipt

    try:
        return parse_receipt(data), ""
    except LockProblems as problems:
        return None, str(problems)


def _entries(root: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for folder, folders, files in os.walk(root):
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else f"{relative}/"
        if not prefix and STATE_FOLDER in folders:
            folders.remove(STATE_FOLDER)
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *linked):
            full = os.path.join(folder, name)
            status = os.lstat(full)
            link = os.readlink(full) if stat.S_ISLNK(status.st_mode) else ""
            entries[prefix + name] = Entry(status.st_mode, fingerprint_of(status), link)
    return entries
