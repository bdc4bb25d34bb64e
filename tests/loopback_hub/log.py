"""What was asked, by whom and how much was sent: the facts that tests count."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import unquote

from tests.loopback_hub.messages import Origin, Request


@dataclass
class Record:
    """One request; status and `sent` are filled in while it is answered."""

    method: str
    path: str
    """Unquoted, without the query."""
    query: dict[str, str]
    origin: Origin
    host: str
    """The Host header."""
    range: str | None
    """The Range header."""
    authorization: str | None
    """The Authorization header."""
    repository: str | None
    file: str | None
    stage: str
    status: int = 0
    sent: int = 0
    """Bytes of body handed to the socket, the piece under way included."""


@dataclass
class Log:
    """Every request in the order of arrival."""

    _records: list[Record] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, request: Request) -> Record:
        record = Record(
            method=request.method,
            path=unquote(request.path),
            query=request.query,
            origin=request.origin,
            host=request.headers.get("host", ""),
            range=request.headers.get("range"),
            authorization=request.headers.get("authorization"),
            repository=request.repository,
            file=request.file,
            stage=request.stage,
        )
        with self._lock:
            self._records.append(record)
        return record

    def __iter__(self) -> Iterator[Record]:
        with self._lock:
            return iter(list(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def __str__(self) -> str:
        """A line a request, for the message of a failed test."""
        return "\n".join(
            f"{r.status or '---'} {r.method:6} {r.origin} {r.path} {r.range or ''} {r.sent} bytes" for r in self
        )

    def clear(self) -> None:
        with self._lock:
            self._records.clear()

    def about(
        self,
        *,
        method: str | None = None,
        origin: Origin | None = None,
        stage: str | None = None,
        file: str | None = None,
        path: str | None = None,
        status: int | None = None,
    ) -> list[Record]:
        """The requests for which everything given holds; `file` and `path` are patterns of the shell."""
        return [
            record
            for record in self
            if method in (None, record.method)
            and origin in (None, record.origin)
            and stage in (None, record.stage)
            and status in (None, record.status)
            and (file is None or (record.file is not None and fnmatchcase(record.file, file)))
            and (path is None or fnmatchcase(record.path, path))
        ]

    def bytes_by_file(self) -> Counter[str]:
        """Bytes of files that were sent, by path in the repository."""
        sent: Counter[str] = Counter()
        for record in self.about(stage="bytes"):
            if record.file and record.method == "GET" and record.status in (200, 206):
                sent[record.file] += record.sent
        return sent

    def bytes_of(self, file: str) -> int:
        """Bytes sent of the files that match the pattern."""
        return sum(size for name, size in self.bytes_by_file().items() if fnmatchcase(name, file))

    def leaks(self) -> list[Record]:
        """Requests to the second origin with an Authorization header: there must never be one."""
        return [record for record in self.about(origin="cdn") if record.authorization is not None]
