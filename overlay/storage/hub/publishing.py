"""Publishing to the Hub: ask for a repository's head, and lay one commit on it.

The client does the work: it uploads what is large first, in chunks or by LFS, and a file that arrived in a run that was
cut off is not sent again; small files travel in the commit itself, which is the last write.  `parent_commit` makes the
commit fail when somebody else was faster.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from overlay.errors import Conflict, EnvironmentFault, InvalidInput, OverlayError
from overlay.formats.names import CARD_NAME
from overlay.formats.references import HubReference, parse_reference
from overlay.storage.hub.environment import LIBRARY, endpoint, hub_headers, require_online
from overlay.storage.hub.faults import Place, clean, fault_of_error
from overlay.storage.hub.session import hub_session, watched

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_BAD_REQUEST: Final = 400
_TAKEN: Final = 409
"""Status of the creation of a repository that is there."""
_STALE: Final = 412
"""Status of a commit whose parent is not the head any more."""

_AGAIN: Final = "run the command again; what was uploaded whole is not sent again"


@dataclass(frozen=True, slots=True)
class File:
    """A file to put into a repository."""

    path: str
    source: str | bytes
    """A path on this machine, the bytes, or ``hf://org/name@<commit>/file`` for a copy that the server makes."""
    sha256: str = ""
    """What the bytes of a path on this machine must be; "" for the others."""


@dataclass(frozen=True, slots=True)
class Made:
    """A commit, or a proposed one."""

    commit: str
    url: str
    """Of the commit, or of the pull request."""


def find_head(repo: str) -> str | None:
    """The commit that the repository's main branch means now; None where there is no such repository for this user.

    Costs one request.

    Raises:
        EnvironmentFault: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    with _explained(repo):
        try:
            commit = _api().repo_info(repo, repo_type="model", timeout=30).sha
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None
    if not commit:
        raise EnvironmentFault("expected the Hub to state a commit, found none", subject=f"hf://{repo}")
    return commit


def create(repo: str, *, private: bool) -> str:
    """Make the repository, which is not there; gives back its head.

    Raises:
        Conflict: somebody has made it since it was looked for.
        EnvironmentFault: the Hub cannot be reached, or refuses.
    """
    from huggingface_hub.errors import HfHubHTTPError

    with _explained(repo):
        try:
            _api().create_repo(repo, private=private, repo_type="model", exist_ok=False)
        except HfHubHTTPError as error:
            if error.response.status_code != _TAKEN:
                raise
            problem = "expected no repository of this name, found one that was made since the plan"
            raise Conflict(problem, subject=f"hf://{repo}", hint=_AGAIN) from None
    head = find_head(repo)
    if head is None:
        raise EnvironmentFault("expected the repository that was made, found none", subject=f"hf://{repo}")
    return head


def commit(
    repo: str, files: Sequence[File], *, parent: str, message: str, description: str = "", create_pr: bool, bars: bool
) -> Made:
    """Lay one commit with `files` on `parent`, or propose it.

    Nothing of the repository changes before the commit itself, which is the last request.

    Raises:
        Conflict: the head is not `parent` any more.
        EnvironmentFault: the Hub cannot be reached, or refuses; a file changed or cannot be read.
    """
    with _explained(repo), _bars(shown=bars):
        api, operations = _api(), list(map(_operation, files))
        _check_card(repo, files)
        _upload(api, repo, files, operations, create_pr=create_pr)
        info = api.create_commit(
            repo,
            operations,
            commit_message=message,
            commit_description=description,
            repo_type="model",
            parent_commit=parent,
            create_pr=create_pr,
        )
    return Made(info.oid, (info.pr_url if create_pr else None) or info.commit_url)


def _upload(api: HfApi, repo: str, files: Sequence[File], operations: Sequence[Any], *, create_pr: bool) -> None:
    """Send what is large, and see that it was what it should be: the client hashes what it reads while it sends it."""
    sent = [(file, operation) for file, operation in zip(files, operations, strict=True) if file.sha256]
    additions = [operation for _, operation in sent]
    api.preupload_lfs_files(repo, additions, repo_type="model", create_pr=create_pr, free_memory=False)
    for file, operation in sent:
        found = operation.upload_info.sha256.hex()
        if found != file.sha256:
            problem = f"expected sha256 {file.sha256}, found {found}: it changed after it was looked at"
            raise Conflict(problem, subject=file.path, hint="leave the folder alone, then run the command again")


def _check_card(repo: str, files: Sequence[File]) -> None:
    """Ask the Hub whether it takes the card, before anything large is sent; the commit asks again."""
    text = next((file.source for file in files if file.path == CARD_NAME and isinstance(file.source, bytes)), None)
    if text is None:
        return
    body = {"content": text.decode(errors="replace"), "repoType": "model"}
    answer = hub_session().post(f"{endpoint()}/api/validate-yaml", json=body, headers=hub_headers())
    if answer.status_code == _BAD_REQUEST:
        try:
            said = "; ".join(str(error["message"]) for error in answer.json()["errors"])
        except (ValueError, KeyError, TypeError):
            said = answer.text
        hint = "mend the front matter of README.md, or the licence of the manifest, then run the command again"
        raise InvalidInput(f"expected a card that the Hub takes, found: {clean(said)}", subject=CARD_NAME, hint=hint)


def _operation(file: File) -> Any:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy

    if isinstance(file.source, bytes) or not file.source.startswith("hf://"):
        return CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=file.source)
    source = parse_reference(file.source)
    assert isinstance(source, HubReference)  # it begins with hf://
    return CommitOperationCopy(
        src_path_in_repo=source.file,
        path_in_repo=file.path,
        src_revision=source.revision,
        src_repo_id=source.repo,
        src_repo_type="model",
    )


def _api() -> HfApi:
    """The client, with what the environment says now; the token is the environment's or the login's."""
    from huggingface_hub import HfApi

    hub_headers()  # a token that cannot be sent is found here, where it has a name
    return HfApi(endpoint=endpoint(), library_name=LIBRARY)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """What the client complains of, as one of our errors."""
    place = Place(repo)
    require_online(str(place))
    try:
        with watched():
            yield
    except OverlayError:
        raise
    except Exception as error:
        if getattr(getattr(error, "response", None), "status_code", None) == _STALE:
            problem = "expected the commit that the plan was made from to be the newest, found that it moved"
            raise Conflict(problem, subject=str(place), hint="run the command again") from None
        fault = fault_of_error(error, place)
        if fault is None and isinstance(error, _hub_errors()):
            fault = EnvironmentFault(
                f"expected to publish, found: {clean(str(error))}", subject=str(place), hint=_AGAIN
            )
        if fault is None and (isinstance(error, RuntimeError) or type(error).__module__.startswith("hf_xet")):
            fault = EnvironmentFault(f"expected to upload, found: {clean(str(error))}", subject=str(place), hint=_AGAIN)
        if fault is None and _is_no_answer(error):
            problem = "expected an answer of the Hub, found something else, as the login page of a network would be"
            fault = EnvironmentFault(problem, subject=str(place), hint=f"check HF_ENDPOINT; {_AGAIN}")
        if fault is None:
            raise
        raise fault from None


def _is_no_answer(error: Exception) -> bool:
    """Whether the client itself stumbled over an answer: one that is no JSON, or that lacks what it looks for."""
    if isinstance(error, json.JSONDecodeError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
    return isinstance(error, KeyError | TypeError | AttributeError) and module.startswith("huggingface_hub.")


def _hub_errors() -> tuple[type[Exception], ...]:
    """Errors of the client that come without an answer of the Hub."""
    from huggingface_hub import errors

    return (errors.EntryNotFoundError, errors.BadRequestError, errors.FileDuplicationError)


@contextmanager
def _bars(*, shown: bool) -> Iterator[None]:
    """The client's own progress bars inside, if they are wanted: it reports on uploads in no other way."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
