"""A folder of a store as the rest of the house sees it: `storage.remote.Remote`."""

from __future__ import annotations

from collections.abc import Iterator

from overlay.core.progress import Advance
from overlay.errors import EnvironmentFault, InvalidInput
from overlay.storage.object_stores.addresses import Folder, parse_folder
from overlay.storage.object_stores.answers import Kind, Refusal, Wire
from overlay.storage.object_stores.keeping import is_kept, keep, place_of
from overlay.storage.object_stores.reading import patiently, read
from overlay.storage.remote import Listing, RemoteFile


def open_store(address: str) -> ObjectStore:
    """The folder at ``s3://…``, ``gs://…`` or ``https://…``, listed once.

    Raises:
        InvalidInput: no address of a folder, or there is nothing in it.
        EnvironmentFault: the store cannot be reached, or the packages for it are not installed.
    """
    folder = parse_folder(address)
    return ObjectStore(folder, _wire(folder))


class ObjectStore:
    """A folder of a store, as it was listed.  Safe to use from several threads."""

    def __init__(self, folder: Folder, wire: Wire) -> None:
        self._wire = wire
        self._listing = Listing(folder.address, None, _listed(folder, wire))

    @property
    def listing(self) -> Listing:
        """What it holds; files whose names lead out of the folder are passed over."""
        return self._listing

    def read(self, path: str, begin: int, end: int) -> Iterator[bytes]:
        """The bytes ``[begin, end)`` of a file, in pieces of at most 1 MiB.

        Raises:
            EnvironmentFault: the store cannot be reached, or does not answer as asked.
            Mismatch: the file is no longer the one that was listed.
            InvalidInput: none of that name was listed.
        """
        return read(self._wire, self._file(path), begin, end, self._address(path))

    def download(self, path: str, advance: Advance) -> str:
        """The path of the whole file in overlay's own cache; it is fetched if it is not there yet.

        `advance` is told of bytes as they come.  Stores state no sha256: what a file is held against is size and ETag.

        Raises:
            EnvironmentFault: it cannot be fetched, or there is no space.
            Mismatch, InvalidInput: as `read`.
        """
        file = self._file(path)
        here = self.find(path)
        if here is None:
            here = place_of(self._listing.address, file)
            keep(here, file.size, self.read(path, 0, file.size), advance)
        return here

    def find(self, path: str) -> str | None:
        """The path of the file in the cache, where it is there already; asks nobody."""
        file = self._file(path)
        here = place_of(self._listing.address, file)
        return here if file.oid and is_kept(here, file.size) else None

    def _file(self, path: str) -> RemoteFile:
        file = self._listing.files.get(path)
        if file is None:
            problem = "expected a file that the store lists, found none of that name"
            raise InvalidInput(problem, subject=self._address(path), hint="check the name")
        return file

    def _address(self, path: str) -> str:
        return f"{self._listing.address}/{path}"


def _wire(folder: Folder) -> Wire:
    if folder.scheme == "s3":
        from overlay.storage.object_stores.s3 import S3

        return S3(folder)
    if folder.scheme in ("https", "http"):
        from overlay.storage.object_stores.web import Web

        return Web(folder)
    from overlay.storage.object_stores.general import General

    return General(folder)


def _listed(folder: Folder, wire: Wire) -> dict[str, RemoteFile]:
    """What the folder holds, in the order of names.

    Raises:
        InvalidInput: nothing.
        EnvironmentFault: the store does not say.
    """

    def ask() -> dict[str, RemoteFile]:
        try:
            return dict(sorted(wire.files().items()))
        except Refusal as refusal:
            if refusal.kind is Kind.GONE:
                return {}
            raise

    try:
        files = patiently(ask, folder.address)
    except EnvironmentFault:
        raise
    if not files:
        hint = "check bucket and folder; name the folder that holds the shards"
        raise InvalidInput("expected a folder with files in it, found nothing there", subject=folder.address, hint=hint)
    return files
