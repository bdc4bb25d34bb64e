"""A Hub cache as huggingface_hub 2.4 lays it out, made without a network.

``models--org--name/snapshots/<commit>/f`` is a link to ``../../blobs/<etag>``; the etag is the sha256 of a file in large
file storage and the git-sha1 of a small one.  With the store that all repositories share, the blob is itself a link, to
``../../blobs/<two digits>/<hash>``, and that hash is *not* the file's sha256.  Payloads are read-only.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

Layout = Literal["one hop", "two hops"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


class Entry(NamedTuple):
    """What the kernel says of one entry, and what is in it."""

    mode: int
    inode: int
    links: int
    size: int
    mtime_ns: int
    ctime_ns: int
    content: str


@dataclass(frozen=True)
class Repository:
    """A repository in a cache."""

    cache: Path
    name: str
    commit: str

    @property
    def folder(self) -> Path:
        return self.cache / f"models--{self.name.replace('/', '--')}"

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshots" / self.commit

    @property
    def reference(self) -> str:
        return f"hf://{self.name}@main"

    def payload(self, name: str) -> Path:
        """The file behind all links."""
        return (self.snapshot / name).resolve(strict=True)

    def stated(self, name: str) -> str:
        """The etag of a file."""
        return Path(os.readlink(self.snapshot / name)).name


def add_repository(cache: Path, name: str, source: Path, layout: Layout, *, commit: str = "") -> Repository:
    """Put the files of `source` into `cache` as the commit of ``main`` of the repository `name`."""
    commit = commit or hashlib.sha1(name.encode()).hexdigest()
    repository = Repository(cache, name, commit)
    for folder in (repository.snapshot, repository.folder / "blobs", repository.folder / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        data = file.read_bytes()
        large = file.name.endswith(".safetensors")
        blob = repository.folder / "blobs" / (hashlib.sha256(data).hexdigest() if large else git_sha1(data))
        if not blob.is_symlink() and not blob.exists():
            if large and layout == "two hops":
                share(cache, blob, data)
            else:
                blob.write_bytes(data)
                blob.chmod(0o444)
        (repository.snapshot / file.name).symlink_to(os.path.relpath(blob, repository.snapshot))
    (repository.folder / "refs" / "main").write_text(commit)
    return repository


def share(cache: Path, blob: Path, data: bytes) -> None:
    """Make `blob` a link into the shared store, and write down there that it is one."""
    store = cache / "blobs"
    store.mkdir(exist_ok=True)
    (store / ".huggingface-shared-blobs").write_text("1\n")
    name = hashlib.sha256(b"another hash of the same bytes: " + data).hexdigest()
    payload = store / name[:2] / name
    payload.parent.mkdir(exist_ok=True)
    if not payload.exists():
        payload.write_bytes(data)
        payload.chmod(0o444)
    with payload.with_name(f"{name}.refs").open("a") as references:
        references.write(f"{blob.relative_to(cache)}\n")
    blob.symlink_to(os.path.relpath(payload, blob.parent))


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def look_at(folder: Path) -> dict[str, Entry]:
    """Every entry below `folder`, with all that an act of writing could change; reading moves only the access time."""
    return {str(path.relative_to(folder)): _entry(path) for path in folder.rglob("*")}


def flip_byte(path: Path, offset: int = -1) -> None:
    """Change one bit of the byte at `offset`, and nothing else that can be set back."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _entry(path: Path) -> Entry:
    status = path.lstat()
    if path.is_symlink():
        content = os.readlink(path)
    else:
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return Entry(
        status.st_mode,
        status.st_ino,
        status.st_nlink,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        content,
    )
