"""A folder on this machine: what it holds, links resolved with suspicion."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from overlay.core.checkpoint import FileSeen
from overlay.core.findings import Finding
from overlay.errors import EnvironmentFault, InvalidInput
from overlay.formats.names import NESTED_FOLDERS
from overlay.formats.references import COMMIT
from overlay.storage.files import explain_os_error, fingerprint_of, hint_for_errno, open_regular
from overlay.storage.links import Roots, resolve


class LocalFolder:
    """The folder `roots.own`: a `storage.checkpoints.Source`."""

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        self.address = roots.own
        name, above = os.path.basename(roots.own), os.path.basename(os.path.dirname(roots.own))
        self.commit = name if COMMIT.fullmatch(name) and above == "snapshots" else None

    def names(self, label: str) -> tuple[list[str], list[str]]:
        """Names at the top, and names in the nested folders that count.

        Raises:
            InvalidInput: there is no such folder.
            EnvironmentFault: it cannot be read.
        """
        root = self.roots.own
        try:
            names = sorted(os.listdir(root))
            nested = [
                f"{folder}/{name}"
                for folder in NESTED_FOLDERS
                if folder in names and os.path.isdir(os.path.join(root, folder))
                for name in sorted(os.listdir(os.path.join(root, folder)))
            ]
        except (FileNotFoundError, NotADirectoryError):
            hint = "name the directory that holds the shards and their index"
            raise InvalidInput("expected a directory, found none", subject=label, hint=hint) from None
        except OSError as error:
            raise explain_os_error(error, label) from None
        return names, nested

    def resolve(self, name: str) -> FileSeen | Finding:
        """The regular file that `name` leads to, or why it leads to none.

        Raises:
            EnvironmentFault: the system refuses.
        """
        try:
            return resolve(self.roots, name)
        except OSError as error:
            problem = f"the system says: {error.strerror}"
            raise EnvironmentFault(problem, subject=name, hint=hint_for_errno(error.errno)) from None

    def is_folder(self, name: str) -> bool:
        """Whether `name` is a folder, itself not a link; what is gone by now is none."""
        path = os.path.join(self.roots.own, name)
        return os.path.isdir(path) and not os.path.islink(path)

    def expect_headers(self, files: Iterable[FileSeen], index: object) -> None:
        """Nothing to prepare: a header costs one read."""


def sizes_of(root: str, names: Iterable[str]) -> dict[str, int | None]:
    """The size of each entry of the folder `root` that is still there, links not followed; None for a folder."""
    sizes: dict[str, int | None] = {}
    for name in names:
        with suppress(OSError):
            status = os.lstat(os.path.join(root, name))
            sizes[name] = None if stat.S_ISDIR(status.st_mode) else status.st_size
    return sizes


def file_at(path: str, name: str) -> FileSeen:
    """The regular file at `path`, links resolved, to be known as `name`.

    Raises:
        InvalidInput: it is not there, or not a regular file.
        EnvironmentFault: it cannot be opened.
    """
    try:
        location = os.path.realpath(path, strict=True)
        with open_regular(location) as descriptor:
            return FileSeen(name, location, fingerprint_of(os.fstat(descriptor)), os.path.islink(path))
    except OSError as error:
        raise explain_os_error(error, path) from None
