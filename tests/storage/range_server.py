"""A web server on this machine that gives ranges, and misbehaves when it is told to."""

from __future__ import annotations

import hashlib
import re
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

_RANGE: Final = re.compile(r"bytes=([0-9]+)-([0-9]+)")


@dataclass
class Reply:
    """What is sent: all headers are spelled out, and `body` may be shorter than they say."""

    status: int
    headers: dict[str, str]
    body: bytes


Fault = Callable[[Reply], Reply]
"""What a misbehaving server makes of its reply."""


@dataclass
class Site:
    """What a server holds, what it was asked, and how it misbehaves next."""

    files: dict[str, bytes]
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """Path to faults; each is used once, in order."""
    always: Fault | None = None
    missing: Reply | None = None
    """What is said of a path that is not there."""
    states_etag: bool = True
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    url: str = ""

    def reply(self, path: str, headers: Mapping[str, str]) -> Reply:
        data = self.files.get(path)
        if data is None:
            return self.missing or Reply(404, {"Content-Length": "0"}, b"")
        etag = '"' + hashlib.md5(data).hexdigest() + '"'
        stated = {"ETag": etag} if self.states_etag else {"Last-Modified": "Sat, 21 Nov 2026 08:00:00 GMT"}
        if headers.get("If-Match", etag) != etag:
            return Reply(412, {"Content-Length": "0"}, b"")
        match = _RANGE.fullmatch(headers.get("Range", ""))
        if match is None:
            return Reply(200, {**stated, "Content-Length": str(len(data))}, data)
        begin, end = int(match[1]), min(int(match[2]) + 1, len(data))
        if begin >= len(data):
            return Reply(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"}, b"")
        body = data[begin:end]
        ranged = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}", "Content-Length": str(len(body))}
        return Reply(206, {**stated, **ranged}, body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the standard 5 lets connections that come at once wait for a second

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news; a bug is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving(site: Site, certificate: Path | None = None) -> Iterator[Site]:
    """`site` on a port of 127.0.0.1, with TLS where a certificate (and its key, in one file) is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            site.asked.append((path, dict(self.headers)))
            reply = site.reply(path, self.headers)
            waiting = site.faults.get(path)
            fault = waiting.pop(0) if waiting else site.always
            reply = fault(reply) if fault else reply
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            if len(reply.body) != int(reply.headers.get("Content-Length", len(reply.body))):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.url = f"{'https' if certificate else 'http'}://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def cut_to(count: int) -> Fault:
    """The connection breaks after `count` bytes of the body."""
    return lambda reply: Reply(reply.status, reply.headers, reply.body[:count])


def status(code: int, **headers: str) -> Fault:
    """Another status, without a body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda reply: Reply(code, {**named, "Content-Length": "0"}, b"")


def with_headers(**headers: str) -> Fault:
    """The same body with other headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda reply: Reply(reply.status, {**reply.headers, **named}, reply.body)


def without_ranges(reply: Reply) -> Reply:
    """A server that gives every range as if the whole had been asked for."""
    return Reply(200, {"ETag": '"x"', "Content-Length": str(len(reply.body))}, reply.body) if reply.body else reply
