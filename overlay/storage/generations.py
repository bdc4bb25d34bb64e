"""Generations: the trees that a target has been, kept whole beside it in ``.NAME.overlay-generations``.

An entry's name is only a convenience; what it is stands in its own receipt, so that an entry which an interrupted run
left under another name is still what it is.  Built shards that did not change are one file in several generations.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from overlay.formats.names import STATE_FOLDER
from overlay.formats.receipt import Receipt
from overlay.storage.files import fsync_folder
from overlay.storage.targets import read_receipt

KEPT: Final = 3
"""Generations that are kept beside the current one; older ones are deleted after a commit."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A tree that the target has been."""

    number: int
    path: str
    receipt: Receipt


def folder_of(target: str) -> str:
    """Where the generations of `target` are kept."""
    parent, name = os.path.split(target)
    return os.path.join(parent, f".{name}.overlay-generations")


def read_generations(target: str) -> list[Generation]:
    """The kept generations of `target`, oldest first."""
    folder = folder_of(target)
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    receipts = ((os.path.join(folder, name), read_receipt(os.path.join(folder, name))[0]) for name in names)
    found = [Generation(receipt.generation, path, receipt) for path, receipt in receipts if receipt is not None]
    return sorted(found, key=lambda generation: generation.number)


def adopt(tree: str, target: str) -> None:
    """Keep the folder `tree` as a generation of `target`, by the number in its receipt, and forget the oldest others.

    Raises:
        OSError: it cannot be moved; it is still at `tree`.
    """
    folder = folder_of(target)
    os.makedirs(folder, mode=0o755, exist_ok=True)
    receipt = read_receipt(tree)[0]
    path = os.path.join(folder, f"{receipt.generation:06d}" if receipt is not None else secrets.token_hex(8))
    if os.path.lexists(path):
        path += f"-{secrets.token_hex(4)}"
    os.rename(tree, path)
    fsync_folder(folder)
    fsync_folder(os.path.dirname(folder))
    others = [generation for generation in read_generations(target) if generation.path != path]
    for generation in others[: 1 - KEPT]:  # never the tree that was current until now, however old it is
        _forget(generation.path)
    for name in os.listdir(folder):
        _remove_hollow(os.path.join(folder, name))


def rename_by_number(path: str, target: str) -> None:
    """Give an entry the name of the tree that it holds; does nothing where that fails, since names do not count.

    An entry that holds an empty folder, which was no generation, is removed.
    """
    receipt = read_receipt(path)[0]
    if receipt is None:
        _remove_hollow(path)
        return
    with suppress(OSError):
        wanted = os.path.join(folder_of(target), f"{receipt.generation:06d}")
        if wanted != path and not os.path.lexists(wanted):
            os.rename(path, wanted)


def _forget(tree: str) -> None:
    """Delete a generation, its receipt last: what an interrupted run leaves of it is known and forgotten again."""
    with suppress(OSError), os.scandir(tree) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != STATE_FOLDER:
                    shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
    shutil.rmtree(tree, ignore_errors=True)


def _remove_hollow(tree: str) -> None:
    """Remove folders that hold nothing: all that a deletion may leave which was interrupted after the receipt."""
    for path in (os.path.join(tree, STATE_FOLDER), tree):
        with suppress(OSError):
            os.rmdir(path)
