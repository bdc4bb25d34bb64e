"""The address of a running server, as a person writes it: ``http://127.0.0.1:30000``, with or without ``/v1``.

Credentials have no place in it: they would end up in messages and shell histories.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

_PORTS: Final = {"http": 80, "https": 443}
_PLAIN: Final = re.compile(r"[!-~]+")
"""Visible ASCII: what may stand in the first line of a request."""
_API: Final = "/v1"


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """Where a server listens."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    port: int
    prefix: str
    """What every path begins with: "", or ``/…`` without a slash at its end."""

    @property
    def text(self) -> str:
        """The address as it is shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def parse_server_url(text: str) -> ServerUrl:
    """The address that `text` means; a final ``/v1``, which OpenAI's clients want, is left off.

    Raises:
        ValueError: it is none, or holds a user name, a query or a fragment; the message does not repeat a password.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("expected http://HOST:PORT, found an address that cannot be taken apart") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError("expected http://HOST:PORT or https://HOST:PORT, found something else")
    problem = _explain(parts, text)
    if problem:
        raise ValueError(problem)
    prefix = parts.path.rstrip("/").removesuffix(_API).rstrip("/")
    return ServerUrl(parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port, prefix)


def _explain(parts: SplitResult, text: str) -> str:
    """What is wrong with an address that can be taken apart, or ""."""
    if "@" in parts.netloc:
        return "expected no user name in the address, found one; a key comes from an environment variable"
    if parts.query or parts.fragment:
        return "expected an address without ? and #, found one with them"
    return "" if _PLAIN.fullmatch(text) else "expected an address in visible ASCII, found other characters"
