"""The register of finding codes: what each means, what the engines do with it, and what to do about it.

A code is never reused for another meaning.  `docs/findings.md` is generated from this module, and ``overlay explain``
prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Severity(StrEnum):
    """How bad a finding is; only an error makes a command fail."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Meaning(NamedTuple):
    """What a code stands for."""

    severity: Severity
    title: str
    hint: str
    """What to do about it, in one line."""
    engines: Mapping[str, str] = MappingProxyType({})
    """Engine, with the versions that were looked at, to what it does with such a checkpoint."""
    detail: str = ""
    """What a person who never met it should know: a few sentences."""
    references: tuple[str, ...] = ()
    """Issues, pull requests and specifications: addresses."""


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

CODES: Final[dict[str, Meaning]] = {
    "SHD001": Meaning(_E, "a shard's header breaks the safetensors format", "fetch this shard again from its source"),
    "SHD002": Meaning(_E, "a shard is cut, padded, or not a shard at all", "fetch this shard again from its source"),
    "SHD003": Meaning(_N, "a shard is valid but unusual", "loaders accept it; rewrite the shard if you own it"),
    "IDX001": Meaning(_E, "the index is not valid", "rebuild the index from the shards, or fetch it again"),
    "IDX002": Meaning(_E, "the weight map names something that is not a shard of this directory", "correct the index"),
    "IDX003": Meaning(_E, "the index names a shard that is not there", "fetch the missing shard"),
    "IDX004": Meaning(_E, "phantom: a mapped tensor that its shard does not hold", "correct the index"),
    "IDX005": Meaning(
        _E, "orphan: a tensor in a listed shard that the index does not map", "map it, or take it out of the shard"
    ),
    "IDX006": Meaning(_E, "a tensor is mapped to one shard and lies in another", "correct the index"),
    "IDX007": Meaning(_E, "duplicate: a tensor lies in two listed shards", "take one copy out; engines load both"),
    "IDX008": Meaning(_W, "total_size differs from the tensors' bytes", "write the true size into the index"),
    "IDX009": Meaning(
        _W, "the index has no metadata", 'add {"metadata": {"total_size": …}}; transformers raises KeyError'
    ),
    "IDX010": Meaning(
        _W, "stray: a shard that the index does not name", "move it away; loaders that glob will read it"
    ),
    "IDX011": Meaning(_E, "file names differ only in case", "rename one; macOS and Windows cannot hold both"),
    "IDX012": Meaning(_E, "the index maps nothing although there are shards", "rebuild the index from the shards"),
    "IDX013": Meaning(_E, "several shards and no index", "write an index that names them"),
    "CFG001": Meaning(_E, "a JSON sidecar is not valid JSON", "correct the file, or fetch it again"),
    "MTP001": Meaning(
        _W,
        "the config declares a draft layer that the checkpoint does not hold",
        "graft it, or speculation never fires",
    ),
    "LNK001": Meaning(_E, "a link leaves the checkpoint", "copy the file in, or allow its folder with --allow-root"),
    "LNK002": Meaning(_E, "a link points to nothing", "fetch the file again; the cache it lay in was pruned"),
    "LNK003": Meaning(_E, "links form a loop", "replace the link by the file"),
    "LNK004": Meaning(_E, "not a regular file", "replace it by the file"),
    "LNK005": Meaning(_E, "a link points elsewhere than the receipt says", "apply again"),
    "LCK001": Meaning(
        _E, "bytes differ from the lock or receipt", "fetch the file again, or lock anew if the change is wanted"
    ),
    "LCK002": Meaning(_E, "a file of the receipt is missing", "apply again"),
    "LCK003": Meaning(_E, "a file that overlay did not place", "move it away"),
    "LCK004": Meaning(
        _E, "size differs from the lock or receipt", "fetch the file again, or lock anew if the change is wanted"
    ),
    "LCK005": Meaning(_E, "unreadable", "check the disk and the permissions"),
    "LCK006": Meaning(_E, "the receipt is not valid", "apply again"),
    "LCK007": Meaning(
        _E, "the real file under a link changed since it was placed", "apply again, or fetch what was pinned again"
    ),
    "LCK008": Meaning(
        _W,
        "a file changed since the target's own copy was made of it",
        "apply again to follow it; the target still holds what was placed",
    ),
    "LCK009": Meaning(
        _E, "the target is gone and its generations are kept", "overlay undo brings the newest of them back"
    ),
}
