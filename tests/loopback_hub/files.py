"""Routes that lead to the bytes of a file, and that serve them.

As on the Hub, ``resolve`` answers with a redirect: to another path of the same host for a small file, to a signed URL of
another host for a large one.  What the client wants to know of the file stands in the headers of that redirect.
"""

from __future__ import annotations

import time
from urllib.parse import quote

from tests.loopback_hub.messages import (
    CDN_FILE,
    Refusal,
    Request,
    Response,
    file_response,
    json_response,
    redirect,
)
from tests.loopback_hub.repositories import Commit, File, Repository
from tests.loopback_hub.state import State

XET_TOKEN = "xet-loopback"
_XET_TOKEN_LIFE = 3600


def resolve(hub: State, request: Request, kind: str | None, id: str, revision: str, path: str) -> Response:
    """Where a file is, and what it is."""
    repository = hub.repository(request, kind, id)
    hub.opened(request, repository)
    commit, file = _find(hub, repository, revision, path)
    headers = _headers(hub, repository, commit, file)
    if file.sha256 is None:
        target = f"/api/resolve-cache/{repository.kind}/{id}/{commit.id}/{quote(path)}"
        return redirect(307, f"{target}?etag={quote(file.etag)}", headers)
    target = CDN_FILE.format(kind=repository.kind, repository=id, commit=commit.id, path=quote(path))
    hub.offered[target] = file
    return redirect(302, f"{hub.cdn_url}{target}?{hub.signed(target)}", headers)


def cached(hub: State, request: Request, kind: str, id: str, revision: str, path: str) -> Response:
    """A small file; on the Hub this comes out of a cache in front of it."""
    repository = hub.repository(request, kind, id)
    hub.opened(request, repository)
    commit, file = _find(hub, repository, revision, path)
    return file_response(request, file.contents, _headers(hub, repository, commit, file))


def cdn_file(hub: State, request: Request) -> Response:
    """A large file, for whoever has a signed URL."""
    hub.check_signature(request)
    file = hub.offered[request.path]
    return file_response(request, file.contents, {"ETag": f'"{file.etag}"'})


def xet_token(hub: State, request: Request, kind: str, id: str, access: str, revision: str | None) -> Response:
    """Leave to use the chunk store: in the headers for Python, in the body for Rust."""
    repository = hub.repository(request, kind, id)
    if hub.chunks is None:
        raise Refusal(404, "Xet is not enabled for this repository")
    hub.opened(request, repository)
    if access == "write" and not request.query.get("create_pr"):
        hub.writer(request, id)
    expires = int(time.time()) + _XET_TOKEN_LIFE
    return json_response(
        {"casUrl": hub.chunks.address, "exp": expires, "accessToken": XET_TOKEN},
        headers={
            "X-Xet-Cas-Url": hub.chunks.address,
            "X-Xet-Access-Token": XET_TOKEN,
            "X-Xet-Token-Expiration": str(expires),
        },
    )


def _find(hub: State, repository: Repository, revision: str, path: str) -> tuple[Commit, File]:
    commit = hub.commit_at(repository, revision)
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.id)
    return commit, commit.files[path]


def _headers(hub: State, repository: Repository, commit: Commit, file: File) -> dict[str, str]:
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.etag}"'}
    if file.sha256:
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.etag}"'}
    if file.xet_hash:
        route = f"{hub.hub_url}/api/{repository.kind}/{repository.id}/xet-read-token/{commit.id}"
        headers |= {
            "X-Xet-Hash": file.xet_hash,
            "X-Xet-Refresh-Route": route,
            "Link": f'<{route}>; rel="xet-auth"',
        }
    return headers
