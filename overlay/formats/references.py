"""References: the one kind of argument that names a checkpoint, a manifest or a file in a repository.

A reference is a path, or ``hf://org/name[@revision][/file]``.  The addresses that people copy from a browser
(``https://huggingface.co/org/name/tree/main``) and ``hf://models/org/name`` mean the same.

``s3://bucket/folder``, ``gs://…`` and ``https://…`` name a folder of an object store, or of a web server.

A slash in a revision is written ``%2F``, except in ``refs/pr/N`` and ``refs/convert/NAME``: huggingface_hub's own
`HfFileSystem.resolve_path` reads it so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A revision that is a commit, and so means the same for ever."""

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_REPO = rf"(?:models/)?((?!(?:models|datasets|spaces|buckets|kernels)/){_SEGMENT}/{_SEGMENT})"
_SPECIAL = r"refs/(?:pr/[0-9]+|convert/[A-Za-z0-9_]+)"
_HUB = re.compile(rf"hf://{_REPO}(?:@({_SPECIAL}(?=/|$)|[^/@\s]+))?(?:/(.*))?")
_WEB = re.compile(
    rf"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/{_REPO}"
    rf"(?:/(?:tree|blob|resolve)/({_SPECIAL}(?=[/?#]|$)|[^/\s?#]+)(?:/([^?#]*))?)?/?(?:[?#].*)?"
)
_NO_REVISION = re.compile(r"[.-]|/|.*(?:\.\.|//|/$|[\x00-\x20\x7f\\~^:?*\[])", re.DOTALL)
"""What git refuses as the name of a branch or tag (`git check-ref-format`), as far as it could name another place."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STORE = re.compile(
    r"(?:s3|gs|gcs|az|abfs)://[^/?#\s]+(?:/[^?#]*)?"
    r"|https://(?!(?:www\.)?(?:huggingface\.co|hf\.co)/)[^/?#@\s]+/[^?#]*"
    r"|http://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]+)?/[^?#]*"  # without TLS on this machine alone
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class PathReference:
    """A path on this machine, as written; relative to the file that holds it, or to the working directory."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository on the Hugging Face Hub.  Law: ``parse_reference(str(r)) == r``."""

    repo: str
    """``org/name``."""
    revision: str = ""
    """Branch, tag or commit; "" means the default branch."""
    file: str = ""
    """Path inside the repository; "" means the whole of it."""

    def __str__(self) -> str:
        special = re.fullmatch(_SPECIAL, self.revision)
        at = f"@{self.revision if special else quote(self.revision, safe='')}" if self.revision else ""
        return f"hf://{self.repo}{at}{'/' + self.file if self.file else ''}"


@dataclass(frozen=True, slots=True)
class StoreReference:
    """A folder of an object store, or of a web server."""

    address: str
    """``s3://bucket/folder``, without a slash at the end and without a query, which may hold a key."""

    def __str__(self) -> str:
        return self.address


Reference = PathReference | HubReference | StoreReference


def _without_secrets(text: str) -> str:
    """An address as it may be shown: a query is a key where an address is signed, and before ``@`` stands a password."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text).partition("?")[0] if "://" in text else text


def parse_reference(text: str) -> Reference:
    """Parse a reference.

    Raises:
        ValueError: an unknown scheme or a malformed Hub address; the message says what was expected.
    """
    web = _WEB.fullmatch(text)
    match = web or _HUB.fullmatch(text)
    if match:
        repo, revision, file = match[1], unquote(match[2] or ""), (match[3] or "").strip("/")
        if web:
            file = unquote(file)
        if _NO_REVISION.match(revision):
            raise ValueError(f"expected a branch, tag or commit after '@', found {revision!r}")
        if _CONTROL.search(file) or (file and any(part in ("..", ".", "") for part in file.split("/"))):
            raise ValueError(f"expected a file inside the repository, found {file!r}")
        return HubReference(repo, revision, file)
    if _STORE.fullmatch(text) and not _CONTROL.search(text):
        return StoreReference(text.rstrip("/"))
    if not text or "\0" in text or _SCHEME.match(text):
        raise ValueError(f"expected a path or hf://org/name[@revision], found {_without_secrets(text)!r}")
    return PathReference(text)
