"""A base, a donor and a target that becomes one generation after another."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from overlay import api
from overlay.formats.receipt import Receipt
from overlay.running.applying import Applied
from overlay.storage.generations import folder_of
from overlay.storage.linking import LinkMode
from tests.support.checkpoints import (
    GRAFT_SHARD,
    manifest_text,
    snapshot_of,
    write_graft,
)

FIRST_SHARD, SECOND_SHARD = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
"""The base's shards."""

HEAD_SHARD = "model-00004-of-00004.safetensors"
LAYER_2 = {"shard": GRAFT_SHARD, "from": "bf16", "tensors": ["model.layers.2.**"]}
HEAD = {"shard": HEAD_SHARD, "from": "bf16", "tensors": ["lm_head.weight"]}

GRAFTED: dict[str, Any] = {}
WITH_NOTES: dict[str, Any] = {"files": {"sub/notes.txt": {"from": "notes.txt"}}}
WITH_HEAD: dict[str, Any] = {"grafts": [LAYER_2, HEAD]}
TRIMMED: dict[str, Any] = {"drop": ["model.layers.1.norm.weight"]}
TRIMMED_WITH_NOTES: dict[str, Any] = {**TRIMMED, **WITH_NOTES}
PLAIN: dict[str, Any] = {"grafts": []}


class Node(NamedTuple):
    """One entry of a tree, its time of last status change left out: a new name for an inode moves that."""

    mode: int
    mtime_ns: int
    link: str
    data: bytes
    inode: int


Tree = dict[str, Node]


def tree_of(folder: str | Path) -> Tree:
    """Everything in `folder`, and the folder itself."""
    return {
        os.path.relpath(path, folder): Node(*seen, os.lstat(path).st_ino) for path, seen in snapshot_of(folder).items()
    }


class World:
    """A folder with inputs and a target, whose manifest can be changed."""

    def __init__(self, root: Path, link: LinkMode = "auto") -> None:
        self.root = root
        self.link: LinkMode = link
        self.out = root / "out"
        self.out.mkdir(parents=True)
        self.manifest = write_graft(root)
        (root / "notes.txt").write_text("carried along\n")
        self.target = self.out / "serve"

    @property
    def history_folder(self) -> Path:
        return Path(folder_of(str(self.target)))

    def apply(self, changes: dict[str, Any], *, content: bool = False) -> Applied:
        """Change the manifest and apply it."""
        self.manifest.write_text(manifest_text(**changes))
        request = api.Request(sources=(str(self.manifest),))
        return api.apply(request, str(self.target), link=self.link, level="content" if content else "headers")

    def undo(self, number: int | None = None, *, force: bool = False) -> Receipt:
        return api.undo(str(self.target), number=number, force=force)

    @property
    def current(self) -> int:
        return api.history(str(self.target)).current

    @property
    def numbers(self) -> list[int]:
        """The generations that the history shows, the current one among them."""
        return [receipt.generation for receipt in api.history(str(self.target)).receipts]

    def kept(self) -> dict[int, Tree]:
        """The kept generations, whatever their entries are called."""
        kept: dict[int, Tree] = {}
        for entry in sorted(os.listdir(self.history_folder)) if self.history_folder.exists() else ():
            path = self.history_folder / entry
            receipt = path / ".overlay" / "receipt.json"
            if receipt.exists():
                kept[_number_in(receipt)] = tree_of(path)
        return kept

    def stages(self) -> list[str]:
        return sorted(name for name in os.listdir(self.out) if "overlay-stage" in name)

    def inputs(self) -> dict[str, Any]:
        return snapshot_of(self.root / "base", self.root / "donor")

    def damage(self, name: str) -> None:
        """Flip the last byte of a file of the target, in place."""
        flip_last_byte(self.target / name)

    def delete_target(self) -> None:
        shutil.rmtree(self.target)

    @contextmanager
    def locked_by_another(self) -> Iterator[None]:
        """Somebody else holds the target's lock."""
        with open(self.out / ".serve.overlay.lock", "w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def flip_last_byte(path: Path) -> None:
    raw = path.read_bytes()
    with open(path, "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([raw[-1] ^ 1]))


def _number_in(receipt: Path) -> int:
    number: int = json.loads(receipt.read_bytes())["generation"]
    return number
