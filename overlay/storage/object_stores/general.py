"""Any other store that fsspec knows (``gs://``, ``az://``, ``abfs://``), through what all its file systems have.

Nothing in that common part pins an object while it is read.  So the store is asked before and after every range whether the
object is still the one that was listed, and on Google's store the generation is named with each request as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from overlay.storage.object_stores.addresses import Folder, as_reason, is_inside
from overlay.storage.object_stores.answers import MAX_OBJECTS, Extent, Kind, Refusal, not_installed
from overlay.storage.remote import RemoteFile

_BLOCK: Final = 1 << 20
_CHANGES: Final = ("generation", "etag", "ETag", "md5Hash", "content_md5")
"""Keys of an entry that change with the bytes of the object, the most trustworthy first.  Times are none of them: a listing
and a look at one object state them in different forms."""


class General:
    """The way to a folder through an fsspec file system: a `Wire`."""

    def __init__(self, folder: Folder, system: Any = None) -> None:
        if system is None:
            try:
                import fsspec

                system = fsspec.filesystem(folder.scheme, skip_instance_cache=True, use_listings_cache=False)
            except ImportError:
                raise not_installed(folder.scheme, folder.address) from None
        self._system = system
        self._folder = folder
        self._root = f"{folder.host}/{folder.path}".rstrip("/")
        self._by_generation = folder.scheme in ("gs", "gcs")

    def files(self) -> Mapping[str, RemoteFile]:
        """Every object under the folder.

        Raises:
            Refusal: the store does not say, or there are too many.
        """
        entries = self._ask("find", self._root, detail=True)
        found: dict[str, RemoteFile] = {}
        for path, entry in entries.items():
            name = str(path).lstrip("/").removeprefix(self._root.lstrip("/")).lstrip("/")
            if entry.get("type") == "file" and is_inside(name):
                found[name] = RemoteFile(name, int(entry["size"]), oid=_changes(entry))
        if len(found) > MAX_OBJECTS:
            raise Refusal(Kind.UNABLE, f"expected at most {MAX_OBJECTS} objects under one folder, found more")
        return found

    def open(self, file: RemoteFile, begin: int, end: int) -> GeneralAnswer:
        """Ask whether the object is the one that was listed; its bytes are asked for piece by piece.

        Raises:
            Refusal: it is not there.
        """
        return GeneralAnswer(self, file, begin, end)

    def extent_of(self, file: RemoteFile, begin: int, end: int) -> Extent:
        """What the store says of the object now.

        Raises:
            Refusal: it is not there.
        """
        self._system.invalidate_cache()
        entry = self._ask("info", f"{self._root}/{file.path}")
        return Extent(begin, end, int(entry["size"]), _changes(entry))

    def fetch(self, file: RemoteFile, begin: int, end: int) -> bytes:
        """A block of the object.

        Raises:
            Refusal: the store does not give it.
        """
        pinned = {"generation": file.oid} if self._by_generation and file.oid.isdigit() else {}
        block: bytes = self._ask("cat_file", f"{self._root}/{file.path}", start=begin, end=end, **pinned)
        if len(block) != end - begin:
            raise Refusal(Kind.BUSY, f"expected {end - begin} bytes in an answer, found {len(block)}")
        return block

    def _ask(self, operation: str, path: str, **arguments: Any) -> Any:
        try:
            return getattr(self._system, operation)(path, **arguments)
        except FileNotFoundError as error:
            raise Refusal(Kind.GONE, as_reason(error)) from None
        except PermissionError as error:
            raise Refusal(Kind.DENIED, as_reason(error)) from None
        except Exception as error:  # the file systems raise what they like
            status = getattr(error, "code", None) or getattr(error, "status_code", None)
            kind = Kind.DENIED if str(status) in ("401", "403") or "Credential" in type(error).__name__ else Kind.BUSY
            raise Refusal(kind, as_reason(error)) from None


class GeneralAnswer:
    """Blocks of an object, each asked for when it is read: an `Answer`."""

    def __init__(self, wire: General, file: RemoteFile, begin: int, end: int) -> None:
        self.extent = wire.extent_of(file, begin, end)
        self._wire, self._file = wire, file
        self._at, self._end = begin, end

    def read(self) -> bytes:
        """The next block; the last one only after the object was found to be what it was.

        Raises:
            Refusal: it is another object by now, or the store does not give it.
        """
        begin, end = self._at, min(self._end, self._at + _BLOCK)
        if begin == end:
            return b""
        block = self._wire.fetch(self._file, begin, end)
        if end == self._end and self._wire.extent_of(self._file, begin, end).oid != self.extent.oid:
            raise Refusal(Kind.CHANGED, "an object that was written anew while it was read")
        self._at = end
        return block

    def close(self) -> None:
        """Nothing is held between two blocks."""


def _changes(entry: Mapping[str, Any]) -> str:
    """What changes when the bytes do; "" where the store says nothing of the kind."""
    return next((str(entry[key]) for key in _CHANGES if entry.get(key)), "")
