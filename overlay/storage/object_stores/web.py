"""Folders of web servers, which do not say what they hold: the usual names are asked for, and the index names the shards.

A file is known by its ETag, else by its Last-Modified.  Requests go through the session of fsspec's own HTTP file system,
so that its settings hold (``FSSPEC_HTTPS_HEADERS='{"Authorization": "…"}'``, proxies of the environment); they are sent to
the host that was named and to no other that it points to, and never without TLS where the folder has it.

Source: RFC 9110, sections 13.1.1 (If-Match), 14 (Range, 206, Content-Range, 416) and 15.4 (redirection).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

from overlay.formats.index import MAX_INDEX_BYTES, IndexProblem, parse_index
from overlay.formats.names import INDEX_NAME, SINGLE_NAME
from overlay.storage.object_stores.addresses import Folder, as_reason, is_inside
from overlay.storage.object_stores.answers import PIECE, Extent, Kind, Refusal, not_installed
from overlay.storage.object_stores.reading import patiently, read
from overlay.storage.remote import RemoteFile

SIDECARS: Final = (
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "quantize_config.json",
    "quant_config.json",
    "recipe.yaml",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tiktoken.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "overlay.yaml",
    "overlay.lock.json",
    "README.md",
    "LICENSE",
)
"""Names that are asked for beside weights: what transformers, vLLM and SGLang open by name, and what this program writes."""

_AS_WRITTEN: Final = "/%:@!$&'()*+,;=~"
"""Of the folder, whose address people copy from where it is quoted already."""

_BUFFER: Final = 1 << 17
"""Of a connection; aiohttp loses up to twice as much when it breaks, which is then asked for again."""

_MAX_SHARDS: Final = 10_000
_AT_ONCE: Final = 16
_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_RANGE: Final = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)")
_EMPTY: Final = re.compile(r"bytes \*/0")


_KINDS: Final = {
    401: Kind.DENIED,
    403: Kind.DENIED,
    407: Kind.DENIED,
    404: Kind.GONE,
    410: Kind.GONE,
    412: Kind.CHANGED,
    416: Kind.CHANGED,
    408: Kind.BUSY,
    425: Kind.BUSY,
    429: Kind.BUSY,
}


class Web:
    """The way to a folder of a web server: a `Wire`."""

    def __init__(self, folder: Folder) -> None:
        try:
            import aiohttp
            import fsspec
            from fsspec.asyn import sync
        except ImportError:
            raise not_installed(folder.scheme, folder.address) from None
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        ours = {"timeout": timeout, "trust_env": True}
        settings = fsspec.config.conf
        theirs = {
            **settings.get("http", {}).get("client_kwargs", {}),
            **settings.get("https", {}).get("client_kwargs", {}),
        }
        make = partial(fsspec.filesystem, "http", skip_instance_cache=True, encoded=True)
        self._known: Any = make(client_kwargs={**ours, **theirs})
        self._bare: Any = make(client_kwargs=ours)
        self._bare.kwargs = {}  # whatever was configured to go with each request
        self._sync = sync
        self._folder = folder
        self._origin = (folder.scheme, folder.host)

    def files(self) -> Mapping[str, RemoteFile]:
        """The index, what it names, and the usual files beside it, as far as they are there.

        Servers that do not let a folder be listed may say 403 of what is not there, so that counts as absent where there
        is something else.

        Raises:
            Refusal: nothing can be had at all, or no range; the reason is the server's.
        """
        found: dict[str, RemoteFile] = {}
        absent = self._probe([INDEX_NAME], found)  # alone, so that a host that is not there is asked once
        absent |= self._probe([SINGLE_NAME, *SIDECARS], found)
        unable = [
            absent[name] for name in (INDEX_NAME, SINGLE_NAME) if name in absent and absent[name].kind is Kind.UNABLE
        ]
        if unable and not found.keys() & {INDEX_NAME, SINGLE_NAME}:
            raise unable[0]
        if INDEX_NAME in found:
            self._probe(self._shards(found[INDEX_NAME]), found)
        elif not found:
            denied = [refusal for refusal in absent.values() if refusal.kind is Kind.DENIED]
            if denied:
                raise denied[0]
        return found

    def open(self, file: RemoteFile, begin: int, end: int) -> WebAnswer:
        """Ask for a range of a file.

        Raises:
            Refusal: there is no such answer.
        """
        wanted = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        if file.oid.startswith('"'):  # If-Match compares strongly: a weak ETag never matches
            wanted["If-Match"] = file.oid
        return self._get(file.path, wanted)

    def _probe(self, names: Iterable[str], found: dict[str, RemoteFile]) -> dict[str, Refusal]:
        """Ask for the first byte of each file; what is there is added to `found`, and the rest returned with the reason."""
        absent: dict[str, Refusal] = {}

        def ask(name: str) -> RemoteFile | Refusal:
            try:
                return self._first_byte(name)
            except Refusal as refusal:
                if refusal.kind is Kind.BUSY:
                    raise
                return refusal

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            names = list(names)
            tasks = [partial(patiently, partial(ask, name), f"{self._folder.address}/{name}") for name in names]
            for name, answer in zip(names, pool.map(lambda task: task(), tasks), strict=True):
                if isinstance(answer, RemoteFile):
                    found[name] = answer
                else:
                    absent[name] = answer
        return absent

    def _first_byte(self, name: str) -> RemoteFile:
        try:
            answer = self._get(name, {"Range": "bytes=0-0", "Accept-Encoding": "identity"})
        except _Empty as empty:
            return RemoteFile(name, 0, oid=empty.oid)
        answer.close()
        return RemoteFile(name, answer.extent.size, oid=answer.extent.oid)

    def _shards(self, index: RemoteFile) -> list[str]:
        """What the index names; none where it cannot be read, which whoever reads the checkpoint says."""
        if index.size > MAX_INDEX_BYTES:
            return []
        try:
            text = b"".join(read(self, index, 0, index.size, f"{self._folder.address}/{INDEX_NAME}"))
            return sorted(name for name in parse_index(text).shards() if is_inside(name))[:_MAX_SHARDS]
        except IndexProblem:
            return []

    def _get(self, name: str, headers: dict[str, str]) -> WebAnswer:
        folder = f"{quote(self._folder.path, safe=_AS_WRITTEN)}/" if self._folder.path else ""
        url = f"{self._folder.scheme}://{self._folder.host}/{folder}{quote(name)}"
        try:
            response = self._sync(self._known.loop, self._follow, url, headers)
        except Refusal:
            raise
        except Exception as error:  # aiohttp and the resolver raise what they like
            certain = any(part in type(error).__name__ for part in ("Certificate", "SSL", "InvalidURL"))
            raise Refusal(Kind.UNABLE if certain else Kind.BUSY, as_reason(error)) from None
        answer = WebAnswer(self._sync, self._known.loop, response)
        try:
            answer.extent = _extent(response)
        except Refusal:
            answer.close()
            raise
        return answer

    async def _follow(self, url: str, headers: dict[str, str]) -> Any:
        """The response to a GET; only the host that was named is told what the user configured for it."""
        for _ in range(_MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            system = self._known if (parts.scheme, parts.netloc) == self._origin else self._bare
            session = await system.set_session()
            options = {**system.kwargs, "headers": {**system.kwargs.get("headers", {}), **headers}}
            response = await session.get(
                system.encode_url(url), **{**options, "allow_redirects": False, "read_bufsize": _BUFFER}
            )
            if response.status not in _REDIRECTS:
                return response
            url = urljoin(url, response.headers.get("Location", ""))
            response.close()
            if urlsplit(url).scheme != "https" and urlsplit(url)[:2] != self._origin:
                raise Refusal(Kind.UNABLE, "expected to be pointed to an https address, found one without TLS")
        raise Refusal(Kind.UNABLE, f"expected at most {_MAX_REDIRECTS} redirections, found more")


class _Empty(Refusal):
    """An empty file, which has no range that could be asked for."""

    def __init__(self, oid: str) -> None:
        self.oid = oid
        super().__init__(Kind.CHANGED, "an empty file")


class WebAnswer:
    """The body of a response on its way: an `Answer`."""

    extent: Extent

    def __init__(self, sync: Any, loop: Any, response: Any) -> None:
        self._sync, self._loop, self._response = sync, loop, response

    def read(self) -> bytes:
        """The next piece.

        Raises:
            Refusal: the connection broke.
        """
        try:
            piece: bytes = self._sync(self._loop, self._response.content.read, PIECE)
        except Exception as error:  # as above
            raise Refusal(Kind.BUSY, as_reason(error)) from None
        return piece

    def close(self) -> None:
        """Nobody reads on; a connection whose body was read to its end serves again."""

        async def close() -> None:
            self._response.close()

        self._sync(self._loop, close)


def _extent(response: Any) -> Extent:
    """Which bytes a response holds.

    Raises:
        Refusal: none of a range.
    """
    status, headers = response.status, response.headers
    etag, changed = headers.get("ETag", ""), headers.get("Last-Modified", "")
    oid = etag or (f"Last-Modified {changed}" if changed else "")
    stated = headers.get("Content-Range", "")
    if (status == 416 and _EMPTY.fullmatch(stated)) or (status == 200 and headers.get("Content-Length") == "0"):
        raise _Empty(oid)
    match = _RANGE.fullmatch(stated)
    if status == 206 and match and headers.get("Content-Encoding", "identity") == "identity":
        return Extent(int(match[1]), int(match[2]) + 1, int(match[3]), oid)
    if status == 206:
        raise Refusal(Kind.UNABLE, f"expected the bytes as they are and their Content-Range, found {stated[:80]!r}")
    if status == 200:
        raise Refusal(Kind.UNABLE, "expected status 206 to a request for a range, found 200: this server has no ranges")
    wait = headers.get("Retry-After", "")
    kind = _KINDS.get(status, Kind.BUSY if status >= 500 else Kind.UNABLE)
    raise Refusal(kind, f"status {status}", float(wait) if wait.isdigit() else None)
