"""A running server, asked over HTTP: one request a connection, with a limit on time and on bytes.

The server may be anything: slow, endless, or another program.  Redirections are not followed, so that a key goes to nobody
but the server that was named; proxies are not used.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from overlay.errors import EnvironmentFault
from overlay.formats.server_url import ServerUrl

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""Metrics of a large deployment come to some hundred kilobytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server, and how it is asked."""

    url: ServerUrl
    key: str = field(default="", repr=False)
    """Sent as a bearer token where it is not empty; visible ASCII.  It is in no message."""
    timeout: float = 120.0
    """Seconds for a whole answer."""

    def __str__(self) -> str:
        return self.url.text


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    data: bytes
    location: str = ""
    """Where it would send the client instead, or ""."""


def ask(server: Server, path: str, body: Mapping[str, Any] | None = None) -> Answer:
    """What `server` answers on `path`: to GET, or to POST where there is a `body`, which is sent as JSON.

    Raises:
        EnvironmentFault: it cannot be reached, does not speak HTTP, or its answer is too slow, too large or cut off.
    """
    subject = f"{server}{path}"
    late = threading.Event()
    ends = time.monotonic() + server.timeout
    connection = _connection(server)
    watchdog: threading.Timer | None = None
    try:
        connection.connect()
        # A timeout of the socket is for each read: a server that drips a byte a minute would never meet it.
        watchdog = threading.Timer(max(0.0, ends - time.monotonic()), _cut, (connection.sock, late))
        watchdog.daemon = True
        watchdog.start()
        answer = _exchange(connection, server, path, body, subject)
        if late.is_set():  # what was cut off may look like an end
            raise TimeoutError
        return answer
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _explain(error, server, subject, late=late.is_set() or isinstance(error, TimeoutError)) from None
    finally:
        if watchdog is not None:
            watchdog.cancel()
        connection.close()


def _connection(server: Server) -> http.client.HTTPConnection:
    host, port = server.url.host, server.url.port
    if server.url.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=server.timeout, context=context)
    return http.client.HTTPConnection(host, port, timeout=server.timeout)


def _exchange(
    connection: http.client.HTTPConnection, server: Server, path: str, body: Mapping[str, Any] | None, subject: str
) -> Answer:
    headers = {"Accept": "*/*", "Connection": "close"}
    if server.key:
        headers["Authorization"] = f"Bearer {server.key}"
    if body is not None:
        headers["Content-Type"] = "application/json"
    data = json.dumps(body).encode() if body is not None else None
    connection.request("GET" if body is None else "POST", f"{server.url.prefix}{path}", data, headers)
    with connection.getresponse() as response:
        received = response.read(MAX_ANSWER_BYTES + 1)
        if len(received) > MAX_ANSWER_BYTES:
            hint = "name a server of SGLang or vLLM"
            raise EnvironmentFault(f"expected at most {MAX_ANSWER_BYTES} bytes, found more", subject=subject, hint=hint)
        if response.length:  # http.client says nothing of an answer that ends too early when it is read by count
            raise http.client.IncompleteRead(b"", response.length)
        return Answer(response.status, received, response.getheader("Location") or "")


def _cut(connected: socket.socket, late: threading.Event) -> None:
    """End a connection whose time is up, wherever another thread waits for it."""
    late.set()
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _explain(error: Exception, server: Server, subject: str, *, late: bool) -> EnvironmentFault:
    """Why there is no answer.  The words of `error` are not repeated where they may hold what was sent."""
    running = "check that the server runs and listens there"
    if late:
        return EnvironmentFault(
            f"expected an answer within {server.timeout:g} s, found none", subject=subject, hint="allow more: --timeout"
        )
    if isinstance(error, socket.gaierror):
        return EnvironmentFault("expected a host, found no address for its name", subject=subject, hint=running)
    if isinstance(error, ssl.SSLError):
        problem = f"expected TLS, the library says: {error.reason or 'handshake failed'}"
        return EnvironmentFault(problem, subject=subject, hint="name the server with http:// if it has no TLS")
    if isinstance(error, http.client.IncompleteRead):
        return EnvironmentFault("expected a whole answer, found one that was cut off", subject=subject, hint=running)
    if isinstance(error, OSError) and not isinstance(error, http.client.HTTPException):
        return EnvironmentFault(f"the system says: {error.strerror or 'no connection'}", subject=subject, hint=running)
    return EnvironmentFault("expected an answer in HTTP, found something else", subject=subject, hint=running)
