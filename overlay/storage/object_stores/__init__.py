"""Folders of object stores and of web servers as bases and donors, read through fsspec (the extra ``remote``).

`addresses` says what may be named, `answers` what a store is asked and may say, `s3`, `web` and `general` ask it, `reading`
checks and repeats, `keeping` holds whole files on this machine, `store` puts them together.  Only this package imports
fsspec, and only when a store is opened.  It writes to no store, and it keeps no credentials: the client libraries find them.
"""

from overlay.storage.object_stores.store import ObjectStore, open_store

__all__ = ["ObjectStore", "open_store"]
