"""Probing: ask a running server whether its draft fires."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from overlay.core.probing import DEFAULT_PROMPTS, EngineName, Probe
from overlay.errors import UsageError
from overlay.formats.server_url import parse_server_url
from overlay.running.probing import Trial, probe_server
from overlay.storage.serving import Server

_KEY = re.compile(r"[!-~]*")
LONGEST_S: Final = 86400.0
"""A day; much longer times are more than sockets can count."""


def probe(
    url: str,
    *,
    engine: EngineName | None = None,
    prompts: Sequence[str] = DEFAULT_PROMPTS,
    tokens: int = 128,
    sweep: Sequence[int] = (),
    key: str = "",
    timeout: float = 120.0,
) -> Probe:
    """Does the draft of the server at `url` fire?  Completes each of `prompts` once, at temperature 0.

    Args:
        url: ``http://HOST:PORT``, with or without ``/v1``.
        engine: None: the server says what it is.
        prompts: texts to complete, at least one.
        tokens: how many tokens a completion may have, at least 1.
        sweep: then measure throughput with so many completions at a time, for each number from 1 on.
        key: sent as a bearer token; in no message.
        timeout: seconds for each completion, up to `LONGEST_S`.

    Raises:
        UsageError: the address or the key is none, or a number makes no sense.
        EnvironmentFault: the server cannot be asked, or its answers cannot be used.
    """
    try:
        address = parse_server_url(url)
    except ValueError as problem:
        raise UsageError(str(problem), hint="overlay probe http://127.0.0.1:30000") from None
    if not _KEY.fullmatch(key):
        raise UsageError("expected a key of visible ASCII, found other characters", hint="check the variable's value")
    if not prompts or tokens < 1 or min(sweep, default=1) < 1:
        raise UsageError("expected at least one prompt, and numbers from 1 on", hint="overlay probe --help")
    if not 0 < timeout <= LONGEST_S:
        raise UsageError(f"expected a timeout of at most {LONGEST_S:.0f} s, found {timeout}", hint="leave it out")
    server = Server(url=address, key=key, timeout=timeout)
    return probe_server(server, Trial(prompts=tuple(prompts), tokens=tokens, sweep=tuple(sweep), engine=engine))
