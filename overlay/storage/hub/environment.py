"""What the user's environment says about the Hub, read when it is asked: huggingface_hub reads it once, at import.

The variables are those of huggingface_hub's own documentation (package_reference/environment_variables).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import Final
from urllib.parse import quote, urlsplit

from overlay.errors import EnvironmentFault, UsageError
from overlay.storage.hub_cache import is_offline

LIBRARY: Final = "checkpoint-overlay"
"""Who asks: part of the User-Agent, as huggingface_hub wishes it."""

DEFAULT_ENDPOINT: Final = "https://huggingface.co"
_PORTS: Final = {"http": 80, "https": 443}
_TRUE: Final = ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    """The address of the Hub, without a slash at the end: ``$HF_ENDPOINT``, or the public one.

    Raises:
        UsageError: ``$HF_ENDPOINT`` is not an http address.
    """
    found = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    try:
        origin_of(found)
    except ValueError:
        hint = f"unset HF_ENDPOINT, or set it to {DEFAULT_ENDPOINT}"
        raise UsageError("expected the http(s) address of a Hub", subject="HF_ENDPOINT", hint=hint) from None
    return found


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL.

    Raises:
        ValueError: it is not an http or https URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("expected an http(s) URL")
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def file_url(repo: str, commit: str, path: str) -> str:
    """Where the Hub gives out a file, or leads to it."""
    return f"{endpoint()}/{repo}/resolve/{commit}/{quote(path)}"


def api_url(repo: str, rest: str) -> str:
    """Where the Hub answers about a repository; `rest` begins with a slash where there is one."""
    return f"{endpoint()}/api/models/{repo}{rest}"


def require_online(subject: str) -> None:
    """Refuse when the user forbids the network.

    Raises:
        EnvironmentFault: ``HF_HUB_OFFLINE`` is set.
    """
    if is_offline():
        raise offline_fault(subject)


def offline_fault(subject: str) -> EnvironmentFault:
    """What to say when something of the Hub, whose address is `subject`, is not on this machine, and nobody may be asked."""
    repo, _, revision = subject.removeprefix("hf://").partition("@")
    revision = revision.partition("/")[0]
    command = f"hf download {'/'.join(repo.split('/')[:2])}{f' --revision {revision}' if revision else ''}"
    return EnvironmentFault(
        "expected it on this machine, since HF_HUB_OFFLINE is set; found nothing there",
        subject=subject,
        hint=f"unset HF_HUB_OFFLINE; then {command} fetches all of it, and overlay what a command needs",
    )


def hub_headers() -> dict[str, str]:
    """The headers of a request to the Hub, with the user's token if there is one.  Not for any other origin.

    Raises:
        EnvironmentFault: the token cannot be one.
    """
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers(library_name=LIBRARY, library_version=library_version())
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        problem = "expected a token of plain characters, found others"
        raise EnvironmentFault(problem, subject="HF_TOKEN", hint="hf auth login, or set HF_TOKEN to a token of the Hub")
    return headers


def library_version() -> str:
    """The version of this program, for the User-Agent; "" where it runs without being installed."""
    try:
        return importlib.metadata.version(LIBRARY)
    except importlib.metadata.PackageNotFoundError:
        return ""


def without_token(headers: dict[str, str]) -> dict[str, str]:
    """The same headers for anybody else."""
    return {name: value for name, value in headers.items() if name.lower() != "authorization"}


def is_xet_usable() -> bool:
    """Whether the chunk store's client is installed, and the user does not forbid it."""
    if os.environ.get("HF_HUB_DISABLE_XET", "").upper() in _TRUE:
        return False
    return importlib.util.find_spec("hf_xet") is not None
