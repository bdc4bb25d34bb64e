"""Find a repository in the Hugging Face cache, offline and by path alone.

Layout (huggingface_hub 2.4): ``models--org--name/{refs/<revision>, snapshots/<commit>/<path>, blobs/<etag>}``.
"""

from __future__ import annotations

import os
from contextlib import suppress

from overlay.formats.references import COMMIT


def cache_root() -> str:
    """The cache folder, by the same environment variables that the Hub client reads."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(base, "huggingface")
    return os.environ.get("HF_HUB_CACHE") or os.path.join(os.path.expanduser(home), "hub")


def is_offline() -> bool:
    """Whether the user forbids the network, by the variables that the Hub client reads."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def repository_folder(repo: str) -> str:
    """The cache's folder for a repository ``org/name``, whether or not it is there."""
    return os.path.join(cache_root(), "models--" + repo.replace("/", "--"))


def snapshot_folder(repo: str, commit: str) -> str:
    """The cache's folder for a commit of a repository, whether or not it is there."""
    return os.path.join(repository_folder(repo), "snapshots", commit)


def is_in_cache(folder: str) -> bool:
    """Whether `folder` is a repository's snapshot in the cache, or in one: what lies there was written by strangers."""
    return os.path.realpath(folder).startswith(os.path.join(os.path.realpath(cache_root()), "models--"))


def find_blob(repo: str, digest: str, size: int) -> str | None:
    """A file of these bytes that the cache holds for another commit of `repo`, or for another repository.

    Args:
        repo: looked at first.
        digest: what the cache calls the blob: the sha256 of an LFS file, the git blob id of a small one.
        size: what it must have; a file that a killed download left has not.

    Costs a stat a repository of the cache.
    """
    with suppress(OSError):
        others = sorted(name for name in os.listdir(cache_root()) if name.startswith("models--"))
        for folder in [os.path.basename(repository_folder(repo)), *others]:
            path = os.path.join(cache_root(), folder, "blobs", digest)
            with suppress(OSError):
                if os.stat(path).st_size == size:
                    return path
    return None


def read_ref(repo: str, revision: str) -> str:
    """The commit that a branch or tag meant when the Hub client last asked; "" where it never did."""
    if ".." in revision.split("/"):
        return ""
    path = os.path.join(repository_folder(repo), "refs", *revision.split("/"))
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            text = stream.read(100).strip()
    except OSError:
        return ""
    return text if COMMIT.fullmatch(text) else ""
