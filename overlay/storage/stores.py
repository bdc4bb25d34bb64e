"""Files on other machines, by their addresses.

``hf://org/name@<commit>`` is a repository of the Hub at one commit; ``s3://…``, ``gs://…`` and ``https://…`` are folders of
an object store.  A file's address is the repository's, a slash, and its path there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Final

from overlay.core.checkpoint import ELSEWHERE, FileSeen, Fingerprint
from overlay.core.findings import Finding, about
from overlay.core.progress import Advance
from overlay.errors import InvalidInput, UsageError
from overlay.formats.digest import sha256_of
from overlay.formats.header import LENGTH_BYTES, MAX_HEADER_BYTES
from overlay.formats.index import Index
from overlay.formats.names import NESTED_FOLDERS
from overlay.storage.files import explain_os_error, fingerprint_of, open_regular
from overlay.storage.hub_cache import cache_root
from overlay.storage.proofs import cache_folder
from overlay.storage.remote import Remote, RemoteFile

_HUB: Final = re.compile(r"hf://([^/@]+/[^/@]+)@([0-9a-f]{40})")
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://")
_HEADER_START: Final = 256
_ENTRY_BYTES: Final = 100
"""``"":{"dtype":"F8_E4M3","shape":[163840,7168],"data_offsets":[10000000000,10000000000]},``, rounded up."""

_opened: dict[tuple[str, ...], Remote] = {}
"""Repositories by address and by where the environment says that stores are: what a process listed is not listed again."""


def is_address(text: str) -> bool:
    """Whether `text` is the address of something elsewhere, and not a path."""
    return _ADDRESS.match(text) is not None


def open_remote(address: str) -> Remote:
    """The repository at `address`.

    Raises:
        EnvironmentFault: it cannot be reached.
        InvalidInput: its listing names files outside of it, or the address is a folder of a repository.
    """
    key = _key(address)
    if key not in _opened:
        match = _HUB.fullmatch(address)
        if match is None and address.startswith("hf://"):
            hint = "name the repository, or a file at its top; of anything else fetch a copy first: hf download"
            problem = "expected a repository of the Hub as a whole, found a folder in it"
            raise InvalidInput(problem, subject=address, hint=hint)
        if match:
            from overlay.storage.hub.opening import open_repository  # the Hub's client takes 0.2 s to import

            _opened[key] = open_repository(match[1], match[2])
        else:
            from overlay.storage.object_stores import open_store

            _opened[key] = open_store(address)
    return _opened[key]


def remote_of(file: FileSeen) -> tuple[Remote, str]:
    """The repository that holds a file elsewhere, and the file's path there."""
    match = _HUB.match(file.location)
    known = [key[0] for key in list(_opened) if file.location.startswith(f"{key[0]}/")]
    address = match[0] if match else max(known, key=len, default=file.location.rpartition("/")[0])
    return open_remote(address), file.location[len(address) + 1 :]


def _key(address: str) -> tuple[str, ...]:
    endpoints = (os.environ.get(name, "") for name in ("HF_ENDPOINT", "AWS_ENDPOINT_URL", "FSSPEC_S3_ENDPOINT_URL"))
    return (address, *endpoints, cache_root(), cache_folder())


def download(file: FileSeen, advance: Advance = lambda count: None) -> FileSeen:
    """A file elsewhere, whole, on this machine: fetched unless it is here, and checked against its listing.

    Raises:
        EnvironmentFault, Mismatch: as `storage.remote.Remote.download`.
    """
    remote, path = remote_of(file)
    return _here(file.name, remote.download(path, advance), file)


def fetch_range(file: FileSeen, begin: int, end: int) -> bytes:
    """The bytes ``[begin, end)`` of a file elsewhere; a few, since they are held.

    Raises:
        EnvironmentFault, Mismatch: as `storage.remote.Remote.read`.
    """
    remote, path = remote_of(file)
    return b"".join(remote.read(path, begin, min(end, file.size)))


def fetch_header(file: FileSeen) -> bytes:
    """The first 8 + N bytes of a shard elsewhere, as far as they can be a header at all.

    Raises:
        EnvironmentFault, Mismatch: as `storage.remote.Remote.read`.
    """
    remote, path = remote_of(file)
    from overlay.storage.remote_headers import read_headers  # threads, which local checkpoints do not need

    return read_headers(remote, [path], {})[path]


def sizes_at(address: str, names: Iterable[str]) -> dict[str, int | None]:
    """The size of each of `names` at the top of a repository, in bytes; None for a folder."""
    files = open_remote(address).listing.files
    return {name: files[name].size if name in files else None for name in names}


def names_at(directory: str) -> list[str]:
    """The names at the top of a directory or of a repository elsewhere, folders included.

    Raises:
        OSError, EnvironmentFault: it cannot be listed.
    """
    return RemoteFolder(directory).names(directory)[0] if is_address(directory) else os.listdir(directory)


def path_here(path: str) -> str:
    """The path of a document on this machine: `path` itself, or, of an address, the file that was fetched.

    Raises:
        UsageError: it is a reference to the Hub that names no commit: the command works on files of this machine alone.
        InvalidInput: the repository has no such file.
        EnvironmentFault, Mismatch: as `storage.remote.Remote.download`.
    """
    if not is_address(path):
        return path
    if path.startswith("hf://") and _HUB.match(path) is None:
        hint = "fetch a copy first: hf download org/name --local-dir DIR; apply, plan and verify take the reference as it is"
        raise UsageError("expected a file on this machine, found a reference to the Hub", subject=path, hint=hint)
    folder, _, name = path.rpartition("/")
    if name not in open_remote(folder).listing.files:
        hint = f"overlay inspect {folder} lists its files"
        raise InvalidInput("expected a file, found none of that name", subject=path, hint=hint)
    return open_remote(folder).download(name, lambda count: None)


def is_file(path: str) -> bool:
    """Whether there is a file at a path, or at the address of one."""
    if not is_address(path):
        return os.path.isfile(path)
    if is_folder(path):
        return False
    folder, _, name = path.rpartition("/")
    return name in open_remote(folder).listing.files


def is_folder(path: str) -> bool:
    """Whether there is a folder at a path, or a whole repository at an address."""
    if not is_address(path):
        return os.path.isdir(path)
    if path.startswith("hf://"):
        return _HUB.fullmatch(path) is not None
    # Stores know no folders: what does not end like a file of a checkpoint is one.
    return _key(path) in _opened or not path.endswith((".yaml", ".yml", ".json", ".safetensors", ".md"))


class RemoteFolder:
    """A repository elsewhere: a `storage.checkpoints.Source`.  Files of it that are here already count as local ones."""

    def __init__(self, address: str) -> None:
        self._remote = open_remote(address)
        self.address = address
        self.commit = self._remote.listing.commit
        self._folders = {path.partition("/")[0] for path in self._remote.listing.files if "/" in path}

    def names(self, label: str) -> tuple[list[str], list[str]]:
        """Names at the top, and names in the nested folders that count."""
        del label
        files = self._remote.listing.files
        top = {path for path in files if "/" not in path} | self._folders
        return sorted(top), sorted(path for path in files if path.rpartition("/")[0] in NESTED_FOLDERS)

    def resolve(self, name: str) -> FileSeen | Finding:
        """The file of this name, here or elsewhere."""
        listed = self._remote.listing.files.get(name)
        if listed is None:
            if name in self._folders:
                return about("LNK004", name, "expected a regular file, found a directory")
            return about("IDX003", name, "expected this shard, found nothing of that name")
        path = self._remote.find(name)
        seen = seen_elsewhere(self.address, listed)
        return _here(name, path, seen) if path is not None else seen

    def is_folder(self, name: str) -> bool:
        """Whether a name at the top is a folder."""
        return name in self._folders

    def expect_headers(self, files: Sequence[FileSeen], index: Index | None) -> None:
        """Fetch the headers that are not here, many at once."""
        wanted = [file.name for file in files if file.is_remote]
        if wanted:
            from overlay.storage.remote_headers import read_headers  # as above

            read_headers(self._remote, wanted, _header_sizes(index))


def seen_elsewhere(address: str, file: RemoteFile) -> FileSeen:
    """A file as its store lists it, under the repository's address."""
    location = f"{address}/{file.path}"
    number = int(sha256_of(f"{location}\0{file.sha256 or file.oid}".encode())[:15], 16)
    return FileSeen(file.path, location, Fingerprint(ELSEWHERE, number, file.size, number, 0), False, file.sha256)


def _here(name: str, path: str, seen: FileSeen) -> FileSeen:
    """A file of a repository that is on this machine.

    Raises:
        InvalidInput: it is shorter or longer than it is listed.
    """
    try:
        location = os.path.realpath(path, strict=True)
        with open_regular(location) as descriptor:
            fingerprint = fingerprint_of(os.fstat(descriptor))
    except OSError as error:
        raise explain_os_error(error, path) from None
    if fingerprint.size != seen.size:
        problem = f"expected {seen.size} bytes, as the repository lists it, found {fingerprint.size}"
        # The file behind the link: without its link alone, the Hub's client would take it for whole.
        raise InvalidInput(problem, subject=path, hint=f"rm {location}, then run the command again")
    return FileSeen(name, location, fingerprint, os.path.islink(path), seen.stated_sha256)


def _header_sizes(index: Index | None) -> dict[str, int]:
    """About how long the header of each shard is: what an entry takes beside the tensor's name, generously."""
    sizes: dict[str, int] = {}
    for tensor, shard in index.weight_map.items() if index is not None else ():
        sizes[shard] = min(
            MAX_HEADER_BYTES, sizes.get(shard, LENGTH_BYTES + _HEADER_START) + len(tensor) + _ENTRY_BYTES
        )
    return sizes
