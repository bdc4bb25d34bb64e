"""What a repository holds at one commit: asked for once, judged as a stranger's words, and kept.

A path of the listing becomes a path on this machine, so one bad entry refuses the whole repository: who lists ``../x`` is
not to be trusted with the rest.  A listing at a commit never changes, and so it is kept on disk for ever.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from overlay.errors import InvalidInput, shortened
from overlay.formats.digest import SHA256_HEX, sha256_of
from overlay.storage.files import open_regular, read_exactly
from overlay.storage.hub.environment import api_url, endpoint, require_online
from overlay.storage.hub.faults import Place, clean
from overlay.storage.hub.requesting import get_json
from overlay.storage.hub_cache import repository_folder
from overlay.storage.private_cache import keep_file, recall_file
from overlay.storage.remote import Listing, RemoteFile

_BLOB_ID: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_PAGES: Final = 1000
_MAX_PATH_BYTES: Final = 4096
_MAX_FILE_BYTES: Final = 2**63 - 1


def fetch_listing(repo: str, commit: str) -> Listing:
    """The listing of a commit: the kept one, that of the Hub's cache, or the Hub's, in this order.

    Raises:
        EnvironmentFault: it was never asked for here, and the Hub does not answer.
        InvalidInput: it names something outside of the repository, or something twice.
    """
    address = f"hf://{repo}@{commit}"
    key = ("hub", "listings", sha256_of(f"{endpoint()}\n{address}".encode()) + ".json")
    rows = _recall(key)
    if rows is not None:
        return read_rows(address, commit, rows)
    rows = _rows_of_hub_cache(repo, commit)
    if rows is not None:
        return read_rows(address, commit, rows)
    require_online(address)
    rows = list(_ask(repo, commit))
    listing = read_rows(address, commit, rows)
    keep_file(key, orjson.dumps(rows))
    return listing


def read_rows(address: str, commit: str, rows: Iterable[Any]) -> Listing:
    """A listing from the rows of the Hub's tree: ``{"type", "path", "oid", "size", "lfs": {"oid", "size"}, "xetHash"}``.

    Raises:
        InvalidInput: a row is malformed, leaves the repository, or names a file again; all are named.
    """
    files: dict[str, RemoteFile] = {}
    problems = []
    for row in rows:
        if isinstance(row, Mapping) and row.get("type") not in ("file", None):
            continue  # folders follow from the paths of their files
        try:
            file = _read_row(row)
            if file.path in files:
                raise ValueError(f"expected each path once, found {_quoted(file.path)} twice")
        except ValueError as problem:
            problems.append(str(problem))
        else:
            files[file.path] = file
    if problems:
        hint = "do not use this repository; report it to its owner"
        raise InvalidInput(problems[0], subject=address, hint=hint, others=tuple(shortened(problems[1:])))
    return Listing(address, commit, MappingProxyType(files))


def _read_row(row: Any) -> RemoteFile:
    """One file.

    Raises:
        ValueError: what is wrong with it.
    """
    path = row.get("path") if isinstance(row, Mapping) else None
    if not isinstance(path, str):
        raise ValueError(f"expected the path of a file, found {reprlib.repr(row)}")
    problem = explain_path(path)
    if problem:
        raise ValueError(problem)
    size, lfs = row.get("size"), row.get("lfs")
    if type(size) is not int or not 0 <= size <= _MAX_FILE_BYTES:
        raise ValueError(f"expected a size of {_quoted(path)}, found {reprlib.repr(size)}")
    sha256 = ""
    if isinstance(lfs, Mapping):
        sha256 = lfs.get("oid") or ""
        if sha256 and not (isinstance(sha256, str) and SHA256_HEX.fullmatch(sha256)):
            raise ValueError(f"expected the sha256 of {_quoted(path)}, found {reprlib.repr(sha256)}")
        if lfs.get("size", size) != size:
            raise ValueError(f"expected one size of {_quoted(path)}, found {size} and {reprlib.repr(lfs.get('size'))}")
    # Of a file in LFS, the blob is a pointer: its id says nothing about the bytes, but changes when they do.
    oid, xet = row.get("oid"), row.get("xetHash")
    return RemoteFile(
        path,
        size,
        sha256,
        oid if isinstance(oid, str) and _BLOB_ID.fullmatch(oid) else "",
        xet if isinstance(xet, str) and SHA256_HEX.fullmatch(xet) else "",
    )


def explain_path(path: str) -> str:
    """Say what is wrong with `path` as a path inside a repository; "" when nothing is."""
    if path.startswith("/"):
        return f"expected paths inside the repository, found the absolute {_quoted(path)}"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return f"expected paths inside the repository, found {_quoted(path)}"
    try:
        too_long = len(path.encode()) > _MAX_PATH_BYTES
    except UnicodeEncodeError:
        return f"expected paths of valid characters, found {_quoted(path)}"
    if "\0" in path or too_long:
        return f"expected paths that a file system can hold, found {_quoted(path)}"
    return ""


def _quoted(path: str) -> str:
    return clean(ascii(path) if not path.isprintable() else repr(path))


def _ask(repo: str, commit: str) -> Iterator[Any]:
    """The rows of all pages: one request for each thousand entries."""
    place = Place(repo, commit)
    url = api_url(repo, f"/tree/{commit}?recursive=true&expand=false")
    seen = set[str]()
    while url:
        if url in seen or len(seen) >= _MAX_PAGES:
            problem = f"expected a listing that ends, found page {len(seen) + 1} of it"
            raise InvalidInput(problem, subject=str(place), hint="report it to the owner of the repository")
        seen.add(url)
        rows, url = get_json(url, place)
        if not isinstance(rows, list):
            raise InvalidInput(
                "expected a list of files, found something else", subject=str(place), hint="check HF_ENDPOINT"
            )
        yield from rows


def _recall(key: tuple[str, ...]) -> list[Any] | None:
    raw = recall_file(key)
    if raw is None:
        return None
    try:
        rows = orjson.loads(raw)
    except ValueError:
        return None
    return rows if isinstance(rows, list) else None


def _rows_of_hub_cache(repo: str, commit: str) -> list[Any] | None:
    """The listing that huggingface_hub (>= 1.26) leaves in its cache: ``trees/<commit>.json``, format 1."""
    try:
        path = os.path.realpath(os.path.join(repository_folder(repo), "trees", f"{commit}.json"))
        with open_regular(path) as descriptor:
            document = orjson.loads(read_exactly(descriptor, os.fstat(descriptor).st_size, 0))
        if document["format_version"] != 1:
            return None
        return [_row_of_entry(path, entry) for path, entry in document["files"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _row_of_entry(path: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    lfs = {"oid": entry["lfs_sha256"], "size": entry["lfs_size"]} if entry.get("lfs_sha256") else None
    row = {"type": "file", "path": path, "oid": entry.get("blob_id"), "size": entry["size"]}
    return {**row, "lfs": lfs, "xetHash": entry.get("xet_hash")}
