"""Routes by which large files arrive without the chunk store: the LFS batch API, whole files and parts.

The specification is git-lfs, docs/api/batch.md; the parts are the Hub's own extension (huggingface_hub, lfs.py).
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.loopback_hub.contents import OnDisk, sha256_of
from tests.loopback_hub.messages import Refusal, Request, Response, bytes_response, json_response
from tests.loopback_hub.repositories import Repository, large_file
from tests.loopback_hub.state import State

_LFS = {"Content-Type": "application/vnd.git-lfs+json"}


def batch(hub: State, request: Request, kind: str | None, id: str) -> Response:
    """Where each object is to be sent; one that is here already has no action."""
    repository = hub.repository(request, kind, id)
    account = hub.account(request)
    if account is None:
        hub.writer(request, id)
    objects = [_object(hub, repository, asked) for asked in request.document()["objects"]]
    transfer = "multipart" if any("chunk_size" in _header(entry) for entry in objects) else "basic"
    return json_response({"transfer": transfer, "objects": objects}, headers=_LFS)


def _object(hub: State, repository: Repository, asked: Mapping[str, Any]) -> dict[str, Any]:
    digest, size = asked["oid"], asked["size"]
    entry = {"oid": digest, "size": size, "authenticated": True}
    if digest in repository.large:
        return entry
    place = f"/uploads/{repository.kind}/{repository.id}/{digest}"
    whole = {"href": f"{hub.cdn_url}{place}?{hub.signed(place)}", "header": {}}
    parts = hub.settings.multipart
    upload = whole if parts is None or size <= parts else _in_parts(hub, place, size, parts)
    verify = {"href": f"{hub.hub_url}/api/{repository.kind}/{repository.id}/lfs-verify", "header": {}}
    return {**entry, "actions": {"upload": upload, "verify": verify}}


def _in_parts(hub: State, place: str, size: int, part: int) -> dict[str, Any]:
    """A URL for each part by its number, and where to tell that all are there."""
    header = {"chunk_size": str(part)}
    for number in range(1, math.ceil(size / part) + 1):
        target = f"{place}/{number}"
        header[str(number)] = f"{hub.cdn_url}{target}?{hub.signed(target)}"
    return {"href": f"{hub.hub_url}{place}/complete", "header": header}


def _header(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    header: Mapping[str, Any] = entry.get("actions", {}).get("upload", {}).get("header", {})
    return header


def put(hub: State, request: Request, kind: str, id: str, digest: str) -> Response:
    """A whole object; refused when its digest is another one."""
    hub.check_signature(request)
    if (kind, id) not in hub.repositories:
        raise Refusal(404, "NoSuchBucket")
    _keep(hub, hub.repositories[kind, id], digest, _saved(hub, request))
    return bytes_response(b"", 200, {"ETag": f'"{digest}"'})


def put_part(hub: State, request: Request, kind: str, id: str, digest: str, number: str) -> Response:
    hub.check_signature(request)
    saved = _saved(hub, request)
    with hub.lock:
        hub.parts.setdefault(digest, {})[int(number)] = saved
    return bytes_response(b"", 200, {"ETag": f'"{_etag(saved)}"'})


def complete(hub: State, request: Request, kind: str, id: str, digest: str) -> Response:
    """All parts have been sent: the object is put together in the order of the numbers."""
    repository = hub.repository(request, kind, id)
    if hub.account(request) is None and request.token is not None:
        raise Refusal(401, "Invalid username or password.")
    parts = hub.parts.get(digest, {})
    for stated in request.document()["parts"]:
        number, etag = stated["partNumber"], stated["etag"].strip('"')
        if number not in parts or _etag(parts[number]) != etag:
            raise Refusal(400, f"InvalidPart: {number}")
    joined = hub.folder / secrets.token_hex(8)
    with joined.open("wb") as stream:
        for number in sorted(parts):
            stream.write(parts[number].read_bytes())
    _keep(hub, repository, digest, joined)
    return json_response({}, headers=_LFS)


def verify(hub: State, request: Request, kind: str, id: str) -> Response:
    repository = hub.repository(request, kind, id)
    asked = request.document()
    known = repository.large.get(asked["oid"])
    if known is None or known.size != asked["size"]:
        raise Refusal(404, "no such object")
    return json_response({}, headers=_LFS)


def _saved(hub: State, request: Request) -> Path:
    if isinstance(request.body, OnDisk):
        return request.body.path
    path = hub.folder / secrets.token_hex(8)
    with path.open("wb") as stream:
        for piece in request.body.read(0, request.body.size):
            stream.write(piece)
    return path


def _keep(hub: State, repository: Repository, digest: str, path: Path) -> None:
    contents = OnDisk(path, path.stat().st_size)
    if sha256_of(contents) != digest:
        path.unlink()
        raise Refusal(400, "BadDigest: the sha256 you specified did not match what we received")
    with hub.lock:
        repository.large[digest] = large_file(contents, digest, hub.chunks.put(contents) if hub.chunks else None)


def _etag(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
