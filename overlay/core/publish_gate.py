"""The gate: everything that speaks against publishing, found before anything is changed.

Each finder looks at one thing and tells all of it.  What a person may decide otherwise can be allowed by its code
(`ALLOWABLE`); a secret, a missing licence and a shard that is not what was locked cannot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from overlay.core.file_kinds import kind_of
from overlay.core.findings import Finding, about
from overlay.core.publishing import (
    LOCK_NAME,
    REPORT_NAME,
    Destination,
    Item,
    Mode,
    Origin,
    Repository,
    base_files,
    index_shards,
    licences,
    named_files,
    result_names,
)
from overlay.core.sidecar_roles import Role, role_of
from overlay.formats.lock import Lock, LockedFile
from overlay.formats.manifest import Manifest
from overlay.formats.names import CARD_NAME, INDEX_NAME, REPOSITORY_MANIFEST, explain_target_name
from overlay.formats.references import COMMIT, HubReference, PathReference, parse_reference

ALLOWABLE: Final = ("SEC002", "SEC012", "SEC014")
"""Codes that ``--allow`` takes: code that the manifest names is published, unnamed files are left out, and a licence is the
publisher's own judgement."""

_PRIVATE: Final = ("/home/", "/Users/", "/root/", "/tmp/", "/mnt/")  # noqa: S108  # a text to look for
"""Beginnings of paths that lie elsewhere on every machine."""
_LABELS: Final = re.compile(
    r"(^|/)(\.env(\..+)?|\.netrc|\.npmrc|\.pypirc|id_(rsa|dsa|ecdsa|ed25519)|.+\.(pem|p12|pfx|key))$"
)
"""Names of files that hold secrets."""
_SECRETS: Final = (
    ("a token of the Hub", re.compile(rb"\b(?:hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,})\b")),
    ("an access key of Amazon", re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a private key", re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    ("a token of GitHub", re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})\b")),
    ("a key of Google", re.compile(rb"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("a token of Slack", re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{20,}\b")),
    ("an API key", re.compile(rb"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{40,}\b")),
)


def find_obstacles(
    repository: Repository, origin: Origin | None, destination: Destination, mode: Mode, terms: Iterable[Finding]
) -> list[Finding]:
    """Everything that speaks against publishing, sorted; warnings are among them.

    Args:
        repository: what lies on this machine.
        origin: the base's repository; None: there is no base, or it is not on the Hub.
        destination: the repository to publish to.
        mode: how it is published.
        terms: what `find_licence_obstacles` said.
    """
    findings = [
        *repository.findings,
        *find_private_places(repository),
        *find_missing(repository),
        *find_secrets(repository),
        *find_unpinned(repository, origin),
        *find_unproven(repository),
        *terms,
    ]
    if origin is not None:
        findings += find_moves(repository, origin)
        findings += find_overwritten(repository, origin, destination) if mode == "change" else ()
    if repository.lock is not None:
        findings += find_unexpected(repository, origin)
        findings += find_dangling(repository, origin, destination, mode)
        if mode != "difference":
            findings += find_uncopyable(repository, origin, destination, mode)
    return sorted(set(findings))


def find_private_places(repository: Repository) -> Iterator[Finding]:
    """References that are paths, and paths of this machine anywhere in what describes the repository."""
    manifest = repository.manifest
    sources = [("base", manifest.base), *((f"donors.{name}", text) for name, text in manifest.donors.items())]
    for key, text in sources:
        if (
            text is not None
            and isinstance(parse_reference(text), PathReference)
            and not (text == "." and key != "base")
        ):
            expected = "expected a repository that others can reach"
            yield about("LCK011", REPOSITORY_MANIFEST, f"{expected}, found the path {text}", key=key)
    told = {text for _, text in sources if text is not None}
    beginnings = "|".join(map(re.escape, (*_PRIVATE, *repository.private)))
    path = re.compile(rf"(?<![\w/.:])(?:{beginnings})[^\s\"',;]*")
    for name in (REPOSITORY_MANIFEST, LOCK_NAME):
        text = repository.text_of(name).decode(errors="replace")
        found = {match[0].rstrip(".") for match in path.finditer(text)} - told
        if found:
            yield about("LCK011", name, f"expected no path of this machine, found {min(found)}")


def find_missing(repository: Repository) -> Iterator[Finding]:
    """Files that manifest or lock name and that are not there, or lie outside the folder."""
    for name in named_files(repository.manifest):
        if explain_target_name(name):
            yield about("LCK011", REPOSITORY_MANIFEST, f"expected a file of the repository, found {name}")
        elif name not in repository.files:
            yield about("LCK014", name, "expected this file, which the manifest names, found none")
    for name in result_names(repository):
        if repository.get(name) is None:
            yield about("LCK014", name, "expected this file, which the lock names, found none")


def find_unexpected(repository: Repository, origin: Origin | None) -> Iterator[Finding]:
    """What lies in the folder and nobody named; and what was named and can run code, unless the base has it too."""
    named = {*result_names(repository), *named_files(repository.manifest), *licences(repository)}
    named |= {REPOSITORY_MANIFEST, LOCK_NAME, REPORT_NAME, CARD_NAME, INDEX_NAME}
    known = origin.files if origin is not None else {}
    for name, item in sorted(repository.files.items()):
        if name not in named:
            yield about(
                "SEC012", name, f"expected only what the manifest names, found {_describe(name, item, repository)}"
            )
        elif name not in known and (code := _danger(name, item, repository)):
            yield about(code, name, f"found {_describe(name, item, repository)}; the base has no such file")


def find_secrets(repository: Repository) -> Iterator[Finding]:
    """Files that are called or written like secrets; the secret itself is never told."""
    for name, item in sorted({**repository.files, **repository.made}.items()):
        if _LABELS.search(name.lower()):
            yield about("SEC011", name, "found a file whose name says that it holds a secret")
        for what, pattern in _SECRETS:
            match = pattern.search(item.data or b"")
            if match:
                line = (item.data or b"").count(b"\n", 0, match.start()) + 1
                yield about("SEC011", name, f"found what looks like {what} in line {line}")


def find_unpinned(repository: Repository, origin: Origin | None) -> Iterator[Finding]:
    """A lock that is missing, is another manifest's, or leaves open what it has to pin."""
    lock, manifest = repository.lock, repository.manifest
    if lock is None:
        yield about("LCK010", LOCK_NAME, "expected a lock beside the manifest, found none")
        return
    if lock.manifest_sha256 != manifest.digest:
        message = f"expected the lock of manifest {manifest.digest}, found that of {lock.manifest_sha256}"
        yield about("LCK010", LOCK_NAME, message)
    for name, graft in sorted(lock.grafts.items()):
        if graft.sha256 is None:
            yield about("LCK010", LOCK_NAME, "expected the sha256 of this shard, found none", key=name)
    if origin is not None and lock.base is not None and not _commit_of(lock, manifest):
        yield about("LCK010", LOCK_NAME, "expected the commit of the base, found none", key="base")


def find_unproven(repository: Repository) -> Iterator[Finding]:
    """Files whose bytes are not the ones that the lock pins."""
    lock = repository.lock
    if lock is None:
        return
    pinned = {name: LockedFile(size=graft.size, sha256=graft.sha256) for name, graft in lock.grafts.items()}
    if INDEX_NAME in result_names(repository):
        data = repository.text_of(INDEX_NAME)
        pinned[INDEX_NAME] = LockedFile(size=len(data), sha256=lock.result.index_sha256)
    for name, file in sorted({**lock.files, **pinned}.items()):
        item = repository.get(name)
        if item is not None and name in {*result_names(repository)}:
            yield from _differs(name, file, item.size, item.sha256, "")


def find_moves(repository: Repository, origin: Origin) -> Iterator[Finding]:
    """Whether the base is still what was locked."""
    lock = repository.lock
    if lock is None or lock.base is None:
        return
    if origin.head != origin.commit:
        message = f"expected commit {origin.commit} of {origin.reference}, found {origin.head} now"
        yield about("LCK012", REPOSITORY_MANIFEST, message, key="base")
    for name, file in sorted(lock.base.files.items()):
        held = origin.files.get(name)
        if held is None:
            yield about("LCK001", name, f"expected it in the base at {origin.commit}, found none")
        else:
            yield from _differs(name, file, held.size, held.sha256, " in the base")


def find_overwritten(repository: Repository, origin: Origin, destination: Destination) -> Iterator[Finding]:
    """Files of the base's own repository that somebody changed since, and that a change would overwrite or rest on."""
    lock = repository.lock
    if lock is None:
        return
    for name in sorted({*result_names(repository), *index_shards(repository)}):
        held, pinned, item = destination.files.get(name), origin.files.get(name), repository.get(name)
        if held is None or (item is not None and item.equals(held)):
            continue
        if pinned is None or (held.sha256 or held.oid) != (pinned.sha256 or pinned.oid):
            was = f"the one of {origin.commit}" if pinned is not None else "none"
            yield about(
                "LCK001", name, f"expected {was} in the base's repository, found another one at {destination.head}"
            )


def find_dangling(
    repository: Repository, origin: Origin | None, destination: Destination, mode: Mode
) -> Iterator[Finding]:
    """Shards that the index names and that its reader will not have."""
    there = {name for name in result_names(repository) if repository.get(name) is not None}
    if mode == "change":
        there |= destination.files.keys()
    elif origin is not None:
        there |= {path for path, name in base_files(repository).items() if name in origin.files}
    lock = repository.lock
    trims = lock.trims.keys() if lock is not None else set()  # what they come to is told by `find_uncopyable`
    known = origin is not None or mode == "change" or repository.manifest.base is None
    for shard in sorted(index_shards(repository) - there - trims):
        if known:
            yield about("IDX003", INDEX_NAME, f"the index names {shard}, which neither the base nor this folder has")


def find_uncopyable(
    repository: Repository, origin: Origin | None, destination: Destination, mode: Mode
) -> Iterator[Finding]:
    """Shards that would have to be uploaded although they are the base's."""
    lock = repository.lock
    if lock is None or lock.base is None:
        return
    for name in sorted(lock.trims):
        yield about("LCK013", name, "tensors are left out of it, so that it has to be written anew")
    if mode != "whole":
        return
    if origin is None:
        message = f"expected a base on the Hub to copy from, found {repository.manifest.base}"
        yield about("LCK013", REPOSITORY_MANIFEST, message, key="base")
        return
    for path, name in sorted(base_files(repository).items()):
        held = origin.files.get(name)
        if held is None or not held.sha256 or held.xet_hash:
            continue
        present = destination.files.get(path)
        if present is None or present.sha256 != held.sha256:
            yield about("LCK013", name, f"{origin.reference} states no chunk hash for it")


def _commit_of(lock: Lock, manifest: Manifest) -> str:
    """The base's commit, by the lock or by a manifest that names one itself."""
    base = parse_reference(manifest.base) if manifest.base is not None else None
    named = base.revision if isinstance(base, HubReference) and COMMIT.fullmatch(base.revision) else ""
    return (lock.base.commit if lock.base is not None else None) or named


def _differs(name: str, file: LockedFile, size: int, sha256: str, where: str) -> Iterator[Finding]:
    if file.size != size:
        yield about("LCK004", name, f"expected {file.size} bytes{where}, found {size}")
    elif file.sha256 and sha256 and file.sha256 != sha256:
        yield about("LCK001", name, f"expected sha256 {file.sha256}{where}, found {sha256}")


def _danger(name: str, item: Item, repository: Repository) -> str:
    """The code for what can run when it is loaded; "" for anything else."""
    role = role_of(name)
    if role not in (Role.CODE, Role.PICKLE):
        kind = kind_of(name, _beginning(name, item, repository))
        role = kind.role if kind is not None else Role.OTHER
    return {Role.CODE: "SEC002", Role.PICKLE: "SEC003"}.get(role, "")


def _describe(name: str, item: Item, repository: Repository) -> str:
    kind = kind_of(name, _beginning(name, item, repository))
    if kind is not None:
        return kind.what
    if name.rpartition("/")[2].startswith("."):
        return f"a dot file of {item.size} bytes"
    words = {"SEC002": "code", "SEC003": "a file that can run code when it is loaded"}
    return words.get(_danger(name, item, repository), f"a file of {item.size} bytes")


def _beginning(name: str, item: Item, repository: Repository) -> bytes:
    return repository.beginnings.get(name) or (item.data or b"")[:128]
