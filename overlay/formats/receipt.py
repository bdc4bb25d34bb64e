"""The receipt: what was done to make a target, kept inside it at ``.overlay/receipt.json``.

Enough to verify the target without the manifest.  It holds no times and no host names; the only absolute paths are
those that the target's links hold anyway.  Facts of this machine (inodes, time stamps) live in the user's cache.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from overlay.formats import strict_json
from overlay.formats.lock import LockProblems, Sha256, Size
from overlay.formats.names import explain_target_name
from overlay.formats.problems import Document, FormatOne, dotted, explain

How = Literal["reflink", "symlink", "hardlink", "copy", "write", "build", "trim"]
Origin = Literal["base", "graft", "sidecar", "index"]
Proof = Literal["proven", "unproven"]
Number = Annotated[int, Field(ge=1)]


class PlacedFile(Document):
    """One file of the target."""

    how: How
    origin: Origin
    source: str | None = None
    """The real file it links to or was copied from; None for a file that was written or built."""
    size: Size
    sha256: Sha256 | None = None
    header_sha256: Sha256 | None = None
    """Of the first 8 + N bytes; shards only."""
    recipe: Sha256 | None = None
    """Built and trimmed shards: digest of what it was made from; an equal one need not be made again."""
    proof: Proof
    """Whether `sha256` was compared with bytes on this machine, or only sizes and headers were."""


class Receipt(Document):
    """The whole receipt."""

    overlay_receipt: FormatOne = 1
    name: str
    manifest_sha256: Sha256
    lock_sha256: Sha256 | None = None
    """Of the lock's text; None when nothing was pinned."""
    state: Sha256
    """Digest of the plan that was carried out; an equal one has nothing left to do."""
    generation: Number
    """Counts the trees that a target has been, from 1; a repair keeps the number of the tree that it repairs."""
    replaced: Size
    """The generation that this one took the place of; 0 for the first.  Undoing goes back to it."""
    tensors: Size
    total_size: Size
    files: dict[str, PlacedFile]


def parse_receipt(data: bytes) -> Receipt:
    """Parse a receipt.

    Raises:
        LockProblems: with every problem found.
    """
    try:
        value = strict_json.decode(data)
        receipt = Receipt.model_validate(value)
    except strict_json.JsonProblem as error:
        raise LockProblems([str(error)]) from None
    except ValidationError as error:
        raise LockProblems(
            [f"{dotted(path) or 'document'}: {message}" for path, message in explain(error, value)]
        ) from None
    problems = [
        f"{dotted(('files', name))}: {problem}" for name in receipt.files if (problem := explain_target_name(name))
    ]
    if problems:
        raise LockProblems(problems)
    return receipt


def render_receipt(receipt: Receipt) -> bytes:
    """The one text of `receipt`."""
    return strict_json.encode(receipt.model_dump(mode="json"))
