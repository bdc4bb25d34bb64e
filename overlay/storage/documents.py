"""Write a document that people keep: a manifest, a lock, an index, a page."""

from __future__ import annotations

import os

from overlay.errors import UsageError
from overlay.storage.files import explain_os_error
from overlay.storage.folders import fsync_folder


def write_document(path: str, data: bytes) -> None:
    """Put a document at `path` in one step: sibling, fsync, rename, fsync of the folder.

    Raises:
        EnvironmentFault: it cannot be written; what was there is still there, or the new text may not outlive a power cut.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        fsync_folder(os.path.dirname(os.path.abspath(path)))
    except BaseException as error:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            hint = f"mkdir -p {os.path.dirname(path)}"
            raise UsageError("expected an existing folder to write it in", subject=path, hint=hint) from None
        if isinstance(error, OSError):
            raise explain_os_error(error, path) from None
        raise
