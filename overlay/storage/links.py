"""Where a name in a checkpoint may lead.

A Hub cache is made of links: ``snapshots/<commit>/f`` leads to ``blobs/<etag>``, and that may lead on to a store that
all repositories share.  Those blob folders belong to a snapshot; everything else outside its directory does not, and
a checkpoint that points there is either broken or hostile.  The user may allow further roots by name.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from overlay.core.checkpoint import FileSeen
from overlay.core.findings import Finding, about
from overlay.storage.files import describe_kind, fingerprint_of

_BLOB: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SNAPSHOT_DEPTH: Final = 3
"""A snapshot lies at most so many folders below the one that holds its ``blobs``: ``cache/models--x/snapshots/<commit>``."""


@dataclass(frozen=True, slots=True)
class Roots:
    """What a checkpoint's links may reach."""

    own: str
    """Real path of the checkpoint's directory."""
    allowed: tuple[str, ...] = ()
    """Real paths of folders that the user allowed."""
    expected: Mapping[str, str] = field(default_factory=dict)
    """Name to real file, as a receipt says: links that we made ourselves."""

    def admit(self, name: str, location: str) -> bool:
        """Whether the entry `name` may lead to the real file `location`."""
        if any(_within(location, root) for root in (self.own, *self.allowed)):
            return True
        return self.expected.get(name) == location or self._is_blob(location)

    def _is_blob(self, location: str) -> bool:
        folder, name = os.path.split(location)
        if not _BLOB.fullmatch(name):
            return False
        if os.path.basename(folder) != "blobs":  # the shared store: blobs/<two hex digits>/<hash>
            folder = os.path.dirname(folder)
        ancestor = self.own
        for _ in range(_SNAPSHOT_DEPTH):
            ancestor = os.path.dirname(ancestor)
            if folder == os.path.join(ancestor, "blobs"):
                return True
        return False


def roots_for(root: str, allowed: Iterable[str] = (), expected: Mapping[str, str] | None = None) -> Roots:
    """The roots of the checkpoint at the real path `root`."""
    return Roots(root, tuple(os.path.realpath(path) for path in allowed), expected or {})


def resolve(roots: Roots, name: str) -> FileSeen | Finding:
    """Follow the entry `name` to a regular file, or say why that is refused.

    Raises:
        OSError: the machine failed; a missing, looping, foreign or special entry is a finding.
    """
    path = os.path.join(roots.own, name)
    try:
        via_link = stat.S_ISLNK(os.lstat(path).st_mode)
        location = os.path.realpath(path, strict=True)
        status = os.stat(location, follow_symlinks=False)
    except FileNotFoundError:
        if os.path.lexists(path):
            return about("LNK002", name, f"expected a file, found a dangling link to {os.readlink(path)}")
        return about("IDX003", name, "expected this shard, found nothing of that name")
    except OSError as error:
        if error.errno == errno.ELOOP:
            return about("LNK003", name, "expected a file, found a loop of links")
        raise
    if not roots.admit(name, location):
        return about("LNK001", name, f"expected a file inside {roots.own}, found a link to {location}")
    if not stat.S_ISREG(status.st_mode):
        return about("LNK004", name, f"expected a regular file, found {describe_kind(status.st_mode)}")
    stated = _stated_sha256(os.readlink(path)) if via_link else ""
    return FileSeen(name, location, fingerprint_of(status), via_link, stated)


def _stated_sha256(link: str) -> str:
    """The sha256 that a link into a repository's ``blobs`` states; the shared store, a folder deeper, uses another hash."""
    folder, name = os.path.split(link)
    return name if _SHA256.fullmatch(name) and os.path.basename(folder) == "blobs" else ""


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
