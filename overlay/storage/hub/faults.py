"""What the Hub, its storage and their clients complain of, as one line of ours and the next thing to do.

No message holds a token, the query of a URL (which may be a signature), or a control character: what a server says is
cleaned before it is repeated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from overlay.errors import EnvironmentFault, Mismatch, OverlayError, UsageError
from overlay.storage.files import hint_for_errno
from overlay.storage.hub.environment import endpoint, offline_fault
from overlay.storage.hub.patience import Transient, asked_wait

RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may pass by themselves: those that huggingface_hub's `http_backoff` retries too."""

_MAX_TEXT: Final = 300
_LEAST_TOKEN: Final = 8
"""Characters; what is shorter is no secret, and may be part of any word."""
_UNPRINTABLE: Final = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_SECRET: Final = re.compile(r"(?i:bearer)\s+[^\s'\"]+|\b(?:hf|api_org)_[A-Za-z0-9]{6,}")
_QUERY: Final = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
_LOGIN: Final = "hf auth login"
_AGAIN: Final = "check the connection, then run the command again; what was fetched is kept"


@dataclass(frozen=True, slots=True)
class Place:
    """What was asked for: a repository, at a commit or revision, and a file of it."""

    repo: str
    revision: str = ""
    path: str = ""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return clean(f"hf://{self.repo}{at}{'/' + self.path if self.path else ''}")


def clean(text: str) -> str:
    """`text` on one line, at most 300 characters, without secrets and control characters."""
    for token in _tokens():
        text = text.replace(token, "[token]")
    text = _QUERY.sub(r"\1?…", _SECRET.sub("[token]", _UNPRINTABLE.sub(" ", text))).strip()
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


def _tokens() -> list[str]:
    """The tokens of the environment, whose form other Hubs than the public one are free to choose."""
    found = (os.environ.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    return [token for token in found if len(token) >= _LEAST_TOKEN]


def fault_of_status(status: int, headers: Mapping[str, str], place: Place, host: str = "") -> OverlayError:
    """A refusal, by its status and what the Hub adds in ``X-Error-Code`` and ``X-Error-Message``.

    Args:
        status: of HTTP.
        headers: of the answer; names in lower case.
        place: what was asked for.
        host: who answered, where it is not the Hub itself but its storage.
    """
    code, said = headers.get("x-error-code", ""), clean(headers.get("x-error-message", ""))
    found = f"status {status}" + (f" ({said})" if said else "")
    if status == 429:
        wait = asked_wait(headers)
        hint = f"run the command again in {wait:.0f} seconds" if wait else "run the command again in some minutes"
        hint += f"; with a token the limits are higher: {_LOGIN}"
        return EnvironmentFault(f"expected an answer, found too many requests: {found}", subject=str(place), hint=hint)
    if status == 416:
        hint = "the file is no longer what was listed; fetch it anew, or report it to the repository's owner"
        return Mismatch(f"expected more bytes in the file, found its end: {found}", subject=str(place), hint=hint)
    if status in RETRIED or status >= 500:
        who = host or "the Hub"
        return EnvironmentFault(f"expected an answer of {who}, found {found}", subject=str(place), hint=_AGAIN)
    if host:
        problem = f"expected the file from its storage ({clean(host)}), found {found}"
        return EnvironmentFault(problem, subject=str(place), hint=_AGAIN)
    return _refusal(status, code, said, found, place)


def _refusal(status: int, code: str, said: str, found: str, place: Place) -> EnvironmentFault:
    """A request that the Hub understood and does not grant."""
    page = f"{endpoint()}/{place.repo}"
    if code == "GatedRepo":
        problem, hint = f"expected access, found a gated repository: {found}", ""
        hint = f"accept the licence at {page}, and log in: {_LOGIN}"
    elif code == "RevisionNotFound":
        problem = f"expected this revision, found none: {found}"
        hint = f"the branch or commit may have been removed; see {page}/commits/main, and lock again"
    elif code == "EntryNotFound":
        problem, hint = f"expected this file, found none: {found}", f"see {page}/tree/{place.revision or 'main'}"
    elif "is disabled" in said:
        problem, hint = f"expected access, found a repository that the Hub has disabled: {found}", f"see {page}"
    elif "redentials" in said or "user token" in said:
        problem = f"expected a valid token, found one that the Hub does not know: {found}"
        hint = f"{_LOGIN}, or unset HF_TOKEN"
    elif code == "RepoNotFound" or status in (401, 404):
        problem = (
            f"expected this repository, found no such repository, or it is private and you are not logged in: {found}"
        )
        hint = f"check the name; for a private repository: {_LOGIN}"
    elif status == 402:
        problem, hint = f"expected leave to do this, found: {found}", f"see {endpoint()}/settings/billing"
    elif status == 403:
        problem, hint = f"expected access, found a refusal: {found}", f"the token may lack this right: {_LOGIN}"
    else:
        problem, hint = f"expected an answer of the Hub, found {found}", _AGAIN
    return EnvironmentFault(problem, subject=str(place), hint=hint)


def fault_of_error(error: BaseException, place: Place) -> OverlayError | None:
    """An error of huggingface_hub, its HTTP library or the system as one of ours; None where it is a bug."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    if isinstance(error, Transient):
        return error.fault
    if isinstance(error, OverlayError):
        return error
    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline_fault(str(place))
    if isinstance(error, errors.HfHubHTTPError):
        response = error.response
        return fault_of_status(response.status_code, response.headers, place, _foreign_host(response))
    if isinstance(error, (httpx.HTTPError, httpx.InvalidURL)):
        return fault_of_transport(error, place)
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return fault_of_error(error.__cause__, place)  # "an error happened while trying to locate the file"
    if isinstance(error, errors.HFValidationError):
        hint = "hf://org/name[@revision]"
        return UsageError(f"expected a repository's name, found: {clean(str(error))}", subject=str(place), hint=hint)
    if isinstance(error, OSError) and error.errno is not None:
        problem = (
            f"expected to keep it in {clean(str(error.filename or 'the cache'))}, the system says: {error.strerror}"
        )
        return EnvironmentFault(problem, subject=str(place), hint=hint_for_errno(error.errno))
    if isinstance(error, OSError):  # a check of huggingface_hub's own, such as that of the length
        said = clean(str(error).partition("\n")[0])
        return EnvironmentFault(f"expected the whole file, found: {said}", subject=str(place), hint=_AGAIN)
    if isinstance(error, ValueError) and "too large" in str(error):  # `MAX_HTTP_DOWNLOAD_SIZE`
        problem = "expected at most 50 GB for a download without hf_xet, found a larger file"
        return EnvironmentFault(problem, subject=str(place), hint="pip install hf_xet, and unset HF_HUB_DISABLE_XET")
    return None


def fault_of_transport(error: Exception, place: Place) -> EnvironmentFault:
    """What the HTTP library says when there is no answer, or only the beginning of one."""
    from huggingface_hub.utils import httpx

    said = clean(str(error)) or type(error).__name__
    lower = said.lower()
    hint = _AGAIN
    if isinstance(error, httpx.ProxyError):
        problem, hint = f"expected a way through the proxy, found: {said}", "check HTTPS_PROXY and NO_PROXY"
    elif "certificate" in lower or "ssl" in lower or "tls" in lower:
        problem = f"expected a trusted connection, found: {said}"
        hint = "a proxy may stand between; give its certificate with SSL_CERT_FILE"
    elif any(word in lower for word in ("name or service", "name resolution", "nodename", "getaddrinfo", "no address")):
        problem = f"expected to find the host {_host_of(error)}, found: {said}"
        hint = "check the network and HF_ENDPOINT; without one, work from the cache: HF_HUB_OFFLINE=1"
    elif isinstance(error, httpx.ConnectError):
        problem = f"expected to reach {_host_of(error)}, found: {said}"
        hint = "check the network and HF_ENDPOINT; without one, work from the cache: HF_HUB_OFFLINE=1"
    elif isinstance(error, httpx.TimeoutException):
        problem = f"expected bytes to go on arriving, found: {said}"
    elif isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        problem, hint = f"expected a request that can be sent, found: {said}", "check HF_ENDPOINT and HF_TOKEN"
    else:
        problem = f"expected the whole answer, found a broken connection: {said}"
    return EnvironmentFault(problem, subject=str(place), hint=hint)


def transient_of(error: Exception, place: Place) -> Transient | OverlayError:
    """An error of the HTTP library, by whether another attempt may help."""
    from huggingface_hub.utils import httpx

    fault = fault_of_transport(error, place)
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.DecodingError)):
        return fault
    return Transient(fault, unreachable=isinstance(error, (httpx.ConnectError, httpx.ProxyError)))


def _foreign_host(response: Any) -> str:
    """The host that answered, where it is not the Hub."""
    try:
        url = response.request.url
    except RuntimeError:  # an answer without its request
        return ""
    return "" if str(url).startswith(endpoint() + "/") else str(url.host)


def _host_of(error: Exception) -> str:
    try:
        return clean(str(error.request.url.host))  # type: ignore[attr-defined]
    except (RuntimeError, AttributeError):
        return clean(endpoint())
