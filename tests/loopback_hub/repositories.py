"""Repositories: files at commits, commits under names, as the Hub keeps them.

Commit ids are not git's: a digest of parent, files and title.  The ids of small files and of pointers are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.loopback_hub.contents import Contents, blob_id, contents_of, pointer, sha256_of, whole

LARGE_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".gguf",
    ".pt",
    ".pth",
    ".onnx",
    ".npz",
    ".parquet",
    ".zip",
    ".h5",
    ".msgpack",
)
"""Some of what the Hub's first .gitattributes names."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A file to be put into a repository, where more is to be said about it than its bytes."""

    data: bytes | Path
    sha256: str | None = None
    """Stated without reading the file; it may be a lie."""
    large: bool | None = None
    """Whether it is kept by LFS; None: the name and the size say so."""
    xet_hash: str | None = None
    """Stated; a hub with a chunk store computes it, and cannot serve a stated one by chunks."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file at one commit."""

    contents: Contents
    blob_id: str
    sha256: str | None = None
    """Of large files."""
    pointer_size: int = 0
    xet_hash: str | None = None

    @property
    def size(self) -> int:
        return self.contents.size

    @property
    def etag(self) -> str:
        """Without quotes; it is also the name of the file in the client's cache."""
        return self.sha256 or self.blob_id

    def listed(self, path: str) -> dict[str, Any]:
        """The entry of a tree."""
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": self.blob_id, "size": self.size}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        if self.xet_hash:
            entry["xetHash"] = self.xet_hash
        return entry


def small_file(data: bytes) -> File:
    return File(contents=contents_of(data), blob_id=blob_id(data))


def large_file(contents: Contents, sha256: str, xet_hash: str | None = None) -> File:
    text = pointer(sha256, contents.size)
    return File(
        contents=contents, blob_id=blob_id(text), sha256=sha256, pointer_size=len(text), xet_hash=xet_hash or None
    )


def is_large(path: str, size: int, threshold: int) -> bool:
    """Whether the Hub keeps such a file by LFS; empty files never are."""
    return size > 0 and (path.lower().endswith(LARGE_SUFFIXES) or size > threshold)


def seeded(path: str, seed: Seed | bytes | Path, threshold: int) -> File:
    """The file that `seed` describes; hashed only where no digest is stated."""
    seed = seed if isinstance(seed, Seed) else Seed(data=seed)
    contents = contents_of(seed.data)
    large = seed.large if seed.large is not None else bool(seed.sha256) or is_large(path, contents.size, threshold)
    if large:
        return large_file(contents, seed.sha256 or sha256_of(contents), seed.xet_hash)
    return small_file(whole(contents))


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Files under a title; `number` counts the commits of a hub and stands for the time."""

    id: str
    parent: str | None
    title: str
    description: str = ""
    number: int
    files: Mapping[str, File]


@dataclass
class Repository:
    """A repository; its fields change under the lock of the hub."""

    id: str
    kind: str = "models"
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    """``refs/heads/main`` and the like, each with its commit."""
    large: dict[str, File] = field(default_factory=dict)
    """Large files that commits may name, by sha256: those of the commits, and those uploaded or copied here."""
    pull_requests: dict[int, str] = field(default_factory=dict)
    """Number to title."""

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag, a full ref or a commit id."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.commits[self.refs[name]]
        return self.commits.get(revision)

    def head(self, branch: str = "main") -> Commit:
        return self.commits[self.refs[f"refs/heads/{branch}"]]

    def add(self, ref: str, commit: Commit) -> None:
        """Make `commit` the one that `ref` names."""
        self.commits[commit.id] = commit
        self.refs[ref] = commit.id
        self.large.update({file.sha256: file for file in commit.files.values() if file.sha256})

    def forget(self, commit: str) -> None:
        """Drop a commit that no ref reaches any more, with those only it led to."""
        kept = {item.id for head in self.refs.values() for item in self.history(head)}
        for lost in [item.id for item in self.history(commit) if item.id not in kept]:
            del self.commits[lost]

    def history(self, commit: str | None) -> list[Commit]:
        """From `commit` back to the first."""
        found = []
        while commit is not None and commit in self.commits:
            found.append(self.commits[commit])
            commit = self.commits[commit].parent
        return found


def made_commit(
    repository: Repository,
    parent: Commit | None,
    changes: Mapping[str, File | None],
    *,
    title: str,
    number: int,
    description: str = "",
) -> Commit:
    """The commit that follows `parent`; None in `changes` deletes."""
    files = {**(parent.files if parent else {}), **{path: file for path, file in changes.items() if file is not None}}
    files = {path: file for path, file in sorted(files.items()) if changes.get(path, file) is not None}
    named = [(path, file.blob_id, file.xet_hash) for path, file in files.items()]
    text = repr((repository.id, parent.id if parent else None, named, title, number))
    return Commit(
        id=hashlib.sha1(text.encode()).hexdigest(),
        parent=parent.id if parent else None,
        title=title,
        description=description,
        number=number,
        files=files,
    )


def with_xet_hash(file: File, xet_hash: str | None) -> File:
    return replace(file, xet_hash=xet_hash)
