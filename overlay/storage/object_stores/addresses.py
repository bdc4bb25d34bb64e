"""Addresses of folders: ``s3://bucket/folder``, ``gs://…``, ``https://host/folder``.

A query is refused and never shown: on signed addresses it is the key.  Without TLS only this machine is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from overlay.errors import InvalidInput

PACKAGES: Final = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "https": "aiohttp",
    "http": "aiohttp",
}
"""Scheme to the package that fsspec needs for it."""

MAX_REASON: Final = 200

_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]+)(/[^?#]*)?")
_LOOPBACK: Final = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]+)?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_QUERY: Final = re.compile(r"\?[^\s'\"<>]*")
_USER: Final = re.compile(r"(?<=://)[^\s'\"]*@")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9a-fA-F:.]+\](:[0-9]+)?")
_FORMS: Final = "expected s3://bucket/folder, gs://bucket/folder or https://host/folder"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a store."""

    scheme: str
    host: str
    """The bucket, or a host with its port."""
    path: str
    """Inside it, ``/`` between folders and none at either end; "" is the whole bucket."""

    @property
    def address(self) -> str:
        """The address without a slash at the end."""
        return f"{self.scheme}://{self.host}{'/' + self.path if self.path else ''}"

    def key(self, name: str) -> str:
        """The path of the file `name` of this folder inside the bucket or host."""
        return f"{self.path}/{name}" if self.path else name


def parse_folder(address: str) -> Folder:
    """The folder at `address`.

    Raises:
        InvalidInput: an unknown scheme, a query, a name or password, control characters, ``.`` or ``..`` between slashes,
            ``http`` to another machine.
    """
    shown = without_secrets(address).partition("#")[0]
    if "?" in address or "#" in address:
        hint = "give what the query would say through the environment: FSSPEC_HTTPS_HEADERS, AWS_PROFILE, …"
        raise InvalidInput("expected an address without a query", subject=shown, hint=hint)
    match = _ADDRESS.fullmatch(address)
    if match is None or match[1] not in PACKAGES or _CONTROL.search(address):
        raise InvalidInput(f"{_FORMS}, found {shown!r}", hint="name the folder that holds the shards")
    scheme, host, path = match[1], match[2], (match[3] or "").strip("/")
    is_web = scheme in ("https", "http")
    if "@" in host or (is_web and not _HOST.fullmatch(host)):
        hint = "give it through the environment: FSSPEC_HTTPS_HEADERS, AWS_PROFILE, …"
        raise InvalidInput("expected a host or bucket without a name or password", subject=shown, hint=hint)
    if any(part in ("", ".", "..") for part in path.split("/") if path):
        raise InvalidInput("expected a folder's own address, found '..', '.' or '//' in it", subject=shown)
    if scheme == "http" and not _LOOPBACK.fullmatch(host):
        hint = "use https://; http:// is for localhost alone"
        raise InvalidInput("expected https, found http to another machine", subject=shown, hint=hint)
    return Folder(scheme, host, path)


def is_inside(name: str) -> bool:
    """Whether a file that a store lists under this name lies in the folder, on every system.  Others are passed over."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not _CONTROL.search(name) and "\\" not in name


def without_secrets(text: str) -> str:
    """Text of a library or a user without queries of addresses, and without names and passwords in them: rather too much is
    taken out than too little."""
    return _USER.sub("", _QUERY.sub("", text))


def as_reason(error: BaseException) -> str:
    """What a library said, as part of one line: its kind and the beginning of its words, without secrets."""
    words = " ".join(without_secrets(str(error)).split())[:MAX_REASON]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
