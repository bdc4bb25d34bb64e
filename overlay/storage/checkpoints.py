"""Read a checkpoint, wherever it lies: names, headers, index and sidecars; never the weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from overlay.core.checkpoint import Checkpoint, FileSeen, Shard, Sidecar
from overlay.core.findings import Finding, about
from overlay.errors import InvalidInput
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
from overlay.storage.seen import MAX_SIDECAR_BYTES, SharedHeaders, paused_gc, read_file, read_header


class Source(Protocol):
    """Where a checkpoint lies: a folder of this machine (`storage.local`), or a repository elsewhere (`storage.stores`)."""

    @property
    def address(self) -> str:
        """Real path, or address, of the whole."""

    @property
    def commit(self) -> str | None:
        """The commit, when it is a repository of the Hub."""

    def names(self, label: str) -> tuple[list[str], list[str]]:
        """Names at the top, folders included, and names in the nested folders that count."""

    def resolve(self, name: str) -> FileSeen | Finding:
        """The file of this name, or why there is none."""

    def is_folder(self, name: str) -> bool:
        """Whether a name at the top is a folder."""

    def expect_headers(self, files: Sequence[FileSeen], index: Index | None) -> None:
        """The headers of `files` are going to be read; `index` says about how long they are."""


def read_checkpoint(
    label: str, source: Source, *, partial: bool = False, headers: bool = True, shared: SharedHeaders | None = None
) -> Checkpoint:
    """Read the checkpoint in `source`.

    Args:
        label: how the user named it; used in messages.
        source: where it lies.
        partial: the directory is a diff-only repository: the index may name shards that are elsewhere.
        headers: also read and check the header of every shard; otherwise shards are only resolved.
        shared: headers that were parsed before; those parsed now are added.

    Costs one stat a file and 8 + N bytes a shard, elsewhere a request for each; the weights stay untouched.

    Raises:
        InvalidInput: there is no such directory, or nothing in it is a checkpoint.
        EnvironmentFault: the machine refused to read.
    """
    names, nested = source.names(label)
    reader = _Reader(source, shared)
    index, index_file = reader.read_index(names)
    listed = _listed(names, index, partial)
    with paused_gc():
        shards = reader.read_shards(listed, headers, index)
    strays, sidecars, left_out = reader.read_rest([*names, *nested], set(listed))
    if not shards and not listed and index is None and not reader.findings:
        raise InvalidInput(
            f"expected {INDEX_NAME} or {SINGLE_NAME}, found neither",
            subject=label,
            hint="name the directory that holds the shards",
        )
    return Checkpoint(
        label=label,
        root=source.address,
        index=index,
        index_file=index_file,
        shards=shards,
        strays=strays,
        sidecars=sidecars,
        left_out=tuple(sorted(left_out)),
        findings=tuple(reader.findings),
        commit=source.commit,
    )


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


class _Reader:
    """Reads one checkpoint, collecting what is wrong with it."""

    def __init__(self, source: Source, shared: SharedHeaders | None) -> None:
        self.source = source
        self.shared = shared
        self.findings: list[Finding] = []

    def resolve(self, name: str) -> FileSeen | None:
        seen = self.source.resolve(name)
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

    def read_shards(self, names: list[str], headers: bool, index: Index | None) -> dict[str, Shard]:
        files = [file for name in names if (file := self.resolve(name)) is not None]
        if not headers:
            return {}
        self.source.expect_headers(files, index)
        read = ((file, self._header(file)) for file in files)
        return {file.name: Shard(file, header) for file, header in read if header is not None}

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
                if name.endswith(".json"):  # loaders read these whole
                    message = f"expected at most {MAX_SIDECAR_BYTES} bytes, found {file.size}"
                    self.findings.append(about("CFG001", name, message))
            else:
                stated = file.stated_sha256 if file.is_remote else ""
                sidecars[name] = Sidecar(file, stated or sha256_of(read_file(file)))
        return strays, sidecars, left_out

    def _is_foreign(self, name: str) -> bool:
        """Folders, dot files and names that could not be written to every file system."""
        if name.startswith(".") or name == STATE_FOLDER or explain_target_name(name):
            return not name.endswith(SHARD_SUFFIX)
        return self.source.is_folder(name) and not name.endswith(SHARD_SUFFIX)
