"""Two listeners on loopback addresses: the Hub under 127.0.0.1, the CDN under localhost.

They differ in host name, as huggingface_hub 1.x compares hosts before it drops the token, and 2.x origins.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.loopback_hub.contents import Contents, OnDisk, contents_of
from tests.loopback_hub.log import Log, Record
from tests.loopback_hub.messages import Headers, Origin, Request, Response

Answer = Callable[[Request], Response]

_SPOOLED = 1 << 20
"""Request bodies of more bytes go to a file."""
_BLOCK = 1 << 20


class Listener(ThreadingHTTPServer):
    """One origin; a thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, origin: Origin, host: str, answer: Answer, log: Log, folder: Path) -> None:
        self.origin: Origin = origin
        self.answer = answer
        self.log = log
        self.folder = folder
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://{host}:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name=f"loopback {origin}", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Bind, without asking a name server for our own name as http.server does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the client broke off is no news; a bug is printed."""
        import sys

        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop, and break every open connection off."""
        self.shutdown()
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the log is kept by the hub."""

    def handle_one(self) -> None:
        request = Request(
            self.command,
            self.path,
            Headers(self.headers.items()),
            self._body(),
            self.server.origin,
        )
        record = self.server.log.open(request)
        try:
            self._send(self.server.answer(request), record)
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_one

    def _send(self, response: Response, record: Record) -> None:
        record.status = response.status
        self.send_response(response.status)
        chunked = response.length is None
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(response.length)}
        for name, value in {**framing, **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in filter(None, response.pieces()):
            record.sent += len(piece)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        elif record.sent != response.length:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> Contents:
        """The body of the request, whole; a large one in a file."""
        if (self.headers.get("Transfer-Encoding") or "").lower() == "chunked":
            return contents_of(b"".join(iter(self._chunk, b"")))
        length = int(self.headers.get("Content-Length") or 0)
        if length <= _SPOOLED:
            return contents_of(self.rfile.read(length))
        path = self.server.folder / secrets.token_hex(8)
        with path.open("wb") as stream:
            while length > 0 and (block := self.rfile.read(min(_BLOCK, length))):
                length -= len(block)
                stream.write(block)
        if length:
            path.unlink()
            raise ConnectionResetError("the client sent less than it said")
        return OnDisk(path, path.stat().st_size)

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0] or b"0", 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data
