"""The folders that a container needs to read a checkpoint whose links leave its directory.

A link is followed hop by hop, for a Hub cache has two: a snapshot's link leads to ``blobs/<etag>``, and that may lead on to
a store that all repositories share.  Each hop's folder must be where the link spells it, wherever it really lies.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from overlay.core.findings import Finding
from overlay.core.launching import Mount
from overlay.errors import InvalidInput
from overlay.storage.links import Roots, resolve

_MOST_HOPS = 40
"""As many as the kernel follows."""


def mounts_for(directory: str, roots: Roots) -> list[Mount]:
    """What a container needs to see all files of `directory` by the same path; the directory itself comes first.

    Links to folders are left alone: loaders do not follow them.

    Args:
        directory: absolute, as the command names it.
        roots: where its links may lead; `roots.own` is its real path.

    Raises:
        InvalidInput: a link leads nowhere, or where it must not.
        EnvironmentFault: the directory cannot be read.
    """
    found = {Mount(roots.own, directory): None}
    for name in _links(roots.own):
        seen = resolve(roots, name)
        if isinstance(seen, Finding):
            hint = f"overlay verify {directory} says more; --allow-root allows a folder"
            raise InvalidInput(seen.message, subject=f"{directory}: {name}", hint=hint)
        folder, last = os.path.split(name)
        for hop in _hops(os.path.join(roots.own, folder), os.path.join(directory, folder), last):
            found[hop] = None
    return prune(found)


def prune(mounts: dict[Mount, None]) -> list[Mount]:
    """`mounts` without those that lie in another one, each once; the first stays first."""
    first, *others = mounts
    kept = [first]
    for mount in sorted(others, key=lambda mount: (mount.target.count("/"), mount)):
        if not any(_covers(outer, mount) for outer in kept):
            kept.append(mount)
    return kept


def _links(root: str) -> Iterator[str]:
    """The links to files below `root`, by relative name; what leads nowhere is taken for one."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            if stat.S_ISLNK(os.lstat(path).st_mode):
                yield os.path.relpath(path, root)


def _hops(real: str, spelled: str, name: str) -> Iterator[Mount]:
    """The folders that following ``real/name`` leads through, which a container sees at ``spelled/name``."""
    for _ in range(_MOST_HOPS):
        try:
            link = os.readlink(os.path.join(real, name))
        except OSError:  # no link: the end
            return
        folder, name = os.path.split(link)
        real, spelled = os.path.realpath(os.path.join(real, folder)), os.path.normpath(os.path.join(spelled, folder))
        yield Mount(real, spelled)


def _covers(outer: Mount, inner: Mount) -> bool:
    """Whether `inner` is seen through `outer` already."""
    below = os.path.relpath(inner.target, outer.target)
    if below == ".":
        return outer.source == inner.source
    return not below.startswith("..") and os.path.join(outer.source, below) == inner.source
