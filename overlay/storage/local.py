"""Read a checkpoint from a directory: names, headers, index and sidecars; never the weights."""

from __future__ import annotations

import gc
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from overlay.core.checkpoint import Checkpoint, FileSeen, Shard, Sidecar
from overlay.core.findings import Finding, about
from overlay.errors import EnvironmentFault, InvalidInput
from overlay.formats import header as header_format
from overlay.formats.digest import sha256_of
from overlay.formats.header import Header, HeaderProblem
from overlay.formats.index import MAX_INDEX_BYTES, Index, IndexProblem, parse_index
from overlay.formats.names import (
    INDEX_NAME,
    SHARD_SUFFIX,
    SINGLE_NAME,
    STATE_FOLDER,
    WEIGHT_SUFFIXES,
    explain_target_name,
)
from overlay.storage.files import explain_os_error, fingerprint_of, hint_for_errno, open_regular, read_exactly
from overlay.storage.links import Roots, resolve

MAX_SIDECAR_BYTES: Final = 128 * 1024 * 1024
"""Larger files are no sidecars; the largest real ones are tokenizers of about 40 MB."""

_NESTED: Final = ("additional_chat_templates",)
"""Folders whose files belong to a checkpoint: transformers reads chat templates from there."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ENOUGH_TO_RECOGNISE: Final = 64


SharedHeaders = dict[tuple[str, int], Header]
"""Digest of a header's bytes and size of the file to the header: two checkpoints of one family share most of theirs."""


def read_checkpoint(
    label: str, roots: Roots, *, partial: bool = False, headers: bool = True, shared: SharedHeaders | None = None
) -> Checkpoint:
    """Read the checkpoint in the directory `roots.own`.

    Args:
        label: how the user named it; used in messages.
        roots: where its links may lead.
        partial: the directory is a diff-only repository: the index may name shards that are elsewhere.
        headers: also read and check the header of every shard; otherwise shards are only resolved.
        shared: headers that were parsed before; those parsed now are added.

    Costs one stat a file and 8 + N bytes a shard; the weights stay untouched.

    Raises:
        InvalidInput: there is no such directory, or nothing in it is a checkpoint.
        EnvironmentFault: the machine refused to read.
    """
    names, nested = _list(roots.own, label)
    reader = _Reader(roots, shared)
    index, index_file = reader.read_index(names)
    listed = _listed(names, index, partial)
    with paused_gc():
        shards = reader.read_shards(listed, headers)
    strays, sidecars, left_out = reader.read_rest([*names, *nested], set(listed))
    if not shards and not listed and index is None and not reader.findings:
        raise InvalidInput(
            f"expected {INDEX_NAME} or {SINGLE_NAME}, found neither",
            subject=label,
            hint="name the directory that holds the shards",
        )
    return Checkpoint(
        label=label,
        root=roots.own,
        index=index,
        index_file=index_file,
        shards=shards,
        strays=strays,
        sidecars=sidecars,
        left_out=tuple(sorted(left_out)),
        findings=tuple(reader.findings),
        commit=_commit_of(roots.own),
    )


def read_header(file: FileSeen, shared: SharedHeaders | None = None) -> Header:
    """The header of a shard; one with the same bytes that is among `shared` is not parsed again.

    Raises:
        HeaderProblem: it breaks the format.
        OSError: it cannot be read, or is not the file that was seen.
    """
    with open_regular(file.location) as descriptor:
        size = os.fstat(descriptor).st_size
        prefix = read_exactly(descriptor, header_format.LENGTH_BYTES, 0)
        length = int.from_bytes(prefix, "little")
        if len(prefix) + length > size or length > header_format.MAX_HEADER_BYTES:
            header_format.read_length(read_exactly(descriptor, _ENOUGH_TO_RECOGNISE, 0), size)  # says what is wrong
        text = read_exactly(descriptor, length, len(prefix))
    raw = prefix + text
    if shared is None:
        return header_format.parse_header(raw, size)
    key = sha256_of(raw), size
    if key not in shared:
        shared[key] = header_format.parse_header(raw, size)
    return shared[key]


def digest_header(file: FileSeen) -> str:
    """Digest of a shard's first 8 + N bytes, valid or not: enough to see that a header is no longer the one it was.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(file.location) as descriptor:
        prefix = read_exactly(descriptor, header_format.LENGTH_BYTES, 0)
        length = min(int.from_bytes(prefix, "little"), header_format.MAX_HEADER_BYTES)
        return sha256_of(prefix + read_exactly(descriptor, length, len(prefix)))


def read_file(file: FileSeen, limit: int = MAX_SIDECAR_BYTES) -> bytes:
    """The bytes of a small file that was seen.

    Raises:
        InvalidInput: it has grown past `limit`.
        EnvironmentFault: it cannot be read.
    """
    try:
        with open_regular(file.location) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > limit:
                hint = "a file of this kind is small; fetch it again"
                raise InvalidInput(f"expected at most {limit} bytes, found {size}", subject=file.name, hint=hint)
            return read_exactly(descriptor, size + 1, 0)
    except OSError as error:
        raise explain_os_error(error, file.label) from None


def read_beginning(file: FileSeen, count: int = _ENOUGH_TO_RECOGNISE) -> bytes:
    """The first bytes of a file, by which pickles and archives are known.

    Raises:
        EnvironmentFault: it cannot be read.
    """
    try:
        with open_regular(file.location) as descriptor:
            return read_exactly(descriptor, count, 0)
    except OSError as error:
        raise explain_os_error(error, file.label) from None


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


@contextmanager
def paused_gc() -> Iterator[None]:
    """No cyclic garbage collection inside: parsed headers hold no cycles, and collecting costs 4.8 times the parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _list(root: str, label: str) -> tuple[list[str], list[str]]:
    """Names at the top of `root`, and names in the nested folders that count."""
    try:
        names = sorted(os.listdir(root))
        nested = [
            f"{folder}/{name}"
            for folder in _NESTED
            if folder in names and os.path.isdir(os.path.join(root, folder))
            for name in sorted(os.listdir(os.path.join(root, folder)))
        ]
    except (FileNotFoundError, NotADirectoryError):
        hint = "name the directory that holds the shards and their index"
        raise InvalidInput("expected a directory, found none", subject=label, hint=hint) from None
    except OSError as error:
        raise explain_os_error(error, label) from None
    return names, nested


def _listed(names: list[str], index: Index | None, partial: bool) -> list[str]:
    """The shards that make up the checkpoint."""
    if index is not None:
        present = set(names)
        return sorted(name for name in index.shards() if not partial or name in present)
    if INDEX_NAME in names:  # broken; reported already
        return []
    if SINGLE_NAME in names and not partial:
        return [SINGLE_NAME]
    return [name for name in names if name.endswith(SHARD_SUFFIX)]


def _commit_of(root: str) -> str | None:
    name = os.path.basename(root)
    return name if _COMMIT.fullmatch(name) and os.path.basename(os.path.dirname(root)) == "snapshots" else None


class _Reader:
    """Reads one directory, collecting what is wrong with it."""

    def __init__(self, roots: Roots, shared: SharedHeaders | None) -> None:
        self.roots = roots
        self.shared = shared
        self.findings: list[Finding] = []

    def resolve(self, name: str) -> FileSeen | None:
        try:
            seen = resolve(self.roots, name)
        except OSError as error:
            problem = f"the system says: {error.strerror}"
            raise EnvironmentFault(problem, subject=name, hint=hint_for_errno(error.errno)) from None
        if isinstance(seen, Finding):
            self.findings.append(seen)
            return None
        return seen

    def read_index(self, names: list[str]) -> tuple[Index | None, FileSeen | None]:
        if INDEX_NAME not in names:
            return None, None
        file = self.resolve(INDEX_NAME)
        if file is None:
            return None, None
        try:
            with paused_gc():
                return parse_index(read_file(file, MAX_INDEX_BYTES)), file
        except IndexProblem as error:
            for key, message in error.problems:
                code = "IDX002" if key and not key.startswith(("metadata", "weight_map")) else "IDX001"
                tensor = key if code == "IDX002" else ""
                self.findings.append(about(code, INDEX_NAME, message, tensor=tensor, key=key))
        return None, file

    def read_shards(self, names: list[str], headers: bool) -> dict[str, Shard]:
        shards = {}
        for name in names:
            file = self.resolve(name)
            if file is None:
                continue
            header = self._header(file) if headers else None
            if header is not None:
                shards[name] = Shard(file, header)
        return shards

    def _header(self, file: FileSeen) -> Header | None:
        try:
            return read_header(file, self.shared)
        except HeaderProblem as problem:
            code = "SHD002" if problem.about_size else "SHD001"
            self.findings.append(about(code, file.name, str(problem), tensor=problem.tensor))
        except OSError as error:
            self.findings.append(about("LCK005", file.name, f"expected to read the header, found: {error.strerror}"))
        return None

    def read_rest(
        self, names: list[str], listed: set[str]
    ) -> tuple[dict[str, FileSeen], dict[str, Sidecar], list[str]]:
        """What is not a listed shard: weights that no index names, sidecars, and what belongs to nothing."""
        strays: dict[str, FileSeen] = {}
        sidecars: dict[str, Sidecar] = {}
        left_out: list[str] = []
        for name in names:
            if name in listed or name == INDEX_NAME:
                continue
            if self._is_foreign(name):
                left_out.append(name)
                continue
            file = self.resolve(name)
            if file is None:
                continue
            if os.path.splitext(name)[1].lower() in WEIGHT_SUFFIXES or name.endswith(".index.json"):
                strays[name] = file
            elif file.size > MAX_SIDECAR_BYTES:
                left_out.append(name)
            else:
                sidecars[name] = Sidecar(file, sha256_of(read_file(file)))
        return strays, sidecars, left_out

    def _is_foreign(self, name: str) -> bool:
        """Folders, dot files and names that could not be written to every file system."""
        if name.startswith(".") or name == STATE_FOLDER or explain_target_name(name):
            return not name.endswith(SHARD_SUFFIX)
        mode = os.lstat(os.path.join(self.roots.own, name)).st_mode
        return stat.S_ISDIR(mode) and not name.endswith(SHARD_SUFFIX)
