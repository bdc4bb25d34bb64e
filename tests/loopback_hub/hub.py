"""A Hub on this machine, for tests: what to put into it, and how to make its world move.

    with LoopbackHub(tmp_path) as hub:
        commit = hub.seed("org/name", {"config.json": b"{}", "model.safetensors": Path("shard")})
        # HF_ENDPOINT=hub.url HF_TOKEN=hub.token

It speaks as much of the protocol as the unmodified huggingface_hub client needs to read and to publish.  What is not like
the Hub: it speaks http, commit ids are not git's, and nothing is rate-limited unless a fault says so.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.loopback_hub.chunk_store import ChunkStore
from tests.loopback_hub.contents import whole
from tests.loopback_hub.faults import Answer, Fault
from tests.loopback_hub.listening import Listener
from tests.loopback_hub.log import Log
from tests.loopback_hub.messages import Refusal, Request, Response
from tests.loopback_hub.repositories import Commit, File, Repository, Seed, seeded, with_xet_hash
from tests.loopback_hub.routes import answered
from tests.loopback_hub.state import TOKEN, Account, Settings, State

Files = Mapping[str, Seed | bytes | Path | None]
"""Path in the repository to what stands there; None deletes."""


class LoopbackHub:
    """A Hub with a CDN beside it.

    `folder` takes uploads, and the chunk store when `xet` is wanted.  `log` has every request; `faults` stand between each
    request and its answer, the first one outermost.  `crashes` has the tracebacks of what is wrong with the hub itself, or
    was asked of it in no form that it knows.
    """

    def __init__(self, folder: Path, *, xet: bool = False, settings: Settings | None = None) -> None:
        uploads, chunks = folder / "uploads", folder / "chunks"
        uploads.mkdir(parents=True)
        chunks.mkdir()
        self.state = State(folder=uploads, chunks=ChunkStore(chunks) if xet else None, settings=settings or Settings())
        self.log = Log()
        self.faults: list[Fault] = []
        self.crashes: list[str] = []
        self._hub = Listener("hub", "127.0.0.1", self._answer, self.log, uploads)
        self._cdn = Listener("cdn", "localhost", self._answer, self.log, uploads)
        self.state.hub_url, self.state.cdn_url = self._hub.url, self._cdn.url

    @property
    def url(self) -> str:
        """For HF_ENDPOINT."""
        return self._hub.url

    @property
    def cdn_url(self) -> str:
        """Where large files are; nobody may send a token there."""
        return self._cdn.url

    @property
    def token(self) -> str:
        """The token of the account ``tester``, who may write everywhere."""
        return TOKEN

    @property
    def settings(self) -> Settings:
        return self.state.settings

    def close(self) -> None:
        self._hub.close()
        self._cdn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, request: Request) -> Response:
        answer: Answer = partial(answered, self.state)
        for fault in reversed(self.faults):
            answer = partial(_under, fault, answer)
        try:
            return answer(request)
        except Refusal as refusal:
            return refusal.response()
        except ConnectionError:
            raise
        except Exception:
            self.crashes.append(f"{request.method} {request.target}\n{traceback.format_exc()}")
            return Refusal(500, "Internal error of the loopback hub").response()

    @contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """The faults are in force inside the block only."""
        before = list(self.faults)
        self.faults.extend(faults)
        try:
            yield
        finally:
            self.faults[:] = before

    # What it holds.

    def repository(self, id: str, kind: str = "models") -> Repository:
        return self.state.repositories[kind, id]

    def head(self, id: str, branch: str = "main", kind: str = "models") -> Commit:
        """The commit that a branch names."""
        return self.repository(id, kind).head(branch)

    def files(self, id: str, revision: str = "main", kind: str = "models") -> Mapping[str, File]:
        """The files at a revision.

        Raises:
            KeyError: there is no such revision.
        """
        commit = self.repository(id, kind).resolve(revision)
        if commit is None:
            raise KeyError(revision)
        return commit.files

    def read(self, id: str, path: str, revision: str = "main", kind: str = "models") -> bytes:
        """The bytes of a file, without a request."""
        return whole(self.files(id, revision, kind)[path].contents)

    # What is put into it, without a request.

    def seed(
        self,
        id: str,
        files: Files,
        *,
        branch: str = "main",
        kind: str = "models",
        title: str = "seed",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Commit `files` on top of a branch, and make repository and branch where there are none; the commit's id."""
        with self.state.lock:
            repository = self.state.repositories.get((kind, id))
            if repository is None:
                repository = self.state.repositories[kind, id] = Repository(id, kind, private=private, gated=gated)
            ref = f"refs/heads/{branch}"
            parent = repository.commits.get(repository.refs.get(ref) or repository.refs.get("refs/heads/main") or "")
            changes = {path: None if seed is None else self._file(path, seed) for path, seed in files.items()}
            return self.state.commit(repository, ref, parent, changes, title=title).id

    def _file(self, path: str, seed: Seed | bytes | Path) -> File:
        file = seeded(path, seed, self.settings.large_threshold)
        stated = isinstance(seed, Seed) and (seed.sha256 or seed.xet_hash)
        if self.state.chunks and file.sha256 and not stated:
            return with_xet_hash(file, self.state.chunks.put(file.contents))
        return file

    # What happens to repositories while somebody works with them.

    def force_push(self, id: str, files: Files, *, branch: str = "main", kind: str = "models") -> str:
        """Put one commit without parents in place of a branch; what only the branch led to is gone.  The commit's id."""
        with self.state.lock:
            repository = self.repository(id, kind)
            old = repository.head(branch).id
            changes = {path: None if seed is None else self._file(path, seed) for path, seed in files.items()}
            made = self.state.commit(repository, f"refs/heads/{branch}", None, changes, title="force-push")
            repository.forget(old)
            return made.id

    def tag(self, id: str, name: str, revision: str = "main", kind: str = "models") -> None:
        repository = self.repository(id, kind)
        commit = repository.resolve(revision)
        assert commit is not None, revision
        repository.refs[f"refs/tags/{name}"] = commit.id

    def rename(self, id: str, new: str, kind: str = "models") -> None:
        """The repository has another name; the old one leads there."""
        with self.state.lock:
            repository = self.state.repositories.pop((kind, id))
            repository.id = new
            self.state.repositories[kind, new] = repository
            self.state.renamed[kind, id] = new

    def delete(self, id: str, kind: str = "models") -> None:
        with self.state.lock:
            del self.state.repositories[kind, id]

    def gate(self, id: str, kind: str = "models") -> None:
        """Only accounts that were granted access may have the files; everybody may see the listing."""
        self.repository(id, kind).gated = True

    def grant(self, id: str, token: str = TOKEN) -> None:
        """The account may have the files of a gated repository."""
        self.state.accounts[token].granted.add(id)

    def hide(self, id: str, kind: str = "models") -> None:
        """The repository is private: only who may write to it knows that it is there."""
        self.repository(id, kind).private = True

    def enrol(self, token: str, name: str, *namespaces: str) -> None:
        """Another account, which may write to its own namespace and to `namespaces`."""
        self.state.accounts[token] = Account(name, frozenset(namespaces))

    def expire_urls(self) -> None:
        """Every signed URL that was handed out so far is refused from now on."""
        self.state.generation += 1

    def misstate(self, id: str, path: str, *, branch: str = "main", kind: str = "models", **fields: object) -> None:
        """State something false about a file of a branch's head: any field of `File`."""
        with self.state.lock:
            repository = self.repository(id, kind)
            head = repository.head(branch)
            file = replace(head.files[path], **fields)  # type: ignore[arg-type]
            repository.commits[head.id] = replace(head, files={**head.files, path: file})


def _under(fault: Fault, answer: Answer, request: Request) -> Response:
    return fault(request, answer)
