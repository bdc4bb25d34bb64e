"""Open a repository of the Hub at one commit: resolve a name once, list once, then read ranges or fetch files.

A commit is asked for once, and everything after names it: a branch that moves in the meantime moves nothing here.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Final
from urllib.parse import quote

from overlay.core.progress import Advance
from overlay.errors import EnvironmentFault, InvalidInput, Mismatch
from overlay.formats.digest import sha256_of
from overlay.formats.references import COMMIT, HubReference
from overlay.storage.files import explain_os_error, open_regular
from overlay.storage.hub.environment import api_url, is_xet_usable, offline_fault, require_online
from overlay.storage.hub.faults import Place
from overlay.storage.hub.listing import fetch_listing
from overlay.storage.hub.patience import Transient
from overlay.storage.hub.ranges import MAX_PIECE, Ranges
from overlay.storage.hub.requesting import get_json
from overlay.storage.hub.traffic import remark
from overlay.storage.hub.xet import WORTH_IT, ChunkStore
from overlay.storage.hub_cache import find_blob, is_offline, read_ref, snapshot_folder
from overlay.storage.private_cache import keep_file, recall_file
from overlay.storage.remote import Listing, RemoteFile

_XET_TRIES: Final = 2
"""Failures of the chunk store in a row, after which a range is read over HTTP: networks exist that block the one."""


def resolve_commit(reference: HubReference) -> str:
    """The commit that a revision means now; "" is the default branch.

    A commit costs no request, anything else one.  Where the Hub cannot be reached, what it said last time counts, here
    or in the Hub cache's ``refs``.

    Raises:
        EnvironmentFault: it cannot be reached, and the cache does not know either; or it does not have this revision.
    """
    if COMMIT.fullmatch(reference.revision):
        return reference.revision
    revision = reference.revision or "main"
    known = _recall(reference.repo, revision) or read_ref(reference.repo, revision)
    if is_offline():
        if known:
            return known
        raise offline_fault(f"hf://{reference.repo}@{revision}")
    place = Place(reference.repo, reference.revision)
    rest = f"/revision/{quote(reference.revision, safe='')}" if reference.revision else ""
    try:
        document, _ = get_json(api_url(reference.repo, rest), place)
    except EnvironmentFault as fault:
        if known and isinstance(fault.__cause__, Transient):
            remark(f"the Hub gives no answer; {place} is taken to be {known}, as it was when it last did")
            return known
        raise
    commit = document.get("sha") if isinstance(document, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        problem = "expected the commit of this revision, found none"
        raise EnvironmentFault(problem, subject=str(place), hint="check HF_ENDPOINT")
    keep_file(_ref_key(reference.repo, revision), commit.encode())
    return commit


def _ref_key(repo: str, revision: str) -> tuple[str, ...]:
    """Where it is kept what a branch meant.  Not in the Hub cache: a ref there whose snapshot nobody has would hide one that
    other tools load offline.
    """
    return "hub", "refs", sha256_of(f"{api_url(repo, '')}\0{revision}".encode())


def _recall(repo: str, revision: str) -> str:
    """The commit that this branch or tag meant when it was last asked for here; "" where it never was."""
    kept = (recall_file(_ref_key(repo, revision)) or b"").decode(errors="replace")
    return kept if COMMIT.fullmatch(kept) else ""


def open_repository(repo: str, commit: str) -> HubRepository:
    """The repository ``org/name`` at a commit of 40 hex digits: a `storage.remote.Remote`.

    Costs the requests of its listing, one for each thousand files, when it was never opened on this machine; none later.

    Raises:
        EnvironmentFault: the Hub does not answer, refuses, or may not be asked.
        InvalidInput: the listing names something outside of the repository.
    """
    return HubRepository(repo, fetch_listing(repo, commit))


class HubRepository:
    """A repository at one commit."""

    def __init__(self, repo: str, listing: Listing) -> None:
        self._repo = repo
        self._listing = listing
        self._commit = listing.commit or ""
        self._ranges = Ranges(repo, self._commit)
        self._chunks: ChunkStore | None = ChunkStore(repo, self._commit)

    @property
    def listing(self) -> Listing:
        """What it holds."""
        return self._listing

    def find(self, path: str) -> str | None:
        """The path of the file in the Hub's cache, under whatever commit or repository it is there; asks nobody."""
        if path not in self._listing.files:
            return None
        found = os.path.join(snapshot_folder(self._repo, self._commit), *path.split("/"))
        if os.path.isfile(found):
            return found
        file = self._listing.files[path]
        return find_blob(self._repo, file.sha256, file.size) if file.sha256 else None

    def read(self, path: str, begin: int, end: int) -> Iterator[bytes]:
        """The bytes ``[begin, end)`` of a file, in pieces of at most 1 MiB: from the cache, the chunk store, or over HTTP.

        Raises:
            EnvironmentFault: they cannot be had, or not in a bearable time.
            Mismatch: the file is no longer the one that was listed.
            ValueError: the range is not inside the file.
        """
        file = self._listed(path)
        if not 0 <= begin <= end <= file.size:
            raise ValueError(f"expected a range inside of {file.size} bytes, found [{begin}, {end})")
        found = self.find(path)
        if found is not None:
            yield from _read_here(found, file, begin, end)
            return
        require_online(f"{self._listing.address}/{path}")
        if file.xet_hash and end - begin >= WORTH_IT and is_xet_usable():
            begin = yield from self._read_chunks(file, begin, end)
        yield from self._ranges.read(file, begin, end)

    def download(self, path: str, advance: Advance) -> str:
        """The path of a whole file in the Hub's cache: fetched if it is not there, and held against what is listed.

        A file that this machine has hashed before, and that was not touched since, is not hashed again.

        Raises:
            EnvironmentFault: it cannot be fetched, or there is no space.
            Mismatch: the bytes are not what the listing states; what was fetched for this is removed.
        """
        from overlay.storage.hub.downloading import download

        return download(self._repo, self._commit, self._listed(path), self.find(path), advance)

    def _listed(self, path: str) -> RemoteFile:
        file = self._listing.files.get(path)
        if file is None:
            subject = str(Place(self._repo, self._commit, path))
            hint = f"overlay inspect {self._listing.address} lists its files"
            raise InvalidInput("expected a file of the repository, found none of this name", subject=subject, hint=hint)
        return file

    def _read_chunks(self, file: RemoteFile, begin: int, end: int) -> Generator[bytes, None, int]:
        """What the chunk store gives of ``[begin, end)``; returns where it stopped."""
        failures = 0
        while begin < end and (chunks := self._chunks) is not None:
            start = begin
            try:
                with closing(chunks.read(file, begin, end)) as pieces:
                    for piece in pieces:
                        begin += len(piece)
                        yield piece
            except Transient:
                failures = 1 if begin - start >= MAX_PIECE else failures + 1
                if failures >= _XET_TRIES:
                    self._chunks = None
        return begin


def _read_here(path: str, file: RemoteFile, begin: int, end: int) -> Iterator[bytes]:
    """A range of a file of the cache."""
    try:
        with open_regular(os.path.realpath(path, strict=True)) as descriptor:
            size = os.fstat(descriptor).st_size
            if size != file.size:
                hint = f"rm {os.path.realpath(path)}, then run the command again"
                raise Mismatch(f"expected {file.size} bytes, as it is listed, found {size}", subject=path, hint=hint)
            while begin < end:
                piece = os.pread(descriptor, min(MAX_PIECE, end - begin), begin)
                if not piece:
                    raise EnvironmentFault(f"expected byte {begin}, found the end", subject=path, hint="run it again")
                begin += len(piece)
                yield piece
    except OSError as error:
        raise explain_os_error(error, path) from None
