"""Keep the trees that a target was, and bring them back.

They lie beside the target ``P/NAME`` in ``P/.NAME.overlay-generations/``, whole and as they were.  Every change is one
rename under the target's lock (`storage.staging.locked`), and receipts, not names, say what a tree is: a process that dies
between two renames leaves nothing that the next run would misread.

Trees may share inodes: a built shard that did not change is hard-linked from one generation to the next.  Linking and
unlinking move the ctime of such an inode, so its digest is remembered anew here; a write into it reaches every generation
that shares it, which the check before an undo finds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from overlay.core.checkpoint import FileSeen
from overlay.core.generations import Generation, outdated, was_replaced
from overlay.errors import Conflict, EnvironmentFault, InvalidInput
from overlay.formats.names import RECEIPT_NAME
from overlay.storage.folders import delete, exchange, fsync_folder, movable, move
from overlay.storage.local import file_at
from overlay.storage.proofs import ProofStore
from overlay.storage.targets import read_receipt


def history_folder(target: str) -> str:
    """Where the old generations of the absolute path `target` lie."""
    parent, name = os.path.split(target)
    return os.path.join(parent, f".{name}.overlay-generations")


def read_generations(target: str) -> list[Generation]:
    """The current generation and the kept ones, by number; a tree without a valid receipt is none."""
    receipt, _ = read_receipt(target)
    current = [Generation(target, receipt, current=True)] if receipt is not None else []
    return sorted([*current, *_kept(target)], key=lambda generation: (generation.number, not generation.current))


def put_away(tree: str, target: str) -> None:
    """Move the tree that bears a stage's name into the history if it is an older generation; else delete it.

    Raises:
        OSError, Conflict: it cannot be moved; it is still where it was.
    """
    if os.path.islink(tree) or not os.path.isdir(tree):  # no stage of ours, or none at all
        return
    receipt, _ = read_receipt(tree)
    kept = _kept(target)
    if receipt is None or not was_replaced(receipt, read_receipt(target)[0], kept):
        with _memory_kept([target, *(generation.path for generation in kept)]):
            _discard(tree)
        return
    path = _free_name(_made(target), receipt.generation)
    with movable(tree):
        move(tree, path)
    fsync_folder(os.path.dirname(path))
    fsync_folder(os.path.dirname(target))
    _remember(path)
    _prune(target, path)


def bring_back(chosen: Generation, target: str) -> None:
    """Let `chosen` and the target change places; an absent or empty target just becomes it.  The caller holds the lock.

    Both trees are on the disk since they were committed, so that one rename is the whole of it.

    Raises:
        EnvironmentFault: the file system cannot exchange two folders in one step; nothing was changed.
        OSError: the kernel refused; nothing was changed.
    """
    with ExitStack() as writable:
        writable.enter_context(movable(chosen.path))
        if not os.path.lexists(target):
            move(chosen.path, target)
        elif not os.listdir(target):
            os.rename(chosen.path, target)  # replaces an empty folder, and no other
        else:
            writable.enter_context(movable(target))
            exchange(chosen.path, target)  # the commit point
    fsync_folder(os.path.dirname(target))
    fsync_folder(os.path.dirname(chosen.path))
    with suppress(OSError, Conflict):  # names are a courtesy to people, and the next run corrects them
        tidy(target)
    for generation in read_generations(target):
        _remember(generation.path)


def is_tidy(target: str) -> bool:
    """Whether `tidy` has nothing to do."""
    return not _misnamed(target) and not _remains(target)


def tidy(target: str) -> None:
    """Name every kept tree after its number, and delete what is left of trees whose deletion was interrupted."""
    for generation, path in _misnamed(target):
        move(generation.path, path)
        fsync_folder(os.path.dirname(path))
    for path in _remains(target):
        delete(path)


def _misnamed(target: str) -> list[tuple[Generation, str]]:
    """Kept trees with the names that they should have, where those are free."""
    wanted = [(kept, os.path.join(history_folder(target), _name(kept.number))) for kept in _kept(target)]
    return [(kept, path) for kept, path in wanted if path != kept.path and not os.path.lexists(path)]


def _remains(target: str) -> list[str]:
    """Folders in the history without a receipt, which is the first thing of a tree that is deleted."""
    return [path for path in _folders(target) if _is_gone(os.path.join(path, RECEIPT_NAME))]


def _is_gone(path: str) -> bool:
    """Whether nothing is at `path`; a file that cannot be looked at for the moment is not gone."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _kept(target: str) -> list[Generation]:
    receipts = ((path, read_receipt(path)[0]) for path in _folders(target))
    return [Generation(path, receipt) for path, receipt in receipts if receipt is not None]


def _folders(target: str) -> list[str]:
    """The folders in the history; none if the history is itself a link, which we never make."""
    folder = history_folder(target)
    if os.path.islink(folder):
        return []
    try:
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in paths if stat.S_ISDIR(os.lstat(path).st_mode)]


def _made(target: str) -> str:
    """The history's folder, made if it is not there."""
    folder = history_folder(target)
    try:
        os.mkdir(folder)
    except FileExistsError:
        if os.path.islink(folder) or not os.path.isdir(folder):
            raise NotADirectoryError(f"expected a folder at {folder}, found something else") from None
        return folder
    fsync_folder(os.path.dirname(folder))
    return folder


def _name(number: int) -> str:
    return f"{number:06}"


def _free_name(folder: str, number: int) -> str:
    """A path for a tree with this number; the plain one is only taken if a crash left another tree under it."""
    path, attempt = os.path.join(folder, _name(number)), 1
    while os.path.lexists(path):
        path, attempt = os.path.join(folder, f"{_name(number)}-{attempt}"), attempt + 1
    return path


def _prune(target: str, latest: str) -> None:
    """Delete the generations that are too many; what cannot be deleted is tried again after the next apply."""
    kept = _kept(target)
    doomed = {generation.path for generation in outdated(kept, latest)}
    if doomed:
        with _memory_kept([target, *(generation.path for generation in kept if generation.path not in doomed)]):
            for path in sorted(doomed):
                _discard(path)


def _discard(tree: str) -> None:
    """Delete a tree, its receipt first: a tree without one is nobody's, should this be interrupted."""
    with suppress(OSError), movable(os.path.dirname(os.path.join(tree, RECEIPT_NAME))):
        os.unlink(os.path.join(tree, RECEIPT_NAME))
    delete(tree)


def _remember(tree: str) -> None:
    """Remember the digests of a tree's own shards under the path that they have now, so that a later change is noticed."""
    store = ProofStore()
    for file in _own_shards(tree):
        store.remember_again(file, file)


@contextmanager
def _memory_kept(trees: list[str]) -> Iterator[None]:
    """Inside, links to the inodes of `trees` may be removed, without their digests being forgotten for the moved ctime."""
    store = ProofStore()
    before = [file for tree in trees for file in _own_shards(tree)]
    yield
    for file in before:
        with suppress(InvalidInput, EnvironmentFault):
            now = file_at(file.location, file.name)
            if now.fingerprint != file.fingerprint:
                store.remember_again(file, now)


def _own_shards(tree: str) -> Iterator[FileSeen]:
    """The shards of a tree that are files of its own and no links."""
    receipt, _ = read_receipt(tree)
    for name, placed in receipt.files.items() if receipt is not None else ():
        path = os.path.join(tree, name)
        if placed.header_sha256 is not None and not os.path.islink(path):
            with suppress(InvalidInput, EnvironmentFault):
                yield file_at(path, name)
