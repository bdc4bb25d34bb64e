"""Fetch whole files into the Hub's cache, with its own client, and hold their bytes against what is listed.

huggingface_hub compares lengths alone: a body of the right size with a wrong bit stays in the cache under the good name,
for every program that reads it.  So what was fetched here is hashed, and taken away again when it is something else.
"""

from __future__ import annotations

import functools
import os
import re
from contextlib import suppress
from typing import Any, Final

from overlay.core.checkpoint import FileSeen
from overlay.core.progress import Advance
from overlay.errors import EnvironmentFault, Mismatch, OverlayError
from overlay.formats.digest import SHA256_HEX, git_hasher
from overlay.storage.files import explain_os_error, open_regular
from overlay.storage.hashing import BLOCK, hash_file
from overlay.storage.hub.environment import (
    LIBRARY,
    endpoint,
    hub_headers,
    is_xet_usable,
    library_version,
    require_online,
)
from overlay.storage.hub.faults import RETRIED, Place, clean, fault_of_error
from overlay.storage.hub.patience import Transient, Tries, asked_wait, current_patience
from overlay.storage.hub.session import watched
from overlay.storage.hub.traffic import count
from overlay.storage.hub_cache import cache_root, repository_folder
from overlay.storage.local import file_at
from overlay.storage.proofs import ProofStore, cache_folder, settle
from overlay.storage.remote import RemoteFile

_GIT_ID: Final = re.compile(r"[0-9a-f]{40}")


def download(repo: str, commit: str, file: RemoteFile, found: str | None, advance: Advance) -> str:
    """The path of `file` in the Hub's cache; `found` is that path when it is there already.

    Raises:
        EnvironmentFault: it cannot be fetched, or there is no space.
        Mismatch: the bytes are not what the listing states; what was fetched for this is removed.
    """
    place = Place(repo, commit, file.path)
    if found is not None:
        _require_stated_bytes(found, file, place)
        advance(file.size)
        return found
    require_online(str(place))
    before = _blobs(repo, file)
    path = _fetch(repo, commit, file, place, advance)
    try:
        _require_stated_bytes(path, file, place)
    except Mismatch as mismatch:
        kept = _remove(path, before)
        if not kept:
            mismatch.hint = "what came was removed from the cache; run the command again"
        raise
    return path


def _fetch(repo: str, commit: str, file: RemoteFile, place: Place, advance: Advance) -> str:
    """Let huggingface_hub fetch a file, as often as it takes."""
    from huggingface_hub import hf_hub_download

    hub_headers()  # a token that cannot be sent is found here, where it has a name
    over_xet = bool(file.xet_hash) and is_xet_usable()
    bar = _bar_class(_Meter(advance, file.size), over_xet)
    tries = Tries()
    while True:
        try:
            with watched():
                return hf_hub_download(
                    repo,
                    file.path,
                    revision=commit,
                    cache_dir=cache_root(),
                    endpoint=endpoint(),
                    library_name=LIBRARY,
                    library_version=library_version(),
                    tqdm_class=bar,
                    etag_timeout=current_patience().connect,
                )
        except OverlayError:
            raise
        except Exception as error:  # every kind is looked at, and a bug goes on as it is
            failure = _failure_of(error, place, over_xet)
            if failure is None:
                raise
        tries.pause(failure)


def _failure_of(error: Exception, place: Place, over_xet: bool) -> Transient | None:
    """What stopped a download, where another attempt may help; None where it is a bug.

    huggingface_hub itself continues a broken transfer five times; what it does not try again is an answer of 5xx.

    Raises:
        OverlayError: another attempt will not help.
    """
    from huggingface_hub import errors

    fault = fault_of_error(error, place)
    if fault is None:
        if not (over_xet and type(error).__module__ in ("builtins", "hf_xet")):
            return None
        problem = "expected the file from the chunk store, found: "
        fault = EnvironmentFault(problem + _first_line(error), subject=str(place), hint="HF_HUB_DISABLE_XET=1")
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    if isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code in RETRIED:
        return Transient(fault, asked=asked_wait(cause.response.headers))
    raise fault from None


def _first_line(error: Exception) -> str:
    return clean(str(error).partition("\n")[0])


class _Meter:
    """Tells how far a file has come; what is fetched again after a failure is not told twice."""

    def __init__(self, advance: Advance, size: int) -> None:
        self._advance = advance
        self._size = size
        self._told = 0

    def reach(self, position: int) -> None:
        """`position` bytes are here."""
        position = min(position, self._size)
        if position > self._told:
            self._advance(position - self._told)
            self._told = position


def _bar_class(meter: _Meter, over_xet: bool) -> Any:
    """What huggingface_hub takes for a progress bar: tqdm's methods, as far as it calls them, and nothing on the screen."""

    class Bar:
        def __init__(self, *args: object, initial: int = 0, total: int | None = None, **others: object) -> None:
            del args, others
            self.n = initial
            self.total = total

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            """Nothing is on the screen."""

        def update(self, count: int = 1) -> None:
            self.n += count
            meter.reach(self.n)

        def update_transfer(self, received: int) -> None:
            if over_xet:  # bodies over HTTP are counted as they come
                count(received=received)

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **others: None  # set_postfix_str, refresh, close …

    return Bar


def _require_stated_bytes(path: str, file: RemoteFile, place: Place) -> None:
    """Hold a file of the cache against the digest that the Hub states.

    That is the listing's sha256; else the name of the blob, which is the ETag that the Hub gave, where that is a sha256;
    else git's id of the contents.  A file whose sha256 this machine knows already is not read.

    Raises:
        Mismatch: it is something else.
    """
    seen = file_at(path, file.path)
    hint = f"rm {seen.location}, then run the command again"
    if seen.size != file.size:
        problem = f"expected {file.size} bytes, as it is listed, found {seen.size}"
        raise Mismatch(problem, subject=str(place), hint=hint)
    blob = _blob_name(path)
    stated = file.sha256 or (blob if SHA256_HEX.fullmatch(blob) else "")
    if stated:
        kind, expected, found = "sha256", stated, _sha256_of(seen)
    elif _GIT_ID.fullmatch(file.oid):
        kind, expected, found = "git id", file.oid, _git_id_of(seen)
    else:
        return  # nothing is stated, so that there is nothing to compare with
    if found != expected:
        raise Mismatch(f"expected {kind} {expected}, as it is listed, found {found}", subject=str(place), hint=hint)


@functools.cache
def _proofs(folder: str) -> ProofStore:
    """What this machine has hashed, read once a process."""
    return ProofStore(folder)


def _sha256_of(seen: FileSeen) -> str:
    proofs = _proofs(cache_folder())
    _, known = proofs.recall(seen)
    if known is None:
        settle(seen)
        known = hash_file(seen, lambda count: None)
        proofs.remember(seen, known)
    return known.sha256


def _git_id_of(seen: FileSeen) -> str:
    """Git's name for the contents of a file."""
    digest = git_hasher(seen.size)
    try:
        with open_regular(seen.location) as descriptor:
            while block := os.read(descriptor, BLOCK):
                digest.update(block)
    except OSError as error:
        raise explain_os_error(error, seen.location) from None
    return str(digest.hexdigest())


def _blob_name(path: str) -> str:
    """The name that the Hub's cache gives to the bytes behind a file of a snapshot: the ETag."""
    return os.path.basename(os.readlink(path)) if os.path.islink(path) else ""


def _blobs(repo: str, file: RemoteFile) -> frozenset[str]:
    """The blobs that are there before a download: those of the repository, and the shared one of the same chunks."""
    folder = os.path.join(repository_folder(repo), "blobs")
    shared = os.path.join(cache_root(), "blobs", file.xet_hash[:2], file.xet_hash)
    with suppress(OSError):
        names = {os.path.join(folder, name) for name in os.listdir(folder)}
        return frozenset(names | ({shared} if os.path.lexists(shared) else set()))
    return frozenset({shared} if os.path.lexists(shared) else ())


def _remove(path: str, before: frozenset[str]) -> bool:
    """Take a file of a snapshot away, with the blobs behind it that were not there `before`; whether one of them stays."""
    root = os.path.realpath(cache_root())
    stays = False
    for _ in range(3):  # file of the snapshot, blob of the repository, shared blob
        following = os.path.join(os.path.dirname(path), os.readlink(path)) if os.path.islink(path) else ""
        known = {os.path.realpath(os.path.dirname(blob)) + "/" + os.path.basename(blob) for blob in before}
        place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if place in known or not place.startswith(root + os.sep):
            stays = True
        else:
            with suppress(OSError):
                os.unlink(place)
        if not following:
            break
        path = following
    return stays
