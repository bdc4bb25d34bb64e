"""Names: of shards, of the files a target may hold, and of nothing else.

Two rules, because reading and writing are different acts.  What a foreign index says must be a *bare basename*: it can
then only name a file inside its own directory.  What we write must be *portable* as well: letters, digits and ``._+-``,
so that it means the same on every file system.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Final

INDEX_NAME: Final = "model.safetensors.index.json"
SINGLE_NAME: Final = "model.safetensors"
"""The shard of a checkpoint that has no index.  Loaders prefer it to an index that lies beside it."""

SHARD_SUFFIX: Final = ".safetensors"
REPOSITORY_MANIFEST: Final = "overlay.yaml"
"""The manifest of a diff-only repository."""

STATE_FOLDER: Final = ".overlay"
"""The folder in a target that holds its receipt; never part of the checkpoint."""

RECEIPT_NAME: Final = f"{STATE_FOLDER}/receipt.json"

MAX_NAME_BYTES: Final = 255
_PORTABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_NUMBERED = re.compile(r"(.*?)-?(\d{5})-of-(\d{5})\.safetensors")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

CARD_NAME: Final = "README.md"

NESTED_FOLDERS: Final = ("additional_chat_templates",)
"""Folders whose files belong to a checkpoint: transformers reads chat templates from there."""

WEIGHT_SUFFIXES: Final = frozenset(
    {
        *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz", ".npy"),
        *(".pkl", ".pickle", ".joblib", ".tflite", ".mlmodel", ".pdparams", ".data"),
    }
)
"""Suffixes of files that hold weights (or pickles); such a file is a shard of the index or it is left out."""


def explain_shard_name(name: object) -> str:
    """Say what is wrong with `name` as a value of a weight map; "" when it is a bare basename of a shard."""
    if not isinstance(name, str):
        return f"expected a shard name, found {reprlib.repr(name)}"
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        return f"expected a bare file name, found {name!r}, which leaves the checkpoint's directory"
    if _UNPRINTABLE.search(name):
        return f"expected a printable file name, found {name!r}"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"expected at most {MAX_NAME_BYTES} bytes of file name, found {len(name.encode())}"
    if not name.endswith(SHARD_SUFFIX):
        return f"expected a name that ends in {SHARD_SUFFIX}, found {name!r}"
    return ""


def explain_target_name(name: str) -> str:
    """Say what is wrong with `name` as a path inside a target; "" when it may be written there."""
    parts = name.split("/")
    if len(parts) > 4:
        return f"expected at most 4 path segments, found {len(parts)}"
    for part in parts:
        if not _PORTABLE.fullmatch(part) or len(part) > MAX_NAME_BYTES:
            return f"expected a relative path of letters, digits and ._+-, found {name!r}"
    return ""


def lock_path(manifest_path: str) -> str:
    """``NAME.lock.json`` beside the manifest ``NAME.yaml``."""
    return manifest_path.rpartition(".")[0] + ".lock.json"


def find_case_collisions(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that one file cannot hold apart on macOS or Windows."""
    seen: dict[str, str] = {}
    pairs = []
    for name in sorted(set(names)):
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            pairs.append((other, name))
    return pairs


def next_shard_name(existing: Iterable[str]) -> str:
    """The standard name of a shard that comes after `existing`: 45 numbered shards give ``model-00046-of-00046``."""
    return following_shard_names(existing, 1)[0]


def following_shard_names(existing: Iterable[str], count: int) -> list[str]:
    """The standard names of `count` shards that come after `existing`."""
    highest, stem = 0, "model"
    for name in existing:
        match = _NUMBERED.fullmatch(name)
        if match:
            stem = match[1] or stem
            highest = max(highest, int(match[2]), int(match[3]))
        elif name == SINGLE_NAME:
            highest = max(highest, 1)
    total = highest + count
    return [f"{stem}-{number:05d}-of-{total:05d}{SHARD_SUFFIX}" for number in range(highest + 1, total + 1)]


def split_names(shard: str, count: int) -> list[str]:
    """The names of `count` shards in place of one: its own for one, else numbered on from it.

    ``model-00046-of-00046`` in three parts is ``model-00046-of-00048`` and the two after it; ``mtp`` in three parts begins
    with ``mtp-00001-of-00003``.
    """
    if count == 1:
        return [shard]
    match = _NUMBERED.fullmatch(shard)
    stem = match[1] if match else shard.removesuffix(SHARD_SUFFIX)
    first = int(match[2]) if match else 1
    total = first + count - 1
    return [f"{stem}-{number:05d}-of-{total:05d}{SHARD_SUFFIX}" for number in range(first, total + 1)]


def find_split(shard: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that are all parts of `shard`, in order; none when parts are missing."""
    present = set(names)
    if shard in present:
        return [shard]
    match = _NUMBERED.fullmatch(shard)
    first = int(match[2]) if match else 1
    for name in sorted(present):
        found = _NUMBERED.fullmatch(name)
        if found and int(found[2]) == first and int(found[3]) > first:
            parts = split_names(shard, int(found[3]) - first + 1)
            if name == parts[0] and present >= {*parts}:
                return parts
    return []
