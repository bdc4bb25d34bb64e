"""Findings: what is wrong with data, each with a stable code.

A code is never reused for another meaning.  `CODES` is the register: meaning, and what to do about it; `docs/findings.md`
is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
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
    "LCK007": Meaning(_E, "the base changed under the target", "apply again, or lock anew if the change is wanted"),
    "LCK006": Meaning(_E, "the receipt is not valid", "apply again"),
}


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing wrong with data."""

    code: str
    subject: str
    """File, and tensor or key where there is one."""
    message: str
    """What was expected and what was found."""
    file: str = ""
    tensor: str = ""

    @property
    def severity(self) -> Severity:
        """As registered in `CODES`."""
        return CODES[self.code].severity

    @property
    def hint(self) -> str:
        """What to do about it."""
        return CODES[self.code].hint

    @property
    def line(self) -> str:
        """The one line that a person reads."""
        return f"{self.code} {self.subject}: {self.message}"

    def document(self) -> dict[str, str]:
        """The finding as it stands in JSON documents."""
        return {**asdict(self), "severity": self.severity.value, "hint": self.hint}


def about(code: str, file: str, message: str, *, tensor: str = "", key: str = "") -> Finding:
    """A finding about `file`, and about a tensor or key in it."""
    detail = tensor or key
    return Finding(code, f"{file}: {detail}" if detail else file, message, file, tensor)


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those that make a command fail."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]
