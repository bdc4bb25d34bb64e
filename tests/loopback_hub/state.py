"""What a hub knows: repositories, who may see them, and how it is set up.

Routes take this as their first argument.  Everything that changes does so under `lock`.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.loopback_hub.chunk_store import ChunkStore
from tests.loopback_hub.messages import Refusal, Request
from tests.loopback_hub.repositories import Commit, File, Repository, made_commit

TOKEN = "hf_loopbackCanaryTokenNeverToBeSeen"


@dataclass
class Account:
    """Who holds a token."""

    name: str
    namespaces: frozenset[str] | None = None
    """Where it may write; None: everywhere."""
    granted: set[str] = field(default_factory=set)
    """Gated repositories whose terms it accepted."""

    def writes_to(self, repository: str) -> bool:
        namespace = repository.split("/")[0]
        return self.namespaces is None or namespace == self.name or namespace in self.namespaces


@dataclass
class Settings:
    """How this hub differs from others."""

    page: int = 1000
    """Entries of a tree in one response."""
    large_threshold: int = 10_000_000
    """Files of more bytes are kept by LFS whatever their name."""
    multipart: int | None = None
    """Large files of more bytes are uploaded in parts of so many; None: always whole."""
    url_lifetime: float = 3600.0
    """Seconds until a signed URL is refused."""


@dataclass
class State:
    """Everything of a hub but its sockets."""

    folder: Path
    """Uploads are kept here."""
    chunks: ChunkStore | None = None
    settings: Settings = field(default_factory=Settings)
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    renamed: dict[tuple[str, str], str] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=lambda: {TOKEN: Account("tester")})
    hub_url: str = ""
    cdn_url: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)
    number: int = 0
    """Of commits so far."""
    generation: int = 0
    """Signed URLs of an earlier generation have expired."""
    offered: dict[str, File] = field(default_factory=dict)
    """What the CDN serves, by path: it goes on when the repository is renamed, rewritten or deleted."""
    parts: dict[str, dict[int, Path]] = field(default_factory=dict)
    """Uploads in parts under way: digest to the parts by number."""

    # Who may do what.

    def account(self, request: Request) -> Account | None:
        """Whose token the request carries.

        Raises:
            Refusal: 401, nobody's.
        """
        if request.token is None:
            return None
        if request.token not in self.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.accounts[request.token]

    def repository(self, request: Request, kind: str | None, id: str) -> Repository:
        """A repository that the asker may see.

        Raises:
            Refusal: 404, or 401 to who did not say who they are: there is none, or it is private.
        """
        account = self.account(request)
        repository = self.repositories.get((kind or "models", id))
        hidden = repository is not None and repository.private and not (account and account.writes_to(id))
        if repository is None or hidden:
            raise Refusal(404 if account else 401, "Repository not found", "RepoNotFound")
        return repository

    def opened(self, request: Request, repository: Repository) -> None:
        """Check that the asker may have the files of a gated repository.

        Raises:
            Refusal: 401 without a token, 403 with one that does not suffice.
        """
        account = self.account(request)
        if not repository.gated or (account and repository.id in account.granted):
            return
        restricted = f"Access to model {repository.id} is restricted"
        if account is None:
            raise Refusal(401, f"{restricted}. You must be authenticated to access it. Please log in.", "GatedRepo")
        url = f"{self.hub_url}/{repository.id}"
        raise Refusal(403, f"{restricted} and you are not in the authorized list. Ask at {url}", "GatedRepo")

    def writer(self, request: Request, id: str) -> Account:
        """Who asks, if they may write to the repository.

        Raises:
            Refusal: 401 without a token, 403 with one that does not suffice.
        """
        account = self.account(request)
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        if not account.writes_to(id):
            raise Refusal(403, f"Forbidden: you must have write access to {id}")
        return account

    def commit_at(self, repository: Repository, revision: str) -> Commit:
        """The commit that a revision names.

        Raises:
            Refusal: 404, there is no such revision.
        """
        commit = repository.resolve(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Signed URLs.

    def signed(self, path: str) -> str:
        """The query of a URL that is good for a while."""
        expires = f"{time.time() + self.settings.url_lifetime:.3f}"
        return f"Expires={expires}&Generation={self.generation}&Signature={self._signature(path, expires, self.generation)}"

    def check_signature(self, request: Request) -> None:
        """Check that the URL is one of ours and still good.

        Raises:
            Refusal: 403, as a CDN says it.
        """
        query = request.query
        expires, generation = query.get("Expires", "0"), int(query.get("Generation", "-1"))
        if not hmac.compare_digest(query.get("Signature", ""), self._signature(request.path, expires, generation)):
            raise Refusal(403, "SignatureDoesNotMatch")
        if generation != self.generation or float(expires) < time.time():
            raise Refusal(403, "AccessDenied: Request has expired")

    def _signature(self, path: str, expires: str, generation: int) -> str:
        return hmac.new(b"loopback", f"{path} {expires} {generation}".encode(), hashlib.sha256).hexdigest()

    # Changes.

    def commit(
        self,
        repository: Repository,
        ref: str,
        parent: Commit | None,
        changes: Mapping[str, File | None],
        *,
        title: str,
        description: str = "",
    ) -> Commit:
        """Make a commit after `parent` and let `ref` name it."""
        with self.lock:
            self.number += 1
            made = made_commit(repository, parent, changes, title=title, description=description, number=self.number)
            repository.add(ref, made)
            return made
