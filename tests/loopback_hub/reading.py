"""Routes that tell what a repository holds."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode

from tests.loopback_hub.contents import whole
from tests.loopback_hub.messages import Refusal, Request, Response, json_response
from tests.loopback_hub.repositories import Commit, File, Repository
from tests.loopback_hub.state import State

MAX_PATHS = 1000
"""Of one paths-info request, on the Hub."""


def date_of(number: int) -> str:
    """A time for a commit: a minute after the one before."""
    return f"2026-01-{1 + number // 1440 % 28:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00.000Z"


def whoami(hub: State, request: Request) -> Response:
    account = hub.account(request)
    if account is None:
        raise Refusal(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": name} for name in sorted(account.namespaces or ())]
    token = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}}
    return json_response({"type": "user", "name": account.name, "fullname": account.name, "orgs": orgs, "auth": token})


def auth_check(hub: State, request: Request, kind: str, id: str, write: str | None) -> Response:
    repository = hub.repository(request, kind, id)
    hub.opened(request, repository)
    if write:
        hub.writer(request, id)
    return json_response({})


def info(hub: State, request: Request, kind: str, id: str, revision: str | None) -> Response:
    repository = hub.repository(request, kind, id)
    commit = hub.commit_at(repository, revision or "main")
    with_blobs = request.query.get("blobs", "").lower() in ("1", "true")
    siblings = [_sibling(path, file, with_blobs) for path, file in commit.files.items()]
    return json_response(
        {
            "_id": hashlib.sha1(id.encode()).hexdigest()[:24],
            "id": id,
            "modelId": id,
            "author": id.split("/")[0],
            "sha": commit.id,
            "private": repository.private,
            "gated": "auto" if repository.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "createdAt": date_of(0),
            "lastModified": date_of(commit.number),
            "siblings": siblings,
        }
    )


def _sibling(path: str, file: File, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": path}
    entry: dict[str, Any] = {"rfilename": path, "size": file.size, "blobId": file.blob_id}
    if file.sha256:
        entry["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return entry


def tree(hub: State, request: Request, kind: str, id: str, revision: str, path: str | None) -> Response:
    """One page of a listing; the next one stands in the Link header, as the client expects it."""
    repository = hub.repository(request, kind, id)
    commit = hub.commit_at(repository, revision)
    recursive = request.query.get("recursive", "").lower() in ("1", "true")
    rows = tree_rows(commit, (path or "").strip("/"), recursive)
    if path and not rows:
        raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
    begin = int(request.query.get("cursor", 0))
    end = begin + min(int(request.query.get("limit", hub.settings.page)), hub.settings.page)
    headers = {}
    if end < len(rows):
        query = urlencode({**request.query, "cursor": end})
        headers["Link"] = f'<{hub.hub_url}{request.path}?{query}>; rel="next"'
    return json_response(rows[begin:end], headers=headers)


def tree_rows(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The entries below `folder`, each folder before what it holds."""
    prefix = f"{folder}/" if folder else ""
    rows, seen = [], set()
    for path, file in commit.files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            parent = prefix + "/".join(parts[:depth])
            if parent not in seen:
                seen.add(parent)
                rows.append(_folder_row(parent))
        if recursive or len(parts) == 1:
            rows.append(file.listed(path))
    return rows


def _folder_row(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


def paths_info(hub: State, request: Request, kind: str, id: str, revision: str) -> Response:
    """What stands at the given paths; those that are not there are left out."""
    repository = hub.repository(request, kind, id)
    files = hub.commit_at(repository, revision).files
    paths = _paths(request)
    if len(paths) > MAX_PATHS:
        raise Refusal(413, f"Too many paths: {len(paths)} > {MAX_PATHS}")
    return json_response([row for path in paths if (row := _row(files, path)) is not None])


def _paths(request: Request) -> list[str]:
    if (request.headers.get("content-type") or "").startswith("application/json"):
        return list(request.document()["paths"])
    return parse_qs(request.text()).get("paths", [])


def _row(files: Mapping[str, File], path: str) -> dict[str, Any] | None:
    if path in files:
        return files[path].listed(path)
    return _folder_row(path) if any(other.startswith(path.rstrip("/") + "/") for other in files) else None


def refs(hub: State, request: Request, kind: str, id: str) -> Response:
    repository = hub.repository(request, kind, id)
    document: dict[str, Any] = {
        "branches": _refs(repository, "refs/heads/"),
        "tags": _refs(repository, "refs/tags/"),
        "converts": [],
    }
    if request.query.get("include_prs"):
        document["pullRequests"] = _refs(repository, "refs/pr/")
    return json_response(document)


def _refs(repository: Repository, prefix: str) -> list[dict[str, str]]:
    return [
        {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit}
        for ref, commit in repository.refs.items()
        if ref.startswith(prefix)
    ]


def commits(hub: State, request: Request, kind: str, id: str, revision: str) -> Response:
    repository = hub.repository(request, kind, id)
    return json_response(
        [
            {
                "id": commit.id,
                "title": commit.title,
                "message": commit.description,
                "authors": [{"user": "tester"}],
                "date": date_of(commit.number),
            }
            for commit in repository.history(hub.commit_at(repository, revision).id)
        ]
    )


def safetensors_metadata(hub: State, request: Request, kind: str, id: str, path: str) -> Response:
    """The index and every shard's header of ``main``, in one answer."""
    repository = hub.repository(request, kind, id)
    hub.opened(request, repository)
    files = hub.commit_at(repository, "main").files
    if path not in files:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    index = json.loads(whole(files[path].contents))
    shards = sorted(set(index["weight_map"].values()))
    if missing := [shard for shard in shards if shard not in files]:
        raise Refusal(404, f"{missing[0]} is not in the repository", "EntryNotFound")
    headers = {shard: _header(files[shard]) for shard in shards}
    return json_response({"index": {"metadata": index.get("metadata")}, "headers": headers})


def _header(file: File) -> Any:
    (length,) = struct.unpack("<Q", b"".join(file.contents.read(0, 8)))
    return json.loads(b"".join(file.contents.read(8, 8 + length)))
