"""Routes that change repositories: create, upload, commit, copy, branch, tag, pull request."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tests.loopback_hub.chunk_store import InChunks
from tests.loopback_hub.messages import Refusal, Request, Response, json_response
from tests.loopback_hub.reading import date_of
from tests.loopback_hub.repositories import Commit, File, Repository, is_large, large_file, small_file
from tests.loopback_hub.state import State

GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


def create_repository(hub: State, request: Request) -> Response:
    """A new repository; one that is there already is told by 409 with its address."""
    asked = request.document()
    account = hub.account(request)
    id = f"{asked.get('organization') or (account.name if account else '')}/{asked['name']}"
    hub.writer(request, id)
    kind = _kind(asked)
    url = f"{hub.hub_url}/{'' if kind == 'models' else kind + '/'}{id}"
    with hub.lock:
        if (kind, id) in hub.repositories:
            message = "You already created this model repo"
            return json_response({"error": message, "url": url}, 409, {"X-Error-Message": message})
        private = asked.get("private") is True or asked.get("visibility") == "private"
        repository = hub.repositories[kind, id] = Repository(id, kind, private=private)
        first = {".gitattributes": small_file(GITATTRIBUTES)}
        hub.commit(repository, "refs/heads/main", None, first, title="initial commit")
    return json_response({"url": url, "id": id, "name": id})


def delete_repository(hub: State, request: Request) -> Response:
    asked = request.document()
    account = hub.account(request)
    id = f"{asked.get('organization') or (account.name if account else '')}/{asked['name']}"
    hub.repository(request, _kind(asked), id)
    hub.writer(request, id)
    with hub.lock:
        del hub.repositories[_kind(asked), id]
    return json_response({})


def _kind(asked: Mapping[str, Any]) -> str:
    return f"{asked.get('type') or 'model'}s"


def validate_yaml(hub: State, request: Request) -> Response:
    """The check of a card's front matter; the real one knows licences, this one that it must be a mapping."""
    import yaml

    content = request.document().get("content", "")
    try:
        front = yaml.safe_load(content.split("---")[1]) if content.startswith("---") else {}
    except yaml.YAMLError as error:
        return _bad_card(f"Invalid YAML: {error}")
    if not isinstance(front, dict):
        return _bad_card("Invalid content: expected a mapping")
    return json_response({"errors": [], "warnings": []})


def _bad_card(message: str) -> Response:
    return json_response({"errors": [{"message": message}], "warnings": [], "error": message}, 400)


def preupload(hub: State, request: Request, kind: str, id: str, revision: str) -> Response:
    """For each file whether it goes by LFS, and what stands there now: so a client sees what does not change."""
    repository = hub.repository(request, kind, id)
    if not request.query.get("create_pr"):
        hub.writer(request, id)
    files = hub.commit_at(repository, revision).files
    return json_response({"files": [_mode(hub, files, asked) for asked in request.document()["files"]]})


def _mode(hub: State, files: Mapping[str, File], asked: Mapping[str, Any]) -> dict[str, Any]:
    path = asked["path"]
    large = is_large(path, asked["size"], hub.settings.large_threshold)
    mode = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
    return {**mode, "oid": files[path].etag} if path in files else mode


def commit(hub: State, request: Request, kind: str, id: str, revision: str) -> Response:
    """All operations as one commit, or none of them (NDJSON: a header, then a line an operation)."""
    repository = hub.repository(request, kind, id)
    as_pull_request = bool(request.query.get("create_pr"))
    account = hub.account(request)
    if account is None or not as_pull_request:
        account = hub.writer(request, id)
    lines = request.lines()
    header: dict[str, str] = next((line["value"] for line in lines if line["key"] == "header"), {})
    with hub.lock:
        head = hub.commit_at(repository, revision)
        parent = _parent(hub, repository, head, header.get("parentCommit"), as_pull_request)
        changes = _changes(hub, repository, parent, lines)
        number = open_pull_request(repository, header.get("summary", "")) if as_pull_request else None
        ref = f"refs/pr/{number}" if number else _full_ref(repository, revision)
        made = hub.commit(
            repository,
            ref,
            parent,
            changes,
            title=header.get("summary", ""),
            description=header.get("description", ""),
        )
    base = f"{hub.hub_url}/{id}"
    return json_response(
        {
            "success": True,
            "commitOid": made.id,
            "commitUrl": f"{base}/commit/{made.id}",
            "hookOutput": "",
            "pullRequestUrl": f"{base}/discussions/{number}" if number else None,
        }
    )


def _full_ref(repository: Repository, revision: str) -> str:
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    if ref not in repository.refs:
        raise Refusal(400, f"{revision} is not a branch")
    return ref


def _parent(hub: State, repository: Repository, head: Commit, stated: str | None, as_pull_request: bool) -> Commit:
    if stated is None:
        return head
    if as_pull_request:
        return hub.commit_at(repository, stated)
    if not head.id.startswith(stated):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    return head


def _changes(
    hub: State, repository: Repository, parent: Commit, lines: list[Mapping[str, Any]]
) -> dict[str, File | None]:
    """Path to file, None for those deleted."""
    changes: dict[str, File | None] = {}
    for line in lines:
        value = line["value"]
        match line["key"]:
            case "file":
                changes[value["path"]] = small_file(base64.b64decode(value["content"], validate=True))
            case "lfsFile":
                changes[value["path"]] = _large(hub, repository, value)
            case "deletedFile":
                if value["path"] not in parent.files:
                    raise Refusal(404, f"A file with the name {value['path']} doesn't exist", "EntryNotFound")
                changes[value["path"]] = None
            case "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                changes |= dict.fromkeys(path for path in parent.files if path.startswith(folder))
            case "header":
                pass
            case key:
                raise Refusal(400, f"Unknown operation {key}")
    return changes


def _large(hub: State, repository: Repository, value: Mapping[str, Any]) -> File:
    """A file whose bytes this repository has: uploaded, copied here, or in the chunk store."""
    digest = value["oid"]
    size = value.get("size")
    xet_hash = hub.chunks.hashes().get(digest) if hub.chunks else None
    if digest in repository.large:
        known = repository.large[digest]
        return large_file(known.contents, digest, known.xet_hash or xet_hash)
    if xet_hash and hub.chunks and size is not None:
        return large_file(InChunks(hub.chunks, xet_hash, size), digest, xet_hash)
    raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")


def duplicate(hub: State, request: Request, kind: str, id: str) -> Response:
    """Let another repository name large files of this one, without sending a byte."""
    source = hub.repository(request, kind, id)
    hub.opened(request, source)
    asked = request.document()
    target_id = asked["target"]["name"]
    target = hub.repository(request, f"{asked['target']['type']}s", target_id)
    hub.writer(request, target_id)
    copied, failed = [], []
    with hub.lock:
        for file in asked["files"]:
            known = source.large.get(file["sha256"])
            if known is None or known.xet_hash != file["xetHash"]:
                failed.append({"sha256": file["sha256"], "error": "File not found in source repository"})
            else:
                target.large[file["sha256"]] = known
                copied.append(file["sha256"])
    return json_response({"success": copied, "failed": failed})


def branch(hub: State, request: Request, kind: str, id: str, name: str) -> Response:
    """Make a branch, or delete one."""
    repository = hub.repository(request, kind, id)
    hub.writer(request, id)
    ref = f"refs/heads/{name}"
    with hub.lock:
        if request.method == "DELETE":
            if repository.refs.pop(ref, None) is None:
                raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
            return json_response({})
        if ref in repository.refs:
            raise Refusal(409, f"Reference already exists: {ref}")
        start = request.document().get("startingPoint") or "main"
        repository.refs[ref] = hub.commit_at(repository, start).id
    return json_response({})


def tag(hub: State, request: Request, kind: str, id: str, revision: str) -> Response:
    """Make a tag at the revision, or delete the tag of that name."""
    repository = hub.repository(request, kind, id)
    hub.writer(request, id)
    with hub.lock:
        if request.method == "DELETE":
            if repository.refs.pop(f"refs/tags/{revision}", None) is None:
                raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return json_response({})
        ref = f"refs/tags/{request.document()['tag']}"
        if ref in repository.refs:
            raise Refusal(409, f"Tag reference exists already: {ref}")
        repository.refs[ref] = hub.commit_at(repository, revision).id
    return json_response({})


def open_pull_request(repository: Repository, title: str) -> int:
    """The number of a new pull request; its ref is made by who calls."""
    number = len(repository.pull_requests) + 1
    repository.pull_requests[number] = title
    return number


def discussions(hub: State, request: Request, kind: str, id: str) -> Response:
    """Open a pull request that changes nothing yet."""
    repository = hub.repository(request, kind, id)
    if hub.account(request) is None:
        raise Refusal(401, "Invalid username or password.")
    title = request.document()["title"]
    with hub.lock:
        number = open_pull_request(repository, title)
        repository.refs[f"refs/pr/{number}"] = repository.head().id
    url = f"{hub.hub_url}/{id}/discussions/{number}"
    return json_response({"num": number, "pullRequest": {"title": title}, "url": url})


def discussion(hub: State, request: Request, kind: str, id: str, number: str) -> Response:
    repository = hub.repository(request, kind, id)
    if int(number) not in repository.pull_requests:
        raise Refusal(404, "Discussion not found")
    return json_response(
        {
            "num": int(number),
            "title": repository.pull_requests[int(number)],
            "status": "draft",
            "author": {"name": "tester"},
            "isPullRequest": True,
            "createdAt": date_of(0),
            "repo": {"name": id, "type": kind.removesuffix("s")},
            "changes": {"base": "refs/heads/main", "mergeCommitId": None},
            "filesWithConflicts": [],
            "diffUrl": None,
            "events": [],
        }
    )
